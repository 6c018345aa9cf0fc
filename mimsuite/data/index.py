"""What a data set holds: its splits, shards, samples, classes and statistics. Imports no torch."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.fetching.limits import DEFAULT, Fetching
from mimsuite.data.hashing import find_smallest, mix_hashes, splitmix64
from mimsuite.data.labels import GivenLabels
from mimsuite.data.numbering import All, Numbering, Some
from mimsuite.data.tables import RowRange, TableFile, column_of, read_keys, read_rows
from mimsuite.data.tar import RECORD
from mimsuite.errors import InputError
from mimsuite.types import DisplayRange
from mimsuite.words import Alpha

STATS_SAMPLES = 512  # training images whose pixels give mean and std
EVERY_SPLIT = "all"
_TABLES = 64  # shards whose rows stay at hand

Role = Literal["train", "curve", "test", "fit", "choose"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file.

    Attributes:
        path: where it lies.
        samples: how many images it holds.
        bytes: its size.
        sha256: of the whole file, in hex; None where it is not known.
        table: a `.npy` file with one `tar.RECORD` per sample: of all shards of a data set, or of this one alone.
        classes: the number, in the data set, of each class of the shard; None where they are the same.
        row: where its rows begin in the table.
        keys: the keys of all rows of the table, once more; None where the table is of this shard alone.
    """

    path: str
    samples: int
    bytes: int
    sha256: str | None
    table: str
    classes: tuple[int, ...] | None = None
    row: int = 0
    keys: str | None = None


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

    def __init__(self, shards: tuple[Shard, ...], chosen: Numbering | None = None) -> None:
        """Takes all samples of `shards`, or the chosen ones."""
        self.shards = shards
        bounds = np.zeros(len(shards) + 1, dtype=np.int64)
        np.cumsum([shard.samples for shard in shards], out=bounds[1:])
        self._starts: list[int] = bounds.tolist()
        self._chosen = All(self._starts[-1]) if chosen is None else chosen
        self.sizes = np.diff(self._chosen.before(bounds))
        self._rows = OrderedDict[int, NDArray[np.void]]()
        self._files: dict[str, TableFile] = {}  # the last that were opened

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, number: int) -> tuple[Shard, np.void]:
        """Returns the shard and the `tar.RECORD` of a sample."""
        place = self._chosen.place(number)
        shard = bisect_right(self._starts, place) - 1
        return self.shards[shard], self._rows_of(shard)[place - self._starts[shard]]

    def keys(self) -> NDArray[np.uint64]:
        """The hashed keys of all samples, `(N,)`."""
        return np.concatenate([np.empty(0, np.uint64), *self.key_blocks()])

    def column(self, name: str) -> NDArray[Any]:
        """One field of the `tar.RECORD`s of all samples, `(N,)`."""
        return np.concatenate([np.empty(0, RECORD[name]), *(column_of(rows, name) for rows in self.row_blocks())])

    def key_blocks(self) -> Iterator[NDArray[np.uint64]]:
        """Yields the hashed keys of all samples in order, some at a time."""
        place = 0
        for where in self._ranges():
            keys = read_keys(self._table(where.keys or where.table), where)
            yield keys[self._chosen.within(place, place + len(keys))]
            place += len(keys)

    def row_blocks(self) -> Iterator[NDArray[np.void]]:
        """Yields the rows of all samples in order, some at a time."""
        place = 0
        for where in self._ranges():
            rows = read_rows(self._table(where.table), where)
            yield rows[self._chosen.within(place, place + len(rows))]
            place += len(rows)

    def take(self, numbers: NDArray[np.int64]) -> Samples:
        """The samples with these (ascending) numbers."""
        return Samples(self.shards, Some(self._chosen.places(numbers)))

    def without(self, numbers: NDArray[np.int64]) -> Samples:
        """All samples but those with these (ascending) numbers."""
        return Samples(self.shards, self._chosen.without(numbers))

    def smallest(self, count: int, salt: int) -> NDArray[np.int64]:
        """The numbers of `count` samples, chosen by key and `salt` (more, where keys are equal).

        Memory grows with `count` alone.
        """
        if count >= len(self):
            return np.arange(len(self))
        mixed = np.uint64(mix_hashes(salt))
        return find_smallest(count, (splitmix64(keys ^ mixed) for keys in self.key_blocks()))

    def of_curves(self, limit: int) -> Samples:
        """At most `limit` of them, chosen once by their keys: what curves are drawn from."""
        return self.take(self.smallest(limit, _SALT_CURVE)[:limit])

    def _ranges(self) -> Iterator[RowRange]:
        """The rows of all shards; those that lie side by side in one table together."""
        last: RowRange | None = None
        for shard in self.shards:
            here = _range_of(shard)
            joined = last and last.joined(here)
            if last and not joined:
                yield last
            last = joined or here
        if last:
            yield last

    def _rows_of(self, number: int) -> NDArray[np.void]:
        """The rows of a shard; those of the last shards stay at hand."""
        rows = self._rows.pop(number, None)
        if rows is None:
            where = _range_of(self.shards[number])
            rows = read_rows(self._table(where.table), where)
            if len(self._rows) >= _TABLES:
                self._rows.popitem(last=False)
        self._rows[number] = rows  # the last used is the last
        return rows

    def _table(self, name: str) -> TableFile:
        if name not in self._files:
            if len(self._files) > 1:  # two for a data set; in an older one each shard has its own
                self._files.clear()
            self._files[name] = TableFile(name)
        return self._files[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": OrderedDict(), "_files": {}}


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
        bands: names of the channels; None where they have none.
        value_range: the values, in the files that were packed, that are 0 and the dtype's maximum; None: those are
            kept as they were.
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
    bands: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    reading: tuple[str, ...] = field(default=(), compare=False)
    given: GivenLabels | None = field(default=None, repr=False, compare=False)
    chosen: Mapping[str, NDArray[np.int64]] | None = field(default=None, repr=False, compare=False)
    totals: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    sets: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    fetching: Fetching = field(default=DEFAULT, repr=False, compare=False)
    _held: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
            return Samples(self.shards_of(split), None if self.chosen is None else Some(self.chosen[split]))
        samples = self.records(split.split)
        if split.part == "all":
            return samples
        if split.split not in self._held:
            self._held[split.split] = samples.smallest(held_out(len(samples)), salt=_SALT_HELD)
        held = self._held[split.split]
        return samples.take(held) if split.part == "held" else samples.without(held)

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


def _range_of(shard: Shard) -> RowRange:
    return RowRange(shard.table, shard.keys, shard.row, shard.samples, shard.path)
