"""Labels from a table for images that are packed already. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.csv_labels import parse_labels
from mimsuite.data.csv_table import (
    FILE_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    Row,
    find_column,
    match_rows,
    read_table,
)
from mimsuite.data.image_names import ImageNames
from mimsuite.data.index import EVERY_SPLIT, DataIndex
from mimsuite.data.labels import GivenLabels, Label
from mimsuite.data.members import read_files, read_key
from mimsuite.data.shard_files import files_for
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import LabelKind


class LabelFile(NamedTuple):
    """A table of labels.

    Attributes:
        file: a CSV file, see `csv_table`.
        path_column: with the path or the key of the image; None: the one that is called file, path, filename or image,
            else key or keys.
        label_column: None: the one that is called label or class.
        kind: what the labels are; None: found out.
    """

    file: Path
    path_column: str | None
    label_column: str | None
    kind: LabelKind | None


class Joined(NamedTuple):
    """A data set with the labels of a table, and how many of its rows named none of the images."""

    data: DataIndex
    unmatched: int


def join_labels(index: DataIndex, source: LabelFile, known: Sequence[str] = ()) -> Joined:
    """Gives the images of a data set the labels of a table, in place of those in the shards.

    Args:
        index: the data set.
        source: the table.
        known: see `parse_labels`.

    Raises:
        InputError: the table is wrong, names an image twice, or names none.
    """
    samples = index.records(EVERY_SPLIT)
    files = files_for(index, samples)
    table = read_table(source.file)
    usual = FILE_COLUMNS if any(cell.lower() in FILE_COLUMNS for cell in table.header) else KEY_COLUMNS
    at_path = find_column(table, source.path_column, usual, "labels_file")
    at_label = find_column(table, source.label_column, LABEL_COLUMNS, "labels_column")
    paths = read_files(files, samples)
    keys = [read_key(files, *samples[number]) for number in range(len(samples))]
    names = ImageNames(paths, keys)
    places = match_rows(table, at_path, names)
    rows = {
        str(place): Row(line, cells[at_label].strip(), "")
        for (line, cells), place in zip(table.rows, places, strict=True)
        if place is not None
    }
    if not rows:
        first = table.rows[0][1][at_path]
        raise InputError(
            f"labels={source.file}: no row names an image of {index.root}; column {table.header[at_path]!r} holds "
            f"{first!r}{names.similar(first)}, the data {to_text(paths[0])!r} with the key {to_text(keys[0])!r}; fix "
            "the paths, or choose another column with labels_file="
        )
    found = parse_labels(source.file, rows, source.kind, known)
    labels = {int(number): label for number, label in found.labels.items()}
    _refuse_equal_keys(source.file, samples.keys(), labels, paths)
    given = given_labels(samples.keys(), labels)
    classes = tuple(found.classes) or None
    return Joined(replace(index, classes=classes, has_labels=True, given=given), len(table.rows) - len(rows))


def _refuse_equal_keys(file: Path, keys: NDArray[np.uint64], labels: Mapping[int, Label], paths: Sequence[str]) -> None:
    """Refuses images that share a key, by which labels are found, unless the table gives all of them the same.

    Raises:
        InputError: such images, as `x/0.png` and `x/0.jpg` of two sets.
    """
    order = np.argsort(keys, kind="stable")
    alike = np.flatnonzero(keys[order[:-1]] == keys[order[1:]])
    for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
        if labels.get(one) != labels.get(other):
            raise InputError(
                f"labels={file}: the images {to_text(paths[one])!r} and {to_text(paths[other])!r} have the same key, "
                "and not the same label, and labels are found by keys; give one of them another name, and pack its "
                "set again"
            )


def given_labels(keys: NDArray[np.uint64], labels: dict[int, Label]) -> GivenLabels:
    """The labels of the samples with these numbers, by their hashed keys."""
    numbers = np.array(sorted(labels), dtype=np.int64)
    order = np.argsort(keys[numbers], kind="stable")
    ranked = tuple(labels[number] for number in numbers[order].tolist())
    hashed = keys[numbers][order]
    mark = hashlib.sha256(hashed.tobytes() + repr(ranked).encode()).hexdigest()[:16]
    return GivenLabels(hashed, ranked, mark)
