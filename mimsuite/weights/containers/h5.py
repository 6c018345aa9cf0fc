"""HDF5 files, as Keras and TensorFlow write them: one tensor per dataset, named by its path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimsuite.errors import InputError, reading
from mimsuite.weights.containers.held import FIX, check_growth
from mimsuite.weights.tensors import NUMBERS, Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

MOST_DATASETS, DEEPEST = 100_000, 40


def open_h5(path: Path) -> Tensors:
    """Opens a file; only names, shapes and types are read. Links to other files or places are refused.

    Raises:
        InputError: a damaged file, one with links, too many or too deep groups, one that would fill the memory, or h5py
            is not installed.
    """
    h5py = _library(path)
    entries: dict[str, Entry] = {}
    with reading(f"{path} is damaged and", FIX), h5py.File(path, "r") as file:
        waiting, seen = [("", file)], set[Any]()
        while waiting:
            prefix, group = waiting.pop()
            if prefix.count("/") >= DEEPEST or group.id in seen:
                raise InputError(f"{path}: group {prefix[:60]!r} is deeper than {DEEPEST}, or inside itself; {FIX}")
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
                if len(entries) + len(waiting) + len(seen) > MOST_DATASETS:
                    raise InputError(f"{path} holds more than {MOST_DATASETS:,} arrays and groups; {FIX}")
    tensors = Tensors(dict(sorted(entries.items())))
    check_growth(path, tensors)
    return tensors


def _entry(path: Path, name: str, dataset: Any) -> Entry:
    shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
    if shape is None or dtype is None or dtype.newbyteorder("=").name not in NUMBERS:
        raise InputError(f"{path}: {name!r} holds {dtype}, not numbers; {FIX}")
    held, size = dataset.id.get_storage_size(), dataset.size * dtype.itemsize
    elsewhere = dataset.is_virtual or dataset.external
    if elsewhere or (held != size if dataset.chunks is None else size and not held):
        raise InputError(f"{path}: {name!r} is not stored in this file as its header says; {FIX}")

    def read() -> Tensor:
        import torch

        with reading(f"{path} is damaged and", FIX), _library(path).File(path, "r") as file:
            return torch.from_numpy(np.asarray(file[name][()], dtype.newbyteorder("="))).reshape(shape)

    return Entry(tuple(shape), dtype.newbyteorder("=").name, read)


def _library(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} is an HDF5 file, and reading it needs h5py; pip install mimsuite[h5]") from None
    return h5py
