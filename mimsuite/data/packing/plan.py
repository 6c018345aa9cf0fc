"""Which images are packed: their keys, splits, labels and groups. Reads names, sizes and a CSV file, no image."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.hashing import hash_key, mix_hashes
from mimsuite.data.labels import Label
from mimsuite.data.packing.csv_labels import parse_labels, read_rows
from mimsuite.data.sources import PICTURE_ENDINGS, split_name_of
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import LABEL_SOURCES, SPLITS

log = logging.getLogger("mimsuite")

_SALT_VAL, _SALT_ORDER, _SALT_GROUP = 1, 2, 3
_FAR = 2.0  # groups may bring at most this many times the wanted share of val, and at least its inverse


class SourceImage(NamedTuple):
    """A file to pack: where it lies, its key, split, label (None: none) and group ("" : none)."""

    path: Path
    key: str
    split: str
    label: Label | None
    group: str


class PackPlan(NamedTuple):
    """The pictures in the order in which they are written, and the names of the classes (none: no classes)."""

    pictures: list[SourceImage]
    classes: list[str]


class Choice(NamedTuple):
    """Where labels and groups come from; see `mimsuite pack --help`."""

    labels: str = "auto"
    labels_file: str | None = None
    labels_column: str | None = None
    group_by: str | None = None
    val_fraction: float = 0.0
    seed: int = 0

    @property
    def csv(self) -> Path | None:
        """The CSV file that holds the labels."""
        return Path(self.labels) if self.labels.lower().endswith((".csv", ".tsv")) else None


def plan_pack(src: Path, choice: Choice) -> PackPlan:
    """Finds the images below `src`, and gives each its key, split, label and place in the order.

    Folders named train, val and test, with nothing beside them, are the splits.

    Raises:
        InputError: bad values, no image, labels that are wrong or missing, groups that do not go with the splits.
    """
    _check(choice)
    files = find_pictures(src)
    names = [file.relative_to(src).as_posix() for file in files]
    parts = [name.split("/") for name in names]
    given = [split_name_of(p[0]) if len(p) > 1 else None for p in parts]
    below = [p[1:] for p in parts] if all(given) else parts
    splits = [split or "train" for split in given] if all(given) else ["train"] * len(files)
    labels: list[Label | None]
    groups = [""] * len(files)
    if choice.csv is not None:
        column = choice.group_by if choice.group_by and not _folder_part(choice.group_by) else None
        rows = read_rows(
            choice.csv,
            src,
            names,
            path_column=choice.labels_file,
            label_column=choice.labels_column,
            group=column,
        )
        found = parse_labels(choice.csv, rows)
        classes, labels = found.classes, [found.labels[name] for name in names]
        groups = [rows[name].group for name in names]
    else:
        classes, numbers = _folder_labels(files, below, choice.labels)
        labels = list(numbers)
    if choice.group_by and (part := _folder_part(choice.group_by)):
        groups = [_folder_group(name, part) for name in names]
    keys = _keys(parts)
    pictures = [SourceImage(*fields) for fields in zip(files, keys, splits, labels, groups, strict=True)]
    pictures = _split_groups(pictures, choice) if choice.group_by else _split(pictures, choice)
    ranked = sorted(
        pictures, key=lambda p: (SPLITS.index(p.split), mix_hashes(choice.seed, _SALT_ORDER, hash_key(p.key)), p.key)
    )
    return PackPlan(ranked, classes)


def find_pictures(src: Path) -> list[Path]:
    """The image files below a folder, sorted by path; hidden files and folders are skipped.

    Raises:
        InputError: not a folder that can be read, or no image in it.
    """
    store = store_of(str(src))
    if not store.is_folder(str(src)):
        raise InputError(f"src={src} is not a folder; give a folder of images")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise InputError(f"src={src}: {error.filename} cannot be read ({error.strerror}); check its rights")

    for folder, names in store.walk(str(src), hidden=False, on_error=refuse):
        found += [Path(folder, name) for name in names if name.lower().endswith(PICTURE_ENDINGS)]
    if not found:
        raise InputError(f"src={src} holds no image ({', '.join(PICTURE_ENDINGS)}); check the path")
    return sorted(found)


def _check(choice: Choice) -> None:
    if not 0 <= choice.val_fraction < 1:
        raise InputError(f"val_fraction={choice.val_fraction} is not in [0, 1); use 0.1 for a tenth")
    if choice.csv is None and choice.labels not in LABEL_SOURCES:
        raise InputError(f"labels={choice.labels} is unknown; labels takes auto, folder, none, or a FILE.csv")
    for key, value in (("labels_file", choice.labels_file), ("labels_column", choice.labels_column)):
        if value is not None and choice.csv is None:
            raise InputError(f"{key}={value} names a column, but labels={choice.labels}; use labels=FILE.csv")
    if choice.group_by and not _folder_part(choice.group_by) and choice.csv is None:
        raise InputError(
            f"group_by={choice.group_by} names a column, but labels={choice.labels}; use labels=FILE.csv, or "
            "group_by=folder, or group_by=folder:2 for the second part of the path"
        )


def _folder_labels(
    files: Sequence[Path], below: Sequence[Sequence[str]], labels: str
) -> tuple[list[str], list[int | None]]:
    """The names of the classes, and the class of each file; nothing and Nones where there are no classes."""
    names = sorted({p[0] for p in below if len(p) > 1})
    loose = next((file for file, p in zip(files, below, strict=True) if len(p) == 1), None)
    if labels == "folder" and loose is not None:
        raise InputError(
            f"labels=folder, but {to_text(str(loose))} is not in the folder of a class; move it, or use labels=none"
        )
    if labels == "none" or loose is not None or (labels == "auto" and len(names) < 2):
        return [], [None] * len(files)
    for name in names:
        if to_text(name) != name or name != name.strip() or len(name.splitlines()) != 1:
            raise InputError(
                f"the folder {to_text(name)!r} cannot name a class (not UTF-8, or spaces at its ends); rename it, or "
                "use labels=none"
            )
    number = {name: i for i, name in enumerate(names)}
    return names, [number[p[0]] for p in below]


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
    """Moves a share of each class from train to val: the pictures whose keys have the smallest hashes."""
    moved: set[str] = set()
    by_class: defaultdict[int, list[str]] = defaultdict(list)
    for p in pictures:
        if p.split == "train":
            by_class[_stratum(p)].append(p.key)
    for keys in by_class.values():
        count = round(len(keys) * choice.val_fraction)
        if choice.val_fraction > 0 and len(keys) > 1:
            count = max(1, count)
        moved.update(sorted(keys, key=lambda key: mix_hashes(choice.seed, _SALT_VAL, hash_key(key)))[:count])
    return [p._replace(split="val") if p.key in moved else p for p in pictures]


def _stratum(picture: SourceImage) -> int:
    """What the split is balanced by: the class; nothing for several classes, regression, or no labels."""
    return picture.label if isinstance(picture.label, int) else -1


def _folder_part(group_by: str) -> str:
    """`folder` or `folder:N`; empty for the name of a column."""
    return group_by if re.fullmatch(r"folder(:\d+)?", group_by) else ""


def _folder_group(name: str, part: str) -> str:
    folders = name.split("/")[:-1]
    if part == "folder":
        return "/".join(folders)
    number = int(part.partition(":")[2])
    if not 1 <= number <= len(folders):
        raise InputError(
            f"group_by={part}, but {to_text(name)} lies in {len(folders)} folders below src; parts are counted from 1"
        )
    return folders[number - 1]


def _split_groups(pictures: list[SourceImage], choice: Choice) -> list[SourceImage]:
    """Moves whole groups from train to val, until each class has about its share there.

    Groups are looked at in the order of their hashes; one moves if that brings the counts of its classes nearer.
    """
    where: defaultdict[str, set[str]] = defaultdict(set)
    for p in pictures:
        where[p.group].add(p.split)
    for group, splits in where.items():
        if len(splits) > 1:
            raise InputError(
                f"group_by={choice.group_by}: group {to_text(group)!r} lies in {' and '.join(sorted(splits))}; move "
                "its images into one of these folders"
            )
    if choice.val_fraction == 0:
        return pictures
    members: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for p in pictures:
        if p.split == "train":
            members[p.group][_stratum(p)] += 1
    total: Counter[int] = Counter()
    for counts in members.values():
        total += counts
    have: Counter[int] = Counter()
    moved = set[str]()
    for group in sorted(members, key=lambda name: (mix_hashes(choice.seed, _SALT_GROUP, hash_key(name)), name)):
        gain = sum(
            abs(have[label] - total[label] * choice.val_fraction)
            - abs(have[label] + count - total[label] * choice.val_fraction)
            for label, count in members[group].items()
        )
        if gain > 0:
            moved.add(group)
            have += members[group]
    _check_reached(choice, members, have.total(), total.total())
    share = have.total() / total.total()
    log.info("%d of %d groups go to val, %.1f%% of the images", len(moved), len(members), 100 * share)
    return [p._replace(split="val") if p.split == "train" and p.group in moved else p for p in pictures]


def _check_reached(choice: Choice, members: dict[str, Counter[int]], moved: int, total: int) -> None:
    reached, wanted = moved / max(1, total), choice.val_fraction
    if 0 < moved < total and wanted / _FAR <= reached <= wanted * _FAR:
        return
    largest = max((counts.total() / total for counts in members.values()), default=0.0)
    raise InputError(
        f"val_fraction={wanted} cannot be reached with group_by={choice.group_by}: {len(members)} groups, the largest "
        f"with {largest:.0%} of the images; {reached:.1%} was reached; choose another val_fraction, or smaller groups"
    )
