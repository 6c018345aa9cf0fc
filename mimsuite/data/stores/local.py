"""Reads files of this machine."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mimsuite.data.stores.store import Stat


class LocalStore:
    """Files of this machine; at most `limit` of those that were read stay open. A fork does them no harm."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._open: OrderedDict[str, int] = OrderedDict()

    def is_file(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return os.path.isfile(name)

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder of this name."""
        return os.path.isdir(name)

    def stat(self, name: str) -> Stat:
        """Size, and the time of the last change in nanoseconds."""
        found = os.stat(name)
        return Stat(found.st_size, str(found.st_mtime_ns))

    def list(self, folder: str, pattern: str) -> Sequence[str]:
        """The paths in a folder that match a pattern, sorted part by part; links to folders are followed."""
        os.scandir(folder).close()  # `glob` does not tell of a folder that cannot be read
        return [str(path) for path in sorted(Path(folder).glob(pattern))]

    def walk(
        self,
        folder: str,
        *,
        hidden: bool = True,
        on_error: Callable[[OSError], None] | None = None,
        skip: Callable[[str, Sequence[str]], bool] | None = None,
        on_link: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[str, Sequence[str]]]:
        """See `Store.walk`."""
        top = os.path.realpath(folder)
        seen = {top}
        for here, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
            names = sorted(name for name in files if hidden or not name.startswith("."))
            if skip is not None and skip(here, names):
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
            for name in tuple(folders):
                path = os.path.join(here, name)
                real = os.path.realpath(path)
                if real in seen or (os.path.islink(path) and _is_read_by_itself(real, top, hidden)):
                    folders.remove(name)
                    if on_link is not None:
                        on_link(path)
                else:
                    seen.add(real)
            yield here, names

    def read(self, name: str, offset: int, size: int) -> bytes:
        """The `size` bytes of a file from `offset` on; fewer at its end.

        Raises:
            OSError: it cannot be read; the next try opens it anew.
        """
        try:
            data = os.pread(self._file(name), size, offset)
            while 0 < len(data) < size:  # at most 2 GiB come at a time
                more = os.pread(self._file(name), size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError:
            self._forget(name)
            raise
        return data

    def read_all(self, name: str) -> bytes:
        """The content of a small file."""
        return Path(name).read_bytes()

    def local_copy(self, name: str) -> Path:
        """The file itself."""
        return Path(name)

    def _forget(self, name: str) -> None:
        fd = self._open.pop(name, None)
        if fd is not None:
            with contextlib.suppress(OSError):  # closing may report the same fault once more
                os.close(fd)

    def _file(self, name: str) -> int:
        fd = self._open.pop(name, None)
        if fd is None:
            fd = os.open(name, os.O_RDONLY)
            if len(self._open) >= self._limit:
                os.close(self._open.popitem(last=False)[1])
        self._open[name] = fd
        return fd

    def close(self) -> None:
        """Closes all files; the next read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return {"_limit": self._limit, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()


def _is_read_by_itself(real: str, top: str, hidden: bool) -> bool:
    """Whether a walk of `top` meets the folder `real` without a link, or `top` lies in it (a loop)."""
    inside = os.path.relpath(real, top).split(os.sep)
    if inside[0] == "..":
        return set(inside) == {".."}
    return hidden or not any(part.startswith(".") for part in inside if part != ".")
