"""From settings to the objects of a run: Lightning module, loaders, Trainer with callbacks and loggers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mimsuite.config.instantiate import instantiate_for_run
from mimsuite.errors import InputError, cause_of
from mimsuite.models.device import Device
from mimsuite.models.load import preprocessing, save_weights
from mimsuite.runs.folder import PICTURES, RunFolder
from mimsuite.runs.secrets import redact
from mimsuite.settings.finetune import FinetuneSettings
from mimsuite.settings.latent import LatentSettings
from mimsuite.settings.pretrain import PretrainSettings
from mimsuite.settings.team import Team
from mimsuite.settings.training import TrainingSettings

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.callbacks.context import RunContext
    from mimsuite.data.augment.crop import Transform
    from mimsuite.data.datamodule import ImageData
    from mimsuite.masked.normalization import Normalize
    from mimsuite.masked.samplers import MaskSampler
    from mimsuite.models.composed import ForImageClassification, ForMaskedImageModeling
    from mimsuite.objectives.classify import ClassifyObjective
    from mimsuite.objectives.mim import MIMObjective
    from mimsuite.objectives.objective import Objective
    from mimsuite.runs.loggers.files import FileLogger


@dataclass(frozen=True)
class Compute:
    """How a run computes.

    Attributes:
        team: the processes of the run.
        device: what each computes on.
        precision: Lightning's name of it.
        reason: why this one.
        micro_batch: images per forward pass on one device.
        compile: whether the blocks are compiled.
        compile_reason: why, or why not.
    """

    team: Team
    device: Device
    precision: str
    reason: str
    micro_batch: int
    compile: bool
    compile_reason: str


@dataclass(frozen=True)
class Parts:
    """What a run asks for its results after training."""

    files: FileLogger | None
    loggers: Sequence[Logger]
    checkpoints: Checkpoints
    callbacks: Sequence[Callback]


def mim_objective(settings: PretrainSettings, model: ForMaskedImageModeling, normalize: Normalize) -> MIMObjective:
    """The Lightning module of a pretraining run."""
    from mimsuite.objectives.groups import param_groups

    groups = param_groups(
        model, weight_decay=settings.budget.weight_decay, decay_mask_token=settings.model.decays_mask_token
    )
    around = around_model(settings, model, normalize, groups)
    if settings.latent is not None:
        around |= around_teacher(settings, settings.latent, model, normalize)
    made: MIMObjective = instantiate_for_run(settings.objective, settings.inputs.trusted, **around)
    return made


def around_teacher(
    settings: PretrainSettings, latent: LatentSettings, model: ForMaskedImageModeling, normalize: Normalize
) -> dict[str, Any]:
    """What a latent objective takes beside: the teacher, and how it follows the student."""
    from mimsuite.models.latent import copy_encoder
    from mimsuite.objectives.teacher import Teacher, load_teacher, momentum_schedule

    (start, end), frozen, what = latent.momentum, latent.teacher, latent.predictor
    if frozen is None:
        teacher = Teacher(copy_encoder(model), what.layers, what.combine)
    else:
        teacher = load_teacher(frozen.weights, frozen.config, frozen.image_size, what, normalize, frozen=True)
    return {
        "teacher": teacher,
        "kept": momentum_schedule(start, end, settings.budget.steps, latent.momentum_schedule),
        "beta": latent.beta,
        "pixels": latent.pixels,
        "warm_steps": latent.warm_steps,
    }


def classify_objective(
    settings: FinetuneSettings, model: ForImageClassification, normalize: Normalize
) -> ClassifyObjective:
    """The Lightning module of a supervised run."""
    from mimsuite.objectives.groups import layer_groups

    labels, budget = settings.labels, settings.budget
    groups = layer_groups(model, weight_decay=budget.weight_decay, lr=budget.lr, layer_decay=settings.layer_decay)
    made: ClassifyObjective = instantiate_for_run(
        settings.groups.objective,
        settings.inputs.trusted,
        **around_model(settings, model, normalize, groups),
        label_kind=labels.facts.kind,
        class_weights=labels.class_weights,
    )
    return made


def around_model(
    settings: TrainingSettings, model: Any, normalize: Normalize, groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """What both Lightning modules take: the model, and its optimizer and schedule to be.

    Raises:
        InputError: a value that the optimizer or the schedule does not take.
    """
    from mimsuite.objectives.preparing import prepare_model

    inputs, budget, nodes = settings.inputs, settings.budget, settings.groups
    optimizer = instantiate_for_run(nodes.optimizer, inputs.trusted, lr=budget.lr)
    try:
        optimizer([dict(group) for group in groups])  # a bad value is refused now, in one line, not inside the trainer
    except Exception as error:  # an optimizer judges its values in whatever way it likes
        raise InputError(f"{nodes.optimizer._target_}: {cause_of(error)}; check the keys of optim") from error
    schedule = instantiate_for_run(nodes.schedule, inputs.trusted, steps=budget.steps, warmup=budget.warmup)
    try:
        for step in (0, budget.warmup, budget.steps):
            float(schedule(step))
    except Exception as error:
        raise InputError(f"{nodes.schedule._target_}: {cause_of(error)}; check the keys of schedule") from error
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    prepare_model(model, activations=inputs.spreading.checkpoint_activations, norms=inputs.spreading.sync_batchnorm)
    return {
        "model": model,
        "normalize": normalize,
        "optimizer": optimizer,
        "groups": groups,
        "schedule": schedule,
        "clip": inputs.clip,
        "seed": inputs.seed,
        "description": {
            "config": config,
            "preprocessor": preprocessing(normalize, settings.geometry.image_size),
        },
        **({"master_weights": True} if inputs.master_weights else {}),  # a module of a user's may not know it
    }


def mask_samplers(settings: PretrainSettings) -> list[MaskSampler]:
    """What draws the masks of a pretraining run.

    Raises:
        InputError: a sampler of the user's own whose masks cannot be used.
    """
    from mimsuite.masked.samplers import check_masks, is_exact, make_samplers

    inputs, geometry = settings.inputs, settings.geometry
    if inputs.objects.mask is not None:
        made = [inputs.objects.mask]
    else:
        made = make_samplers(settings.mask, inputs.trusted, geometry.drops)
    check_masks([sampler for sampler in made if not is_exact(sampler)], geometry.grid, drops=geometry.drops)
    return made


def train_transform(settings: TrainingSettings, **filled: Any) -> Transform:
    """What makes training pictures: the caller's own augmentation, or the group with what is filled in."""
    if settings.inputs.objects.augment is not None:
        own: Transform = settings.inputs.objects.augment
        return own
    size = list(settings.geometry.image_size)
    made: Transform = instantiate_for_run(settings.groups.augment, settings.inputs.trusted, size=size, **filled)
    return made


def masked_data(settings: PretrainSettings, compute: Compute) -> ImageData:
    """The loaders of a pretraining run."""
    from mimsuite.data.datamodule import ImageData

    return ImageData(
        settings.inputs.index,
        **loader_arguments(settings, compute),
        mask_unit=settings.geometry.mask_unit,
        train_transform=train_transform(settings),
        masks=mask_samplers(settings),
        views=settings.views,
    )


def labelled_data(settings: FinetuneSettings, compute: Compute, normalize: Normalize) -> ImageData:
    """The loaders of a supervised run."""
    from mimsuite.data.datamodule import ImageData

    filled: dict[str, Any] = {}
    if "erasing" in settings.groups.augment:
        filled = {"mean": normalize.mean.flatten().tolist(), "std": normalize.std.flatten().tolist()}
    return ImageData(
        settings.inputs.index,
        **loader_arguments(settings, compute),
        mask_unit=None,
        train_transform=train_transform(settings, **filled),
        masks=(),
        labels=True,
        train=settings.labels.train,
        val=settings.labels.choose,
    )


def loader_arguments(settings: TrainingSettings, compute: Compute) -> dict[str, Any]:
    """What all loaders take."""
    inputs = settings.inputs
    return {
        "image_size": settings.geometry.image_size,
        "batch": settings.budget.batch,
        "micro_batch": compute.micro_batch,
        "steps": settings.budget.steps,
        "seed": inputs.seed,
        "workers": inputs.loading.workers,
        "processes": compute.team.local,
        "patience": inputs.loading.patience,
        "lanes": inputs.loading.lanes,
        "window": inputs.loading.window,
        "val_limit": inputs.loading.val_limit,
        "crops_on_device": inputs.loading.crops_on_device,
    }


def make_trainer(
    settings: TrainingSettings, folder: RunFolder, compute: Compute, context: RunContext, *, step: int
) -> tuple[Trainer, Parts]:
    """Lightning's Trainer with our loggers, callbacks and checkpoints.

    Args:
        settings: of the run.
        folder: where it writes.
        compute: how it computes.
        context: what it tells its callbacks and loggers.
        step: optimizer steps done before, for a resumed run; -1 for none.
    """
    from lightning.pytorch.callbacks import Checkpoint

    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.callbacks.context import make_callbacks
    from mimsuite.runs.loggers.files import FileLogger
    from mimsuite.runs.loggers.making import make_loggers

    groups, objects, trusted = settings.groups, settings.inputs.objects, settings.inputs.trusted
    files = FileLogger(folder.path, step) if folder.leads else None
    loggers = list(objects.loggers) or make_loggers(groups.loggers, context, trusted)
    callbacks = [*make_callbacks(groups.callbacks, context, trusted), *objects.callbacks]
    checkpoints = Checkpoints(
        folder.path / "checkpoints",
        settings.budget.save_every,
        seconds=settings.budget.save_seconds,
        forces=command_time() is not None,
    )
    made: Trainer = instantiate_for_run(
        groups.trainer,
        trusted,
        **run_arguments(settings, compute, context),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        logger=[files, *loggers] if files else [],
        callbacks=[*callbacks, checkpoints],
    )
    return made, Parts(files, loggers, checkpoints, callbacks)


def run_arguments(settings: TrainingSettings, compute: Compute, context: RunContext) -> dict[str, Any]:
    """What the Trainer gets from the run, beside loggers and callbacks; arguments as of `make_trainer`."""
    from mimsuite.runs.checkpoints import CommittedCheckpointIO
    from mimsuite.runs.cluster import TeamEnvironment
    from mimsuite.runs.profiler import NoProfiler

    arguments = trainer_arguments(settings, compute)
    plugins = [*arguments.get("plugins", ()), CommittedCheckpointIO(), TeamEnvironment(compute.team)]
    profiler = {} if "profiler" in settings.groups.trainer else {"profiler": NoProfiler()}
    return arguments | {
        **profiler,
        "plugins": plugins,
        "default_root_dir": str(context.folder),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def trainer_arguments(settings: TrainingSettings, compute: Compute) -> dict[str, Any]:
    """What decides the numbers of a run: everything of a Trainer but its loggers, callbacks and places to write."""
    from mimsuite.runs.cluster import choose_strategy

    budget, team = settings.budget, compute.team
    accumulate = budget.batch // (team.size * compute.micro_batch)
    return {
        "num_nodes": team.nodes,
        "accelerator": compute.device.accelerator,
        "devices": team.local,
        "strategy": choose_strategy(settings.inputs.spreading, team, compute.device),
        **choose_precision_plugin(compute),
        "max_steps": budget.steps,
        "accumulate_grad_batches": accumulate,
        "val_check_interval": budget.val_every * accumulate,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": -1,  # the whole validation set, before the first step
        "use_distributed_sampler": False,  # the order of batches knows the ranks
        "log_every_n_steps": 1,  # unused: metrics have log points of their own; a larger one makes Lightning warn
    }


def choose_precision_plugin(compute: Compute) -> dict[str, Any]:
    """Lightning's `precision`; float16 is one of its `plugins`, because on a CPU it would take bfloat16 instead."""
    if compute.precision != "16-mixed":
        return {"precision": compute.precision}
    from lightning.pytorch.plugins import MixedPrecision

    device = compute.device.accelerator
    return {"plugins": [MixedPrecision("16-mixed", device if device in ("cpu", "mps") else "cuda")]}


def check_trainer_parts(settings: TrainingSettings, compute: Compute, context: RunContext) -> None:
    """Refuses what `make_trainer` would refuse, and touches no folder; arguments as there.

    Raises:
        InputError: a logger, a callback or a Trainer that its config does not describe.
    """
    from lightning import Callback
    from lightning.pytorch.loggers import Logger

    from mimsuite.callbacks.context import check_parts

    groups, trusted = settings.groups, settings.inputs.trusted
    check_parts("logger", groups.loggers, Logger, context, trusted)
    check_parts("callbacks", groups.callbacks, Callback, context, trusted)
    arguments = run_arguments(settings, compute, context)
    instantiate_for_run(groups.trainer, trusted, **arguments, enable_checkpointing=False, logger=[], callbacks=[])


def run_context(
    settings: TrainingSettings,
    config: Mapping[str, Any],
    objective: Objective,
    *,
    leads: bool,
    imports: float,
    most_images: float | None = None,
) -> RunContext:
    """What the run tells its callbacks and loggers about itself.

    Args:
        settings: of the run.
        config: what `config.yaml` holds.
        objective: what it trains.
        leads: whether this process writes the run folder.
        imports: seconds that importing torch, lightning and wandb took.
        most_images: that all devices could train in a second at their peak; None where it is not known.
    """
    from mimsuite.callbacks.context import RunContext

    index, size, folder = settings.inputs.index, settings.geometry.image_size, Path(settings.inputs.out)
    known = OmegaConf.to_container(OmegaConf.create(redact(OmegaConf.to_yaml(OmegaConf.create(dict(config))))))
    assert isinstance(known, dict)

    def save(model: Any, name: str = "weights") -> None:
        save_weights(folder / name, model, objective.normalize, size)

    return RunContext(
        folder=folder,
        pictures=folder / PICTURES,
        config={str(key): value for key, value in known.items()},
        batch=settings.budget.batch,
        steps=settings.budget.steps,
        image_size=size,
        samples=index.num_samples(index.select("train")),
        leads=leads,
        started=command_time(),
        imports=imports,
        online_probe=settings.probes_online,
        keeps_best=settings.keeps_best_probe,
        save_weights=save,
        most_images=most_images,
    )


def command_time() -> float | None:
    """When the command was given that this process runs, or None where Python called."""
    return float(os.environ["MIMSUITE_STARTED"]) if "MIMSUITE_STARTED" in os.environ else None
