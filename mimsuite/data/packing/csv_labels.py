"""Labels and groups from a CSV file: which row belongs to which image, and what its label means."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mimsuite.data.labels import Label
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.words import MOST_CLASSES

FILE_COLUMNS = ("file", "path", "filename", "image")
LABEL_COLUMNS = ("label", "class")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


class Row(NamedTuple):
    """A row of the file: its line, the text of its label, its group ("" where none is asked for)."""

    line: int
    label: str
    group: str


class LabelledRow(NamedTuple):
    """What the rows hold: one label per file, and the names of the classes (none for regression)."""

    labels: dict[str, Label]
    classes: list[str]


def read_rows(
    file: Path, src: Path, files: Sequence[str], *, path_column: str | None, label_column: str | None, group: str | None
) -> dict[str, Row]:
    """Reads the row of each image.

    Args:
        file: the CSV file (UTF-8; commas, semicolons or tabs between columns; the first row names them).
        src: the folder of images.
        files: the images, relative to `src`, with `/`.
        path_column: column that holds these; None: the one that is called file, path, filename or image.
        label_column: column of labels; None: the one that is called label or class.
        group: column of groups; None for no groups.

    Returns:
        The row of each of `files`.

    Raises:
        InputError: not readable, no such column, a file without a row, a row without a file, two rows for a
            file, or an empty label or group; the row, the value and the fix are named.
    """
    table = _table(file)
    _, header = table[0]
    at_path = _column(file, header, path_column, FILE_COLUMNS, "labels_file")
    at_label = _column(file, header, label_column, LABEL_COLUMNS, "labels_column")
    at_group = None if group is None else _column(file, header, group, (), "group_by")
    known, rows = set(files), dict[str, Row]()
    for line, cells in table[1:]:
        where = f"{file} row {line}"
        if len(cells) != len(header):
            raise InputError(
                f"{where} has {len(cells)} cells where the header has {len(header)}; fix the row (quote cells that "
                "hold the separator)"
            )
        name = _relative(cells[at_path], src, known)
        if name not in known:
            raise InputError(
                f"{where} names {cells[at_path]!r}, which is not an image below src={src}; fix the path (relative to "
                "src), or remove the row"
            )
        if name in rows:
            raise InputError(
                f"{where} names {name!r} again (first in row {rows[name].line}); keep one row for each file; several "
                "labels of one image are written a;b"
            )
        label, group_name = cells[at_label].strip(), "" if at_group is None else cells[at_group].strip()
        for value, column in ((label, at_label), *([(group_name, at_group)] if at_group is not None else [])):
            if not value:
                raise InputError(
                    f"{where} has an empty column {header[column]!r}; fill it in, or remove the image from src"
                )
        rows[name] = Row(line, label, group_name)
    missing = [name for name in files if name not in rows]
    if missing:
        raise InputError(
            f"{file} has no row for {len(missing)} of {len(files)} images below src={src}, the first is "
            f"{to_text(missing[0])!r}; add their rows, or move them out of src"
        )
    return rows


def parse_labels(file: Path, rows: Mapping[str, Row]) -> LabelledRow:
    """Finds out what kind of labels the rows hold, and reads them.

    `;` or `|` in any row makes all of them lists of classes; else whole numbers are classes, other numbers
    are regression targets, and anything else is the name of a class. Names are numbered in sorted order.

    Raises:
        InputError: kinds are mixed, or a number is not a class or not finite; the row is named.
    """
    if any(_several(row.label) for row in rows.values()):
        lists = {name: [part.strip() for part in re.split("[;|]", row.label)] for name, row in rows.items()}
        for name, parts in lists.items():
            if not all(parts):
                raise InputError(
                    f"{file} row {rows[name].line}: label {rows[name].label!r} has an empty part; remove the "
                    "separator that is too many"
                )
        numbers, classes = _classes(file, {name: (rows[name].line, parts) for name, parts in lists.items()})
        return LabelledRow({n: tuple(sorted({numbers[p] for p in parts})) for n, parts in lists.items()}, classes)
    texts = {name: row.label for name, row in rows.items()}
    numeric = [name for name, text in texts.items() if _NUMBER.fullmatch(text)]
    if len(numeric) == len(texts) and not all(_INTEGER.fullmatch(text) for text in texts.values()):
        values = {name: float(text) for name, text in texts.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise InputError(f"{file} row {rows[name].line}: label {texts[name]!r} is not finite; fix it")
        return LabelledRow(dict(values), [])
    numbers, classes = _classes(file, {name: (rows[name].line, [text]) for name, text in texts.items()})
    return LabelledRow({name: numbers[text] for name, text in texts.items()}, classes)


def _several(label: str) -> bool:
    return ";" in label or "|" in label


def _classes(file: Path, labels: Mapping[str, tuple[int, list[str]]]) -> tuple[dict[str, int], list[str]]:
    """The number of each text, and the names of all classes; whole numbers stand for themselves."""
    lines: dict[str, int] = {}
    for line, parts in labels.values():
        for part in parts:
            lines.setdefault(part, line)
    numeric = [text for text in lines if _NUMBER.fullmatch(text)]
    if not numeric:
        names = sorted(lines)
        return {name: i for i, name in enumerate(names)}, names
    if len(numeric) < len(lines):
        other = next(text for text in lines if text not in set(numeric))
        raise InputError(
            f"{file}: labels are of mixed kinds: {numeric[0]!r} (row {lines[numeric[0]]}) is a number and {other!r} "
            f"(row {lines[other]}) a name; make all of them names (class_{numeric[0]}) or all of them numbers"
        )
    wrong = next((t for t in lines if not _INTEGER.fullmatch(t) or not 0 <= int(t) < MOST_CLASSES), None)
    if wrong is not None:
        raise InputError(
            f"{file} row {lines[wrong]}: label {wrong!r} is not a class; classes are whole numbers from 0 to "
            f"{MOST_CLASSES - 1}; for regression write decimals (3.0), one a row"
        )
    return {text: int(text) for text in lines}, [str(i) for i in range(max(map(int, lines)) + 1)]


def _table(file: Path) -> list[tuple[int, list[str]]]:
    """The header and the rows that hold anything, each with the line it ends in."""
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
    line, header = table[0]
    return [(line, [cell.strip() for cell in header]), *table[1:]]


def _column(file: Path, header: list[str], name: str | None, usual: Sequence[str], key: str) -> int:
    found = [i for i, cell in enumerate(header) if (cell == name if name is not None else cell.lower() in usual)]
    there = f"it has the columns {', '.join(header)}"
    if not found:
        wanted = f"column {name!r}" if name is not None else f"column {' or '.join(usual)}"
        raise InputError(f"labels={file} has no {wanted}; {there}; choose one with {key}=")
    if len(found) > 1:
        names = ", ".join(header[i] for i in found)
        raise InputError(f"labels={file} has several possible columns ({names}); choose one with {key}=")
    return found[0]


def _relative(cell: str, src: Path, known: set[str]) -> str:
    """The file as we write it: relative to `src`, with `/`; a path from Windows is understood."""
    text = cell.strip()
    if text in known:
        return text
    if os.path.isabs(text):
        text = os.path.relpath(text, os.path.abspath(src))
    name = str(PurePosixPath(os.path.normpath(text)))
    return name if name in known else str(PurePosixPath(os.path.normpath(text.replace("\\", "/"))))
