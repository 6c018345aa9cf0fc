"""What the labels of a CSV file mean: classes, sets of classes, or numbers."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.csv_table import Row
from mimsuite.data.labels import Label
from mimsuite.errors import InputError
from mimsuite.words import MOST_CLASSES, LabelKind

log = logging.getLogger("mimsuite")

NO_FINDING = "none"  # in label sets: the image was looked at, and has none of the labels
_WHOLE = re.compile(r"([+-]?\d{1,18})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_PADDED = re.compile(r"0\d+")  # 007: a name, and not the number 7
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_LIST = re.compile(r"[\[({].*[\])}]")
_MISSING = {"nan", "na", "n/a", "#n/a", "#na", "<na>", "null"}  # what pandas, R and spreadsheets write for nothing


class TableLabels(NamedTuple):
    """What the rows hold: the labels of the files that have one, and the names of the classes (none for regression)."""

    labels: dict[str, Label]
    classes: list[str]


def parse_labels(
    file: Path, rows: Mapping[str, Row], kind: LabelKind | None = None, known: Sequence[str] = ()
) -> TableLabels:
    """Finds out what kind of labels the rows hold, and reads them; rows without one are passed over.

    `;` or `|` in any row makes all of them lists of classes, where `none` alone is the empty list; else whole numbers
    (3, also 3.0) are classes, other numbers are regression targets, and anything else is the name of a class. Names are
    numbered in sorted order; see `_classes` for numbers.

    Args:
        file: for errors.
        rows: by image.
        kind: what the labels are; None: found out as above.
        known: names of classes; where all classes are among them, they have their places in this list.

    Raises:
        InputError: no label at all, kinds are mixed, or a number is not a class or not finite; the row is named.
    """
    texts = {name: row.label for name, row in rows.items() if row.label}
    lines = {name: rows[name].line for name in texts}
    for name, text in texts.items():
        _check_text(f"{file} row {lines[name]}", text)
    if not texts:
        raise InputError(f"{file}: none of the images has a label; fill in the column of labels")
    if kind == "multilabel" or (kind is None and any(_several(text) for text in texts.values())):
        sets = {name: _parts(f"{file} row {lines[name]}", text) for name, text in texts.items()}
        if not any(sets.values()):
            raise InputError(f"{file}: every label is {NO_FINDING}, so there is no class; add images with a finding")
        numbers, classes = _classes(file, {name: (lines[name], parts) for name, parts in sets.items()}, known)
        return TableLabels({n: tuple(sorted({numbers[p] for p in parts})) for n, parts in sets.items()}, classes)
    _refuse_decimal_commas(file, texts, lines)
    wrong = next((name for name, text in texts.items() if not _NUMBER.fullmatch(text)), None)
    whole = all(_WHOLE.fullmatch(text) for text in texts.values())
    if kind == "regression" and wrong is not None:
        raise InputError(f"{file} row {lines[wrong]}: label {texts[wrong]!r} is not a number; fix it")
    if kind == "regression" or (kind is None and wrong is None and not whole):
        return TableLabels({name: _finite(file, lines[name], text) for name, text in texts.items()}, [])
    point = next((text for text in texts.values() if "." in text), None)
    if kind is None and whole and point is not None:
        log.info("labels    %s and the like are taken for classes; labels_kind=regression predicts numbers", point)
    numbers, classes = _classes(file, {name: (lines[name], [text]) for name, text in texts.items()}, known)
    return TableLabels({name: numbers[text] for name, text in texts.items()}, classes)


def _check_text(where: str, text: str) -> None:
    """Refuses what would be a class by mistake."""
    if missing := next((part for part in re.split("[;|]", text) if part.strip().lower() in _MISSING), None):
        raise InputError(
            f"{where}: label {missing.strip()!r} stands for a missing value; leave the cell empty, or give the class "
            "another name"
        )
    if _LIST.fullmatch(text):
        inside = ";".join(part.strip(" '\"") for part in re.split("[,;|]", text[1:-1]))
        raise InputError(f"{where}: label {text!r} looks like a list; write {inside or NO_FINDING}")
    if len(text.splitlines()) > 1:
        raise InputError(f"{where}: label {text!r} has a line break, and the name of a class is one line; remove it")


def _parts(where: str, text: str) -> list[str]:
    """The labels of a set."""
    parts = [part.strip() for part in re.split("[;|]", text)]
    if not all(parts):
        raise InputError(f"{where}: label {text!r} has an empty part; remove the separator that is too many")
    if NO_FINDING not in map(str.lower, parts):
        return parts
    if len(parts) > 1:
        raise InputError(
            f"{where}: label {text!r} has {NO_FINDING} beside others, and it means none of them; remove one of them"
        )
    return []


def _finite(file: Path, line: int, text: str) -> float:
    if not math.isfinite(float(text)):
        raise InputError(f"{file} row {line}: label {text!r} is not finite; fix it")
    return float(text)


def _refuse_decimal_commas(file: Path, texts: Mapping[str, str], lines: Mapping[str, int]) -> None:
    """Refuses numbers that a spreadsheet has written with commas: as names they would be classes."""
    first = next((name for name, text in texts.items() if _DECIMAL_COMMA.fullmatch(text)), None)
    if first is not None and all(_DECIMAL_COMMA.fullmatch(t) or _NUMBER.fullmatch(t) for t in texts.values()):
        point, plain = texts[first].replace(",", "."), texts[first].replace(",", "")
        either = re.fullmatch(r"[+-]?\d{1,3},\d{3}", texts[first]) is not None
        comma, write = ("comma", f"{point} or {plain}") if either else ("decimal comma", point)
        raise InputError(
            f"{file} row {lines[first]}: label {texts[first]!r} looks like a number with a {comma}; write {write}"
        )


def _several(label: str) -> bool:
    return ";" in label or "|" in label


def _classes(
    file: Path, labels: Mapping[str, tuple[int, list[str]]], known: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """The number of each text, and the names of all classes.

    Whole numbers stand for themselves where 0 is among them. Where they begin with 1, so do the names of the classes.
    Where they begin with a larger one, only those that occur are classes. Where one is written as 007, all are names.
    """
    lines: dict[str, int] = {}
    for line, parts in labels.values():
        for part in parts:
            lines.setdefault(part, line)
    padded = any(_PADDED.fullmatch(text) for text in lines)
    numeric = [] if padded else [text for text in lines if _NUMBER.fullmatch(text)]
    if len(numeric) < len(lines) and numeric:
        other = next(text for text in lines if text not in set(numeric))
        raise InputError(
            f"{file}: labels are of mixed kinds: {numeric[0]!r} (row {lines[numeric[0]]}) is a number and {other!r} "
            f"(row {lines[other]}) a name; make all of them names (class_{numeric[0]}) or all of them numbers"
        )
    found = {text: _class_number(file, lines[text], text) for text in numeric}
    names = {text: str(found[text]) if numeric else text for text in lines}
    if known and set(names.values()) <= set(known):
        return {text: known.index(name) for text, name in names.items()}, list(known)
    if not numeric:
        classes = sorted(lines)
    else:
        first, last = min(found.values()), max(found.values())
        classes = [str(n) for n in (range(first, last + 1) if first <= 1 else sorted(set(found.values())))]
    place = {name: number for number, name in enumerate(classes)}
    return {text: place[name] for text, name in names.items()}, classes


def _class_number(file: Path, line: int, text: str) -> int:
    match = _WHOLE.fullmatch(text)
    if match is None or not 0 <= int(match.group(1)) < MOST_CLASSES:
        raise InputError(
            f"{file} row {line}: label {text!r} is not a class; classes are whole numbers from 0 to "
            f"{MOST_CLASSES - 1}; to predict numbers use labels_kind=regression"
        )
    return int(match.group(1))
