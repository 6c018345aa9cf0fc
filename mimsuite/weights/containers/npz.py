"""NumPy archives, `.npz`: one array per name, none of them pickled, each read when it is asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from mimsuite.data.storage import replacing
from mimsuite.errors import InputError, reading
from mimsuite.weights.containers.held import FIX, check_growth
from mimsuite.weights.tensors import NUMBERS, Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_npz(path: Path) -> Tensors:
    """Opens an archive; only the headers of its arrays are read.

    Raises:
        InputError: a damaged file, one that would fill the memory, or an array of Python objects, which only pickle
            could read.
    """
    entries: dict[str, Entry] = {}
    with reading(f"{path} is damaged and", FIX), zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            name = part.filename.removesuffix(".npy")
            with archive.open(part) as file:
                shape, dtype, begin = _header(file)
            if dtype.newbyteorder("=").name not in NUMBERS:
                raise InputError(
                    f"{path}: array {name!r} holds {dtype}, not numbers, and nothing is unpickled; write it again "
                    "with numbers only"
                )
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize + begin
            if min(shape, default=0) < 0 or size != part.file_size:
                raise InputError(f"{path}: array {name!r} has not the {size:,} bytes that its header says; {FIX}")
            entries[name] = _entry(path, part.filename, shape, dtype)
    found = Tensors(entries)
    check_growth(path, found)
    return found


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of an array, and the bytes of what stands before its values."""
    shape, _, dtype = HEADERS[npy.read_magic(file)](file)
    return shape, dtype, file.tell()


def _entry(path: Path, part: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Entry:
    def read() -> Tensor:
        import torch

        with reading(f"{path} is damaged and", FIX), zipfile.ZipFile(path) as archive, archive.open(part) as file:
            array = npy.read_array(file, allow_pickle=False)
        native = np.ascontiguousarray(array, dtype.newbyteorder("="))
        return torch.from_numpy(native.reshape(shape))

    return Entry(shape, dtype.newbyteorder("=").name, read)


def write_npz(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes an archive, whole or not at all; bfloat16, which NumPy does not have, becomes float32."""
    import torch

    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors.items():
            known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, known.detach().cpu().contiguous().numpy(), allow_pickle=False)
