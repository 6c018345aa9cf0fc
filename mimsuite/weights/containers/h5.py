"""HDF5 files, as Keras and TensorFlow write them: one tensor per dataset, named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimsuite.data.storage import replacing
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
    marked = getattr(dtype, "str", "") == "|V2" and dataset.attrs.get("dtype") == "bfloat16"  # as Keras does
    if shape is None or dtype is None or not (marked or dtype.newbyteorder("=").name in NUMBERS):
        raise InputError(f"{path}: {name!r} holds {dtype}, not numbers; {FIX}")
    held, size = dataset.id.get_storage_size(), dataset.size * dtype.itemsize
    elsewhere = dataset.is_virtual or dataset.external
    if elsewhere or (held != size if dataset.chunks is None else size and not held):
        raise InputError(f"{path}: {name!r} is not stored in this file as its header says; {FIX}")

    def read() -> Tensor:
        import torch

        with reading(f"{path} is damaged and", FIX), _library(path).File(path, "r") as file:
            values = np.asarray(file[name][()], dtype if marked else dtype.newbyteorder("="))
        if marked:
            return torch.from_numpy(values.view("i2")).view(torch.bfloat16).reshape(shape)
        return torch.from_numpy(values).reshape(shape)

    return Entry(tuple(shape), "bfloat16" if marked else dtype.newbyteorder("=").name, read)


def write_h5(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as datasets by their paths; the file is there whole or not at all.

    bfloat16 is written as Keras does: two opaque bytes, and an attribute that names the type.

    Raises:
        InputError: h5py is not installed.
    """
    import torch

    h5py = _library(path)
    with replacing(path) as part, h5py.File(part, "w") as file:
        for name, tensor in tensors.items():
            values = tensor.detach().cpu().contiguous()
            if values.dtype == torch.bfloat16:
                data = values.view(torch.int16).numpy().view("V2")
                file.create_dataset(name, data=data).attrs["dtype"] = "bfloat16"
            else:
                file.create_dataset(name, data=values.numpy())


def _library(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} is an HDF5 file, which needs h5py; pip install mimsuite[h5]") from None
    return h5py
