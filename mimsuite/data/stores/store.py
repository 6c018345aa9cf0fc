"""What every kind of place that holds data can do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

_BLOCK = 16 << 20  # bytes that are hashed at a time


class Stat(NamedTuple):
    """What identifies the content of a file.

    Attributes:
        size: in bytes.
        version: changes when the content changes: the time of the last change in nanoseconds, or an ETag.
    """

    size: int
    version: str


class Store(Protocol):
    """Reads files by their full addresses; writes nothing. Failures are `OSError`s, with `errno` where there is one."""

    def is_file(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder of this name."""
        ...

    def stat(self, name: str) -> Stat:
        """Size and version of a file."""
        ...

    def list(self, folder: str, pattern: str) -> Sequence[str]:
        """The addresses in a folder that match a pattern (`*.tar`, `*/*.tar`), sorted part by part."""
        ...

    def walk(
        self,
        folder: str,
        *,
        hidden: bool = True,
        on_error: Callable[[OSError], None] | None = None,
        skip: Callable[[str, Sequence[str]], bool] | None = None,
        on_link: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields each folder, from the top down in order of name, with the sorted names of its files.

        Links to folders are followed, but no folder is walked twice, so loops end.

        Args:
            folder: the top.
            hidden: whether folders and files whose names begin with a dot are among them.
            on_error: is called for a folder that cannot be read; None passes it over.
            skip: is asked for each folder with the names of its files whether it is passed over with all below.
            on_link: is called for a link, or a folder behind one, that is passed over: the walk meets it elsewhere.
        """
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """The `size` bytes of a file from `offset` on; fewer at its end."""
        ...

    def read_all(self, name: str) -> bytes:
        """The content of a small file."""
        ...

    def local_copy(self, name: str) -> Path:
        """A local file with the same content, for what has to be mapped into memory."""
        ...

    def close(self) -> None:
        """Closes what is open; the next read opens it again."""
        ...


def sha256_of(store: Store, name: str) -> str:
    """The sha256 of a file, in hex."""
    digest, offset = hashlib.sha256(), 0
    while block := store.read(name, offset, _BLOCK):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
