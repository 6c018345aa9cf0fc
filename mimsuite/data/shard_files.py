"""Reads ranges of shards, and tries again where a fault may pass."""

from __future__ import annotations

from mimsuite.data.fetching.limits import DEFAULT, Fetching
from mimsuite.data.fetching.retry import Attempts, passes
from mimsuite.data.index import Shard
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.stores.store import Store
from mimsuite.errors import RunError


class ShardFiles:
    """Ranges of shards, wherever they lie."""

    def __init__(self, fetching: Fetching = DEFAULT) -> None:
        self._fetching = fetching
        self._stores: dict[str, Store] = {}

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Returns the `size` bytes of `shard` from `offset` on.

        A fault that may pass is tried again for `loader.timeout` seconds.

        Raises:
            RunError: the file vanished, cannot be read, or has become shorter.
        """
        store, attempts = self._store(shard.path), None
        while True:
            try:
                data = store.read(shard.path, offset, size)
                break
            except OSError as error:
                attempts = attempts or Attempts(self._fetching.timeout)
                try:
                    attempts.wait(error)
                except OSError as last:
                    raise self._given_up(shard.path, offset, last) from error
        if len(data) < size:
            raise RunError(
                f"shard {shard.path} ends before offset {offset + size}: it was cut during the run; copy it again, "
                "and resume the run"
            )
        return data

    def _given_up(self, path: str, offset: int, error: OSError) -> RunError:
        tried = f"tried for {self._fetching.timeout:g} s; check the disk or the connection"
        fix = tried if passes(error) else "put it back"
        return RunError(f"shard {path} cannot be read at offset {offset}: {error.strerror}; {fix}, and resume the run")

    def _store(self, path: str) -> Store:
        scheme = scheme_of(path)
        if scheme not in self._stores:
            self._stores[scheme] = store_of(path)
        return self._stores[scheme]

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        for store in self._stores.values():
            store.close()
