"""Reads ranges of shards: from files of this machine, from whole shards in the cache, or by requests."""

from __future__ import annotations

import contextlib
import http
from collections.abc import Iterator

from mimsuite.data.fetching.limits import DEFAULT, Fetching
from mimsuite.data.fetching.retry import give_up, passes, persistently
from mimsuite.data.fetching.shard_cache import NoRoomError, ShardCache
from mimsuite.data.index import DataIndex, Samples, Shard
from mimsuite.data.stores.address import remote_store
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import scheme_of, shown
from mimsuite.errors import RunError

_MOST = 4  # where a pass reads at least one sample in so many, shards are fetched whole


def files_for(index: DataIndex, *parts: Samples) -> ShardFiles:
    """For a pass over some samples: where it reads much of the shards of other machines, these are fetched whole."""
    shards = [pair for samples in parts for pair in zip(samples.shards, samples.sizes.tolist(), strict=True)]
    whole = sum(map(len, parts)) * _MOST >= sum(shard.samples for shard, size in shards if size)
    return ShardFiles(index.fetching, whole=whole)


class ShardFiles:
    """Ranges of shards, wherever they lie."""

    def __init__(self, fetching: Fetching = DEFAULT, *, whole: bool = False) -> None:
        """Takes how shards are read.

        Args:
            fetching: what the user decided.
            whole: whether most of each shard will be read: then those of other machines are fetched whole, to the
                cache, as far as there is room. Otherwise they are read from there if they are there.
        """
        self._fetching, self._whole = fetching, whole and fetching.whole and fetching.limit > 0
        self._local = LocalStore()
        self._cache = ShardCache(fetching)

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Returns the `size` bytes of `shard` from `offset` on.

        A fault that may pass is tried again for `loader.timeout` seconds.

        Raises:
            RunError: the file vanished, cannot be read, or has become shorter.
        """
        read = self._read_remote if scheme_of(shard.path) else self._read_local
        data = read(shard, offset, size)
        if len(data) < size:
            raise RunError(
                f"shard {shown(shard.path)} ends before offset {offset + size}: it was cut during the run; copy it "
                "again, and resume the run"
            )
        return data

    @contextlib.contextmanager
    def nearby(self, shard: Shard) -> Iterator[str]:
        """A file with the bytes of a shard, for scans: where it is fetched whole, its copy, which stays meanwhile.

        Raises:
            RunError: it cannot be fetched, or its bytes are wrong.
        """
        with contextlib.ExitStack() as held:
            path = shard.path
            if self._whole and scheme_of(path):
                with contextlib.suppress(NoRoomError):
                    held.enter_context(self._cache.hold(shard))
                    path = str(self._cache.path(shard))
            yield path

    def _read_local(self, shard: Shard, offset: int, size: int) -> bytes:
        timeout = self._fetching.timeout
        try:
            return persistently(lambda: self._local.read(shard.path, offset, size), timeout)
        except OSError as error:
            tried = f"tried for {timeout:g} s; check the disk or the connection"
            what, fix = (
                f"shard {shard.path} cannot be read at offset {offset}",
                tried if passes(error) else "put it back",
            )
            raise give_up(what, error, fix) from error

    def _read_remote(self, shard: Shard, offset: int, size: int) -> bytes:
        if self._whole:
            with contextlib.suppress(NoRoomError):  # then by range
                return self._cache.read(shard, offset, size)
        elif (data := self._cache.read_if_here(shard, offset, size)) is not None:
            return data
        try:
            return remote_store(shard.path, self._fetching.timeout).read(shard.path, offset, size)
        except OSError as error:
            if isinstance(error, StoreError) and error.status == http.HTTPStatus.OK:
                return self._read_whole(shard, offset, size)
            raise give_up(f"shard {shown(shard.path)} cannot be read at offset {offset}", error) from error

    def _read_whole(self, shard: Shard, offset: int, size: int) -> bytes:
        """From a server that sends whole files alone."""
        try:
            return self._cache.read(shard, offset, size)
        except NoRoomError as error:
            raise RunError(
                f"the server of {shown(shard.path)} ignores Range, and loader.cache_gib={self._fetching.cache_gib:g} "
                f"has no room for whole shards of {shard.bytes / 2**30:.2f} GiB; use a larger one"
            ) from error

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
        self._local.close()
