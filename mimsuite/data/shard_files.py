"""Reads ranges of shards, and tries again where a fault may pass."""

from __future__ import annotations

import errno
import time

from mimsuite.data.stores.store import Store
from mimsuite.errors import RunError

# What a disk, a network file system or FUSE reports when it may work again in a moment.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EAGAIN", "EBUSY", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ENOMEM"),
    )
    if hasattr(errno, name)
)
_PATIENCE, _PAUSES = 20.0, (0.1, 2.0)  # seconds: in all; the first and the longest pause


class ShardFiles:
    """Ranges of the shards that lie in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Returns the `size` bytes of `path` from `offset` on.

        A fault that may pass is tried again for 20 seconds in all.

        Raises:
            RunError: the file vanished, cannot be read, or has become shorter.
        """
        try:
            data = self._store.read(path, offset, size)
        except OSError as error:
            data = self._read_again(path, offset, size, error)
        if len(data) < size:
            raise RunError(
                f"shard {path} ends before offset {offset + size}: it was cut during the run; copy it again, "
                "and resume the run"
            )
        return data

    def _read_again(self, path: str, offset: int, size: int, error: OSError) -> bytes:
        pause, longest = _PAUSES
        end = time.monotonic() + _PATIENCE
        while error.errno in _PASSING and time.monotonic() + pause <= end:
            time.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                return self._store.read(path, offset, size)
            except OSError as again:
                error = again
        tried = f"tried for {_PATIENCE:.0f} s; check the disk or the connection"
        fix = tried if error.errno in _PASSING else "put it back"
        raise RunError(
            f"shard {path} cannot be read at offset {offset}: {error.strerror}; {fix}, and resume the run"
        ) from error

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        self._store.close()
