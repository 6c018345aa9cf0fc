"""Which files of the cache this process, and those that it forked or was forked from, know to hold the right bytes."""

from __future__ import annotations

import mmap
import os

import numpy as np

from mimsuite.data.hashing import hash_key

_PLACES = 1 << 15

# By hashed name: the name once more, the number of the file on its disk, and when it was changed last. A name that
# needs the place of another replaces it, and that file is hashed again when it is used next.
_known = np.frombuffer(mmap.mmap(-1, _PLACES * 24), np.uint64).reshape(_PLACES, 3)


def trust(name: str, found: os.stat_result) -> None:
    """Takes note that the file of this name holds the right bytes."""
    mark = _mark(name, found)
    _known[mark[0] % _PLACES] = mark


def is_trusted(name: str, found: os.stat_result) -> bool:
    """Whether it is the file that was trusted, and was not changed since."""
    mark = _mark(name, found)
    return bool((_known[mark[0] % _PLACES] == np.array(mark, np.uint64)).all())


def _mark(name: str, found: os.stat_result) -> tuple[int, int, int]:
    return hash_key(name), found.st_ino, found.st_mtime_ns
