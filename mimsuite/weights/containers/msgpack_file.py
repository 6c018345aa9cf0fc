"""MessagePack files, as Flax writes them: maps of maps, whose leaves are arrays (flax.serialization)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.tensors import Tensors, in_memory

FIX = "download or write it again"
ARRAY, SCALAR = 1, 3  # flax's extension types
CHUNKED = "__msgpack_chunked_array__"
CHUNK = 2**30  # bytes of the longest array that is written in one piece
DEEPEST = 40


def open_msgpack(path: Path) -> Tensors:
    """Reads a file; the names of nested maps are joined by dots.

    Raises:
        InputError: a damaged file, one that is not a map of arrays, or msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError:
        raise InputError(
            f"{path} is a MessagePack file, and reading it needs msgpack; pip install mimsuite[h5]"
        ) from None
    size = path.stat().st_size
    limits = dict.fromkeys(("max_str_len", "max_bin_len", "max_array_len", "max_map_len", "max_ext_len"), size)
    with reading(f"{path} is damaged and", FIX):
        content = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False, strict_map_key=True, **limits)
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a map of arrays; expected a file that Flax wrote")
        return in_memory(dict(_leaves(path, content, "", 0)))


def _array(code: int, content: bytes) -> Any:
    """An array in flax's form: shape, name of the type, bytes."""
    import msgpack
    import torch

    if code not in (ARRAY, SCALAR):
        raise ValueError(f"an extension of type {code}, which is not an array")
    shape, name, values = msgpack.unpackb(content, raw=False)
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"an array of {name} with shape {shape}")
    if not values:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(bytearray(values), dtype=dtype).reshape(tuple(shape))


def _leaves(path: Path, content: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    import torch

    if depth > DEEPEST:
        raise InputError(f"{path}: its maps are nested deeper than {DEEPEST}; {FIX}")
    for name, value in content.items():
        full = f"{prefix}{name}"
        if isinstance(value, torch.Tensor):
            yield full, value
        elif isinstance(value, dict) and value.get(CHUNKED):
            shape, chunks = ([part[str(n)] for n in range(len(part))] for part in (value["shape"], value["chunks"]))
            yield full, torch.cat([chunk.flatten() for chunk in chunks]).reshape(tuple(shape))
        elif isinstance(value, dict):
            yield from _leaves(path, value, f"{full}.", depth + 1)
        else:
            raise InputError(f"{path}: {full!r} is a {type(value).__name__}, not an array; {FIX}")
