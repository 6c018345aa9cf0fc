"""`mimsuite pretrain`: masked image modeling, from a config to a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.models.load import drops_patches, masked_model, normalizer, save_weights
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.life import TrainingTask, begin, carry_out, native_size, processes
from mimsuite.runs.trainer import Compute, Job, Parts, masked_data, mim_objective
from mimsuite.settings.combinations import check_combination, check_ratio, mask_cell
from mimsuite.settings.model import for_objective, model_config
from mimsuite.settings.read import budget, geometry, probing

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.mim import MIMObjective

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrains an encoder; returns the content of `summary.json`, and the exit code of a run that a signal stopped.

    Everything that can be wrong with the input is looked at before torch is imported and before `out` is touched.
    """
    return carry_out(decide(cfg, overrides), TrainingTask("pretrain", make, banner, finish))


def decide(cfg: DictConfig, overrides: Sequence[str]) -> Job:
    """Checks every key.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    begun = begin(cfg, overrides)
    cfg, index, weights, given, trusted = begun.cfg, begun.index, begun.weights, begun.given, begun.trusted
    draft = model_config(cfg, weights, given, trusted)
    check_combination(cfg, draft)
    geo = geometry(
        cfg,
        index,
        native=native_size(draft),
        stride=draft.stride,
        cell=mask_cell(draft.mask_stride, cfg.objective.target),
        drops=cfg.objective.mask_mode == "drop",
    )
    check_ratio(cfg, geo.units, geo.drops)
    config = model_config(cfg, weights, given, trusted, geo.image_size, geo.channels)
    config = for_objective(config, cfg, weights, given)
    pace = budget(cfg, index.num_samples(index.select("train")))
    probe = probing(cfg, index, pace.steps * pace.batch)
    notes: tuple[str, ...] = ()
    cfg.mask.unit = geo.mask_unit
    if probe is not None:
        decided = {"images": probe.images, "val_images": probe.val_images, "labels": probe.labels}
        cfg.callbacks.online_probe.update(decided)
        notes = (probe.note,)
    return Job(
        cfg, overrides, trusted, index, weights, config, geo, pace, begun.workers, processes(cfg), notes, probing=probe
    )


def make(job: Job, compute: Compute) -> tuple[MIMObjective, ImageData]:
    """The Lightning module and the loaders."""
    model = masked_model(job.config, job.weights, job.cfg.head, job.trusted)
    objective = mim_objective(job, model, normalizer(job.index, job.weights))
    return objective, masked_data(job, compute.micro_batch)


def banner(job: Job, compute: Compute, objective: MIMObjective) -> None:
    """Says what is about to happen: model, geometry, masks."""
    cfg, geo = job.cfg, job.geo
    (height, width), stride, cell = geo.image_size, job.config.stride, job.config.mask_stride
    fewest, most = check_ratio(cfg, geo.units, geo.drops)
    each = geo.mask_unit**2 // (cell[0] * cell[1])
    log.info(
        "model     %s, %s parameters",
        job.config.model_type,
        f"{sum(p.numel() for p in objective.model.parameters()):,}",
    )
    log.info(
        "geometry  image %dx%d, %s %dx%d, stride %dx%d, grid %dx%d",
        *(height, width, "patch" if cell == stride else "mask cell", *cell),
        *(*stride, height // stride[0], width // stride[1]),
    )
    log.info(
        "masks     units of %d px: %s of %d hidden, %s visible; of %d cells %s hidden, %s visible",
        *(geo.mask_unit, span(fewest, most), geo.units, span(geo.units - most, geo.units - fewest)),
        *(geo.units * each, span(fewest * each, most * each)),
        span((geo.units - most) * each, (geo.units - fewest) * each),
    )
    log.info("objective %s of %s, %s", cfg.objective.loss, cfg.objective.target, decoder(job.config))


def decoder(config: Any) -> str:
    """What predicts, in words."""
    if not drops_patches(config):
        return "SimMIM's head on the whole map"
    sizes = f"{config.decoder_num_hidden_layers} blocks of width {config.decoder_hidden_size}"
    return f"MAE's decoder ({sizes}, {config.decoder_num_attention_heads} heads) on the visible patches"


def span(low: int, high: int) -> str:
    """`88`, or `60 to 88`."""
    return str(low) if low == high else f"{low} to {high}"


def finish(
    job: Job, folder: RunFolder, objective: MIMObjective, parts: Parts
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes the weights."""
    assert parts.files is not None
    place = folder.path / "weights"
    save_weights(place, objective.evaluated_model, objective.normalize, job.geo.image_size)
    log.info("done: %d steps, val/loss %.4f; weights in %s", job.pace.steps, parts.files.last["val/loss"], place)
    return {}, {}


if __name__ == "__main__":
    app.main("pretrain", run)
