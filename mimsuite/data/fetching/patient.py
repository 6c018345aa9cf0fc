"""A remote store whose requests are tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mimsuite.data.fetching.retry import Attempts, persistently
from mimsuite.data.stores.backend import Entry
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.remote import RemoteStore
from mimsuite.data.stores.store import Stat

T = TypeVar("T")

TIMEOUT = 20.0  # seconds without progress of one read
_ATTEMPTS = 3  # at least so many fit into that time: an attempt that stalls is given up after a third of it


class PatientStore(RemoteStore):
    """As `RemoteStore`; a fault that passes is tried again until a read has made no progress for `timeout` seconds."""

    def __init__(self, scheme: str, timeout: float = TIMEOUT) -> None:
        """Takes the scheme of the addresses, and seconds."""
        super().__init__(scheme, timeout / _ATTEMPTS)
        self._patience = timeout

    def stat(self, name: str) -> Stat:
        """See `RemoteStore.stat`."""
        return self._persistently(name, super().stat)

    def entries(self, folder: str) -> Sequence[Entry]:
        """See `RemoteStore.entries`."""
        return self._persistently(folder, super().entries)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """See `RemoteStore.read`."""
        once = super().read
        return self._persistently(name, lambda name: once(name, offset, size))

    def stream(self, name: str, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See `RemoteStore.stream`; after a fault it goes on behind what has come.

        A file that ends before it has `size` bytes is a fault, too.
        """
        attempts = Attempts(self._patience)
        while True:
            try:
                for block in super().stream(name, offset):
                    yield block
                    offset += len(block)
                    attempts.advance(len(block))
                if size is None or offset >= size:
                    return
                raise StoreError(name, f"only {offset} of {size} bytes came", passes=True)
            except StoreError as error:
                try:
                    attempts.wait(error)
                except StoreError:
                    raise self._given_up(name, error) from error

    def put(self, source: Path, name: str) -> None:
        """See `RemoteStore.put`."""
        once = super().put
        self._persistently(name, lambda name: once(source, name))

    def _persistently(self, name: str, call: Callable[[str], T]) -> T:
        try:
            return persistently(lambda: call(name), self._patience)
        except StoreError as error:
            raise self._given_up(name, error) from error

    def _given_up(self, name: str, error: StoreError) -> StoreError:
        if not error.passes:
            return error
        why = f"{error.strerror}; tried for {self._patience:g} s, check the connection"
        return StoreError(name, why, status=error.status, retry_after=error.retry_after, number=error.errno or 0)

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"_patience": self._patience}
