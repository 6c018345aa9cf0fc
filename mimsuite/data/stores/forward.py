"""A file that is read from its beginning to its end, as by a scan of headers: one request instead of one a header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from mimsuite.data.fetching.retry import Attempts, persistently
from mimsuite.data.stores.address import remote_store
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.stores.remote import TIMEOUT, RemoteStore

_KEPT = 4 << 20  # bytes behind the last read that can be read again
_JUMP = 4 << 20  # a gap of more is passed over by a new request


class Reader(Protocol):
    """Reads one file.

    Attributes:
        size: of the file, in bytes.
    """

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on; fewer at the end."""
        ...

    def close(self) -> None:
        """Gives up what is open."""
        ...


def open_reader(name: str, size: int | None = None) -> Reader:
    """What reads a file from its beginning to its end.

    Args:
        name: a path or an address.
        size: in bytes, where it is known.

    Raises:
        OSError: the file cannot be read.
    """
    if not scheme_of(name):
        return _LocalReader(name)
    return ForwardReader(remote_store(name), name, size)


class _LocalReader:
    """A file of this machine."""

    def __init__(self, name: str) -> None:
        self._store, self._name = LocalStore(), name
        self.size = self._store.stat(name).size

    def read(self, offset: int, size: int) -> bytes:
        return self._store.read(self._name, offset, size)

    def close(self) -> None:
        self._store.close()


class ForwardReader:
    """A remote file: small gaps are read, larger ones passed over by range; what fails and may pass is tried again.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, store: RemoteStore, name: str, size: int | None = None, timeout: float = TIMEOUT) -> None:
        """Takes a file; `size` saves a request, `timeout` is the seconds without progress after which it is given up.

        Raises:
            StoreError: it cannot be read.
        """
        self._store, self._name, self._timeout = store, name, timeout
        self.size = persistently(lambda: store.stat(name).size, timeout) if size is None else size
        self._start, self._held = 0, bytearray()  # where the bytes at hand begin, and they
        self._blocks: Iterator[bytes] | None = None
        self._digest, self._hashed = hashlib.sha256(), 0

    @property
    def sha256(self) -> str | None:
        """The sha256 of the file in hex, once all of it has been read; None where a gap was passed over."""
        return self._digest.hexdigest() if self._hashed == self.size else None

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on; fewer at the end.

        Raises:
            StoreError: they cannot be read.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        if not self._start <= offset <= self._start + len(self._held) + _JUMP:
            self._move(offset)
        while self._start + len(self._held) < end:
            self._take(self._next(), offset)
        first = offset - self._start
        return bytes(self._held[first : first + end - offset])

    def read_rest(self) -> None:
        """Reads what is left, so that the sha256 is known; not after a gap."""
        while self._start + len(self._held) == self._hashed < self.size:
            self._take(self._next(), self._hashed)

    def close(self) -> None:
        """Gives up the request."""
        self._blocks = None

    def _move(self, offset: int) -> None:
        self.close()
        self._start, self._held = offset, bytearray()

    def _take(self, block: bytes, needed: int) -> None:
        """Keeps a block, and forgets what lies far before the bytes that are needed."""
        end = self._start + len(self._held)
        if end == self._hashed:
            self._digest.update(block)
            self._hashed += len(block)
        self._held += block
        useless = max(0, min(needed, end) - self._start - _KEPT)
        if useless > _KEPT:
            del self._held[:useless]
            self._start += useless

    def _next(self) -> bytes:
        """The next block of the file; a request that broke goes on where it was."""
        attempts = Attempts(self._timeout)
        while True:
            try:
                if self._blocks is None:
                    self._blocks = iter(self._store.stream(self._name, self._start + len(self._held)))
                if block := next(self._blocks, b""):
                    return block
                raise StoreError(self._name, f"it ends before its {self.size} bytes", passes=True)
            except OSError as error:
                self._blocks = None
                attempts.wait(error)
