"""`mimsuite pretrain`: masked image modeling, from a config to a run folder."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app, build
from mimsuite.build_model import drops, for_objective, masked_model, model_config, normalizer, save_weights
from mimsuite.combinations import check_combination, check_ratio, mask_cell
from mimsuite.data.open import open_data
from mimsuite.errors import RunError
from mimsuite.init_weights import find_weights
from mimsuite.instantiate import trusted_targets
from mimsuite.launch import Team, end_with_parent, launch, leads, team
from mimsuite.resume import continue_config, first_overrides
from mimsuite.run import RunFolder, check_out, environment, holds_run, speak
from mimsuite.settings import (
    PRECISIONS,
    budget,
    check_choice,
    check_flag,
    geometry,
    micro_batch,
    probing,
    sides,
    whole,
)
from mimsuite.version import __version__

if TYPE_CHECKING:
    from lightning import Trainer

    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.mim import MIMObjective

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrains an encoder; returns the content of `summary.json`, and the exit code of a run that a signal stopped.

    Everything that can be wrong with the input is looked at before torch is imported and before `out` is touched.
    """
    speak()
    end_with_parent()
    resume, overwrite = check_flag(cfg, "resume"), check_flag(cfg, "overwrite")
    given = list(overrides)
    held = check_out(cfg.out, resume=resume, overwrite=overwrite) if leads() else holds_run(cfg.out)
    if resume and held:
        given = [*first_overrides(cfg), *given]
        cfg = continue_config(cfg, overrides)
    trusted = trusted_targets(cfg, overrides)
    check_choice(cfg, "precision", PRECISIONS)
    whole(cfg, "seed", least=0)
    workers = whole(cfg, "workers", auto=build.auto_workers(), least=0)
    whole(cfg, "devices", auto=1)
    index = open_data(cfg.data)
    weights = find_weights(cfg.init) if cfg.init is not None else None
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
    job = build.Job(cfg, overrides, trusted, index, weights, config, geo, pace, workers, processes(cfg), probe)
    micro_batch(cfg, pace.batch, job.team.size, pace.batch)
    if job.team.size > 1 and team() is None:
        code = launch("pretrain", command_line(overrides), job.team.local, job.team.nodes)
        return read_summary(cfg.out) | {"exit_code": code}
    with RunFolder(cfg.out, resume=resume, overwrite=overwrite, leads=leads()) as folder:
        folder.log_to_file()
        return train(job, folder)


def processes(cfg: DictConfig) -> Team:
    """The processes that the run has: those that exist already, else as many as it asks for."""
    if found := team():
        return found
    local, nodes = cfg.devices, whole(cfg.trainer, "num_nodes", name="trainer.num_nodes")
    if local == "auto":
        local = build.device_count(str(cfg.trainer.accelerator))
    return Team(0, local, nodes)


def command_line(overrides: Sequence[str]) -> list[str]:
    """What the processes of this run are started with: this command's arguments, or those of a call from Python."""
    import __main__

    own = getattr(__main__, "__spec__", None)
    return sys.argv[1:] if own is not None and own.name == __name__ else list(overrides)


def read_summary(out: str) -> dict[str, Any]:
    """What the run's first process wrote, or nothing where it did not get so far."""
    file = Path(out) / "summary.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def train(job: build.Job, folder: RunFolder) -> dict[str, Any]:
    """Builds the objects of a run, trains, and writes the results."""
    imports = import_heavy()
    import torch

    from mimsuite.checkpoint import newest

    cfg, pace = job.cfg, job.pace
    device = build.device(str(cfg.trainer.accelerator))
    precision, reason = build.precision(str(cfg.precision), device)
    micro = micro_batch(cfg, pace.batch, job.team.size, build.micro_limit(device, job.geo.image_size))
    compute = build.Compute(device, precision, reason, micro)
    write_back(job, compute)
    facts = {"device": device.name, "threads": torch.get_num_threads(), "processes": job.team.size}
    if folder.resumed:
        warn_of_changes(folder, facts)
    folder.describe(cfg, job.overrides, facts)
    checkpoint = newest(folder.path / "checkpoints") if folder.resumed else None
    torch.manual_seed(cfg.seed)
    model = masked_model(job.config, job.weights, cfg.head, job.trusted)
    objective = build.objective(job, model, normalizer(job.index, job.weights))
    data = build.image_data(job, micro)
    if folder.leads:
        banner(job, compute, objective)
    trainer, parts = build.trainer(job, folder, compute, step=step_of(checkpoint), imports=imports)
    try:
        fit(trainer, objective, data, checkpoint, micro)
    finally:
        if parts.wandb is not None:
            parts.wandb.close()
    return finish(job, folder, trainer, objective, parts)


def warn_of_changes(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Says what of the machine is not as it was: the run goes on, but its last bits may differ."""
    file = folder.path / "environment.json"
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    old, new = (described.pop("libraries", {}) | described for described in (before, environment() | facts))
    for name in sorted(old.keys() & new.keys()):
        if name != "cpus" and old[name] != new[name]:
            log.warning(
                "resuming with %s %s, it was %s: the last bits of the result may differ", name, new[name], old[name]
            )


def import_heavy() -> float:
    """Imports what training needs in any case; returns the seconds that it took."""
    began = time.perf_counter()
    import lightning.pytorch
    import torch._dynamo  # the first optimizer step would import it
    import torchmetrics
    import wandb

    assert all((lightning.pytorch, torch, torchmetrics, wandb))
    for library in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)  # its tips and device lines say nothing of the run
    return time.perf_counter() - began


def step_of(checkpoint: Path | None) -> int:
    """The optimizer steps done when a checkpoint was committed; -1 for none: figures of step 0 are written again."""
    return -1 if checkpoint is None else int(checkpoint.stem.rpartition("_")[2])


def native_size(config: Any) -> tuple[int, int] | None:
    """The `(H, W)` that a model is made for, or None for one that takes any."""
    size = getattr(config, "image_size", None)
    return None if size is None else sides(size)


def write_back(job: build.Job, compute: build.Compute) -> None:
    """Puts every resolved `auto` into the config, so that `config.yaml` repeats the run on any machine."""
    cfg, geo, pace = job.cfg, job.geo, job.pace
    cfg.data = None if cfg.data is None else str(Path(cfg.data).absolute())
    cfg.init = str(Path(cfg.init).absolute()) if cfg.init is not None and Path(cfg.init).exists() else cfg.init
    cfg.image_size, cfg.channels, cfg.mask.unit = list(geo.image_size), geo.channels, geo.mask_unit
    cfg.steps, cfg.epochs, cfg.lr, cfg.schedule.warmup = pace.steps, None, pace.lr, pace.warmup
    cfg.val_every, cfg.save_every = pace.val_every, pace.save_every
    cfg.precision, cfg.micro_batch = compute.precision, compute.micro_batch
    if job.probing is not None:
        node, found = cfg.callbacks.online_probe, job.probing
        node.images, node.val_images, node.labels = found.images, found.val_images, found.labels


def banner(job: build.Job, compute: build.Compute, objective: MIMObjective) -> None:
    """Says what is about to happen: data, model, geometry, and every `auto` with its reason."""
    cfg, index, geo, pace = job.cfg, job.index, job.geo, job.pace
    counts = ", ".join(f"{split} {index.num_samples(split):,}" for split in index.splits)
    (height, width), stride, cell = geo.image_size, job.config.stride, job.config.mask_stride
    fewest, most = check_ratio(cfg, geo.units, geo.drops)
    each = geo.mask_unit**2 // (cell[0] * cell[1])
    log.info("mimsuite %s pretrain -> %s", __version__, cfg.out)
    log.info("data      %s: %s images, %d channels %s", index.root, counts, index.channels, index.dtype)
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
    log.info("length    %d steps of %d images (%.1f epochs), seed %d", pace.steps, pace.batch, pace.epochs, cfg.seed)
    notes = (
        f"precision={compute.precision} ({compute.reason})",
        f"micro_batch={compute.micro_batch} (on {compute.device.name})",
        f"workers={job.workers} ({'one per core but one' if cfg.workers == 'auto' else 'as asked'})",
    )
    probe = () if job.probing is None else (job.probing.note,)
    for note in (*geo.notes, *pace.notes, *notes, *probe):
        log.info("          %s", note)


def decoder(config: Any) -> str:
    """What predicts, in words."""
    if not drops(config):
        return "SimMIM's head on the whole map"
    sizes = f"{config.decoder_num_hidden_layers} blocks of width {config.decoder_hidden_size}"
    return f"MAE's decoder ({sizes}, {config.decoder_num_attention_heads} heads) on the visible patches"


def span(low: int, high: int) -> str:
    """`88`, or `60 to 88`."""
    return str(low) if low == high else f"{low} to {high}"


def fit(trainer: Trainer, objective: MIMObjective, data: ImageData, checkpoint: Path | None, micro: int) -> None:
    """Trains; what a user can mend comes out as one line.

    Raises:
        RunError: the device is out of memory, or another process of the run is gone.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks")  # online_probe=false now
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")  # Lightning against torch 2.13
        try:
            trainer.fit(objective, datamodule=data, ckpt_path=checkpoint)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"the device is out of memory at micro_batch={micro}; use micro_batch={max(1, micro // 2)}"
            ) from error
        except RuntimeError as error:
            if trainer.world_size > 1 and build.is_broken_exchange(error):
                raise RunError(
                    "another process of this run ended or hangs, its own message says why; resume=true goes on from "
                    "the last checkpoint"
                ) from error
            raise


def finish(
    job: build.Job, folder: RunFolder, trainer: Trainer, objective: MIMObjective, parts: build.Parts
) -> dict[str, Any]:
    """Writes weights, curves and `summary.json`."""
    from mimsuite.curves import curves, read_metrics

    code, steps = parts.checkpoints.exit_code, trainer.global_step
    if parts.files is None:
        return {"exit_code": 0}
    folder.pictures.mkdir(exist_ok=True)
    curves({folder.path.resolve().name: read_metrics(folder.path / "metrics.csv")}, folder.pictures / "curves.png")
    if code:
        log.info("stopped by a signal at step %d; resume=true goes on from here", steps)
        return folder.summary("pretrain", "interrupted", steps, parts.files.last) | {"exit_code": code}
    save_weights(folder.path / "weights", objective.model, objective.normalize, job.geo.image_size)
    log.info(
        "done: %d steps, val/loss %.4f; weights in %s", steps, parts.files.last["val/loss"], folder.path / "weights"
    )
    return folder.summary("pretrain", "done", steps, parts.files.last)


if __name__ == "__main__":
    app.main("pretrain", run)
