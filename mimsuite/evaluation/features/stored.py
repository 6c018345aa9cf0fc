"""Features on disk: a folder of arrays, one file per layer and pooling, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimsuite.data.storage import move_file, move_folder
from mimsuite.errors import InputError, RunError, reading
from mimsuite.evaluation.features.views import Features
from mimsuite.settings.views import View

log = logging.getLogger("mimsuite")

ABOUT, IDS, LABELS, KEYS, KEPT = "about.json", "ids.npy", "labels.npy", "keys.json", "kept.npy"
_NEEDED = ("fingerprint", "made", "samples", "copies")


class StoredFeatures:
    """The features of one part of a data set, read as they are asked for.

    Attributes:
        folder: where they lie.
        keys: the samples' names, in order; every one is there once, however many copies there are.
        copies: augmented copies of every sample, whose rows follow those of the clean images, copy by copy.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a folder.

        Raises:
            InputError: not a folder of features, or a damaged one.
        """
        with reading(f"{folder} is damaged and", "remove it to have the features computed again"):
            self._open(folder)

    def _open(self, folder: Path) -> None:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if missing := [name for name in _NEEDED if name not in about]:
            raise ValueError(f"{ABOUT} does not say {missing[0]}")
        self.folder, self.copies = folder, int(about["copies"])
        self.fingerprint, self._made = str(about["fingerprint"]), str(about["made"])
        self._samples = int(about["samples"])
        self.keys: list[str] = json.loads((folder / KEYS).read_text(encoding="utf-8"))
        self._ids = _numbers(folder / IDS)
        self._labels = _numbers(folder / LABELS) if (folder / LABELS).exists() else None
        self._kept = _numbers(folder / KEPT) if (folder / KEPT).exists() else None
        count = self._samples if self._kept is None else len(self._kept)
        if not len(self.keys) == len(self._ids) == count or (self._labels is not None and len(self._labels) != count):
            raise ValueError("its files hold different numbers of samples")

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Which samples of the part these are: all but those that cannot be decoded."""
        return np.arange(self._samples) if self._kept is None else self._kept

    def has(self, view: View) -> bool:
        """Whether a view is there, whole."""
        if not (self.folder / file_name(view)).exists():
            return False
        try:
            self._rows(view)
        except ValueError as error:
            log.warning("features  %s/%s is not usable (%s)", self.folder, file_name(view), error)
            return False
        return True

    def features(self, view: View) -> Features:
        """Returns a view; vectors as float32 in memory, a grid as float16 mapped from the file.

        Raises:
            InputError: it is not stored.
        """
        if not self.has(view):
            raise InputError(f"{self.folder} holds no features of {view}; make them first")
        x = self._rows(view)
        if self._kept is not None:
            x = x[np.concatenate([self._kept + self._samples * copy for copy in range(1 + self.copies)])]
        times = 1 + self.copies
        labels = None if self._labels is None else _tiled(self._labels, times)
        values = torch.from_numpy(x if view.pool == "grid" else np.asarray(x, dtype=np.float32))
        return Features(values, labels, _tiled(self._ids, times), f"{view}; {self._made}")

    def same_samples(self, other: StoredFeatures) -> bool:
        """Whether two folders hold the same samples in the same order."""
        return np.array_equal(self._ids, other._ids) and self.keys == other.keys

    def _rows(self, view: View) -> NDArray[Any]:
        # "c" rather than "r": torch takes no array that may not be written to; nothing is written to the file.
        file = self.folder / file_name(view)
        with reading(str(file), "remove it to have the features computed again"):
            rows: NDArray[Any] = np.load(file, mmap_mode="c")
        if rows.dtype != row_type(view) or len(rows) != self._samples * (1 + self.copies):
            raise ValueError(f"it holds {len(rows)} rows of {rows.dtype}")
        return rows


def _numbers(file: Path) -> NDArray[Any]:
    """An array of numbers, as this machine has them."""
    values: NDArray[Any] = np.load(file)
    if values.dtype.kind not in "iuf" or not values.dtype.isnative:
        raise ValueError(f"{file.name} holds values of {values.dtype}")
    return values


def _tiled(values: NDArray[Any], times: int) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([values] * times))


def file_name(view: View) -> str:
    """The file of a view."""
    return f"layer-{view.layer:02d}-{view.pool}.npy"


def row_type(view: View) -> np.dtype[Any]:
    """The type of the rows of a view: float16, but float32 of the images themselves, which are few and small."""
    return np.dtype(np.float16 if view.layer else np.float32)


def open_stored(folder: Path, fingerprint: str) -> StoredFeatures | None:
    """Opens what is stored under a fingerprint; None where there is nothing, or, with a warning, nothing usable."""
    if not folder.exists():
        return None
    try:
        stored = StoredFeatures(folder)
        if stored.fingerprint != fingerprint:
            raise ValueError("it holds other features")
    except ValueError as error:
        log.warning("features  %s is not usable (%s); computing the features again", folder, error)
        return None
    return stored


class Rows:
    """Writes rows of arrays that several processes fill together; each writes its own rows.

    Written by position and not through a memory map: a full disk is then an error and not the end of the process.
    """

    def __init__(self, folder: Path, views: Sequence[View]) -> None:
        self._files = {view: (folder / file_name(view)).open("r+b") for view in views}
        self._arrays = {view: np.load(folder / file_name(view), mmap_mode="r") for view in views}

    @staticmethod
    def create(folder: Path, shapes: Mapping[View, tuple[int, ...]]) -> None:
        """Makes the files, of `(rows, ...)` of `row_type`."""
        for view, shape in shapes.items():
            np.lib.format.open_memmap(folder / file_name(view), mode="w+", dtype=row_type(view), shape=shape)

    def write(self, row: int, values: Mapping[View, NDArray[Any]]) -> None:
        """Writes the rows of each view from number `row` on."""
        for view, rows in values.items():
            array = self._arrays[view]
            place, left = (
                array.offset + row * array.strides[0],
                np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data,
            )
            while left:
                done = os.pwrite(self._files[view].fileno(), left, place)
                place, left = place + done, left[done:]

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in self._files.values():
            if kind is None:
                os.fsync(file.fileno())
            file.close()


def write_description(
    folder: Path,
    about: Mapping[str, Any],
    *,
    keys: Sequence[str],
    ids: NDArray[np.int64],
    labels: NDArray[Any] | None,
    kept: NDArray[np.int64],
) -> None:
    """Writes what stands beside the rows; `kept` are the numbers of the samples that could be read."""
    np.save(folder / IDS, ids[kept])
    if labels is not None:
        np.save(folder / LABELS, labels[kept])
    if len(kept) != len(ids):
        np.save(folder / KEPT, kept)
    (folder / KEYS).write_text(json.dumps([keys[i] for i in kept]), encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def temporary_folder(folder: Path) -> Path:
    """Makes an empty folder beside `folder` that its process's end marks as rubbish; removes such rubbish."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f".features-*.{platform.node()}-*.tmp"):
        if not _alive(int(old.name.removesuffix(".tmp").rpartition("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    made = folder.with_name(f".{folder.name}.{platform.node()}-{os.getpid()}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    return made


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def publish_folder(made: Path, folder: Path) -> None:
    """Gives a finished folder its name, or adds its views to those that are there already."""
    move_folder(made, folder, ABOUT)
    if not made.exists():
        return
    if not StoredFeatures(folder).same_samples(StoredFeatures(made)):
        raise RunError(f"{folder} holds other samples than were just read; remove it and start again")
    for file in sorted(made.glob("layer-*.npy")):
        move_file(file, folder / file.name)
    shutil.rmtree(made)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns an error of the disk below `folder` into one line with the fix."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"features cannot be stored in {folder}: {error.strerror or error}; make room there, or set XDG_CACHE_HOME"
        ) from error
