"""`mimsuite pretrain`: masked image modeling, from a config to a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.models.load import make_masked_model, make_normalizer, save_weights
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.life import TrainingTask, prepare_process, train_run
from mimsuite.runs.objects import Compute, Parts, masked_data, mim_objective
from mimsuite.settings.pretrain import PretrainSettings, read_pretrain
from mimsuite.types import EncoderConfig

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.mim import MIMObjective

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrains an encoder; returns the content of `summary.json`, and the exit code of a run that a signal stopped.

    Everything that can be wrong with the input is checked before torch is imported and before `out` is touched.
    """
    settings = read_pretrain(cfg, overrides, leads=prepare_process())
    return train_run(settings, TrainingTask("pretrain", make_objects, report_settings, write_weights))


def make_objects(settings: PretrainSettings, compute: Compute) -> tuple[MIMObjective, ImageData]:
    """The Lightning module and the loaders."""
    inputs = settings.inputs
    model = make_masked_model(settings.model, inputs.weights, settings.groups.head, inputs.trusted)
    objective = mim_objective(settings, model, make_normalizer(inputs.index, inputs.weights))
    return objective, masked_data(settings, compute.micro_batch)


def report_settings(settings: PretrainSettings, objective: MIMObjective) -> None:
    """Reports model, geometry, masks and objective."""
    model, geometry, (fewest, most) = settings.model, settings.geometry, settings.hidden
    (height, width), stride, cell = geometry.image_size, model.stride, model.mask_stride
    each = geometry.mask_unit**2 // (cell[0] * cell[1])
    log.info(
        "model     %s, %s parameters", model.model_type, f"{sum(p.numel() for p in objective.model.parameters()):,}"
    )
    log.info(
        "geometry  image %dx%d, %s %dx%d, stride %dx%d, grid %dx%d",
        *(height, width, "patch" if cell == stride else "mask cell", *cell),
        *(*stride, height // stride[0], width // stride[1]),
    )
    log.info(
        "masks     units of %d px: %s of %d hidden, %s visible; of %d cells %s hidden, %s visible",
        *(geometry.mask_unit, format_range(fewest, most), geometry.units),
        *(format_range(geometry.units - most, geometry.units - fewest), geometry.units * each),
        format_range(fewest * each, most * each),
        format_range((geometry.units - most) * each, (geometry.units - fewest) * each),
    )
    log.info("objective %s of %s, %s", settings.loss, settings.target, describe_decoder(model))


def describe_decoder(config: EncoderConfig) -> str:
    """What predicts, in words."""
    sizes = config.decoder_sizes
    if sizes is None:
        return "SimMIM's head on the whole map"
    blocks = f"{sizes['num_hidden_layers']} blocks of width {sizes['hidden_size']}"
    return f"MAE's decoder ({blocks}, {sizes['num_attention_heads']} heads) on the visible patches"


def format_range(low: int, high: int) -> str:
    """`88`, or `60 to 88`."""
    return str(low) if low == high else f"{low} to {high}"


def write_weights(
    settings: PretrainSettings, compute: Compute, folder: RunFolder, objective: MIMObjective, parts: Parts
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes the weights."""
    assert parts.files is not None
    place = folder.path / "weights"
    save_weights(place, objective.evaluated_model, objective.normalize, settings.geometry.image_size)
    log.info("done: %d steps, val/loss %.4f; weights in %s", settings.budget.steps, parts.files.last["val/loss"], place)
    return {}, {}


if __name__ == "__main__":
    app.main("pretrain", run)
