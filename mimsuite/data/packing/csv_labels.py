"""Labels and groups from a CSV file: which row belongs to which image, and what the labels mean."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.image_names import ImageNames
from mimsuite.data.labels import Label
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import MOST_CLASSES, LabelKind

log = logging.getLogger("mimsuite")

FILE_COLUMNS = ("file", "path", "filename", "image")
KEY_COLUMNS = ("key", "keys")
LABEL_COLUMNS = ("label", "class")
NO_FINDING = "none"  # in label sets: the image was looked at, and has none of the labels
_WHOLE = re.compile(r"([+-]?\d{1,18})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_PADDED = re.compile(r"0\d+")  # 007: a name, and not the number 7
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_LIST = re.compile(r"[\[({].*[\])}]")
_MISSING = {"nan", "na", "n/a", "#n/a", "#na", "<na>", "null"}  # what pandas, R and spreadsheets write for nothing
_SPLIT_COLUMNS = {"split", "subset", "partition", "is_valid", "is_train", "is_training_img"}


class Row(NamedTuple):
    """A row of the file: its line, the text of its label ("": none), its group ("" where none is asked for)."""

    line: int
    label: str
    group: str


class LabelledRow(NamedTuple):
    """What the rows hold: the labels of the files that have one, and the names of the classes (none for regression)."""

    labels: dict[str, Label]
    classes: list[str]


class Table(NamedTuple):
    """A CSV file: its header, and its rows, each with the line it ends in and as many cells as the header."""

    file: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]


def read_rows(
    file: Path,
    src: Path,
    files: Sequence[str],
    *,
    path_column: str | None,
    label_column: str | None,
    group: str | None,
    missing: str = "unlabelled",
) -> dict[str, Row]:
    """Reads the row of each image.

    Args:
        file: the CSV file (UTF-8; commas, semicolons or tabs between columns; the first row names them).
        src: the folder of images.
        files: the images, relative to `src`, with `/`.
        path_column: column that holds these; None: the one that is called file, path, filename or image.
        label_column: column of labels; None: the one that is called label or class.
        group: column of groups; None for no groups.
        missing: "error" where every image needs a row with a label; any other word where it may have none.

    Returns:
        The row of each of `files` that has one.

    Raises:
        InputError: not readable, no such column, a row without a file, two rows for a file, an image without a group,
            or without a label where each needs one; the row, the value and the fix are named.
    """
    table = read_table(file)
    at_path = find_column(table, path_column, FILE_COLUMNS, "labels_file")
    at_label = find_column(table, label_column, LABEL_COLUMNS, "labels_column")
    at_group = None if group is None else find_column(table, group, (), "group_by")
    names = ImageNames(files, src=src)
    places = match_rows(table, at_path, names)
    rows = dict[str, Row]()
    for (line, cells), place in zip(table.rows, places, strict=True):
        where = f"{file} row {line}"
        if place is None:
            raise InputError(
                f"{where} names {cells[at_path]!r}, which is not an image below src={src}"
                f"{names.similar(cells[at_path])}; fix the path (relative to src), or remove the row"
            )
        label, group_name = cells[at_label].strip(), "" if at_group is None else cells[at_group].strip()
        empty = at_group if at_group is not None and not group_name else at_label if not label else None
        if empty is not None and (empty == at_group or missing == "error"):
            raise InputError(
                f"{where} has an empty column {table.header[empty]!r}; fill it in, or remove the image from src"
            )
        rows[files[place]] = Row(line, label, group_name)
    lost = [name for name in files if name not in rows]
    if lost and (group is not None or missing == "error"):
        why = f", and group_by={group} needs one" if group is not None else ""
        raise InputError(
            f"{file} has no row for {len(lost)} of {len(files)} images below src={src}, the first is "
            f"{to_text(lost[0])!r}{why}; add their rows, or move them out of src"
        )
    return rows


def match_rows(table: Table, column: int, names: ImageNames) -> list[int | None]:
    """The number of the image that each row names; None where it names none.

    Raises:
        InputError: two rows for an image, or a row that fits several.
    """
    if unread := next((cell for cell in table.header if cell.lower() in _SPLIT_COLUMNS), None):
        log.info(
            "labels    column %r of %s is not read; splits are those of folders or shards, or val_fraction= draws them",
            unread,
            table.file,
        )
    try:
        places = names.match([cells[column] for _, cells in table.rows])
    except InputError as error:
        raise InputError(f"{table.file}: {error}") from None
    first = dict[int, int]()
    for (line, _), place in zip(table.rows, places, strict=True):
        if place is not None and first.setdefault(place, line) != line:
            raise InputError(
                f"{table.file} row {line} names {names.files[place]!r} again (first in row {first[place]}); keep one "
                "row for each file; several labels of one image are written a;b"
            )
    return places


def parse_labels(
    file: Path, rows: Mapping[str, Row], kind: LabelKind | None = None, known: Sequence[str] = ()
) -> LabelledRow:
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
        return LabelledRow({n: tuple(sorted({numbers[p] for p in parts})) for n, parts in sets.items()}, classes)
    _refuse_decimal_commas(file, texts, lines)
    wrong = next((name for name, text in texts.items() if not _NUMBER.fullmatch(text)), None)
    whole = all(_WHOLE.fullmatch(text) for text in texts.values())
    if kind == "regression" and wrong is not None:
        raise InputError(f"{file} row {lines[wrong]}: label {texts[wrong]!r} is not a number; fix it")
    if kind == "regression" or (kind is None and wrong is None and not whole):
        return LabelledRow({name: _finite(file, lines[name], text) for name, text in texts.items()}, [])
    point = next((text for text in texts.values() if "." in text), None)
    if kind is None and whole and point is not None:
        log.info("labels    %s and the like are taken for classes; labels_kind=regression predicts numbers", point)
    numbers, classes = _classes(file, {name: (lines[name], [text]) for name, text in texts.items()}, known)
    return LabelledRow({name: numbers[text] for name, text in texts.items()}, classes)


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


def read_table(file: Path) -> Table:
    """Reads a CSV file.

    Raises:
        InputError: not readable, nothing below a header, or a row with another number of cells.
    """
    try:
        text = store_of(str(file)).read_all(str(file)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"labels={file} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"labels={file} row {row} is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        ) from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=lambda mark: (first.count(mark), mark == ","))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        table = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"labels={file} row {reader.line_num}: {error}; fix the quotes") from error
    if len(table) < 2:
        raise InputError(f"labels={file} has no row below a header; the first row names the columns (file,label)")
    header = [cell.strip() for cell in table[0][1]]
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{file} row {line} has {len(cells)} cells where the header has {len(header)}; fix the row (quote "
                "cells that hold the separator)"
            )
    return Table(file, header, table[1:])


def find_column(table: Table, name: str | None, usual: Sequence[str], key: str) -> int:
    """The number of the column called `name`, or by one of the usual names; `key=` chooses another.

    Raises:
        InputError: none, or several.
    """
    header = table.header
    found = [i for i, cell in enumerate(header) if (cell == name if name is not None else cell.lower() in usual)]
    there = f"it has the columns {', '.join(header)}"
    if not found:
        wanted = f"column {name!r}" if name is not None else f"column {' or '.join(usual)}"
        raise InputError(f"labels={table.file} has no {wanted}; {there}; choose one with {key}=")
    if len(found) > 1:
        names = [header[i] for i in found]
        fix = f"choose one with {key}=" if len(set(names)) == len(names) else "give each another name"
        raise InputError(f"labels={table.file} has several possible columns ({', '.join(names)}); {fix}")
    return found[0]
