"""Where labels come from: the keys `labels`, `labels_file`, `labels_column` and `labels_kind`. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from mimsuite.data.index import DataIndex
from mimsuite.data.label_join import LabelFile, join_labels
from mimsuite.data.label_table import labelled_part
from mimsuite.data.labels import TABLE_ENDINGS
from mimsuite.errors import InputError
from mimsuite.settings.read import read, read_choice, read_text
from mimsuite.words import LABEL_KINDS, LabelKind

LABEL_KEYS = ("labels", "labels_file", "labels_column", "labels_kind")

log = logging.getLogger("mimsuite")


def read_label_kind(cfg: DictConfig) -> LabelKind | None:
    """What `labels_kind` says that labels are; None for auto.

    Raises:
        InputError: an unknown word.
    """
    if read(cfg, "labels_kind") is None:
        return None
    word = read_choice(cfg, "labels_kind", ("auto", *LABEL_KINDS))
    return None if word == "auto" else cast("LabelKind", word)


def given_label_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a task's config that say where labels come from, without those at their defaults."""
    given = {key: config.get(key) for key in LABEL_KEYS}
    return {key: value for key, value in given.items() if value is not None and (key, value) != ("labels_kind", "auto")}


def read_label_file(cfg: DictConfig) -> LabelFile | None:
    """The table that `labels` names; None for null.

    Raises:
        InputError: another ending than that of a table, or keys of a table without one.
    """
    labels = read_text(cfg, "labels")
    path_column, label_column = read_text(cfg, "labels_file"), read_text(cfg, "labels_column")
    kind = read_label_kind(cfg)
    if labels is None:
        for key, value in (("labels_file", path_column), ("labels_column", label_column), ("labels_kind", kind)):
            if value is not None:
                raise InputError(f"{key}={value} is for a table of labels, and there is none; add labels=FILE.csv")
        return None
    if not labels.lower().endswith(TABLE_ENDINGS):
        raise InputError(f"labels={labels} does not end in {' or '.join(TABLE_ENDINGS)}; give a table of labels")
    return LabelFile(Path(labels), path_column, label_column, kind)


def read_labelled(cfg: DictConfig, index: DataIndex, task: str, known: Sequence[str] = ()) -> DataIndex:
    """The images that have a label, with the labels of `labels=FILE.csv` where one is given.

    Args:
        cfg: read are `labels`, `labels_file`, `labels_column`, `labels_kind` and `data`.
        index: all images.
        task: what needs labels, for the error.
        known: names of classes, see `csv_labels.parse_labels`.

    Raises:
        InputError: no labels, or a wrong table.
    """
    source = read_label_file(cfg)
    if source is not None:
        index, unmatched = join_labels(index, source, known)
        if unmatched:
            log.info("labels    %d rows of %s name no image of the data", unmatched, source.file)
    elif not index.has_labels:
        raise InputError(
            f"data={cfg.data} has no labels, and {task} needs some; give a table with labels=FILE.csv, or use shards "
            "with .cls or .json members"
        )
    return labelled_part(index)
