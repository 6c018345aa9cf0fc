"""Which images are packed: their keys, splits, labels and groups. Reads names, sizes and a CSV file, no pixels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.csv_labels import parse_labels
from mimsuite.data.csv_table import read_rows
from mimsuite.data.folders import Contents, folder_of, images_of, no_images, read_contents
from mimsuite.data.hashing import hash_key, mix_hashes
from mimsuite.data.index import DataIndex
from mimsuite.data.label_join import LabelFile, join_labels
from mimsuite.data.labels import TABLE_ENDINGS, Label
from mimsuite.data.packing.groups import (
    check_groups,
    dicom_groups,
    dicom_keyword,
    folder_group,
    folder_part,
    names_column,
)
from mimsuite.data.packing.layout import Layout, describe_reading, read_layout
from mimsuite.data.packing.shard_plan import describe_values, read_samples
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.packing.splitting import Part, choose_groups, choose_keys
from mimsuite.data.sources import is_shards
from mimsuite.errors import InputError
from mimsuite.words import LABEL_SOURCES, LABELS_MISSING, SPLIT_SOURCES, SPLITS, LabelKind

_SALT_ORDER = 2  # those of `splitting` are others


class PackPlan(NamedTuple):
    """What is packed.

    Attributes:
        pictures: in the order in which they are written.
        classes: their names; empty for none.
        reading: how the folder was read, as lines for people.
        source: the shards that are packed again; None for a folder.
    """

    pictures: list[SourceImage]
    classes: list[str]
    reading: list[str]
    source: DataIndex | None = None


class Choice(NamedTuple):
    """Where labels and groups come from; see `mimsuite pack --help`."""

    labels: str = "auto"
    labels_file: str | None = None
    labels_column: str | None = None
    labels_kind: LabelKind | None = None
    labels_missing: str = "unlabelled"
    group_by: str | None = None
    val_fraction: float = 0.0
    seed: int = 0
    test_fraction: float = 0.0
    splits: str = "auto"
    exclude: tuple[str, ...] = ()
    channels: int | None = None

    @property
    def csv(self) -> Path | None:
        """The CSV file that holds the labels."""
        return Path(self.labels) if self.labels.lower().endswith(TABLE_ENDINGS) else None


def plan_pack(src: Path, choice: Choice) -> PackPlan:
    """Finds the images of `src`, and gives each its key, split, label and place in the order.

    Raises:
        InputError: bad values, no image, folders that can be read in several ways, labels that are wrong or missing,
            groups that do not go with the splits.
    """
    _check(choice)
    contents, source = images_of(str(src), "src", choice.exclude), None
    if contents is None and is_shards(str(src)):
        pictures, classes, source = _plan_shards(src, choice)
        notes, contents = describe_values(source), Contents()
    else:
        contents = contents or read_contents(str(src), exclude=choice.exclude)
        if not contents.images:
            raise no_images("src", str(src), contents)
        pictures, classes, notes = _plan_folder(folder_of(src), choice, contents.images)
    if choice.csv is not None:
        contents.tables = [name for name in contents.tables if not choice.csv.absolute().match(name)]
        pictures, note = _without_missing(pictures, choice)
        notes = [*notes, *note]
    _check_fractions(choice, {p.split for p in pictures})
    if choice.group_by:
        check_groups(pictures, choice.group_by)
    ranked = sorted(
        _split(pictures, choice),
        key=lambda p: (SPLITS.index(p.split), mix_hashes(choice.seed, _SALT_ORDER, hash_key(p.key)), p.key),
    )
    if choice.group_by and {p.split for p in ranked} == {"train"}:
        alone = (
            f"group_by={choice.group_by} changes nothing, as all images are train; what training and probes hold out"
        )
        notes = [*notes, f"{alone} then shares groups with it; add val_fraction=0.1"]
    read = Layout([p.split for p in ranked], [p.label for p in ranked], classes, notes)
    return PackPlan(ranked, classes, list(describe_reading(read, contents)), source)


def _plan_folder(src: Path, choice: Choice, names: Sequence[str]) -> tuple[list[SourceImage], list[str], list[str]]:
    """The images of a folder in the order of their paths, the classes, and notes on the reading."""
    parts = [name.split("/") for name in names]
    layout = read_layout(str(src), names, "none" if choice.csv else choice.labels, choice.splits)
    labels: list[Label | None] = list(layout.labels)
    classes, groups = layout.classes, [""] * len(names)
    if choice.csv is not None:
        column = choice.group_by if choice.group_by and names_column(choice.group_by) else None
        rows = read_rows(
            choice.csv,
            src,
            names,
            path_column=choice.labels_file,
            label_column=choice.labels_column,
            group=column,
            missing=choice.labels_missing,
        )
        found = parse_labels(choice.csv, rows, choice.labels_kind)
        classes, labels = found.classes, [found.labels.get(name) for name in names]
        groups = [rows[name].group if name in rows else "" for name in names]
    if choice.group_by and (part := folder_part(choice.group_by)):
        groups = [folder_group(name, part) for name in names]
    files = [src / name for name in names]
    if choice.group_by and (keyword := dicom_keyword(choice.group_by)):
        groups = dicom_groups(src, names, keyword)
    rows_of = zip(files, names, _keys(parts), layout.splits, labels, groups, strict=True)
    return [SourceImage(*fields) for fields in rows_of], classes, layout.notes


def _plan_shards(src: Path, choice: Choice) -> tuple[list[SourceImage], list[str], DataIndex]:
    """The samples of shards in their order, the classes, and the shards."""
    for key, given in (
        ("labels", choice.labels == "folder"),
        ("group_by", choice.group_by),
        ("exclude", choice.exclude),
    ):
        if given:
            raise InputError(
                f"{key}={getattr(choice, key)} reads the paths of files, and src={src} holds shards; remove {key}=, or "
                "pack the folder of images again"
            )
    from mimsuite.data.open import open_index  # it packs folders

    try:
        index = open_index(str(src))
    except InputError as error:
        raise InputError(str(error).replace("data=", "src=", 1)) from error
    if choice.csv is not None:
        index = join_labels(
            index, LabelFile(choice.csv, choice.labels_file, choice.labels_column, choice.labels_kind)
        ).data
    pictures = read_samples(index, splits=choice.splits != "none", labels=choice.labels != "none")
    return pictures, list(index.classes or ()) if choice.labels != "none" else [], index


def _without_missing(pictures: list[SourceImage], choice: Choice) -> tuple[list[SourceImage], list[str]]:
    """The pictures that are packed by `labels_missing`, and a note that counts those without a label."""
    labelled = [p for p in pictures if p.label is not None]
    lost = len(pictures) - len(labelled)
    if not lost:
        return pictures, []
    if choice.labels_missing == "error":
        first = next(p.file for p in pictures if p.label is None)
        raise InputError(f"{choice.csv} has no label for {lost} of {len(pictures)} images, the first is {first!r}")
    skip = choice.labels_missing == "skip"
    done = "left out" if skip else "packed without"
    note = (
        f"{len(labelled):,} of {len(pictures):,} images have a label in {choice.csv}; {lost:,} are {done} "
        f"(labels_missing={choice.labels_missing})"
    )
    return labelled if skip else pictures, [note]


def _check(choice: Choice) -> None:
    if choice.labels_missing not in LABELS_MISSING:
        raise InputError(
            f"labels_missing={choice.labels_missing} is unknown; labels_missing takes {', '.join(LABELS_MISSING)}"
        )
    for key, fraction in (("val_fraction", choice.val_fraction), ("test_fraction", choice.test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{key}={fraction} is not in [0, 1); use 0.1 for a tenth")
    if choice.val_fraction + choice.test_fraction >= 1:
        raise InputError(
            f"val_fraction={choice.val_fraction} and test_fraction={choice.test_fraction} leave nothing to train on; "
            "their sum must be below 1"
        )
    if choice.splits not in SPLIT_SOURCES:
        raise InputError(f"splits={choice.splits} is unknown; splits takes {', '.join(SPLIT_SOURCES)}")
    if choice.csv is None and choice.labels not in LABEL_SOURCES:
        raise InputError(f"labels={choice.labels} is unknown; labels takes auto, folder, none, or a FILE.csv")
    for name, value in (
        ("labels_file", choice.labels_file),
        ("labels_column", choice.labels_column),
        ("labels_kind", choice.labels_kind),
        ("labels_missing", None if choice.labels_missing == "unlabelled" else choice.labels_missing),
    ):
        if value is not None and choice.csv is None:
            does = "is for the labels of a table" if name in ("labels_kind", "labels_missing") else "names a column"
            raise InputError(f"{name}={value} {does}, but labels={choice.labels}; use labels=FILE.csv")
    if choice.group_by and names_column(choice.group_by) and choice.csv is None:
        raise InputError(
            f"group_by={choice.group_by} names a column, but labels={choice.labels}; use labels=FILE.csv, or "
            "group_by=folder, group_by=folder:2 for the second part of the path, or group_by=dicom:PatientID"
        )


def _keys(parts: Sequence[Sequence[str]]) -> list[str]:
    """Keys made of the paths: no dots or slashes, no two alike."""
    keys, taken = [], set[str]()
    for p in parts:
        path = Path(*p)
        key = base = re.sub(r"[^\w-]", "_", str(path.with_suffix("")))
        if key in taken:
            key = base = f"{base}_{path.suffix[1:].lower()}"
        count = 2
        while key in taken:
            key, count = f"{base}_{count}", count + 1
        taken.add(key)
        keys.append(key)
    return keys


def _split(pictures: list[SourceImage], choice: Choice) -> list[SourceImage]:
    """Moves the asked-for shares from train to val and test."""
    totals = Counter(_stratum(p) for p in pictures if p.split == "train")
    for split, fraction in (("val", choice.val_fraction), ("test", choice.test_fraction)):
        if not fraction:
            continue
        part, train = Part(split, fraction, choice.seed), [p for p in pictures if p.split == "train"]
        if choice.group_by:
            moved = choose_groups(part, ((p.group, _stratum(p)) for p in train), totals, choice.group_by)
        else:
            moved = choose_keys(part, ((p.key, _stratum(p)) for p in train), totals)
        pictures = [
            p._replace(split=split) if p.split == "train" and (p.group if choice.group_by else p.key) in moved else p
            for p in pictures
        ]
    return pictures


def _stratum(picture: SourceImage) -> int:
    """What the split is balanced by: the class; nothing for several classes, regression, or no labels."""
    return picture.label if isinstance(picture.label, int) else -1


def _check_fractions(choice: Choice, splits: Set[str]) -> None:
    """A share is taken from train, and makes a split that is not there yet."""
    for split, fraction in (("val", choice.val_fraction), ("test", choice.test_fraction)):
        if fraction and split in splits:
            raise InputError(
                f"{split}_fraction={fraction}, but there is a split {split} already; use {split}_fraction=0, or "
                "splits=none to draw all splits anew"
            )
        if fraction and "train" not in splits:
            raise InputError(f"{split}_fraction={fraction} is taken from train, which has no images")
