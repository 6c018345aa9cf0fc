"""Safetensors: a header of names, types and places, then the bytes; each tensor is read into memory of its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from mimsuite.data.storage import replacing
from mimsuite.errors import InputError, reading
from mimsuite.weights.containers.held import FIX, Held
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}


def open_safetensors(path: Path) -> Tensors:
    """Opens a file; only its header is read.

    Raises:
        InputError: a damaged file, or a type of numbers that torch does not have.
    """
    with reading(f"{path} is damaged and", FIX):
        with safe_open(path, framework="numpy"):
            pass  # it checks the header: places, sizes, types
        held = Held(path)
        length = int.from_bytes(held.read(8, 0), "little")
        header: dict[str, Any] = json.loads(held.read(length, 8))
        header.pop("__metadata__", None)
        return Tensors({name: _entry(held, 8 + length, name, about) for name, about in header.items()})


def _entry(held: Held, begin: int, name: str, about: dict[str, Any]) -> Entry:
    if about["dtype"] not in DTYPES:
        raise InputError(f"{held.path}: {name!r} is stored as {about['dtype']}, which is not read; write it as F32")
    return held.entry(begin + about["data_offsets"][0], tuple(about["shape"]), DTYPES[about["dtype"]])


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file, whole or not at all.

    Raises:
        OSError: a full disk, or a place that may not be written.
    """
    from safetensors.torch import save_file

    with replacing(path) as part:
        try:
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, part, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
