"""What `finetune` reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from mimsuite.data.fingerprint import fingerprint
from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.settings.budget import read_budget
from mimsuite.settings.geometry import Geometry, read_plain_geometry
from mimsuite.settings.given_labels import read_labelled
from mimsuite.settings.hyperrule import hyper_rule
from mimsuite.settings.labels import TrainingLabels, check_objective, read_training_labels
from mimsuite.settings.model import classifier_config, found_out, read_frozen_depth, read_model
from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.read import read, read_number, read_positive
from mimsuite.settings.resolve import plain_values, with_values
from mimsuite.settings.resume import check_data
from mimsuite.settings.training import RunInputs, TrainingSettings, groups_of, read_inputs, written_back
from mimsuite.types import EncoderConfig

LAYER_DECAY = 0.75  # of pretrained weights (He et al. 2022, table 9)
SMOOTHING = 0.1  # of classes (Szegedy et al. 2016)


@dataclass(frozen=True)
class FinetuneSettings(TrainingSettings):
    """A supervised run, read and checked.

    Attributes:
        labels: what it learns from, and what its best weights are chosen on.
        layer_decay: factor on the learning rate from a block to the one before.
        head_std: standard deviation of a fresh classifier's weights.
        frozen_depth: the deepest parameters that are not trained, as `depth_of` counts; -1 for none.
    """

    labels: TrainingLabels
    layer_decay: float
    head_std: float
    frozen_depth: int


def read_finetune(
    cfg: DictConfig, overrides: Sequence[str], *, leads: bool = True, objects: Objects = NO_OBJECTS
) -> FinetuneSettings:
    """Reads and checks every key; arguments as of `read_inputs`.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    cfg, inputs = read_inputs(cfg, overrides, leads=leads, objects=objects)
    inputs = with_labels(cfg, inputs)
    labels = read_training_labels(cfg, inputs.index)
    cfg, by_rule = apply_rule(cfg, len(labels.train), inputs.index)
    geometry, config = read_geometry_and_model(cfg, inputs)
    config = classifier_config(config, cfg, labels)
    frozen = read_frozen_depth(cfg, config.num_blocks)
    head_std = read_number(cfg, "head.std", use="0.02, or 0 for zeros")
    decay, why_decay = read_layer_decay(cfg, pretrained=inputs.weights is not None or config.is_trained)
    cfg, why_smoothing = resolve_smoothing(cfg, labels.facts.kind)
    check_objective(cfg, labels.facts)
    budget = read_budget(cfg, len(labels.train), inputs.processes)
    cfg = written_back(with_values(cfg, {"layer_decay": decay}), inputs, geometry, budget)
    cfg = found_out(config, cfg, inputs.given, inputs.weights)
    return FinetuneSettings(
        *(inputs, config, geometry, budget, groups_of(cfg)),
        notes=(*labels.notes, *by_rule, why_decay, *why_smoothing),
        config=plain_values(cfg),
        labels=labels,
        layer_decay=decay,
        head_std=head_std,
        frozen_depth=frozen,
    )


def with_labels(cfg: DictConfig, inputs: RunInputs) -> RunInputs:
    """The inputs with the labelled images alone; a resumed run must have the labels that it began with.

    Raises:
        InputError: no labels, wrong ones, or others.
    """
    whole, index = inputs.index, read_labelled(cfg, inputs.index, "finetune")
    if index.given is None:
        return replace(inputs, index=index)
    about = fingerprint(replace(whole, given=index.given))
    if inputs.steps_before is not None:
        check_data(inputs.out, about)
    return replace(inputs, index=index, fingerprint=about)


def read_geometry_and_model(cfg: DictConfig, inputs: RunInputs) -> tuple[Geometry, EncoderConfig]:
    """Sizes and the encoder's config at them: the weights' own size counts more than the model's."""
    model = (inputs.weights, inputs.given, inputs.trusted, inputs.objects.model)
    draft = read_model(cfg, *model)
    native = (inputs.weights.image_size if inputs.weights else None) or draft.fixed_size
    stride = draft.stride if draft.needs_whole_cells else (1, 1)
    geometry = read_plain_geometry(cfg, inputs.index, native=native, stride=stride)
    return geometry, read_model(cfg, *model, image_size=geometry.image_size, channels=geometry.channels)


def apply_rule(cfg: DictConfig, images: int, index: DataIndex) -> tuple[DictConfig, list[str]]:
    """Fills in what `schedule=hyperrule` decides from the data (Kolesnikov et al. 2020, section 3.3), with a note.

    That is the schedule's marks and warm-up, and, where they are `auto`, steps, mixup, image size and the crop's share.

    Raises:
        InputError: a key that says `auto` where nothing decides it.
    """
    ruled = cfg.schedule.get("marks") == "auto"
    rule = hyper_rule(images, index.image_size)
    values: dict[str, Any] = {}
    for group, key, value in (("objective", "mixup", rule.mixup), ("augment", "share", rule.share)):
        if cfg[group].get(key) == "auto":
            if not ruled:
                raise InputError(f"{group}.{key}=auto needs schedule=hyperrule, which decides it; give a number")
            values[f"{group}.{key}"] = value
    if not ruled:
        return cfg, []
    values["schedule.marks"] = list(rule.milestones)
    if read(cfg, "schedule.warmup") == "auto":
        values["schedule.warmup"] = rule.warmup
    if read(cfg, "steps") is None and read(cfg, "epochs") is None:
        values["steps"] = rule.steps
    if read(cfg, "image_size") == "auto":
        values["image_size"] = rule.crop
    sizes = f"crops of {rule.crop} of {rule.resize} pixels"
    note = f"schedule=hyperrule (for {images:,} images: {rule.steps} steps, mixup {rule.mixup:g}, {sizes})"
    return with_values(cfg, values), [note]


def read_layer_decay(cfg: DictConfig, *, pretrained: bool) -> tuple[float, str]:
    """The factor on the learning rate from a block to the one before, and why.

    Raises:
        InputError: a number that is not above 0 and at most 1.
    """
    chosen, reason = (LAYER_DECAY, "pretrained weights") if pretrained else (1.0, "fresh weights")
    decay = read_positive(cfg, "layer_decay", auto=chosen)
    if decay > 1:
        raise InputError(f"layer_decay={decay:g} is above 1; use 1 for none, or 0.75")
    if read(cfg, "layer_decay") != "auto":
        reason = "as asked"
    return decay, f"layer_decay={decay:g} ({reason})"


def resolve_smoothing(cfg: DictConfig, label_kind: str) -> tuple[DictConfig, list[str]]:
    """Decides `objective.smoothing=auto`, with a note."""
    if cfg.objective.smoothing != "auto":
        return cfg, []
    smoothing = SMOOTHING if label_kind == "classes" else 0.0
    note = f"objective.smoothing={smoothing:g} (the labels are {label_kind})"
    return with_values(cfg, {"objective.smoothing": smoothing}), [note]
