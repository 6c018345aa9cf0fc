"""Where bytes lie: how they are read from a place, and how a file is replaced in one step."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The user's cache folder for what can be made again (`XDG_CACHE_HOME/mimsuite`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimsuite"


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves what was written there into its place in one step.

    A reader never sees half a file, and when the block fails the old file stays and the new part is removed.

    Args:
        path: the file to replace; its folder exists.
        durable: also flush file and folder to the disk, so that after a power cut the old or the new content is there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        if durable:
            _flush(part, os.O_RDWR)
        os.replace(part, path)
        if durable:
            _flush(path.parent, os.O_RDONLY)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview, *, durable: bool = False) -> None:
    """Replaces a file in one step, see `replacing`."""
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replaces a small UTF-8 file in one step."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: dict[str, Any], *, durable: bool = False) -> None:
    """Replaces a JSON file in one step."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode(), durable=durable)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replaces a CSV file in one step; its folder is made.

    Args:
        path: the file.
        columns: its first line.
        rows: the lines below.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
