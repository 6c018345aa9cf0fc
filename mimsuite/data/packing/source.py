"""An image to pack: a file, or a sample of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mimsuite.data.labels import Label


class SourceImage(NamedTuple):
    """An image to pack: where it lies, its path below `src`, its key, split, label (None: none), group ("" : none).

    `at` is the part of the file (offset, size) that holds it; None for a whole file.
    """

    path: Path
    file: str
    key: str
    split: str
    label: Label | None
    group: str
    at: tuple[int, int] | None = None
