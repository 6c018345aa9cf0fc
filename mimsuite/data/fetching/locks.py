"""Locks on files that end with the process, and handles that a forked process does not inherit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import weakref
from pathlib import Path

from mimsuite.errors import RunError

Mark = tuple[int, int, int]


class Handle:
    """An open file of the cache, locked or not; links are not followed.

    Attributes:
        number: its file descriptor.
    """

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        """Opens a file; makes it where it is written.

        Raises:
            OSError: it cannot be opened; a link is.
        """
        flags = os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY
        self.number = -1
        self.number = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        _open.add(self)

    def lock(self, how: int = fcntl.LOCK_EX) -> bool:
        """Locks, or tells that another process has a lock in the way; waits for nobody.

        Raises:
            RunError: the file system has no locks.
        """
        try:
            fcntl.flock(self.number, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise RunError(
                f"the cache of shards needs file locks, and its disk has none ({error.strerror}); use loader.cache= on "
                "a disk of this machine"
            ) from error
        return True

    def share(self) -> bool:
        """Keeps others from removing the file, or tells that one is about to."""
        return self.lock(fcntl.LOCK_SH)

    @property
    def stat(self) -> os.stat_result:
        """What the system knows of the file."""
        return os.fstat(self.number)

    def unlock(self) -> None:
        """Ends the lock; the file stays open."""
        fcntl.flock(self.number, fcntl.LOCK_UN)

    @property
    def mark(self) -> Mark:
        """Changes when the file is changed or removed, or this process was forked from the one that opened it."""
        if self.number < 0:
            return 0, 0, 0
        found = os.fstat(self.number)
        return found.st_nlink, found.st_size, found.st_mtime_ns

    @property
    def is_plain(self) -> bool:
        """Whether it is a file, and not a folder or a device."""
        return stat.S_ISREG(self.stat.st_mode)

    def is_at(self, path: Path) -> bool:
        """Whether the file is still the one of this path."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (self.stat.st_dev, self.stat.st_ino)

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on; fewer at the end."""
        parts = list[bytes]()
        while size > 0 and (data := os.pread(self.number, size, offset)):
            parts.append(data)
            offset, size = offset + len(data), size - len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes, offset: int) -> None:
        """Writes all of `data` to `offset`."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self.number, rest, offset)
            rest, offset = rest[done:], offset + done

    def close(self) -> None:
        """Ends the lock, also where a forked process has the file open still."""
        number, self.number = self.number, -1
        if number >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_UN)
            os.close(number)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[Handle] = weakref.WeakSet()


def _forget() -> None:
    """In a forked process: it would keep files that are removed, and locks of a process that was killed."""
    for handle in list(_open):
        with contextlib.suppress(OSError):
            os.close(handle.number)
        handle.number = -1
    _open.clear()


os.register_at_fork(after_in_child=_forget)
