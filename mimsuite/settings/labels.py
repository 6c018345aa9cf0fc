"""What a supervised run learns from: which images, which labels, and which images choose its best weights.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

from mimsuite.data.folders import list_names
from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.label_table import LabelFacts, balanced_weights, label_facts, read_labels, share_of
from mimsuite.data.labels import Label, classes_of
from mimsuite.errors import InputError
from mimsuite.settings.read import is_number, read, read_int, read_number, read_positive
from mimsuite.words import LabelKind

FAR = 3  # mean or deviation of numbers, which a fresh model does not reach soon

LABEL_TYPES: dict[LabelKind, set[type]] = {"classes": {int}, "multilabel": {tuple}, "regression": {int, float}}
"""What a label of each kind is in Python."""


@dataclass(frozen=True)
class TrainingLabels:
    """The labelled images of a run.

    Attributes:
        facts: what is to be predicted; counts are those of all training images.
        train: the images that are learned from.
        choose: the images that the best weights are chosen on.
        chosen_on: what these are, in words.
        class_weights: factors on the loss of each class, or None.
        notes: `key=value (reason)` for what was chosen here.
        warnings: what is wrong with the labels of other images.
    """

    facts: LabelFacts
    train: Samples
    choose: Samples
    chosen_on: str
    class_weights: list[float] | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def names(self) -> dict[int, str]:
        """The config's `id2label`."""
        named = self.facts.names or [f"LABEL_{i}" for i in range(self.facts.outputs)]
        return dict(enumerate(named))


def read_training_labels(cfg: DictConfig, index: DataIndex) -> TrainingLabels:
    """Reads the labels and chooses the images.

    Args:
        cfg: read are `label_fraction`, `class_weights`, `seed`, `data`.
        index: the labelled images.

    Raises:
        InputError: wrong labels, or a value of the wrong kind.
    """
    fit, choose = index.select("fit"), index.select("choose")
    samples, chosen = index.records(fit), index.records(choose)
    labels, other = read_labels(index, samples), read_labels(index, chosen)
    facts = label_facts(index, labels)
    check_labels(index, facts, other, choose.split)
    warnings = unseen_classes(facts, other, choose.split)
    if "test" in index.splits:
        tested = read_labels(index, index.records("test"))
        check_labels(index, facts, tested, "test")
        warnings += unseen_classes(facts, tested, "test")
    fraction = read_positive(cfg, "label_fraction")
    numbers = share_of(samples, labels, fraction, read_int(cfg, "seed", least=0))
    notes = []
    if fraction < 1:
        how = "of each class" if facts.kind == "classes" else "of all"
        notes.append(f"label_fraction={fraction:g} ({len(numbers):,} of {len(labels):,} images, the share {how})")
    warnings += far_from_zero(facts, [labels[i] for i in numbers.tolist()])
    on = choose.split if choose.part == "all" else f"{len(chosen):,} images held out from {choose.split}"
    kept = label_facts(index, [labels[i] for i in numbers.tolist()])
    weights = class_weights(cfg, facts, kept)
    return TrainingLabels(facts, samples.take(numbers), chosen, on, weights, tuple(notes), warnings)


def check_labels(index: DataIndex, facts: LabelFacts, labels: Sequence[Label], split: str) -> None:
    """Refuses labels of another kind than the training images', and classes that these do not have.

    Raises:
        InputError: such labels.
    """
    kinds = {type(label) for label in labels}
    if not kinds <= LABEL_TYPES[facts.kind]:
        raise InputError(
            f"data {index.root}: the training labels are {facts.kind}, those of {split} are not; label all splits in "
            "the same way"
        )
    if (
        facts.kind == "classes"
        and (high := max((int(v) for v in labels if isinstance(v, int)), default=0)) >= facts.outputs
    ):
        raise InputError(
            f"data {index.root}: {split} has a label {high}, but the training images have classes 0 to "
            f"{facts.outputs - 1}; fix the labels, or name all classes in classes.txt"
        )
    if facts.kind == "regression" and len(set(labels)) == 1:
        raise InputError(
            f"data {index.root}: all {len(labels)} labels of {split} are {labels[0]}, so R2 is not defined; take "
            "images whose labels differ"
        )
    if facts.kind == "multilabel" and not any(labels):
        raise InputError(
            f"data {index.root}: none of the {len(labels)} images of {split} has a label, so average precision is not "
            "defined; check the labels"
        )


def unseen_classes(facts: LabelFacts, labels: Sequence[Label], split: str) -> tuple[str, ...]:
    """A warning where images have a class that no training image has: a model cannot find it.

    Args:
        facts: of the training images.
        labels: of other images.
        split: what these are, in words.
    """
    if facts.counts is None:
        return ()
    unseen = {number for number in range(facts.outputs) if not facts.counts[number]}
    images = sum(not unseen.isdisjoint(classes_of(label)) for label in labels)
    found = sorted(unseen.intersection(number for label in labels for number in classes_of(label)))
    if not found:
        return ()
    names = list_names([facts.names[number] if facts.names else str(number) for number in found])
    return (
        f"{images:,} of {len(labels):,} images of {split} have a class without training images ({names}), which no "
        "model can find",
    )


def far_from_zero(facts: LabelFacts, labels: Sequence[Label]) -> tuple[str, ...]:
    """A warning where numbers are of another size than what a fresh model predicts, from which training starts.

    Args:
        facts: of the training images.
        labels: theirs.
    """
    if facts.kind != "regression":
        return ()
    values = np.array(labels, dtype=np.float64)
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    if abs(mean) <= FAR and 1 / FAR <= deviation <= FAR:
        return ()
    return (
        f"the labels are numbers of mean {mean:.4g} and deviation {deviation:.4g}, and training starts from "
        "predictions near 0, so it may take very long; numbers of about mean 0 and deviation 1 are learned soon: "
        f"(x - {mean:.4g}) / {deviation:.4g}",
    )


def check_objective(cfg: DictConfig, facts: LabelFacts) -> None:
    """Refuses what the labels cannot be mixed, smoothed or averaged with, before anything is built or written.

    Args:
        cfg: read are `objective.mixup`, `objective.cutmix`, `objective.smoothing` and `objective.ema`, where they are.
        facts: of the labels.

    Raises:
        InputError: such a value.
    """
    limits = {
        "mixup": (math.inf, "0 for none, or 0.8"),
        "cutmix": (math.inf, "0 for none, or 1.0"),
        "smoothing": (1, "0.1, or 0 for none"),
        "ema": (1, "0.9998, or null for none"),
    }
    for key, (below, use) in limits.items():
        if key in cfg.objective and not (key == "ema" and cfg.objective.ema is None):
            read_number(cfg, f"objective.{key}", below=below, use=use)
    smoothing = cfg.objective.get("smoothing")
    if facts.kind == "regression" and smoothing:
        raise InputError(f"objective.smoothing={smoothing}, but the labels are numbers; use objective.smoothing=0")


def class_weights(cfg: DictConfig, facts: LabelFacts, kept: LabelFacts) -> list[float] | None:
    """The factors of `class_weights=balanced`, or of a list.

    Raises:
        InputError: neither; labels that are not classes.
    """
    given = read(cfg, "class_weights")
    if given is None:
        return None
    if facts.kind == "regression":
        raise InputError(f"class_weights={given}, but the labels are numbers; remove class_weights")
    if given == "balanced":
        assert kept.counts is not None
        counts = np.zeros(facts.outputs, dtype=np.int64)
        counts[: len(kept.counts)] = kept.counts
        return balanced_weights(counts, facts.names)
    numbers = given if isinstance(given, list) else []
    if len(numbers) != facts.outputs or not all(is_number(v) and 0 <= v < math.inf for v in numbers):
        raise InputError(
            f"class_weights={given} is not a list of {facts.outputs} numbers, one per class; give one, or balanced"
        )
    return [float(v) for v in numbers]
