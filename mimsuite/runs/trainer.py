"""Turns a checked job into the objects of a run: device, loaders, Lightning module, Trainer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.models.device import Device
from mimsuite.models.load import drops_patches, preprocessor, save_weights
from mimsuite.errors import InputError
from mimsuite.weights.init import Weights
from mimsuite.config.instantiate import instantiate
from mimsuite.runs.processes import Team
from mimsuite.runs.folder import redact
from mimsuite.settings.read import Budget, Geometry, Probing

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers.logger import Logger

    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.callbacks.context import RunContext
    from mimsuite.data.datamodule import ImageData
    from mimsuite.data.index import DataIndex
    from mimsuite.settings.labels import TrainingLabels
    from mimsuite.runs.loggers import FileLogger
    from mimsuite.masked.samplers import MaskSampler
    from mimsuite.models.composed import ForImageClassification, ForMaskedImageModeling
    from mimsuite.masked.normalization import Normalize
    from mimsuite.objectives.classify import ClassifyObjective
    from mimsuite.objectives.mim import MIMObjective
    from mimsuite.objectives.objective import Objective
    from mimsuite.runs.folder import RunFolder

OF_THE_MODEL = ("target", "mask_mode")  # keys of the objective that the model's config holds
EXCHANGE_TIMEOUT = 90  # seconds that a process waits for the others before it takes one for dead


















@dataclasses.dataclass(frozen=True)
class Job:
    """A training run, decided and checked, before torch is imported.

    Attributes:
        cfg: the composed config.
        overrides: the command line's `key=value` arguments.
        trusted: further targets that configs may name.
        index: the data.
        weights: what `init=` names, or None.
        config: the model's config object.
        geo: sizes in pixels.
        pace: length and learning rate.
        workers: loader processes.
        team: the processes of the run.
        notes: `key=value (reason)` for what the task chose itself.
        probing: what the online probe looks at, or None without one.
        labelled: what supervised training learns from, or None.
    """

    cfg: DictConfig
    overrides: Sequence[str]
    trusted: Sequence[str]
    index: DataIndex
    weights: Weights | None
    config: Any
    geo: Geometry
    pace: Budget
    workers: int
    team: Team
    notes: tuple[str, ...] = ()
    probing: Probing | None = None
    labelled: TrainingLabels | None = None


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a run computes: the device, Lightning's name of the precision and its reason, images per forward pass."""

    device: Device
    precision: str
    reason: str
    micro_batch: int


def mim_objective(job: Job, model: ForMaskedImageModeling, normalize: Normalize) -> MIMObjective:
    """The Lightning module of a pretraining run."""
    from mimsuite.objectives.groups import param_groups

    decays = decays_mask_token(job.config)
    groups = param_groups(model, weight_decay=job.cfg.optim.weight_decay, decay_mask_token=decays)
    fields = {k: v for k, v in job.cfg.objective.items() if k not in OF_THE_MODEL}
    made: MIMObjective = instantiate(
        OmegaConf.create(fields), job.trusted, **around_model(job, model, normalize, groups)
    )
    return made


def classify_objective(job: Job, model: ForImageClassification, normalize: Normalize) -> ClassifyObjective:
    """The Lightning module of a supervised run."""
    from mimsuite.objectives.groups import layer_groups

    cfg, labelled = job.cfg, job.labelled
    assert labelled is not None
    groups = layer_groups(model, weight_decay=cfg.optim.weight_decay, lr=job.pace.lr, layer_decay=cfg.layer_decay)
    made: ClassifyObjective = instantiate(
        cfg.objective,
        job.trusted,
        **around_model(job, model, normalize, groups),
        label_kind=labelled.facts.kind,
        class_weights=labelled.class_weights,
    )
    return made


def around_model(job: Job, model: Any, normalize: Normalize, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What both Lightning modules take: the model, and its optimizer and schedule to be.

    Raises:
        InputError: a value that the optimizer does not take.
    """
    cfg, pace = job.cfg, job.pace
    fields = {k: v for k, v in cfg.optim.items() if k not in ("base_lr", "base_batch", "weight_decay")}
    optimizer = instantiate(OmegaConf.create(fields), job.trusted, lr=pace.lr)
    try:
        optimizer([dict(group) for group in groups])  # a bad value speaks now, in one line, not inside the trainer
    except ValueError as error:
        raise InputError(f"{cfg.optim._target_}: {error}") from error
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return {
        "model": model,
        "normalize": normalize,
        "optimizer": optimizer,
        "groups": groups,
        "schedule": instantiate(cfg.schedule, job.trusted, steps=pace.steps, warmup=pace.warmup),
        "clip": cfg.trainer.clip,
        "seed": cfg.seed,
        "description": {"config": config, "preprocessor": preprocessor(normalize, job.geo.image_size).to_dict()},
    }


def decays_mask_token(config: Any) -> bool:
    """Whether weight decay acts on the mask token: in SimMIM's ViT, as its code has it, and nowhere else."""
    return bool(config.model_type == "vit" and not drops_patches(config) and config.mim_target != "hog")


def mask_samplers(cfg: DictConfig, trusted: Sequence[str], drops: bool) -> list[MaskSampler]:
    """What draws the masks: several for a list of ratios where hidden patches are dropped, else one.

    `mask.unit` is for the geometry alone.
    """
    fields = OmegaConf.to_container(cfg.mask, resolve=True)
    assert isinstance(fields, dict)
    del fields["unit"]
    several = drops and isinstance(fields.get("ratio"), list)
    choices = [{"ratio": ratio} for ratio in fields["ratio"]] if several else [{}]
    return [instantiate(OmegaConf.create(fields | choice), trusted) for choice in choices]


def masked_data(job: Job, micro_batch: int) -> ImageData:
    """The loaders of a pretraining run."""
    from mimsuite.data.datamodule import ImageData

    transform = instantiate(job.cfg.augment, job.trusted, size=list(job.geo.image_size))
    masks = mask_samplers(job.cfg, job.trusted, job.geo.drops)
    return ImageData(
        job.index,
        **loading(job, micro_batch),
        mask_unit=job.geo.mask_unit,
        train_transform=transform,
        masks=masks,
    )


def labelled_data(job: Job, micro_batch: int, normalize: Normalize) -> ImageData:
    """The loaders of a supervised run."""
    from mimsuite.data.datamodule import ImageData

    labelled = job.labelled
    assert labelled is not None
    filled: dict[str, Any] = {"size": list(job.geo.image_size)}
    if "erasing" in job.cfg.augment:
        filled |= {"mean": normalize.mean.flatten().tolist(), "std": normalize.std.flatten().tolist()}
    transform = instantiate(job.cfg.augment, job.trusted, **filled)
    return ImageData(
        job.index,
        **loading(job, micro_batch),
        mask_unit=None,
        train_transform=transform,
        masks=(),
        labels=True,
        train=labelled.train,
        val=labelled.choose,
    )


def loading(job: Job, micro_batch: int) -> dict[str, Any]:
    """What all loaders take."""
    cfg = job.cfg
    return {
        "image_size": job.geo.image_size,
        "batch": job.pace.batch,
        "micro_batch": micro_batch,
        "steps": job.pace.steps,
        "seed": cfg.seed,
        "workers": job.workers,
        "lanes": cfg.loader.lanes,
        "window": cfg.loader.window,
        "val_limit": cfg.loader.val_limit,
    }


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run asks for its results after training."""

    files: FileLogger | None
    loggers: Sequence[Logger]
    checkpoints: Checkpoints
    callbacks: Sequence[Callback]


def make_trainer(
    job: Job, folder: RunFolder, compute: Compute, *, objective: Objective, step: int, imports: float
) -> tuple[Trainer, Parts]:
    """Lightning's Trainer with our loggers, callbacks and checkpoints.

    Args:
        job: the run.
        folder: where it writes.
        compute: how it computes.
        objective: what it trains.
        step: optimizer steps done before, for a resumed run; -1 for none.
        imports: seconds that importing torch, lightning and wandb took.
    """
    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.callbacks.context import make_callbacks
    from mimsuite.runs.checkpoints import CommittedCheckpointIO
    from mimsuite.runs.loggers import FileLogger, make_loggers

    cfg, pace, trusted = job.cfg, job.pace, job.trusted
    files = FileLogger(folder.path, step) if folder.leads else None
    context = make_context(job, folder, objective, imports)
    loggers = make_loggers(cfg.logger, context, trusted)
    callbacks = make_callbacks(cfg.callbacks, context, trusted)
    checkpoints = Checkpoints(folder.path / "checkpoints", pace.save_every)
    accumulate = pace.batch // (job.team.size * compute.micro_batch)
    made: Trainer = instantiate(
        OmegaConf.create({k: v for k, v in cfg.trainer.items() if k != "clip"} | {"num_nodes": job.team.nodes}),
        trusted,
        accelerator=compute.device.accelerator,
        devices=job.team.local,
        strategy=strategy(job.team, compute.device),
        precision=compute.precision,
        max_steps=pace.steps,
        accumulate_grad_batches=accumulate,
        val_check_interval=pace.val_every * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=-1,  # the whole validation set, before the first step
        logger=[files, *loggers] if files else [],
        callbacks=[*callbacks, checkpoints],
        plugins=[CommittedCheckpointIO()],
        default_root_dir=str(folder.path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the plan knows the ranks
        log_every_n_steps=1,  # unused: the monitor gives the loggers their figures; a larger one makes Lightning warn
    )
    return made, Parts(files, loggers, checkpoints, callbacks)


def make_context(job: Job, folder: RunFolder, objective: Objective, imports: float) -> RunContext:
    """What the callbacks and loggers of a run may know of it."""
    from mimsuite.callbacks.context import RunContext

    config = OmegaConf.to_container(OmegaConf.create(redact(OmegaConf.to_yaml(job.cfg, resolve=True))))
    assert isinstance(config, dict)
    return RunContext(
        folder=folder.path,
        pictures=folder.pictures,
        config={str(key): value for key, value in config.items()},
        batch=job.pace.batch,
        steps=job.pace.steps,
        image_size=job.geo.image_size,
        samples=job.index.num_samples(job.index.select("train")),
        leads=folder.leads,
        started=started(),
        imports=imports,
        online_probe=job.probing is not None,
        save_weights=lambda model: save_weights(
            folder.path / "weights", model, objective.normalize, job.geo.image_size
        ),
    )


def strategy(team: Team, on: Device) -> Any:
    """Lightning's strategy: one device, or one process for each with gradients averaged (DDP)."""
    if team.size == 1:
        return "auto"
    from datetime import timedelta

    from lightning.pytorch.strategies import DDPStrategy

    backend = "gloo" if on.accelerator == "cpu" else None
    return DDPStrategy(process_group_backend=backend, timeout=timedelta(seconds=EXCHANGE_TIMEOUT))


def started() -> float | None:
    """When the command was given that this process runs, or None where Python called."""
    return float(os.environ["MIMSUITE_STARTED"]) if "MIMSUITE_STARTED" in os.environ else None
