"""What a user decides about fetching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mimsuite.data.fetching.patient import TIMEOUT
from mimsuite.data.storage import cache_folder

CACHE_GIB = 50.0
SHARDS = "shards"  # of the cache folder


@dataclass(frozen=True)
class Fetching:
    """How data are read.

    Attributes:
        timeout: seconds without progress of one read, its retries included, after which it is given up.
        cache: the folder that keeps shards of other machines; None: `shards` in the user's cache folder.
        cache_gib: the most that it may hold; 0 keeps none.
        whole: whether what reads most of a shard fetches it whole.
    """

    timeout: float = TIMEOUT
    cache: str | None = None
    cache_gib: float = CACHE_GIB
    whole: bool = True

    @property
    def limit(self) -> int:
        """The most bytes that the cache may hold."""
        return int(self.cache_gib * (1 << 30))

    @property
    def folder(self) -> Path:
        """The folder of the cache.

        Raises:
            InputError: the user has no cache folder.
        """
        return cache_folder() / SHARDS if self.cache is None else Path(self.cache)


DEFAULT = Fetching()
