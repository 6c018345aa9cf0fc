"""How a folder of images becomes shards: which files, in which split and order, with which key and label."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from mimsuite.data.decode import DecodeError, open_image
from mimsuite.data.hashing import hash_key, mix
from mimsuite.data.index import DataIndex, build_index, write_index
from mimsuite.data.sources import PICTURE_ENDINGS, split_name_of
from mimsuite.data.tar import IMAGE_ENDINGS
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

_CHUNK = 256  # images decoded ahead of the writer
_SALT_VAL, _SALT_ORDER = 1, 2
_JPEG, _NUMPY = b"\xff\xd8\xff", b"\x93NUMPY"
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}

Labels = Literal["auto", "none", "folder"]


class Picture(NamedTuple):
    """A file to pack: where it lies, its key, its split, its class (-1: none)."""

    path: Path
    key: str
    split: str
    label: int


def pack(
    src: Path,
    out: Path,
    *,
    labels: Labels = "auto",
    shard_size: int = 256 << 20,
    val_fraction: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DataIndex:
    """Writes the images below `src` to shards with an index; the same files give the same bytes.

    Image files are stored as they are; kinds that shards do not hold, such as BMP, become PNG. Folders named
    train, val and test, with nothing beside them, are the splits. Images that cannot be decoded are named in
    the log and left out.

    Args:
        src: folder of images.
        out: folder to write; must be absent or empty.
        labels: "folder" (the class is the first sub-folder, numbered by name), "none", or "auto": "folder" if
            every image lies in a sub-folder and there are at least two of these.
        shard_size: bytes of images after which the next shard begins.
        val_fraction: share of each class, in [0, 1), that goes from train to a split `val`.
        seed: decides which images go to `val`, and the order in the shards.
        progress: called with (images done, images in all).

    Raises:
        InputError: an argument is out of range, `out` is not empty, or no image can be read.
    """
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction={val_fraction} is not in [0, 1); use 0.1 for a tenth")
    if shard_size < 1:
        raise InputError(f"shard_size={shard_size} is not a positive size; use 256 MiB")
    files = find_pictures(src)
    pictures, classes = plan_pictures(src, files, labels)
    pictures = _split(pictures, val_fraction, seed)
    out = Path(os.path.abspath(out))
    _make(out)
    writer = _Shards(out, shard_size)
    done, bad = 0, 0
    for split in ("train", "val", "test"):
        chosen = sorted((p for p in pictures if p.split == split), key=lambda p: (_order(p.key, seed), p.key))
        with writer.open(split):
            for picture, content in _read_all(chosen):
                done += 1
                if isinstance(content, DecodeError):
                    bad += 1
                    log.warning("left out: %s (%s)", picture.path, content)
                else:
                    writer.write(picture, *content)
                if progress is not None:
                    progress(done, len(pictures))
    if bad:
        log.warning("%d of %d files could not be read and are left out", bad, len(pictures))
    if not writer.paths:
        raise InputError(f"src={src}: none of {len(pictures)} images can be decoded; the log names them")
    if classes:
        (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    index = build_index(out, writer.paths, out, {path: _sha256(path) for path in writer.paths})
    write_index(out, index)
    return index


def find_pictures(src: Path) -> list[Path]:
    """The image files below a folder, sorted by path; hidden files and folders are passed over.

    Raises:
        InputError: not a folder that can be read, or no image in it.
    """
    if not src.is_dir():
        raise InputError(f"src={src} is not a folder; give a folder of images")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise InputError(f"src={src}: {error.filename} cannot be read ({error.strerror}); check its rights")

    for folder, folders, names in os.walk(src, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(folder, name) for name in names if name.lower().endswith(PICTURE_ENDINGS) and not name.startswith(".")
        ]
    if not found:
        raise InputError(f"src={src} holds no image ({', '.join(PICTURE_ENDINGS)}); check the path")
    return sorted(found)


def _make(out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"out={out} exists and is not an empty folder; choose another or remove it")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out={out} cannot be made ({error.strerror}); choose another folder") from error


def plan_pictures(src: Path, files: Sequence[Path], labels: Labels) -> tuple[list[Picture], list[str]]:
    """Gives each file its split, key and label.

    Returns:
        The pictures in the order of `files`, and the names of the classes (none without labels).

    Raises:
        InputError: labels are wanted from folders, and there are none.
    """
    parts = [file.relative_to(src).parts for file in files]
    splits = [split_name_of(p[0]) if len(p) > 1 else None for p in parts]
    below = [p[1:] for p in parts] if all(splits) else parts
    names = sorted({p[0] for p in below if len(p) > 1})
    loose = next((file for file, p in zip(files, below, strict=True) if len(p) == 1), None)
    if labels == "folder" and loose is not None:
        raise InputError(f"labels=folder, but {loose} lies in no class's folder; move it, or use labels=none")
    if labels == "none" or loose is not None or (labels == "auto" and len(names) < 2):
        names = []
    number = {name: i for i, name in enumerate(names)}
    pictures, taken = [], set[str]()
    for file, p, full, split in zip(files, below, parts, splits, strict=True):
        key = _unique(full, taken)
        name = split if all(splits) and split is not None else "train"
        pictures.append(Picture(file, key, name, number[p[0]] if names else -1))
    return pictures, names


def _unique(parts: Sequence[str], taken: set[str]) -> str:
    """A key made of the path: no dots or slashes, no other file's."""
    path = Path(*parts)
    key = base = re.sub(r"[^\w-]", "_", str(path.with_suffix("")))
    if key in taken:
        key = base = f"{base}_{path.suffix[1:].lower()}"
    count = 2
    while key in taken:
        key, count = f"{base}_{count}", count + 1
    taken.add(key)
    return key


def _split(pictures: list[Picture], val_fraction: float, seed: int) -> list[Picture]:
    """Moves a share of each class from train to val: the pictures whose keys have the smallest hashes."""
    moved: set[str] = set()
    for label in sorted({p.label for p in pictures}):
        keys = [p.key for p in pictures if p.label == label and p.split == "train"]
        count = round(len(keys) * val_fraction)
        if val_fraction > 0 and len(keys) > 1:
            count = max(1, count)
        moved.update(sorted(keys, key=lambda key: mix(seed, _SALT_VAL, hash_key(key)))[:count])
    return [p._replace(split="val") if p.key in moved else p for p in pictures]


def _order(key: str, seed: int) -> int:
    return mix(seed, _SALT_ORDER, hash_key(key))


def _read_all(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, tuple[str, bytes] | DecodeError]]:
    """Reads and decodes on all cores, a chunk ahead."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(pictures), _CHUNK):
            chunk = pictures[first : first + _CHUNK]
            yield from zip(chunk, pool.map(_content, [p.path for p in chunk]), strict=True)


def _content(path: Path) -> tuple[str, bytes] | DecodeError:
    """The member's ending and bytes, after they have been decoded once."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return DecodeError(error.strerror or "cannot be read")
    try:
        open_image(data).pixels()
        if data.startswith(_JPEG):
            return "jpg", data
        if data.startswith(_NUMPY):
            return "npy", data
        with Image.open(io.BytesIO(data)) as image:
            ending = _ENDINGS.get(image.format or "")
            if ending in IMAGE_ENDINGS:
                return ending, data
            stream = io.BytesIO()
            image.save(stream, "PNG")
            return "png", stream.getvalue()
    except DecodeError as error:
        return error


class _Shards:
    """Writes `SPLIT-NNNNNN.tar` with webdataset's writer; owner and time of all members are fixed."""

    def __init__(self, out: Path, shard_size: int) -> None:
        self.paths: list[Path] = []
        self._out, self._limit, self._split = out, shard_size, ""
        self._stack = contextlib.ExitStack()
        self._bytes = self._number = 0

    @contextlib.contextmanager
    def open(self, split: str) -> Iterator[None]:
        """Samples that are written within this context belong to `split`."""
        self._split, self._number, self._bytes = split, 0, self._limit
        with self._stack:
            yield

    def write(self, picture: Picture, ending: str, data: bytes) -> None:
        """Writes one sample; begins a new shard where the last is full."""
        if self._bytes >= self._limit:
            self._next()
        sample: dict[str, str | bytes] = {"__key__": picture.key, ending: data}
        if picture.label >= 0:
            sample["cls"] = str(picture.label).encode()
        self._bytes += self._writer.write(sample)

    def _next(self) -> None:
        from webdataset.writer import TarWriter

        self._stack.close()
        path = self._out / f"{self._split}-{self._number:06d}.tar"
        stream = self._stack.enter_context(path.open("wb"))
        self._writer = self._stack.enter_context(
            TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False)
        )
        self.paths.append(path)
        self._number, self._bytes = self._number + 1, 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
