"""What a data set is, without where it lies: so a run that goes on knows its images again. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mimsuite.data.folders import count_of
from mimsuite.data.index import DataIndex, Samples, Shard
from mimsuite.data.stores.names import last_name

DATA = "data.json"  # in a run folder
Fingerprint = Mapping[str, list[dict[str, Any]]]
"""Of each split its shards, in order: `shard`, `samples`, `bytes`, and `sha256`, or `keys` where none is known; and
`labels`, where these come from a table."""


def fingerprint(index: DataIndex) -> Fingerprint:
    """The fingerprint of a data set; a copy in another place has the same one."""
    given = {} if index.given is None else {"labels": index.given.mark}
    return {split: [_facts(shard) | given for shard in shards] for split, shards in index.splits.items()}


def _facts(shard: Shard) -> dict[str, Any]:
    known = {"shard": last_name(shard.path), "samples": shard.samples, "bytes": shard.bytes}
    if shard.sha256 is not None:
        return known | {"sha256": shard.sha256}
    return known | {"keys": hashlib.sha256(Samples((shard,)).keys().tobytes()).hexdigest()}


def count_images(data: Mapping[str, Any]) -> dict[str, int]:
    """The images of each split, by what a run folder says of its data; of what it does not say nothing."""
    return {
        str(split): sum(shard["samples"] for shard in shards)
        for split, shards in data.items()
        if isinstance(shards, list)
        and all(isinstance(shard, Mapping) and isinstance(shard.get("samples"), int) for shard in shards)
    }


def difference(before: Fingerprint, now: Fingerprint) -> str | None:
    """The first difference of two data sets in words; None where there is none.

    A sha256 that only one of them has says nothing.
    """
    for split in sorted(before.keys() | now.keys()):
        old, new = before.get(split, []), now.get(split, [])
        if (had := _count(old)) != (has := _count(new)):
            return f"split {split} had {had}, and has {has}"
        for one, other in zip(old, new, strict=True):
            for key in ("shard", "samples", "bytes", "sha256", "keys", "labels"):
                if key in one and key in other and one[key] != other[key]:
                    had, has = (str(facts[key])[:16] for facts in (one, other))
                    return f"{one['shard']} of split {split} had {key} {had}, and has {has}"
    return None


def _count(shards: list[dict[str, Any]]) -> str:
    images = sum(facts["samples"] for facts in shards)
    return f"{count_of(images, 'image')} in {count_of(len(shards), 'shard')}"
