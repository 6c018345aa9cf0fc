"""Several data sets as one: their shards one after the other, their classes matched by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mimsuite.data.folders import count_of
from mimsuite.data.index import DataIndex
from mimsuite.data.stores.names import bare, scheme_of
from mimsuite.errors import InputError
from mimsuite.types import DisplayRange
from mimsuite.words import SPLITS


def merge(indexes: Sequence[DataIndex]) -> DataIndex:
    """One data set with the splits, shards and classes of all; the order of the sets decides the order of shards.

    Classes with the same name are one class. Mean and standard deviation are those of all training images, estimated
    from what is known of each set.

    Raises:
        InputError: a set is named twice, or channels, depth, transparency or labels do not go together.
    """
    first = indexes[0]
    for name in ("channels", "dtype", "alpha", "bands", "value_range"):
        values = [getattr(index, name) for index in indexes]
        if name == "bands":  # a set without names goes with any
            values = [value or next(filter(None, values), None) for value in values]
        if len(set(values)) > 1:
            found = ", ".join(f"{value} in {index.root}" for value, index in zip(values, indexes, strict=True))
            raise InputError(f"data=[...]: the sets have different {name}: {found}; give sets of one kind")
    _refuse_twice([shard.path for index in indexes for shards in index.splits.values() for shard in shards])
    classes = _merged_classes(indexes)
    numbers = [_numbers_of(index, classes) for index in indexes]
    weights = np.array([sum(s.samples for s in next(iter(index.splits.values()))) for index in indexes], float)
    weights /= weights.sum()
    means, stds = (np.array([getattr(index, name) for index in indexes]) for name in ("mean", "std"))
    mean = weights @ means
    std = np.sqrt(np.maximum(weights @ (stds**2 + means**2) - mean**2, 0.0))
    return replace(
        first,
        root=", ".join(index.root for index in indexes),
        splits={
            split: tuple(
                shard if own is None else replace(shard, classes=own)
                for index, own in zip(indexes, numbers, strict=True)
                for shard in index.splits.get(split, ())
            )
            for split in SPLITS
            if any(split in index.splits for index in indexes)
        },
        classes=classes,
        bands=next((index.bands for index in indexes if index.bands), None),
        mean=tuple(round(float(value), 6) for value in mean),
        std=tuple(round(float(value), 6) for value in std),
        image_size=indexes[int(np.argmax(weights))].image_size,
        has_labels=any(index.has_labels for index in indexes),
        display=_merged_display(indexes),
        sets={s.path: index.root for index in indexes for shards in index.splits.values() for s in shards},
        reading=tuple(line for index in indexes for line in _describe(index)),
    )


def _refuse_twice(paths: Sequence[str]) -> None:
    """Refuses a shard that is named twice, also by a link: its images would count twice."""
    first = dict[str, str]()
    for path in paths:
        place = bare(path) if scheme_of(path) else os.path.realpath(path)
        if place in first:
            under = "" if first[place] == path else f", also as {path}"
            raise InputError(f"data=[...] names {first[place]} twice{under}; name each set once")
        first[place] = path


def _merged_classes(indexes: Sequence[DataIndex]) -> tuple[str, ...] | None:
    """The names of all classes, those of the first set first; None where no labelled set has names."""
    labelled = [index for index in indexes if index.has_labels]
    nameless = [index for index in labelled if index.classes is None]
    if nameless and len(nameless) < len(labelled):
        raise InputError(
            f"data=[...]: the classes of {nameless[0].root} have no names, and those of other sets have; write their "
            "names to its classes.txt, one a line, or pack it with labels=none"
        )
    if nameless or not labelled:
        return None
    return tuple(dict.fromkeys(name for index in labelled for name in index.classes or ()))


def _numbers_of(index: DataIndex, classes: tuple[str, ...] | None) -> tuple[int, ...] | None:
    """The number, in the merged set, of each class of one; None where they are the same."""
    if not index.has_labels or index.classes is None or classes is None or index.classes == classes:
        return None
    places = {name: number for number, name in enumerate(classes)}
    return tuple(places[name] for name in index.classes)


def _merged_display(indexes: Sequence[DataIndex]) -> DisplayRange | None:
    ranges = [index.display for index in indexes]
    known = [found for found in ranges if found is not None]
    if len(known) < len(ranges):
        return None
    low, high = np.min([r.low for r in known], axis=0), np.max([r.high for r in known], axis=0)
    return DisplayRange(tuple(map(float, low)), tuple(map(float, high)), known[0].source)


def _describe(index: DataIndex) -> list[str]:
    counts = ", ".join(f"{split} {index.num_samples(split):,}" for split in index.splits)
    kind = count_of(len(index.classes), "class") if index.classes else "labels" if index.has_labels else "no labels"
    return [f"{index.root}: {counts}; {kind}", *(f"    {line}" for line in index.reading)]
