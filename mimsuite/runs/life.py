"""The life of a training run, from its settings to a finished folder. Read it from `train_run` downwards."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mimsuite.data.folders import count_of
from mimsuite.data.storage import OptionalWrites
from mimsuite.data.workers import StoppedWaitingError
from mimsuite.errors import InputError, RunError, describe_fault, reading
from mimsuite.models.device import find_device
from mimsuite.runs.banner import report_choices, report_resume, report_start
from mimsuite.runs.console import log_to_console
from mimsuite.runs.cost import Cost, find_cost
from mimsuite.runs.environment import warn_of_changes
from mimsuite.runs.fitting import agree, find_limit
from mimsuite.runs.folder import NO_SUMMARY, SUMMARY, RunFolder, held_lines, read_summary, summary_after
from mimsuite.runs.machine import choose_compile, choose_precision, is_out_of_memory, micro_limit
from mimsuite.runs.meeting import check_shared, joined
from mimsuite.runs.objects import (
    Compute,
    Parts,
    check_trainer_parts,
    make_trainer,
    run_context,
    trainer_arguments,
)
from mimsuite.runs.processes import command_line, end_with_parent, is_leader, launch, processes_of
from mimsuite.runs.quiet import without_known_warnings
from mimsuite.settings.budget import fitted_micro_batch, shared_micro_batch
from mimsuite.settings.losses import name_loss
from mimsuite.settings.outputs import check_writable
from mimsuite.settings.team import Team, current_team, ignored_variables
from mimsuite.settings.training import TrainingSettings

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from torch.distributed.distributed_c10d import Store

    from mimsuite.callbacks.context import RunContext
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")

S = TypeVar("S", bound=TrainingSettings)

_training = threading.RLock()  # held by the thread that trains: seeds and log lines are of the whole process

COPIES = 3  # of the weights that a run writes at least: two in a checkpoint, with a state of the optimizer; the last


@dataclass(frozen=True)
class TrainingTask(Generic[S]):
    """What a task adds to `train_run`.

    Attributes:
        name: the task's.
        make: the Lightning module and the loaders.
        banner: reports what is about to happen.
        finish: writes the results of a run that came to its end; returns metrics, and more for `summary.json`.
    """

    name: str
    make: Callable[[S, Compute], tuple[Objective, ImageData]]
    banner: Callable[[S, Any], None]
    finish: Callable[[S, Compute, RunFolder, Any, Parts], tuple[dict[str, float], dict[str, Any]]]


def prepare_process() -> bool:
    """Prepares this process before settings are read; returns whether it writes the run folder, and prints."""
    log_to_console()
    log.disabled = not is_leader()
    end_with_parent()
    return is_leader()


def train_run(settings: S, task: TrainingTask[S]) -> dict[str, Any]:
    """Trains, in this process or in several that it starts; returns the content of `summary.json`.

    Of a run that a signal stopped, also its exit code.
    """
    with one_at_a_time():
        return finished_before(settings) or train_on(settings, task)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Holds the right to train in this process.

    Raises:
        InputError: another thread trains.
    """
    if not _training.acquire(blocking=False):
        raise InputError("another thread of this program trains already; train one after the other, or in processes")
    try:
        yield
    finally:
        _training.release()


def train_on(settings: S, task: TrainingTask[S]) -> dict[str, Any]:
    """Trains what is left of a run, here or in processes that it starts; as `train_run`."""
    inputs, batch = settings.inputs, settings.budget.batch
    run_team = processes_of(inputs.devices, inputs.nodes, inputs.accelerator)
    if inputs.steps_before is not None:
        inputs = replace(inputs, micro_batch=shared_micro_batch(inputs.micro_batch, batch, run_team.size))
        settings = replace(settings, inputs=inputs)
    if inputs.processes == run_team.size or not settings.budget.batch_chosen:  # else the processes choose it anew
        fitted_micro_batch(inputs.micro_batch, batch, run_team.size, batch)
    for line in ignored_variables(inputs.nodes):
        log.warning("%s", line)
    if run_team.size > 1 and current_team() is None:
        refuse_objects(settings)
        code = launch(task.name, command_line(task.name, inputs.overrides), run_team.local, run_team.nodes)
        return summary_after(inputs.out, code)
    with heavy_imports(settings.groups.loggers) as spent:
        return train_here(settings, task, run_team, spent)


def train_here(settings: S, task: TrainingTask[S], run_team: Team, imports: float) -> dict[str, Any]:
    """Trains in this process, one of `run_team`: makes everything that a value can spoil, then claims the folder."""
    import torch

    from mimsuite.runs.cluster import set_rank

    inputs = settings.inputs
    set_rank(run_team)
    compute = choose_compute(settings, run_team)
    torch.manual_seed(inputs.seed)
    with held_lines() as lines:  # every error in a value of a config shows here, before the folder is touched
        objective, data = task.make(settings, compute)
        if not estimates_micro_batch(settings, compute):
            objective.check_micro_batches(settings.budget.batch // (run_team.size * compute.micro_batch))
        cost = find_cost(objective, data, compute.device, compute.precision)
        config = dict(settings.config) | {"precision": compute.precision, "micro_batch": compute.micro_batch}
        config["trainer"] = dict(config["trainer"]) | {"compile": compute.compile}
        context = run_context(
            *(settings, config, objective),
            leads=run_team.rank == 0,
            imports=imports,
            most_images=None if cost is None else cost.most_images * run_team.size,
        )
        check_trainer_parts(settings, compute, context)
    if context.leads:
        check_writable("out", inputs.out, COPIES * sum(p.nbytes for p in objective.model.parameters()))
    with RunFolder(inputs.out, resume=inputs.resume, overwrite=inputs.overwrite, leads=context.leads) as folder:
        folder.log_to_file(lines)
        backend = "gloo" if compute.device.accelerator == "cpu" else None
        with joined(run_team, backend, task=task.name) as store:
            check_shared(folder.path, run_team, store)
            compute = fit_to_memory(settings, compute, objective, data, store)
            context = replace(context, config={**context.config, "micro_batch": compute.micro_batch})
            if compute.compile:
                objective.compile_blocks(compute.micro_batch)
            return train(settings, compute, folder, context, (objective, data), task, cost)


def refuse_objects(settings: TrainingSettings) -> None:
    """Refuses objects that the processes of a run would need and cannot get.

    Raises:
        InputError: there are some.
    """
    if given := settings.inputs.objects.given:
        raise InputError(
            f"{given[0]}= is an object, which the processes that a run with several devices starts do not get; use "
            "devices=1, or start this script with torchrun"
        )


def assemble(settings: S, task: TrainingTask[S]) -> tuple[Objective, ImageData, dict[str, Any]]:
    """What a run trains, on what, and the arguments of a Trainer that gives the same numbers; writes nothing."""
    import torch

    inputs = settings.inputs
    compute = choose_compute(settings, processes_of(inputs.devices, inputs.nodes, inputs.accelerator))
    torch.manual_seed(inputs.seed)
    objective, data = task.make(settings, compute)
    if compute.compile:
        objective.compile_blocks(compute.micro_batch)
    objective.log_every = settings.log_every
    return objective, data, trainer_arguments(settings, compute)


def train(
    settings: S,
    compute: Compute,
    folder: RunFolder,
    context: RunContext,
    made: tuple[Objective, ImageData],
    task: TrainingTask[S],
    cost: Cost | None,
) -> dict[str, Any]:
    """Trains in a folder that is claimed, and writes the results."""
    import torch

    from mimsuite.runs.checkpoints import goes_on_from
    from mimsuite.runs.loggers.guest import close_loggers
    from mimsuite.weights.checkpoints import newest_checkpoint

    objective, data = made
    facts = {"device": compute.device.name, "threads": torch.get_num_threads(), "processes": compute.team.size}
    if folder.resumed:
        warn_of_changes(folder.path, facts)
    folder.describe(context.config, settings.inputs.overrides, facts)
    folder.describe_data(settings.inputs.fingerprint)
    checkpoint = newest_checkpoint(folder.path / "checkpoints") if folder.resumed else None
    if folder.leads:
        report_start(settings, task.name)
        task.banner(settings, objective)
        report_choices(settings, compute, cost)
        report_resume(settings, objective, step_of(checkpoint))
    trainer, parts = make_trainer(settings, folder, compute, context, step=step_of(checkpoint))
    try:
        data.stop_asked = lambda: parts.checkpoints.stop.exit_code != 0
        try:
            fit(trainer, objective, data, checkpoint, compute.micro_batch)
        except StoppedWaitingError:
            parts.checkpoints.exit_code = parts.checkpoints.stop.exit_code
        if parts.checkpoints.exit_code:
            parts.checkpoints.stop.listen()  # again, or a second signal would keep the stopped run from its summary
        return write_results(settings, compute, folder, trainer, objective, parts, task)
    except OSError as error:
        raise RunError(f"{describe_fault(error)}; {goes_on_from(folder.path / 'checkpoints')}") from error
    finally:
        close_loggers(parts.loggers)
        if current_team() is None:  # the processes of a team end now, and each may be told so from several sides
            parts.checkpoints.stop.release()


@contextlib.contextmanager
def heavy_imports(nodes: Mapping[str, Any]) -> Iterator[float]:
    """Imports what training needs in any case; gives the seconds that it took. Lightning is quiet until the end.

    Args:
        nodes: the config's `logger`; wandb is imported if one is called so.
    """
    began = time.perf_counter()
    import lightning.pytorch
    import torch._dynamo  # the first optimizer step would import it
    import torchmetrics

    assert all((lightning.pytorch, torch, torchmetrics))
    if "wandb" in nodes:
        with contextlib.suppress(ImportError):  # the logger says what to do
            importlib.import_module("wandb")
    took = time.perf_counter() - began
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]  # of the caller, in whose program this may run
    for logger in loggers:
        logger.setLevel(logging.WARNING)  # its tips and device lines tell nothing about the run
    try:
        yield took
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def choose_compute(settings: TrainingSettings, run_team: Team) -> Compute:
    """Device, precision and images per forward pass."""
    inputs = settings.inputs
    device = find_device(inputs.accelerator)
    precision, reason = choose_precision(inputs.precision, device, inputs.master_weights)
    goes_on = inputs.steps_before is not None
    reason = "as before" if goes_on and inputs.precision != "auto" else reason
    limit = max(1, micro_limit(device, settings.geometry.image_size) // settings.views)
    micro = fitted_micro_batch(inputs.micro_batch, settings.budget.batch, run_team.size, limit)
    compiles, why = choose_compile(inputs.compile, device, settings.budget.steps)
    why = "as before" if goes_on and inputs.compile is not None else why
    return Compute(run_team, device, precision, reason, micro, compiles, why)


def fit_to_memory(
    settings: TrainingSettings, compute: Compute, objective: Objective, data: ImageData, store: Store | None
) -> Compute:
    """Replaces an estimated `micro_batch` by what fits into the memory of the GPUs: tried once, equal in all processes.

    Args:
        settings: of the run; a `micro_batch` that is given there, also by the run that goes on, stays.
        compute: how it computes.
        objective: of the run, not compiled yet.
        data: its loaders, which are told.
        store: what the processes share.
    """
    if not estimates_micro_batch(settings, compute):
        return compute
    batch, size = settings.budget.batch, compute.team.size
    limit = agree(find_limit(settings, compute, objective, data, batch // size), compute.team, store)
    data.micro_batch = fitted_micro_batch(None, batch, size, limit)
    return replace(compute, micro_batch=data.micro_batch)


def estimates_micro_batch(settings: TrainingSettings, compute: Compute) -> bool:
    """Whether `micro_batch` is an estimate until `fit_to_memory` has tried what fits: one process with all weights."""
    spread = settings.inputs.spreading.spreads_weights and compute.team.size > 1
    return settings.inputs.micro_batch is None and compute.device.accelerator == "gpu" and not spread


def step_of(checkpoint: Path | None) -> int:
    """The optimizer steps done when a checkpoint was committed; -1 for none: metrics of step 0 are written again."""
    return -1 if checkpoint is None else int(checkpoint.stem.rpartition("_")[2])


def fit(trainer: Trainer, objective: Objective, data: ImageData, checkpoint: Path | None, micro: int) -> None:
    """Trains; what a user can fix comes out as one line.

    Raises:
        RunError: the device is out of memory.
    """

    with without_known_warnings():
        try:
            with contextlib.nullcontext() if objective.compiled is None else objective.compiled.run():
                trainer.fit(objective, datamodule=data, ckpt_path=checkpoint)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        except RunError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise RunError(
                    f"the device is out of memory at micro_batch={micro}; use micro_batch={max(1, micro // 2)}"
                ) from error
            raise


def write_results(
    settings: S,
    compute: Compute,
    folder: RunFolder,
    trainer: Trainer,
    objective: Objective,
    parts: Parts,
    task: TrainingTask[S],
) -> dict[str, Any]:
    """Writes curves, the task's results and `summary.json`."""
    from mimsuite.pictures.curves import draw_curves, read_metrics
    from mimsuite.runs.reporting.own import report_itself

    code, steps = parts.checkpoints.exit_code, trainer.global_step
    if parts.files is None:
        return {"exit_code": 0}
    spent = {"images": steps * settings.budget.batch, "seconds": round(parts.checkpoints.seconds, 1)}
    with OptionalWrites("pictures/curves.png", Exception).attempt():
        name, series = folder.path.resolve().name, read_metrics(folder.path / "metrics.csv")
        losses = {name: name_loss(folder.path, series)}
        draw_curves({name: series}, folder.pictures / "curves.png", losses=losses)
    if code:
        log.info("stopped by a signal at step %d; resume=true goes on from here", steps)
        summary = folder.summary(task.name, "interrupted", steps, parts.files.last, **spent)
        report_itself(folder.path, parts.loggers)
        return summary | {"exit_code": code}
    if steps < (planned := settings.budget.steps):
        spent["stopped_early_of"] = planned
        for reason in stopping_reasons(parts.callbacks):
            log.info("stopped early at step %d of %d: %s", steps, planned, reason)
    metrics, more = task.finish(settings, compute, folder, objective, parts)
    summary = folder.summary(task.name, "done", steps, parts.files.last | metrics, **spent, **more)
    report_itself(folder.path, parts.loggers)
    return summary


def stopping_reasons(callbacks: Sequence[Callback]) -> list[str]:
    """Why callbacks such as Lightning's EarlyStopping ended the run; nothing where none did."""
    reasons = [getattr(callback, "stopping_reason_message", None) for callback in callbacks]
    return [str(reason).removesuffix(" Signaling Trainer to stop.") for reason in reasons if reason]


def finished_before(settings: TrainingSettings) -> dict[str, Any] | None:
    """The summary of a resumed run that has nothing left to do; None for another run.

    Raises:
        InputError: the run has trained, and its checkpoints are gone: it would begin anew, in silence.
    """
    out, steps = settings.inputs.out, settings.budget.steps
    found, has_weights = read_summary(out) if settings.inputs.resume else {}, (Path(out) / "weights").is_dir()
    with reading(str(Path(out) / SUMMARY), NO_SUMMARY):
        done = int(found.get("steps", 0))
    if found.get("status") == "done" and has_weights and (done >= steps or found.get("stopped_early_of") == steps):
        what = f"did its {count_of(done, 'step')}" if done >= steps else f"stopped early at step {done} of {steps}"
        log.info("nothing left: the run in %s %s; give a larger steps= to train longer", out, what)
        return found
    if done and not any(Path(out, "checkpoints").glob("step_*.ckpt")):
        other = f"go on from its weights in another out=, with init={out}" if has_weights else "use overwrite=true"
        did = f"did {count_of(done, 'step')}"
        raise InputError(f"the run in {out} {did}, and its checkpoints/ are gone; put them back, or {other}")
    return None
