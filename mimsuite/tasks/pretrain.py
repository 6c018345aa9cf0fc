"""`mimsuite pretrain`: masked image modeling, from a config to a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.models.load import make_masked_model, make_normalizer, report_difference, save_weights
from mimsuite.runs.console import report_next
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.life import TrainingTask, assemble, prepare_process, train_run
from mimsuite.runs.objects import Compute, Parts, mask_samplers, masked_data, mim_objective
from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.pretrain import PretrainSettings, read_pretrain
from mimsuite.types import EncoderConfig

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.mim import MIMObjective

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = (), objects: Objects = NO_OBJECTS) -> dict[str, Any]:
    """Pretrains an encoder; returns the content of `summary.json`, and the exit code of a run that a signal stopped.

    Everything that can be wrong with the input is checked before torch is imported and before `out` is touched.
    """
    settings = read_pretrain(cfg, overrides, leads=prepare_process(), objects=objects)
    return train_run(settings, training_task())


def build(
    cfg: DictConfig, overrides: Sequence[str] = (), objects: Objects = NO_OBJECTS
) -> tuple[Any, Any, dict[str, Any]]:
    """The Lightning module, the loaders and the Trainer's arguments of such a run; writes nothing."""
    return assemble(read_pretrain(cfg, overrides, leads=False, objects=objects), training_task())


def training_task() -> TrainingTask[PretrainSettings]:
    """What this task adds to the life of a run."""
    return TrainingTask("pretrain", make_objects, report_settings, write_weights)


def make_objects(settings: PretrainSettings, compute: Compute) -> tuple[MIMObjective, ImageData]:
    """The Lightning module and the loaders."""
    inputs = settings.inputs
    model = make_masked_model(
        settings.model, inputs.weights, settings.groups.head, inputs.trusted, from_source=not inputs.goes_on
    )
    objective = mim_objective(settings, model, make_normalizer(inputs.index, inputs.weights, settings.model))
    return objective, masked_data(settings, compute)


def report_settings(settings: PretrainSettings, objective: MIMObjective) -> None:
    """Reports model, geometry, masks and objective."""
    model, geometry = settings.model, settings.geometry
    (height, width), stride, cell = geometry.image_size, model.stride, model.mask_stride
    each = geometry.mask_unit**2 // (cell[0] * cell[1])
    log.info("model     %s, %s parameters", model.title, f"{sum(p.numel() for p in objective.model.parameters()):,}")
    log.info(
        "geometry  image %dx%d, %s %dx%d, stride %dx%d, grid %dx%d",
        *(height, width, "patch" if cell == stride else "mask cell", *cell),
        *(*stride, height // stride[0], width // stride[1]),
    )
    fewest, most = drawn_range(settings)
    log.info("masks     units of %d px: %s%s", geometry.mask_unit, *describe_masks(fewest, most, geometry.units, each))
    if settings.latent is not None:
        log.info("objective %s", settings.latent.describe(settings.loss))
    else:
        log.info("objective %s of %s, %s", settings.loss, settings.target, describe_decoder(model))
    report_difference(objective.model)


def drawn_range(settings: PretrainSettings) -> tuple[int, int]:
    """How many units the masks hide, at least and at most: by the ratio of our samplers; others are asked."""
    from mimsuite.masked.samplers import hidden_counts, is_exact

    samplers = mask_samplers(settings)
    if all(is_exact(sampler) for sampler in samplers):
        return settings.hidden
    counts = hidden_counts(samplers, settings.geometry.grid)
    return min(counts), max(counts)


def describe_masks(fewest: int, most: int, units: int, each: int) -> tuple[str, str]:
    """What is hidden, in units, and in cells where a unit has several.

    Args:
        fewest: units that a mask hides, at least.
        most: at most.
        units: of an image.
        each: cells of a unit.
    """
    unit_text = f"{format_range(fewest, most)} of {units} hidden, {format_range(units - most, units - fewest)} visible"
    if each == 1:
        return unit_text, ""
    hidden, visible = (fewest * each, most * each), ((units - most) * each, (units - fewest) * each)
    return unit_text, f"; of {units * each} cells {format_range(*hidden)} hidden, {format_range(*visible)} visible"


def describe_decoder(config: EncoderConfig) -> str:
    """What predicts, in words."""
    sizes = config.decoder_sizes
    if sizes is None:
        return "SimMIM's head on the " + ("visible cells" if config.is_sparse else "whole map")
    if config.scales:
        maps = f"{count_of(len(config.scales), 'map')}, {'of visible cells' if config.is_sparse else 'whole'}"
        return f"a U-Net of width {sizes['hidden_size']} on {maps}"
    blocks = f"{count_of(sizes['num_hidden_layers'], 'block')} of width {sizes['hidden_size']}"
    return f"MAE's decoder ({blocks}, {sizes['num_attention_heads']} heads) on the visible patches"


def format_range(low: int, high: int) -> str:
    """`88`, or `60 to 88`."""
    return str(low) if low == high else f"{low} to {high}"


def write_weights(
    settings: PretrainSettings, compute: Compute, folder: RunFolder, objective: MIMObjective, parts: Parts
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes the weights of the last step, and says where the best by the online probe are."""
    from mimsuite.callbacks.best_probe import BEST_FOLDER, BestProbe

    assert parts.files is not None
    place = folder.path / "weights"
    save_weights(place, objective.evaluated_model, objective.normalize, settings.geometry.image_size)
    for name, more in objective.further_weights.items():
        save_weights(folder.path / name, more, objective.normalize, settings.geometry.image_size)
    run, last, steps = folder.path, parts.files.last, objective.trainer.global_step
    bars = {"val/loss_mean_colour": "one colour per image", "val/loss_mean_target": "the mean target everywhere"}
    flat = "".join(f" ({words}: {last[name]:.4f})" for name, words in bars.items() if name in last)
    loss = f"val/loss {last['val/loss']:.4f}{flat}" if "val/loss" in last else "nothing was validated"
    log.info("done: %s, %s; weights in %s", count_of(steps, "step"), loss, place)
    log.info("pictures  %s", folder.pictures)
    keeper = next((callback for callback in parts.callbacks if isinstance(callback, BestProbe)), None)
    best = {} if keeper is None else keeper.result
    if best and keeper is not None:
        log.info(
            "best      %s %.4f at step %d, %.4f before the first: weights in %s",
            *(best["best_metric"], best["best_value"], best["best_step"], keeper.start, run / BEST_FOLDER),
        )
    report_next("measure the features", "probe", init=run, data=settings.inputs.data, out=f"{run}-probe")
    return {}, best


if __name__ == "__main__":
    app.main("pretrain", run)
