"""How shards are read: the time of a read, and the cache of shards of other machines. Imports no torch."""

from __future__ import annotations

import math
import os
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.data.fetching.limits import DEFAULT, Fetching
from mimsuite.data.fetching.shard_cache import make_folder
from mimsuite.data.index import DataIndex
from mimsuite.data.stores.names import scheme_of
from mimsuite.errors import InputError
from mimsuite.settings.read import is_number, read, read_positive, read_text


def read_fetching(cfg: DictConfig) -> Fetching:
    """The keys of `loader` about reads; runs from before some of them have what these are by default.

    Raises:
        InputError: a time or a size that is none.
    """
    keys = cfg.loader
    gib = read(cfg, "loader.cache_gib") if "cache_gib" in keys else DEFAULT.cache_gib
    if not is_number(gib) or not 0 <= gib < math.inf:
        raise InputError(f"loader.cache_gib={gib} is not a number of GiB; use 50, or 0 to keep no shards")
    folder = read_text(cfg, "loader.cache") if "cache" in keys else None
    return Fetching(
        timeout=read_positive(cfg, "loader.timeout") if "timeout" in keys else DEFAULT.timeout,
        cache=None if folder is None else os.path.abspath(folder),
        cache_gib=float(gib),
    )


def check_cache(index: DataIndex, fetching: Fetching) -> None:
    """Makes the folder that shards of other machines are kept in, where some of the data are there.

    Raises:
        InputError: it cannot be written.
    """
    far = any(scheme_of(shards[0].path) for shards in index.splits.values() if shards)
    if (far or any(map(scheme_of, index.sets))) and fetching.limit:
        make_folder(fetching)


def written_cache(fetching: Fetching) -> dict[str, str]:
    """The folder as it is written to `config.yaml`, where one was given."""
    return {} if fetching.cache is None else {"loader.cache": str(Path(fetching.cache))}
