"""What a data set holds: its splits, shards, samples, classes and statistics. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import hash_key, mix, splitmix64
from mimsuite.data.images.stats import profile
from mimsuite.data.labels import has_label
from mimsuite.data.sources import INFO, ShardFiles, find_shards, is_image_folder, read_info, split_of
from mimsuite.data.tar import RECORD, header_name, scan_shard, split_name
from mimsuite.errors import InputError, RunError

log = logging.getLogger("mimsuite")

FORMAT = "mimsuite-1"
JOURNAL = "pack.journal"  # lies in a packed folder until it is finished
STATS_SAMPLES = 512
_TABLES = 64  # kept open, for each holds a file

Role = Literal["train", "curve", "test", "fit", "choose"]


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Attributes:
        path: where it lies.
        samples: how many images it holds.
        bytes: its size.
        sha256: of the whole file, in hex; None where nobody has read it yet.
        table: the `.idx.npy` with one `tar.RECORD` per sample.
    """

    path: str
    samples: int
    bytes: int
    sha256: str | None
    table: str


class Selection(NamedTuple):
    """A split, or the part of it that is held out from training, or the rest that is trained on."""

    split: str
    part: Literal["all", "held", "rest"] = "all"


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
        values = np.concatenate([np.array(self._table(i)[name]) for i in range(len(self.shards))])
        return values if self._keep is None else values[self._keep]

    def take(self, numbers: NDArray[np.int64]) -> Samples:
        """The samples with these (ascending) numbers."""
        return Samples(self.shards, numbers if self._keep is None else self._keep[numbers])

    def smallest(self, count: int, salt: int) -> NDArray[np.int64]:
        """The numbers of `count` samples, chosen by key and `salt` (more, where keys are equal)."""
        if count >= len(self):
            return np.arange(len(self))
        hashes = splitmix64(self.keys() ^ np.uint64(mix(salt)))
        return np.flatnonzero(hashes <= np.partition(hashes, count - 1)[count - 1])

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
        root: the folder that it was opened from.
        splits: `train`, `val`, `test`, as far as they exist.
        classes: names, by label; None where nobody gave names.
        channels: of every decoded image.
        dtype: of every decoded image, "uint8" or "uint16".
        mean, std: per channel, in fractions of the dtype's maximum.
        image_size: median (height, width) of the sampled images, in pixels.
        has_labels: whether the samples carry labels.
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

    def num_samples(self, split: str | Selection) -> int:
        """How many samples a split, or a part of it, has."""
        if isinstance(split, str):
            return sum(shard.samples for shard in self._shards(split))
        return len(self.records(split)) if split.part != "all" else self.num_samples(split.split)

    def records(self, split: str | Selection) -> Samples:
        """Where the samples of a split, or of a part of it, lie."""
        if isinstance(split, str):
            return Samples(self._shards(split))
        samples = Samples(self._shards(split.split))
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
            self._need(_APART[role], "pack it with val_fraction=0.1, or name a split")
        self._need((*_APART[role], "train"), _NO_TRAIN)
        return Selection("train", "held")

    def _need(self, names: tuple[str, ...], fix: str) -> None:
        if not set(names) & set(self.splits):
            found = ", ".join(self.splits)
            raise InputError(f"data {self.root} has no split {' or '.join(names)}, only {found}; {fix}")

    def _shards(self, split: str) -> tuple[Shard, ...]:
        if split not in self.splits:
            raise InputError(f"split={split} is not in {self.root}; it has {', '.join(self.splits)}")
        return self.splits[split]


_SALT_HELD, _SALT_STATS = 0x48454C44, 0x53544154
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


def open_index(data: str, cache: Path | None = None) -> DataIndex:
    """Opens a data set, and checks the size of every shard.

    Args:
        data: a packed folder (with `index.json`), any folder of tar shards, a pattern `dir/{000..012}.tar`,
            or a .tar file.
        cache: where the index of shards without one is kept; default: `mimsuite` in the user's cache
            directory. A scan of the headers makes it on first use, and again when a size or time has changed.



    Raises:
        InputError: missing, unreadable, empty, cut or damaged; shard and offset are named.
    """
    folder = Path(os.path.abspath(Path(data).expanduser()))
    if os.path.isfile(folder / "index.json"):
        return _check_sizes(read_index(folder))
    if os.path.isfile(folder / JOURNAL):
        raise InputError(f"data={data} holds a half-finished pack; run the same `mimsuite pack` again to finish it")
    if is_image_folder(data):
        raise InputError(f"data={data} is a folder of images, not of shards; run `mimsuite pack src={data} out=FOLDER`")
    root, paths = find_shards(data)
    home = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimsuite"
    entry = home / "index" / _fingerprint(paths, root / INFO)
    if not os.path.isfile(entry / "index.json"):
        _scan_into(entry, root, paths)
    return read_index(entry, root)


def index_beside(data: str) -> None:
    """Writes `index.json`, with the sha256 of each shard, and the tables beside the shards of a folder.

    Raises:
        InputError: no folder of shards, one that has an index, one that cannot be written, or damaged shards.
    """
    folder = Path(os.path.abspath(Path(data).expanduser()))
    if (folder / "index.json").exists():
        raise InputError(f"index=true, but data={data} has an index.json; move it away to have a new one written")
    if not folder.is_dir() or is_image_folder(data):
        raise InputError(f"index=true writes into a folder of shards, and data={data} is none; name their folder")
    root, paths = find_shards(data)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".index-", ignore_cleanup_errors=True) as name:
            index = build_index(root, paths, Path(name), {path: sha256_of(path) for path in paths})
            splits = {split: tuple(map(_put_beside, shards)) for split, shards in index.splits.items()}
        write_index(root, replace(index, splits=splits))
    except OSError as error:
        raise InputError(
            f"index=true, but {error.filename or root} cannot be written ({error.strerror}); copy the shards to a "
            "folder of yours, or leave index=true away: the index is then kept in your cache"
        ) from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_beside(shard: Shard) -> Shard:
    place = Path(shard.path).with_name(f"{Path(shard.path).stem}.idx.npy")
    os.replace(shard.table, place)
    return replace(shard, table=str(place))


def build_index(root: Path, paths: list[Path], tables: Path, hashes: dict[Path, str]) -> DataIndex:
    """Scans shards and writes their tables into the folder `tables`.

    Args:
        root: the folder of the data set; `classes.txt` in it gives the names of the classes.
        paths: the shards.
        tables: an existing folder.
        hashes: sha256 of the shards, as far as they are known.
    """
    splits: dict[str, list[Shard]] = {}
    told = read_info(root)
    for number, path in enumerate(paths):
        rows = scan_shard(str(path))
        split, count = told.get(path.name, (split_of(path, root), None))
        if count not in (None, len(rows)):
            log.warning("%s holds %d images, %s says %d", path, len(rows), INFO, count)
        same = path.parent == tables
        table = tables / (f"{path.stem}.idx.npy" if same else f"{number:06d}.idx.npy")
        np.save(table, rows)
        shard = Shard(str(path), len(rows), path.stat().st_size, hashes.get(path), str(table))
        splits.setdefault(split, []).append(shard)
        ordered: dict[str, tuple[Shard, ...]] = {
            name: tuple(splits[name]) for name in ("train", "val", "test") if name in splits
        }
    samples = Samples(next(iter(ordered.values())))
    chosen = samples.take(samples.smallest(STATS_SAMPLES, salt=_SALT_STATS))
    facts = profile(_images(chosen), str(root))
    return DataIndex(
        root=str(root),
        splits=ordered,
        classes=_read_classes(root),
        channels=facts.channels,
        dtype=facts.dtype,
        mean=facts.mean,
        std=facts.std,
        image_size=facts.image_size,
        has_labels=_labelled(chosen),
    )


def write_index(folder: Path, index: DataIndex) -> None:
    """Writes `index.json`; shards and tables that lie in `folder` are named relative to it."""

    def name(path: str) -> str:
        return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path

    content = {
        "format": FORMAT,
        "splits": {
            split: [
                {
                    "file": name(s.path),
                    "samples": s.samples,
                    "bytes": s.bytes,
                    "sha256": s.sha256,
                    "table": name(s.table),
                }
                for s in shards
            ]
            for split, shards in index.splits.items()
        },
        "classes": index.classes,
        "channels": index.channels,
        "dtype": index.dtype,
        "mean": index.mean,
        "std": index.std,
        "image_size": index.image_size,
        "has_labels": index.has_labels,
    }
    part = folder / ".index.json.part"
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "index.json")


def read_index(folder: Path, root: Path | None = None) -> DataIndex:
    """Reads `index.json`; with `root`, it is the cached index of the shards in that folder.

    Raises:
        InputError: unreadable, or not of our format.
    """
    file = folder / "index.json"
    fix = "pack the data again, or move index.json away to have the shards scanned"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); {fix}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{file} has format {found!r}, {FORMAT!r} is expected; {fix}")
    try:
        splits = {
            split: tuple(
                Shard(
                    path=_inside(folder, s["file"], root is None),
                    samples=int(s["samples"]),
                    bytes=int(s["bytes"]),
                    sha256=s["sha256"],
                    table=_inside(folder, s["table"], root is None),
                )
                for s in shards
            )
            for split, shards in content["splits"].items()
        }
        index = DataIndex(
            root=str(root or folder),
            splits=splits,
            classes=_read_classes(root) if root else tuple(content["classes"]) if content["classes"] else None,
            channels=int(content["channels"]),
            dtype=content["dtype"],
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            image_size=(int(content["image_size"][0]), int(content["image_size"][1])),
            has_labels=bool(content["has_labels"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{file} is damaged ({type(error).__name__}: {error}); {fix}") from error
    _check_splits(index, file)
    return index


def _check_splits(index: DataIndex, file: Path) -> None:
    """A split without images would look as if it were there, and nothing could be trained or judged on it."""
    empty = next((split for split in index.splits if index.num_samples(split) < 1), None)
    if empty is not None:
        raise InputError(
            f"{file} names a split {empty} that holds no images; take {empty} out of its splits, or pack the data "
            "again with images for it"
        )
    if not index.splits:
        raise InputError(f"{file} names no splits; pack the data again")


def _inside(folder: Path, name: str, packed: bool) -> str:
    if packed and (os.path.isabs(name) or ".." in name.split("/")):
        raise ValueError(f"{name} lies outside the folder")
    return os.path.join(folder, name)  # ten times as fast as Path, and there may be 100,000


def _check_sizes(index: DataIndex) -> DataIndex:
    for shard in (s for shards in index.splits.values() for s in shards):
        try:
            size = os.stat(shard.path).st_size
        except OSError as error:
            raise InputError(f"shard {shard.path} cannot be read ({error.strerror}); copy it again") from error
        if size != shard.bytes:
            what = f"cut at offset {size}" if size < shard.bytes else "changed"
            raise InputError(
                f"shard {shard.path} is {what}: {size} bytes, index.json says {shard.bytes}; copy it again"
            )
    return index


def _load_table(shard: Shard) -> NDArray[np.void]:
    try:
        table: NDArray[np.void] = np.load(shard.table, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{shard.table} cannot be read ({error}); pack the data again") from error
    if table.dtype != RECORD or table.shape != (shard.samples,):
        raise InputError(
            f"{shard.table} does not belong to {shard.path} ({shard.samples} samples); pack the data again"
        )
    return table.view(np.ndarray)


def _fingerprint(paths: list[Path], info: Path) -> str:
    digest = hashlib.sha256(FORMAT.encode())
    for path in [*paths, *([info] if info.is_file() else [])]:
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(
                f"shard {path} cannot be read ({error.strerror}); check the path and its rights"
            ) from error
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _scan_into(entry: Path, root: Path, paths: list[Path]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=entry.parent, prefix=".scan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"the index of {root} cannot be kept in {entry.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    with temporary as name:
        made = Path(name) / "entry"
        made.mkdir()
        index = build_index(root, paths, made, {})
        write_index(made, index)
        try:
            made.rename(entry)
        except OSError:
            if not (entry / "index.json").is_file():  # otherwise another process was faster
                raise


def read_member(files: ShardFiles, shard: Shard, offset: int, header: int, size: int) -> tuple[str, bytes]:
    """Reads the image or the label of a sample.

    Args:
        files: reads the shards.
        shard: where it lies.
        offset, header, size: of the member, as in `tar.RECORD`.

    Returns:
        The member's name, and its bytes.

    Raises:
        InputError: the place lies outside the shard.
        RunError: the shard cannot be read.
    """
    if offset < header or offset + size > shard.bytes:
        raise InputError(
            f"{shard.table} points outside {shard.path}, at offset {offset} of {shard.bytes}; pack the data again"
        )
    data = files.read(shard.path, offset - header, header + size)
    return header_name(data[:header], shard.path), data[header:]


def check_key(shard: Shard, offset: int, key: str, identity: int) -> None:
    """Checks that the member at `offset` belongs to the sample whose hashed key the index holds.

    Raises:
        RunError: it is another one.
    """
    if hash_key(key) != identity:
        raise RunError(
            f"shard {shard.path} is not the one that was indexed: another member lies at offset {offset}; "
            "it was replaced, or its index is old: pack the data again"
        )


def _images(samples: Samples) -> Iterator[tuple[str, bytes]]:
    files = ShardFiles()
    for number in range(len(samples)):
        shard, row = samples[number]
        start, size = int(row["image_offset"]) - int(row["image_header"]), int(row["image_header"])
        data = files.read(shard.path, start, size + int(row["image_size"]))
        yield f"{shard.path}:{header_name(data[:size], shard.path)}", data[size:]


def _labelled(samples: Samples) -> bool:
    files = ShardFiles()
    for number in range(len(samples)):
        shard, row = samples[number]
        size = int(row["label_header"])
        if size:
            data = files.read(shard.path, int(row["label_offset"]) - size, size + int(row["label_size"]))
            if has_label(data[size:], split_name(header_name(data[:size], shard.path))[1]):
                return True
    return False


def _read_classes(root: Path) -> tuple[str, ...] | None:
    file = root / "classes.txt"
    if not file.is_file():
        return None
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); write one class name a line, in UTF-8") from error
    while names and not names[-1]:
        names = names[:-1]
    return names or None
