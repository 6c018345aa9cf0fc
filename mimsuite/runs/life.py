"""What the tasks that train have in common: from a checked job to a finished run folder, in one process or several."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite.models.device import find_device
from mimsuite.runs.machine import device_count, is_broken_exchange, micro_limit, precision
from mimsuite.runs.trainer import Compute, Job, Parts, make_trainer
from mimsuite.settings.machine import auto_workers
from mimsuite.data.index import DataIndex
from mimsuite.data.open import open_data
from mimsuite.errors import RunError
from mimsuite.weights.init import Weights, find_weights
from mimsuite.config.instantiate import trusted_targets
from mimsuite.runs.processes import Team, command_line, end_with_parent, launch, leads, team
from mimsuite.settings.resume import continue_config, first_overrides
from mimsuite.runs.folder import RunFolder, check_out, environment, holds_run, speak
from mimsuite.settings.read import read_choice, read_flag, micro_batch, read_size, read_int
from mimsuite.version import __version__
from mimsuite.words import PRECISIONS

if TYPE_CHECKING:
    from lightning import Trainer

    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")


@dataclass(frozen=True)
class RunInputs:
    """What every training task looks at first.

    Attributes:
        cfg: the config; of a resumed run the stored one.
        given: the command line's `key=value` arguments, those of the first start included.
        trusted: further targets that configs may name.
        index: the data.
        weights: what `init=` names, or None.
        workers: loader processes.
    """

    cfg: DictConfig
    given: list[str]
    trusted: tuple[str, ...]
    index: DataIndex
    weights: Weights | None
    workers: int


@dataclass(frozen=True)
class TrainingTask:
    """What a task adds to `train`.

    Attributes:
        task: its name.
        make: the Lightning module and the loaders.
        banner: says what is about to happen.
        finish: writes the results of a run that came to its end; returns the figures, and more for `summary.json`.
    """

    task: str
    make: Callable[[Job, Compute], tuple[Objective, ImageData]]
    banner: Callable[[Job, Compute, Any], None]
    finish: Callable[[Job, RunFolder, Any, Parts], tuple[dict[str, float], dict[str, Any]]]


def begin(cfg: DictConfig, overrides: Sequence[str]) -> RunInputs:
    """Opens what the run needs and checks what all training tasks have.

    Raises:
        InputError: a folder, a value, data or weights that will not do.
    """
    speak()
    end_with_parent()
    resume, overwrite = read_flag(cfg, "resume"), read_flag(cfg, "overwrite")
    given = list(overrides)
    prefer_given(cfg, overrides)
    held = check_out(cfg.out, resume=resume, overwrite=overwrite) if leads() else holds_run(cfg.out)
    if resume and held:
        given = [*first_overrides(cfg), *given]
        cfg = continue_config(cfg, overrides)
    trusted = trusted_targets(cfg, overrides)
    read_choice(cfg, "precision", PRECISIONS)
    read_int(cfg, "seed", least=0)
    workers = read_int(cfg, "workers", auto=auto_workers(), least=0)
    read_int(cfg, "devices", auto=1)
    index = open_data(cfg.data)
    weights = find_weights(cfg.init) if cfg.init is not None else None
    return RunInputs(cfg, given, trusted, index, weights, workers)


def prefer_given(cfg: DictConfig, given: Sequence[str]) -> None:
    """Lets `steps` of the command line win over `epochs` of an experiment, and the other way round."""
    said = [key for key in ("steps", "epochs") if any(override.startswith(f"{key}=") for override in given)]
    if len(said) == 1:
        cfg["epochs" if said == ["steps"] else "steps"] = None


def carry_out(job: Job, kind: TrainingTask) -> dict[str, Any]:
    """Trains, in this process or in several that it starts; returns the content of `summary.json`.

    Of a run that a signal stopped, also its exit code.
    """
    cfg = job.cfg
    micro_batch(cfg, job.pace.batch, job.team.size, job.pace.batch)
    if job.team.size > 1 and team() is None:
        code = launch(kind.task, command_line(kind.task, job.overrides), job.team.local, job.team.nodes)
        return read_summary(cfg.out) | {"exit_code": code}
    with RunFolder(cfg.out, resume=cfg.resume, overwrite=cfg.overwrite, leads=leads()) as folder:
        folder.log_to_file()
        return train(job, folder, kind)


def processes(cfg: DictConfig) -> Team:
    """The processes that the run has: those that exist already, else as many as it asks for."""
    if found := team():
        return found
    local, nodes = cfg.devices, read_int(cfg.trainer, "num_nodes", name="trainer.num_nodes")
    if local == "auto":
        local = device_count(str(cfg.trainer.accelerator))
    return Team(0, local, nodes)


def read_summary(out: str) -> dict[str, Any]:
    """What the run's first process wrote, or nothing where it did not get so far."""
    file = Path(out) / "summary.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def train(job: Job, folder: RunFolder, kind: TrainingTask) -> dict[str, Any]:
    """Builds the objects of a run, trains, and writes the results."""
    imports = import_heavy()
    import torch

    from mimsuite.weights.checkpoints import newest

    cfg, pace = job.cfg, job.pace
    device = find_device(str(cfg.trainer.accelerator))
    precision, reason = precision(str(cfg.precision), device)
    micro = micro_batch(cfg, pace.batch, job.team.size, micro_limit(device, job.geo.image_size))
    compute = Compute(device, precision, reason, micro)
    write_back(job, compute)
    facts = {"device": device.name, "threads": torch.get_num_threads(), "processes": job.team.size}
    if folder.resumed:
        warn_of_changes(folder, facts)
    folder.describe(cfg, job.overrides, facts)
    checkpoint = newest(folder.path / "checkpoints") if folder.resumed else None
    torch.manual_seed(cfg.seed)
    objective, data = kind.make(job, compute)
    if folder.leads:
        banner(job, kind)
        kind.banner(job, compute, objective)
        notes(job, compute)
    trainer, parts = make_trainer(job, folder, compute, objective=objective, step=step_of(checkpoint), imports=imports)
    try:
        fit(trainer, objective, data, checkpoint, micro)
        if parts.checkpoints.exit_code:
            parts.checkpoints.listen()  # again, or a second signal would keep the stopped run from its summary
        return finish(job, folder, trainer, objective, parts, kind)
    finally:
        if parts.wandb is not None:
            parts.wandb.close()
        if team() is None:  # the processes of a team end now, and each may be told so from several read_size
            parts.checkpoints.release()


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
    return None if size is None else read_size(size)


def write_back(job: Job, compute: Compute) -> None:
    """Puts every resolved `auto` into the config, so that `config.yaml` repeats the run on any machine."""
    cfg, geo, pace = job.cfg, job.geo, job.pace
    cfg.data = None if cfg.data is None else str(Path(cfg.data).absolute())
    cfg.init = str(Path(cfg.init).absolute()) if cfg.init is not None and Path(cfg.init).exists() else cfg.init
    cfg.image_size, cfg.channels = list(geo.image_size), geo.channels
    cfg.steps, cfg.epochs, cfg.lr, cfg.schedule.warmup = pace.steps, None, pace.lr, pace.warmup
    cfg.val_every, cfg.save_every = pace.val_every, pace.save_every
    cfg.precision, cfg.micro_batch = compute.precision, compute.micro_batch


def banner(job: Job, kind: TrainingTask) -> None:
    """Says where the run goes and what it learns from."""
    index = job.index
    counts = ", ".join(f"{split} {index.num_samples(split):,}" for split in index.splits)
    log.info("mimsuite %s %s -> %s", __version__, kind.task, job.cfg.out)
    log.info("data      %s: %s images, %d channels %s", index.root, counts, index.channels, index.dtype)


def notes(job: Job, compute: Compute) -> None:
    """Says how long the run is, and every `auto` with its reason."""
    cfg, pace = job.cfg, job.pace
    log.info("length    %d steps of %d images (%.1f epochs), seed %d", pace.steps, pace.batch, pace.epochs, cfg.seed)
    found = (
        f"precision={compute.precision} ({compute.reason})",
        f"micro_batch={compute.micro_batch} (on {compute.device.name})",
        f"workers={job.workers} ({'one per core but one' if cfg.workers == 'auto' else 'as asked'})",
    )
    for note in (*job.geo.notes, *pace.notes, *found, *job.notes):
        log.info("          %s", note)


def fit(trainer: Trainer, objective: Objective, data: ImageData, checkpoint: Path | None, micro: int) -> None:
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
            if trainer.world_size > 1 and is_broken_exchange(error):
                raise RunError(
                    "another process of this run ended or hangs, its own message says why; resume=true goes on from "
                    "the last checkpoint"
                ) from error
            raise


def finish(
    job: Job, folder: RunFolder, trainer: Trainer, objective: Objective, parts: Parts, kind: TrainingTask
) -> dict[str, Any]:
    """Writes curves, the task's results and `summary.json`."""
    from mimsuite.pictures.curves import curves, read_metrics

    code, steps = parts.checkpoints.exit_code, trainer.global_step
    if parts.files is None:
        return {"exit_code": 0}
    spent = {"images": steps * job.pace.batch, "seconds": round(parts.checkpoints.seconds, 1)}
    folder.pictures.mkdir(exist_ok=True)
    curves({folder.path.resolve().name: read_metrics(folder.path / "metrics.csv")}, folder.pictures / "curves.png")
    if code:
        log.info("stopped by a signal at step %d; resume=true goes on from here", steps)
        return folder.summary(kind.task, "interrupted", steps, parts.files.last, **spent) | {"exit_code": code}
    figures, more = kind.finish(job, folder, objective, parts)
    return folder.summary(kind.task, "done", steps, parts.files.last | figures, **spent, **more)
