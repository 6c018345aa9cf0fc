"""Which split and which class its folders give to each image; the rules are in docs/folders.md."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mimsuite.data.folders import Contents, count_classes, count_of, describe_left_out, list_names
from mimsuite.data.labels import Label, classes_of
from mimsuite.data.sources import split_name_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import SPLITS

UNLABELLED = ("unlabeled", "unlabelled", "unsup", "unsupervised")  # folders of images that have no class
_ONLY_LEVEL = "images"  # a single folder of this name is not a class
_WORD = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")
_MORE_WORDS = {"training": "train", "testing": "test"}  # look like splits, and are not read as such
_KEEP_OUT = "exclude= of `mimsuite pack` leaves out what is not data, and splits=none reads all as train"


class Layout(NamedTuple):
    """The reading of a folder: split and class number of each image, the classes, and what is not obvious in it."""

    splits: list[str]
    labels: Sequence[Label | None]
    classes: list[str]
    notes: list[str]


def read_layout(src: str, names: Sequence[str], labels: str, splits: str) -> Layout:
    """Reads splits and classes from the paths of images.

    Args:
        src: the folder, for errors.
        names: paths below it, with `/`.
        labels: "auto", "folder" or "none".
        splits: "auto", "folder" or "none".

    Raises:
        InputError: the folders can be read in several ways, or not as asked for; the message names them.
    """
    parts = [name.split("/") for name in names]
    if splits == "none":
        given = ["train"] * len(parts)
        below = parts
    else:
        given, below = _read_splits(src, parts, splits)
    if labels == "none":
        return Layout(given, [None] * len(parts), [], [])
    return _read_classes(names, given, below, labels)


def _read_splits(src: str, parts: list[list[str]], splits: str) -> tuple[list[str], list[list[str]]]:
    """The split of each image, and its path below the folder of the split."""
    tops = sorted({p[0] for p in parts if len(p) > 1})
    named = {top: split for top in tops if (split := split_name_of(top))}
    if not named:
        if splits == "folder":
            raise InputError(f"splits=folder, but src={src} has no folder train, val or test; use splits=auto")
        _refuse_inner_splits(src, parts, tops)
        _refuse_similar_names(src, tops)
        return ["train"] * len(parts), parts
    twice = [top for top in named if list(named.values()).count(named[top]) > 1]
    if twice:
        raise InputError(
            f"src={src} has the folders {' and '.join(map(to_text, twice))} for one split; put them together"
        )
    others = [top for top in tops if top not in named and top.lower() not in UNLABELLED]
    loose = ["/".join(p) for p in parts if len(p) == 1]
    if others or loose:
        beside = [f"{to_text(top)}/ ({sum(p[0] == top for p in parts)} images)" for top in others[:3]]
        beside += [f"and {len(others) - 3} more folders"] if len(others) > 3 else []
        beside += [f"the file{'s' * (len(loose) > 1)} {list_names(loose)}"] if loose else []
        raise InputError(
            f"src={src} has folders of splits ({', '.join(named)}), and beside them {', '.join(beside)}: are these "
            f"training images or not? {_KEEP_OUT}"
        )
    given = [named.get(p[0], "train") for p in parts]
    return given, [p[1:] if p[0] in named else p for p in parts]


def _refuse_inner_splits(src: str, parts: Sequence[Sequence[str]], tops: Sequence[str]) -> None:
    """Splits one level too deep: read as folders of classes, the images of val would be trained on."""
    inner: defaultdict[str, set[str]] = defaultdict(set)
    for p in parts:
        if len(p) > 2 and split_name_of(p[1]):
            inner[p[0]].add(p[1])
    top = next((top for top, found in inner.items() if len({split_name_of(name) for name in found}) > 1), None)
    if top is None:
        return
    found = " and ".join(sorted(inner[top]))
    fix = (
        f"give src={src.rstrip('/')}/{top}" if len(tops) == 1 else "move the folders of splits to the top (train/CLASS)"
    )
    raise InputError(
        f"src={src}: the folder {to_text(top)} holds {found}, and splits are read at the top of src only; {fix}, or "
        "use splits=none of `mimsuite pack`, which reads all as train"
    )


def _refuse_similar_names(src: str, tops: Sequence[str]) -> None:
    """Splits by other names (train2017, Test Set): read as classes, the images of val would be trained on."""
    like = {
        top: split
        for top in tops
        for word in _WORD.findall(top)
        if (split := split_name_of(word) or _MORE_WORDS.get(word.lower()))
    }
    if len(set(like.values())) > 1:
        raise InputError(
            f"src={src}: the folders {list_names(list(like))} look like splits, and only train, val (valid, "
            "validation) and test are read as such; rename them, or use splits=none of `mimsuite pack`, which reads "
            "all as train"
        )


def _read_classes(names: Sequence[str], given: list[str], below: Sequence[Sequence[str]], labels: str) -> Layout:
    """The class of each image: its first folder below the split, by the folders of train."""
    inside: defaultdict[str, set[str]] = defaultdict(set)
    loose: defaultdict[str, list[str]] = defaultdict(list)
    flat = set(given)
    for name, split, p in zip(names, given, below, strict=True):
        if len(p) > 1:
            inside[split].add(p[0])
        else:
            loose[split].append(name)
        if len(p) > 2 or (len(p) == 2 and p[0].lower() != _ONLY_LEVEL):
            flat.discard(split)
    order = [split for split in SPLITS if split in given]
    leading = order[0]

    def unlabelled(*notes: str) -> Layout:
        return Layout(given, [None] * len(given), [], list(notes))

    mixed = [name for split in order if split not in flat for name in loose[split]]
    if mixed or leading in flat:
        odd = mixed or [name for name, split in zip(names, given, strict=True) if split == leading]
        if labels == "folder":
            raise InputError(
                f"labels=folder, but {to_text(odd[0])} is not in the folder of a class; move it, leave it out with "
                "exclude=, or use labels=none"
            )
        why = f"no labels: {count_of(len(odd), 'image')} outside of the folders of classes ({list_names(odd)})"
        return unlabelled(why) if mixed else unlabelled()
    classes = {name for name in inside[leading] if name.lower() not in UNLABELLED}
    if labels == "auto" and len(classes) < 2:
        deeper = {p[1] for p in below if len(p) > 2}
        note = f"no labels, because all images lie in one folder, {to_text(next(iter(classes), ''))}/"
        return unlabelled(
            *([f"{note}; its {len(deeper)} folders are read as classes if you give it"] if len(deeper) > 1 else [])
        )
    more = {
        split: sorted(name for name in inside[split] - classes if name.lower() not in UNLABELLED)
        for split in order
        if split not in flat
    }
    more = {split: found for split, found in more.items() if found}
    if more and labels == "auto":
        split, found = next(iter(more.items()))
        raise InputError(
            f"{split} has {count_of(len(found), 'folder')} that {leading} does not have ({list_names(found)}), so "
            f"they are not classes; rename them, or use labels=none, or labels=folder to make all of them classes"
        )
    ordered = sorted(classes.union(*more.values()))
    _check_names(ordered)
    number = {name: i for i, name in enumerate(ordered)}
    numbers = [
        None if split in flat or p[0].lower() in UNLABELLED else number[p[0]]
        for split, p in zip(given, below, strict=True)
    ]
    notes = [f"the images of {split} lie in no folders of classes" for split in order if split in flat]
    return Layout(given, numbers, ordered, notes)


def describe_split(images: int, counts: Mapping[int, int], classes: Sequence[str], unlabelled: int) -> str:
    """How many images a split has, of which classes, in words."""
    text = count_of(images, "image")
    if classes and counts:
        text += f", {count_classes(counts, classes)}"
    return text + (", no labels" if unlabelled == images else f", {unlabelled:,} without a label" if unlabelled else "")


def describe_reading(layout: Layout, contents: Contents) -> Iterator[str]:
    """Yields how a folder was read: a line for each split with its classes, what is not obvious, what was left out."""
    for split in SPLITS:
        inside = [label for label, given in zip(layout.labels, layout.splits, strict=True) if given == split]
        if inside:
            counts = Counter(number for label in inside for number in classes_of(label))
            text = describe_split(len(inside), counts, layout.classes, inside.count(None))
            numbers = [label for label in inside if isinstance(label, float)]
            values = f", numbers from {min(numbers):g} to {max(numbers):g}" if numbers else ""
            yield f"{split:6} {text}{values}"
    yield from layout.notes
    if contents.tables and None in layout.labels:
        yield f"files that may hold labels, and are not read: {list_names(contents.tables)} (labels=FILE.csv)"
    yield from describe_left_out(contents)


def _check_names(classes: Sequence[str]) -> None:
    for name in classes:
        if to_text(name) != name or name != name.strip() or len(name.splitlines()) != 1:
            raise InputError(
                f"the folder {to_text(name)!r} cannot name a class (not UTF-8, spaces at its ends, or a line break); "
                "rename it, or use labels=none"
            )
