"""HDF5 files, as Keras and TensorFlow write them: one tensor per dataset, named by its path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

FIX = "download or write it again"
MOST_DATASETS, DEEPEST = 100_000, 40


def open_h5(path: Path) -> Tensors:
    """Opens a file; only names, shapes and types are read. Links to other files or places are refused.

    Raises:
        InputError: a damaged file, one with links, too many or too deep groups, or h5py is not installed.
    """
    h5py = _library(path)
    entries: dict[str, Entry] = {}
    with reading(f"{path} is damaged and", FIX), h5py.File(path, "r") as file:
        waiting, seen = [("", file)], set[Any]()
        while waiting:
            prefix, group = waiting.pop()
            if prefix.count("/") > DEEPEST or group.id in seen:
                raise InputError(f"{path}: group {prefix!r} is deeper than {DEEPEST}, or its own; {FIX}")
            seen.add(group.id)
            for name in group:
                link, full = group.get(name, getlink=True), f"{prefix}/{name}" if prefix else name
                if not isinstance(link, h5py.HardLink):
                    raise InputError(f"{path}: {full!r} is a link, which is not followed; write the arrays themselves")
                found = group[name]
                if isinstance(found, h5py.Group):
                    waiting.append((full, found))
                else:
                    entries[full] = _entry(path, full, found)
                if len(entries) > MOST_DATASETS or len(waiting) > MOST_DATASETS:
                    raise InputError(f"{path} holds more than {MOST_DATASETS:,} arrays; {FIX}")
    return Tensors(dict(sorted(entries.items())))


def _entry(path: Path, name: str, dataset: Any) -> Entry:
    shape, dtype, held = tuple(dataset.shape or ()), dataset.dtype, dataset.id.get_storage_size()
    if dataset.shape is None or dtype.kind not in "fiub":
        raise InputError(f"{path}: {name!r} holds {dtype}, not numbers; {FIX}")
    if dataset.is_virtual or dataset.external or (dataset.chunks is None and held != dataset.size * dtype.itemsize):
        raise InputError(f"{path}: {name!r} is not stored in this file as its header says; {FIX}")
    if dataset.chunks is not None and held * 1_100 < dataset.size * dtype.itemsize:
        raise InputError(f"{path}: {name!r} would become {dataset.size:,} values of {held:,} bytes; {FIX}")

    def read() -> Tensor:
        import torch

        with reading(f"{path} is damaged and", FIX), _library(path).File(path, "r") as file:
            return torch.from_numpy(file[name][()].astype(dtype.newbyteorder("="), copy=False)).reshape(shape)

    return Entry(shape, dtype.name, read)


def _library(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} is an HDF5 file, and reading it needs h5py; pip install mimsuite[h5]") from None
    return h5py
