"""What a data set holds: its splits, shards, samples, classes and statistics. Imports no torch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.fetching.limits import DEFAULT, Fetching
from mimsuite.data.hashing import mix_hashes, splitmix64
from mimsuite.data.labels import GivenLabels
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.store import map_array
from mimsuite.data.tar import FIRST_RECORD, RECORD
from mimsuite.errors import InputError, reading
from mimsuite.types import DisplayRange
from mimsuite.words import Alpha

STATS_SAMPLES = 512  # training images whose pixels give mean and std
EVERY_SPLIT = "all"
_TABLES = 64  # kept open, for each holds a file

Role = Literal["train", "curve", "test", "fit", "choose"]


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Attributes:
        path: where it lies.
        samples: how many images it holds.
        bytes: its size.
        sha256: of the whole file, in hex; None where it is not known.
        table: the `.idx.npy` with one `tar.RECORD` per sample.
        classes: the number, in the data set, of each class of the shard; None where they are the same.
    """

    path: str
    samples: int
    bytes: int
    sha256: str | None
    table: str
    classes: tuple[int, ...] | None = None


class Selection(NamedTuple):
    """A split, or the part of it that is held out from training, or the rest that is trained on."""

    split: str
    part: Literal["all", "held", "rest"] = "all"

    def __str__(self) -> str:
        return {"all": "{}", "held": "held out from {}", "rest": "the rest of {}"}[self.part].format(self.split)


class Samples:
    """Samples numbered from 0, in the order of shards and of their rows; tables are read when first needed.

    Attributes:
        shards: the shards they lie in.
        sizes: samples per shard, int64.
    """

    def __init__(self, shards: tuple[Shard, ...], keep: NDArray[np.int64] | None = None) -> None:
        """Takes all samples of `shards`, or those numbered `keep` (ascending)."""
        self.shards = shards
        counts = [shard.samples for shard in shards]
        self._starts = [0, *np.cumsum(counts, dtype=np.int64).tolist()]
        self._keep = keep
        self._tables: dict[int, NDArray[np.void]] = {}
        if keep is None:
            self.sizes = np.array(counts, dtype=np.int64)
        else:
            self.sizes = np.diff(np.searchsorted(keep, np.array(self._starts)))

    def __len__(self) -> int:
        return self._starts[-1] if self._keep is None else len(self._keep)

    def __getitem__(self, number: int) -> tuple[Shard, np.void]:
        """Returns the shard and the `tar.RECORD` of a sample."""
        position = number if self._keep is None else int(self._keep[number])
        shard = bisect_right(self._starts, position) - 1
        return self.shards[shard], self._table(shard)[position - self._starts[shard]]

    def keys(self) -> NDArray[np.uint64]:
        """The hashed keys of all samples, `(N,)`."""
        keys: NDArray[np.uint64] = self.column("key")
        return keys

    def column(self, name: str) -> NDArray[Any]:
        """One field of the `tar.RECORD`s of all samples, `(N,)`."""
        values = np.concatenate([_column(self._table(i), name) for i in range(len(self.shards))])
        return values if self._keep is None else values[self._keep]

    def take(self, numbers: NDArray[np.int64]) -> Samples:
        """The samples with these (ascending) numbers."""
        return Samples(self.shards, numbers if self._keep is None else self._keep[numbers])

    def smallest(self, count: int, salt: int) -> NDArray[np.int64]:
        """The numbers of `count` samples, chosen by key and `salt` (more, where keys are equal)."""
        if count >= len(self):
            return np.arange(len(self))
        hashes = splitmix64(self.keys() ^ np.uint64(mix_hashes(salt)))
        return np.flatnonzero(hashes <= np.partition(hashes, count - 1)[count - 1])

    def of_curves(self, limit: int) -> Samples:
        """At most `limit` of them, chosen once by their keys: what curves are drawn from."""
        return self.take(self.smallest(limit, _SALT_CURVE)[:limit])

    def _table(self, number: int) -> NDArray[np.void]:
        table = self._tables.pop(number, None)
        if table is None:
            table = _load_table(self.shards[number])
            if len(self._tables) >= _TABLES:
                self._tables.pop(next(iter(self._tables)))
        self._tables[number] = table  # the last used is the last
        return table

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}}


@dataclass(frozen=True)
class DataIndex:
    """A data set, without its images.

    Attributes:
        root: the folder that it was opened from, as errors and titles name it.
        splits: `train`, `val`, `test`, as far as they exist.
        classes: names, by label; None where no names were given.
        channels: of every decoded image.
        dtype: of every decoded image, "uint8" or "uint16".
        mean, std: per channel, in fractions of the dtype's maximum.
        image_size: median (height, width) of the sampled images, in pixels.
        has_labels: whether any sample has a label.
        display: what pictures show as black and as full brightness; None of 8-bit data, and where an older index
            does not say it (see `data.display_range.find_display`).
        alpha: what becomes of transparency when an image is read.
        reading: how a folder of images was read, as lines for people; empty for shards. It is not kept with the index.
        given: labels that stand in for those in the shards, or None.
        chosen: per split the numbers of the samples that count, ascending; None: all. Splits of which none does are not
            among `splits`.
        totals: then how many samples each split has in all.
        sets: of several data sets as one, the `root` that each shard belongs to, by its path.
        fetching: how the shards are read.
    """

    root: str
    splits: dict[str, tuple[Shard, ...]]
    classes: tuple[str, ...] | None
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    has_labels: bool
    display: DisplayRange | None = None
    alpha: Alpha = "white"
    reading: tuple[str, ...] = field(default=(), compare=False)
    given: GivenLabels | None = field(default=None, repr=False, compare=False)
    chosen: Mapping[str, NDArray[np.int64]] | None = field(default=None, repr=False, compare=False)
    totals: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    sets: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    fetching: Fetching = field(default=DEFAULT, repr=False, compare=False)

    @property
    def maximum(self) -> int:
        """The largest value of the dtype."""
        return 65535 if self.dtype == "uint16" else 255

    def num_samples(self, split: str | Selection) -> int:
        """How many samples a split, or a part of it, has."""
        return len(self.records(split))

    def records(self, split: str | Selection) -> Samples:
        """Where the samples of a split, or of a part of it, lie."""
        if isinstance(split, str):
            return Samples(self.shards_of(split), None if self.chosen is None else self.chosen[split])
        samples = self.records(split.split)
        if split.part == "all":
            return samples
        held = samples.smallest(held_out(len(samples)), salt=_SALT_HELD)
        if split.part == "held":
            return samples.take(held)
        return samples.take(np.setdiff1d(np.arange(len(samples)), held, assume_unique=True))

    def select(self, role: Role) -> Selection:
        """Chooses the samples of a role.

        Selection never looks at `test`, so "fit" and "choose" keep a part of `train` apart where there is no `val`.

        Args:
            role: "train", what pretraining learns from, and "curve", what its curves are drawn from: `val`, else
                `test`, else a part of `train` that is then kept out of training. "fit", what supervised training
                learns from, and "choose", what anything is selected on: `val`, else such a part of `train`.
                "test": `test`, else `val`.

        Raises:
            InputError: the data set has no such samples.
        """
        apart = next((name for name in _APART[role] if name in self.splits), None)
        if role in ("train", "fit"):
            self._need(("train",), _NO_TRAIN)
            return Selection("train") if apart else Selection("train", "rest")
        if apart:
            return Selection(apart)
        if role == "test":
            self._need(_APART[role], "pack it again with val_fraction=0.1, or add val-*.tar")
        self._need((*_APART[role], "train"), _NO_TRAIN)
        return Selection("train", "held")

    def _need(self, names: tuple[str, ...], fix: str) -> None:
        if not set(names) & set(self.splits):
            found = ", ".join(self.splits)
            raise InputError(f"data {self.root} has no split {' or '.join(names)}, only {found}; {fix}")

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, or of all (`EVERY_SPLIT`), one split after the other.

        Raises:
            InputError: the data set has no such split.
        """
        if split == EVERY_SPLIT:
            return tuple(shard for shards in self.splits.values() for shard in shards)
        if split not in self.splits:
            raise InputError(f"split={split} is not in {self.root}; it has {', '.join(self.splits)}")
        return self.splits[split]


_SALT_HELD, _SALT_CURVE = 0x48454C44, 0x56414C
_NO_TRAIN = "rename its shards train-*.tar"
_APART: dict[Role, tuple[str, ...]] = {
    "train": ("val", "test"),
    "curve": ("val", "test"),
    "fit": ("val",),
    "choose": ("val",),
    "test": ("test", "val"),
}


def held_out(samples: int) -> int:
    """How many of `samples` are held out for curves: 1 %, at least 16, at most a tenth, at least one."""
    return max(1, min(max(16, samples // 100), samples // 10))


def _column(table: NDArray[np.void], name: str) -> NDArray[Any]:
    """A field of all rows; zeros where a table was written before there was this field."""
    return np.array(table[name]) if name in (table.dtype.names or ()) else np.zeros(len(table), RECORD[name])


def _load_table(shard: Shard) -> NDArray[np.void]:
    with reading(shard.table, "pack the data again"):
        table: NDArray[np.void] = map_array(store_of(shard.table), shard.table)
    if table.dtype not in (RECORD, FIRST_RECORD) or table.shape != (shard.samples,):
        raise InputError(
            f"{shard.table} does not belong to {shard.path} ({shard.samples} samples); pack the data again"
        )
    return table.view(np.ndarray)
