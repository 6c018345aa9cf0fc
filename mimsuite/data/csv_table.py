"""Rows of a CSV file of labels and groups, and the image that each belongs to."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.image_names import ImageNames
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

FILE_COLUMNS = ("file", "path", "filename", "image")
KEY_COLUMNS = ("key", "keys")
LABEL_COLUMNS = ("label", "class")
_SPLIT_COLUMNS = {"split", "subset", "partition", "is_valid", "is_train", "is_training_img"}


class Row(NamedTuple):
    """A row of the file: its line, the text of its label ("": none), its group ("" where none is asked for)."""

    line: int
    label: str
    group: str


class Table(NamedTuple):
    """A CSV file: its header, and its rows, each with the line it ends in and as many cells as the header."""

    file: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]


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
    found = re.search(r".*\S.*", text)
    first = found[0] if found else ""
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    separator = max(",;\t", key=lambda mark: (first.count(mark), mark == usual))
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
