"""The labels of whole splits: which images have one, what they are, how many of each, and fair shares of them.

Imports no torch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mimsuite.data import members
from mimsuite.data.folders import count_of
from mimsuite.data.hashing import mix_hashes, splitmix64
from mimsuite.data.index import DataIndex, Samples, Shard
from mimsuite.data.labels import Label, parse_label
from mimsuite.data.shard_files import ShardFiles, files_for
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import MOST_CLASSES, LabelKind

log = logging.getLogger("mimsuite")

_SALT = 0x53484152

FROM_ONE = (
    "no image has class 0, so the labels seem to count from 1; class 0 keeps an output that stays empty (the numbers "
    "of a table, labels=FILE.csv, are names, and leave no such class)"
)


@dataclass(frozen=True)
class LabelFacts:
    """What the labels of some images ask for.

    Attributes:
        kind: what they are.
        outputs: how many values are to be predicted: the classes, the labels of a set, or one number.
        names: of the classes or labels; None where no names were given, and for numbers.
        counts: `(outputs,)`, images of each class, or with each label; None for numbers.
    """

    kind: LabelKind
    outputs: int
    names: tuple[str, ...] | None
    counts: NDArray[np.int64] | None

    @property
    def from_one(self) -> bool:
        """Whether the classes have no names but their numbers, and none has the number 0."""
        return self.names is None and self.counts is not None and not self.counts[0]


def read_label(index: DataIndex, files: ShardFiles, shard: Shard, row: np.void, key: str) -> Label:
    """Reads the label of one sample.

    Args:
        index: the data set.
        files: reads its shards.
        shard: where the sample lies.
        row: its `tar.RECORD`.
        key: its key, for errors.

    Raises:
        InputError: no label, or a wrong one.
        RunError: the shard cannot be read.
    """
    label = find_label(index, files, shard, row)
    if label is None:
        raise _unlabelled(key, shard)
    return label


def find_label(index: DataIndex, files: ShardFiles, shard: Shard, row: np.void) -> Label | None:
    """The label of one sample; None where it has none. Arguments and errors are those of `read_label`."""
    if index.given is not None:
        return index.given.find(members.hashed_key(row))
    member = members.read_label(files, shard, row)
    return None if member is None else _parse(member, shard, len(index.classes) if index.classes else None)


def read_labels(index: DataIndex, samples: Samples) -> list[Label]:
    """Reads the labels of all samples, in their order, and no image.

    Raises:
        InputError: a sample without a label or with a wrong one, with its key and shard.
        RunError: a shard cannot be read, or is not the one that was indexed.
    """
    classes = len(index.classes) if index.classes else None
    files = files_for(index, samples)
    labels = list[Label]()
    if index.given is not None:
        for number, key in enumerate(samples.keys().tolist()):
            if (label := index.given.find(key)) is None:
                shard, row = samples[number]
                raise _unlabelled(members.read_key(files, shard, row), shard)
            labels.append(label)
        return labels
    if any(scheme_of(shard.path) for shard in samples.shards):
        log.info("labels    reading those of %s from shards of other machines", count_of(len(samples), "image"))
    for number, (shard, member) in enumerate(members.read_labels(files, samples)):
        if member is None:
            raise _unlabelled(members.read_key(files, *samples[number]), shard)
        labels.append(_parse(member, shard, classes))
    return labels


def labelled_part(index: DataIndex) -> DataIndex:
    """The data set with the labelled images alone; splits without any are left out. The same where all are labelled."""
    chosen = {split: np.flatnonzero(has_label(index, Samples(shards))) for split, shards in index.splits.items()}
    if all(len(numbers) == index.num_samples(split) for split, numbers in chosen.items()):
        return index
    splits = {split: shards for split, shards in index.splits.items() if len(chosen[split])}
    totals = {split: index.num_samples(split) for split in index.splits}
    return replace(index, splits=splits, chosen=chosen, totals=totals)


def count_labelled(index: DataIndex) -> str:
    """How many images of each split have a label, for people; empty where all have one."""
    if index.chosen is None:
        return ""
    parts = ", ".join(f"{split} {len(index.chosen[split]):,} of {total:,}" for split, total in index.totals.items())
    return f"only images that have one: {parts}"


def has_label(index: DataIndex, samples: Samples) -> NDArray[np.bool_]:
    """Which samples have a label, `(N,)`."""
    if index.given is None:
        return members.find_labelled(samples)
    found: NDArray[np.bool_] = np.isin(samples.keys(), index.given.keys)
    return found


def label_facts(index: DataIndex, labels: Sequence[Label]) -> LabelFacts:
    """What the labels of training images ask a model to predict.

    Integers are classes, lists of integers are label sets, decimal numbers (with integers among them, or not) are
    numbers to be predicted.

    Raises:
        InputError: no labels, labels of several kinds, or a single class.
    """
    kinds = {type(label) for label in labels}
    if not labels:
        raise InputError(f"data {index.root}: no images were chosen, so there are no labels; choose some")
    if tuple in kinds and len(kinds) > 1:
        raise InputError(
            f"data {index.root}: labels are lists in some samples and single numbers in others; use one form"
        )
    if float in kinds:
        return LabelFacts("regression", 1, None, None)
    kind: LabelKind = "multilabel" if tuple in kinds else "classes"
    if kind == "multilabel" and not index.classes:
        raise InputError(
            f"data {index.root}: labels are lists, and the number of classes is not known; name the classes in "
            "classes.txt"
        )
    found = [c for label in labels for c in (set(label) if isinstance(label, tuple) else (int(label),))]
    if not found:
        raise InputError(f"data {index.root}: none of {len(labels)} images has a label in its list; check the labels")
    counts = _count(index, found)
    if np.count_nonzero(counts) == 1 and (kind == "classes" or len(counts) == 1):
        raise InputError(
            f"data {index.root}: {class_name(found[0], index.classes)} is the only class of {len(labels)} training "
            "images; add images of another"
        )
    return LabelFacts(kind, len(counts), index.classes, counts)


def share_of(samples: Samples, labels: Sequence[Label], fraction: float, seed: int) -> NDArray[np.int64]:
    """Chooses a share of the samples by their keys and the seed, whatever their order.

    Of each class it takes the same fraction, rounded up; of label sets and numbers, the fraction of all. A smaller
    share with the same seed is a part of a larger one.

    Args:
        samples: the samples.
        labels: their labels.
        fraction: above 0, at most 1.
        seed: another seed gives another share.

    Returns:
        The numbers of the chosen samples, ascending.

    Raises:
        InputError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"label_fraction={fraction} is not above 0 and at most 1; use 0.1 for a tenth of the labels")
    whole = all(isinstance(label, int) for label in labels)
    strata = np.unique(np.array(labels), return_inverse=True)[1] if whole else np.zeros(len(labels), dtype=np.int64)
    hashes = splitmix64(samples.keys() ^ np.uint64(mix_hashes(_SALT, seed)))
    order = np.lexsort((hashes, strata))  # class by class
    counts = np.bincount(strata)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Without the small number, 0.07 of 100 would be 8.
    wanted = np.maximum(1, np.ceil(fraction * counts - 1e-6))
    return np.sort(order[place < np.repeat(wanted, counts)])


def balanced_weights(counts: NDArray[np.int64], names: Sequence[str] | None = None) -> list[float]:
    """Weights under which each class counts the same: images / (classes * images of the class).

    Args:
        counts: images of each class.
        names: of the classes, for the error.

    Returns:
        One weight per class; their mean over the images is 1.

    Raises:
        InputError: a class without images.
    """
    if not counts.all():
        raise InputError(
            f"class_weights=balanced, but {class_name(int(counts.argmin()), names)} has no training images; add some, "
            "or give a list of weights"
        )
    weights: list[float] = (counts.sum() / (len(counts) * counts)).tolist()
    return weights


def class_name(number: int, names: Sequence[str] | None) -> str:
    """What messages call a class."""
    return f"class {number}" if names is None else f"class {number} ({names[number]})"


def _count(index: DataIndex, found: list[int]) -> NDArray[np.int64]:
    largest = max(found, default=0)
    if largest >= MOST_CLASSES:
        raise InputError(
            f"data {index.root}: label {largest} is not a class (0 to {MOST_CLASSES - 1}); number the "
            'classes from 0, or write numbers to be predicted as decimals ({"label": 3.0})'
        )
    return np.bincount(np.array(found, dtype=np.int64), minlength=len(index.classes or ()))


def _parse(member: members.Member, shard: Shard, num_classes: int | None) -> Label:
    label = parse_label(member.data, member.ending, member.key, num_classes)
    if isinstance(label, float) and not math.isfinite(label):
        raise InputError(f"label of {to_text(member.key)} in {shard.path} is {label}; give a finite number")
    return label


def _unlabelled(key: str, shard: Shard) -> InputError:
    key = to_text(key)
    return InputError(f"{key} in {shard.path} has no label; add {key}.cls, or choose images that have one")
