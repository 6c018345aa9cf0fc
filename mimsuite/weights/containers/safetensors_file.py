"""Safetensors: a header of names, types and places, then the bytes; each tensor is read into memory of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from mimsuite.errors import reading
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
FIX = "download or write it again"


def open_safetensors(path: Path) -> Tensors:
    """Opens a file; only its header is read.

    Raises:
        InputError: a damaged file, or a type of numbers that torch does not have.
    """
    with reading(f"{path} is damaged and", FIX):
        with safe_open(path, framework="numpy"):
            pass  # it checks the header: places, sizes, types
        held = _Held(path)
        length = int.from_bytes(held.read(8, 0), "little")
        header: dict[str, Any] = json.loads(held.read(length, 8))
        header.pop("__metadata__", None)
        return Tensors({name: _entry(held, 8 + length, about) for name, about in header.items()})


class _Held:
    """A file that stays open, so that all is read of the file whose header was read, also if another takes its place.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)

    def read(self, count: int, place: int) -> bytearray:
        """The bytes at a place."""
        values = bytearray(count)
        self.read_into(memoryview(values), place)
        return values

    def read_into(self, values: memoryview, place: int) -> None:
        """Fills `values` with what stands at a place."""
        done = 0
        while done < len(values):
            got = os.preadv(self._number, [values[done:]], place + done)
            if not got:
                raise EOFError("it is shorter than its header says")
            done += got


def _entry(held: _Held, begin: int, about: dict[str, Any]) -> Entry:
    shape, dtype = tuple(about["shape"]), DTYPES[about["dtype"]]
    start, _ = about["data_offsets"]

    def read() -> Tensor:
        import torch

        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if tensor.numel():
            values: Any = tensor.view(-1).view(torch.uint8).numpy()
            with reading(f"{held.path} is damaged and", FIX):
                held.read_into(memoryview(values), begin + start)
        return tensor

    return Entry(shape, dtype, read)
