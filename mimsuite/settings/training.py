"""What `pretrain` and `finetune` both read: folder, data, weights, devices, loader, groups. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import judge_names, trusted_targets
from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.fingerprint import Fingerprint, fingerprint
from mimsuite.data.index import DataIndex
from mimsuite.data.open import open_data
from mimsuite.data.stores.address import absolute
from mimsuite.errors import InputError
from mimsuite.models.load import warn_of_other_values
from mimsuite.settings.budget import Budget, check_pace
from mimsuite.settings.crops import OF_THE_LOADER, read_crops_on_device
from mimsuite.settings.fetching import check_cache, read_fetching, written_cache
from mimsuite.settings.geometry import Geometry
from mimsuite.settings.init_keys import fit_weights, refuse_init_keys
from mimsuite.settings.machine import read_workers
from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.outputs import check_apart, check_outside, check_run_folder, holds_run
from mimsuite.settings.read import (
    is_int,
    read,
    read_choice,
    read_data,
    read_flag,
    read_int,
    read_positive,
    read_text,
)
from mimsuite.settings.resolve import with_values
from mimsuite.settings.resume import check_data, continue_config, first_overrides, moved, stored_config
from mimsuite.settings.team import current_team, node_rank, team_size
from mimsuite.settings.trainer import (
    OF_THE_TRAINER,
    Spreading,
    check_followers,
    read_clip,
    read_compile,
    read_master_weights,
    read_spreading,
)
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import ACCELERATORS, PRECISIONS

LOG_EVERY = 10  # steps, where no monitor says it
OF_THE_OPTIMIZER = ("base_lr", "base_batch", "weight_decay", "master_weights")  # keys that are read, not handed on


@dataclass(frozen=True)
class Loading:
    """How batches are read.

    Attributes:
        workers: loader processes.
        chosen: whether their number was chosen here.
        lanes: streams of shards that a batch is drawn from.
        window: shards whose samples are mixed.
        val_limit: the most validation images of the curves.
        patience: seconds without a batch after which the run ends.
        fetching: how shards are read.
        crops_on_device: whether training pictures are resized and mirrored there.
    """

    workers: int
    chosen: bool
    lanes: int
    window: int
    val_limit: int
    patience: float
    fetching: Fetching
    crops_on_device: bool


@dataclass(frozen=True)
class Groups:
    """Config groups that `instantiate` turns into objects; what is decided here is already written into them."""

    head: DictConfig
    objective: DictConfig
    augment: DictConfig
    optimizer: DictConfig
    schedule: DictConfig
    trainer: DictConfig
    loggers: DictConfig
    callbacks: DictConfig


@dataclass(frozen=True)
class RunInputs:
    """What a training task reads first.

    Attributes:
        out: the run folder.
        resume: whether the run goes on with what is there.
        overwrite: whether it replaces what is there.
        overrides: this command line's `key=value` arguments.
        given: the same, and those of a resumed run's first start.
        trusted: further targets that configs may name.
        init: what the user gave, or None.
        data: its address, or several; local paths made absolute; None for the embedded data.
        index: the data.
        fingerprint: what the data are, without their place.
        steps_before: of a resumed run, the steps that it was started for.
        weights: what `init` names, or None.
        seed: of the run.
        precision: Lightning's name, or "auto".
        accelerator: Lightning's name, or "auto".
        devices: processes on this machine; None: one per device.
        nodes: machines.
        micro_batch: images per forward pass; None: chosen when the device is known.
        loading: how batches are read.
        clip: largest global gradient norm, or None.
        compile: whether the blocks are compiled; None: decided when the device is known.
        spreading: how several devices share the work.
        objects: what a caller gave in place of config nodes.
        master_weights: whether the weights are in bfloat16 in forward and backward pass.
    """

    out: str
    resume: bool
    overwrite: bool
    overrides: tuple[str, ...]
    given: tuple[str, ...]
    trusted: tuple[str, ...]
    init: str | None
    data: str | tuple[str, ...] | None
    index: DataIndex
    fingerprint: Fingerprint
    steps_before: int | None
    weights: Weights | None
    seed: int
    precision: str
    accelerator: str
    devices: int | None
    nodes: int
    micro_batch: int | None
    loading: Loading
    clip: float | None
    compile: bool | None
    spreading: Spreading
    objects: Objects = NO_OBJECTS
    master_weights: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the run continues from a checkpoint of its own."""
        return self.steps_before is not None and holds_checkpoint(self.out)

    @property
    def processes(self) -> int:
        """Of the run, as far as they are known without torch."""
        return team_size(self.devices, self.nodes)


@dataclass(frozen=True)
class TrainingSettings:
    """A training run, read and checked, before torch is imported.

    Attributes:
        inputs: what every training task has.
        model: the model's config object.
        geometry: sizes in pixels.
        budget: length and learning rate.
        groups: what is instantiated.
        notes: `key=value (reason)` for what the task chose itself.
        config: what `config.yaml` will hold, but for what is known only when the device is.
    """

    inputs: RunInputs
    model: EncoderConfig
    geometry: Geometry
    budget: Budget
    groups: Groups
    notes: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def log_every(self) -> int:
        """Steps between log points; what is not a number is refused by the monitor itself."""
        value = OmegaConf.select(self.groups.callbacks, "monitor.log_every", default=LOG_EVERY)
        return int(value) if is_int(value) else LOG_EVERY

    @property
    def views(self) -> int:
        """How often the student sees each image of a batch, under different masks."""
        return 1

    @property
    def probes_online(self) -> bool:
        """Whether the run measures its features while it trains."""
        return False

    @property
    def keeps_best_probe(self) -> bool:
        """Whether it keeps the weights of the best of these measurements."""
        return False


def read_inputs(
    cfg: DictConfig, overrides: Sequence[str], *, leads: bool, objects: Objects = NO_OBJECTS
) -> tuple[DictConfig, RunInputs]:
    """Reads what all training tasks have, opens data and weights.

    Args:
        cfg: the composed config.
        overrides: the command line's `key=value` arguments.
        leads: whether this process writes the run folder; another one does not check it.
        objects: what a caller gave in place of config nodes.

    Returns:
        The config to go on with, which of a resumed run is the stored one, and what was read.

    Raises:
        InputError: a folder, a value, data or weights that will not do.
    """
    resume, overwrite = read_flag(cfg, "resume"), read_flag(cfg, "overwrite")
    out, given = str(read(cfg, "out")), tuple(overrides)
    for key in () if resume else ("init", "objective.teacher"):
        check_apart(OmegaConf.select(cfg, key), out, key)
    cfg = prefer_given(cfg, overrides)
    leads = leads and (current_team() is not None or node_rank(read_int(cfg, "trainer.num_nodes")) == 0)
    held = check_run_folder(out, resume=resume, overwrite=overwrite) if leads else holds_run(out)
    asked = cfg
    if resume and held:
        given = (*first_overrides(out), *given)
        cfg = continue_config(cfg, overrides)
        cfg = with_values(cfg, {name: asked[name] for name in objects.nodes})  # objects stand in for what it names
    trusted = trusted_targets(asked, overrides)  # of this command line, whatever a stored config says
    trusted_targets(cfg, overrides)  # refuses what was trusted before and is not given again
    judge_names(cfg, trusted)
    precision, seed = read_choice(cfg, "precision", PRECISIONS), read_int(cfg, "seed", least=0)
    master_weights = read_master_weights(cfg, precision)
    devices = read_int(cfg, "devices", auto=0) or None
    loading = read_loading(cfg, devices, objects)
    init, data = read_text(cfg, "init"), read_data(cfg)
    if not (resume and held):
        check_outside(out, data)
        check_followers(cfg, precision)
    check_pace(cfg)
    weights = read_weights(init, objects, out if resume and held else None)
    weights = weights and weights.trusting(trusted)
    index = replace(open_data(data, (weights and weights.alpha) or "white"), fetching=loading.fetching)
    check_cache(index, loading.fetching)
    if weights is None:
        refuse_init_keys(cfg)
    else:
        weights = fit_weights(cfg, weights, index)
        warn_of_other_values(index.root, index.bands or (), index.value_range, weights)
    about, steps_before = fingerprint(index), None
    if resume and held:
        steps_before = read_int(stored_config(asked), "steps")
        check_data(out, about)
    return cfg, RunInputs(
        *(out, resume, overwrite, tuple(overrides), given, trusted, init),
        data=absolute_data(data),
        index=index,
        fingerprint=about,
        steps_before=steps_before,
        weights=weights,
        seed=seed,
        precision=precision,
        accelerator=read_choice(cfg, "trainer.accelerator", ACCELERATORS),
        devices=devices,
        nodes=read_int(cfg, "trainer.num_nodes"),
        micro_batch=read_int(cfg, "micro_batch", auto=0) or None,
        loading=loading,
        clip=read_clip(cfg),
        compile=read_compile(cfg),
        spreading=read_spreading(cfg, precision, master_weights),
        objects=objects,
        master_weights=master_weights,
    )


def read_weights(init: str | None, objects: Objects, resumed: str | None) -> Weights | None:
    """What a run starts from: `init=`, or the model that a caller gave.

    Args:
        init: what the user gave.
        objects: those of the caller.
        resumed: the folder of a run that goes on; once it has a checkpoint, `init` may have moved. None for a new run.

    Raises:
        InputError: both, or no weights.
    """
    if objects.weights is None:
        if init is not None and resumed is not None and moved(init) and holds_checkpoint(resumed):
            return find_weights(resumed)
        return None if init is None else find_weights(init)
    if init is not None:
        raise InputError(f"init={init} and {objects.weights.init} both have weights; give one of them")
    return objects.weights


def holds_checkpoint(out: str) -> bool:
    """Whether a run has committed a checkpoint."""
    return (Path(out) / "checkpoints" / "latest.json").is_file()


def prefer_given(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Lets `steps` of the command line win over `epochs` of an experiment, and the other way round."""
    named = [key for key in ("steps", "epochs") if any(override.startswith(f"{key}=") for override in overrides)]
    if len(named) != 1:
        return cfg
    return with_values(cfg, {"epochs" if named == ["steps"] else "steps": None})


def absolute_data(data: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Addresses of data with local paths made absolute."""
    if data is None or isinstance(data, str):
        return data and absolute(data)
    return tuple(map(absolute, data))


def read_loading(cfg: DictConfig, devices: int | None, objects: Objects) -> Loading:
    """How batches are read, in each of `devices` processes."""
    return Loading(
        workers=read_workers(cfg, devices),
        chosen=read(cfg, "workers") == "auto",
        lanes=read_int(cfg, "loader.lanes"),
        window=read_int(cfg, "loader.window"),
        val_limit=read_int(cfg, "loader.val_limit"),
        patience=read_positive(cfg, "loader.patience"),
        fetching=read_fetching(cfg),
        crops_on_device=read_crops_on_device(cfg, objects),
    )


def written_back(cfg: DictConfig, inputs: RunInputs, geometry: Geometry, budget: Budget) -> DictConfig:
    """A copy of the config with every `auto` that has been decided, so that `config.yaml` repeats the run anywhere.

    `save_every` alone stays `auto`: it changes no result, and part of it is a time.

    Raises:
        InputError: an augmentation of a caller's own that makes images of another size.
    """
    init, labels, augment = inputs.init, read_text(cfg, "labels"), inputs.objects.augment
    if augment is not None and tuple(augment.size) != geometry.image_size:
        height, width = geometry.image_size
        raise InputError(
            f"augment= makes images of {tuple(augment.size)} pixels, the run's are {height}x{width}; use image_size=, "
            "or another size of the augmentation"
        )
    named = inputs.objects.nodes
    if "mask" in named:
        named["mask"]["unit"] = geometry.mask_unit
    return with_values(
        cfg,
        ({} if labels is None else {"labels": absolute(labels)})
        | written_cache(inputs.loading.fetching)
        | {
            "data": list(inputs.data) if isinstance(inputs.data, tuple) else inputs.data,
            "init": str(Path(init).absolute()) if init is not None and Path(init).exists() else init,
            "image_size": list(geometry.image_size),
            "channels": geometry.channels,
            "batch": budget.batch,
            "steps": budget.steps,
            "epochs": None,
            "lr": budget.lr,
            "schedule.warmup": budget.warmup,
            "val_every": budget.val_every,
            "save_every": budget.save_every if budget.save_seconds is None else "auto",
            **named,
        },
    )


def groups_of(cfg: DictConfig) -> Groups:
    """The groups of a config in which everything is decided."""
    return Groups(
        head=cfg.head,
        objective=cfg.objective,
        augment=without_keys(cfg, "augment", OF_THE_LOADER),
        optimizer=without_keys(cfg, "optim", OF_THE_OPTIMIZER),
        schedule=cfg.schedule,
        trainer=without_keys(cfg, "trainer", OF_THE_TRAINER),
        loggers=cfg.get("logger") or DictConfig({}),
        callbacks=cfg.get("callbacks") or DictConfig({}),
    )


def without_keys(cfg: DictConfig, group: str, keys: Sequence[str]) -> DictConfig:
    """A group of a config without some of its keys."""
    made: DictConfig = with_values(cfg, {}, [f"{group}.{key}" for key in keys])[group]
    return made
