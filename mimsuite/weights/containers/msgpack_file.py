"""MessagePack files, as Flax writes them: maps of maps, whose leaves are arrays (flax.serialization).

They are read here without the library, which would copy every array, and all at once; it writes them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import replacing
from mimsuite.errors import InputError, reading
from mimsuite.weights.containers.held import FIX, Held, check_growth
from mimsuite.weights.tensors import NUMBERS, Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

ARRAY, SCALAR = 1, 3  # flax's extension types
CHUNKED = "__msgpack_chunked_array__"
CHUNK = 2**30  # bytes of the longest array that is written in one piece
DEEPEST, MOST_ARRAYS, LONGEST_NAME = 40, 100_000, 1_000

# First byte -> what follows, and how many bytes say its length.
LENGTHS = {
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4)},
    **{0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4)},
    **{0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4)},
    **{0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
SMALL = ((0x80, 0x8F, "map"), (0x90, 0x9F, "list"), (0xA0, 0xBF, "text"))
NUMBER_FORMS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
WORDS = {0xC0: None, 0xC2: False, 0xC3: True}


def open_msgpack(path: Path) -> Tensors:
    """Opens a file; only names, shapes and types are read. The names of nested maps are joined by dots.

    Raises:
        InputError: a damaged file, one that is not a map of arrays, or one that is nested too deep.
    """
    with reading(f"{path} is damaged and", FIX):
        held = Held(path)
        walk = _Walk(held)
        content = walk.value(0)
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a map of arrays; expected a file that Flax wrote")
        if walk.place != held.size:
            raise InputError(f"{path} has {held.size:,} bytes, but its map ends after {walk.place:,}; {FIX}")
        found = Tensors(dict(_leaves(path, content, "")))
        check_growth(path, found)
        return found


class _Walk:
    """Goes through a file, value by value, and jumps over what arrays hold.

    Attributes:
        place: where the next value begins.
    """

    def __init__(self, held: Held) -> None:
        self.held, self.place, self._left = held, 0, MOST_ARRAYS

    def value(self, depth: int) -> Any:
        """The next value: a dict, an `Entry`, text, a number, true, false or None."""
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise ValueError(f"it is nested deeper than {DEEPEST}, or holds more than {MOST_ARRAYS:,} values")
        what, about = self._head()
        if what == "map":
            return {self._name(): self.value(depth + 1) for _ in range(about)}
        if what == "list":
            return [self.value(depth + 1) for _ in range(about)]
        if what == "text":
            if about > LONGEST_NAME:
                raise ValueError(f"a text of {about:,} bytes")
            return self._take(about).decode()
        if what == "extension":
            return self._array(about)
        if what == "bytes":
            raise ValueError("bytes that belong to no array")
        return about

    def _array(self, length: int) -> Entry:
        """An array in flax's form: a list of shape, name of the type, and bytes."""
        code = self._take(1)[0]
        end = self.place + length
        if code not in (ARRAY, SCALAR):
            raise ValueError(f"an extension of type {code}, which is not an array")
        if self._head() != ("list", 3):
            raise ValueError("an array that is not a shape, a type and values")
        shape, dtype = self.value(DEEPEST - 1), self.value(DEEPEST)
        what, count = self._head()
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"an array of shape {shape}")
        if dtype not in NUMBERS:
            raise ValueError(f"an array of {dtype}")
        if what != "bytes" or count != math.prod(shape) * _item_size(dtype) or self.place + count != end:
            raise ValueError(f"an array of shape {tuple(shape)} and type {dtype} has {count} bytes")
        found = self.held.entry(self.place, tuple(shape), dtype)
        self.place = end
        if end > self.held.size:
            raise EOFError("it is shorter than its header says")
        return found

    def _name(self) -> str:
        what, length = self._head()
        if what != "text" or length > LONGEST_NAME:
            raise ValueError("a name that is not a short text")
        return self._take(length).decode()

    def _head(self) -> tuple[str, Any]:
        """What comes next, and how long it is; of a plain value the value."""
        first = self._take(1)[0]
        for low, high, what in SMALL:
            if low <= first <= high:
                return what, first - low
        if first in LENGTHS:
            what, size = LENGTHS[first]
            return what, int.from_bytes(self._take(size), "big")
        if first in FIXED_EXTENSIONS:
            return "extension", FIXED_EXTENSIONS[first]
        if first in NUMBER_FORMS:
            form = NUMBER_FORMS[first]
            return "number", struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if first in WORDS:
            return "word", WORDS[first]
        if first <= 0x7F or first >= 0xE0:
            return "number", first if first <= 0x7F else first - 256
        raise ValueError(f"a value that begins with byte {first}")

    def _take(self, count: int) -> bytes:
        found = self.held.read(count, self.place)
        self.place += count
        return found


def _item_size(dtype: str) -> int:
    import torch

    size: int = getattr(torch, dtype).itemsize
    return size


def _leaves(path: Path, content: dict[str, Any], prefix: str) -> Iterator[tuple[str, Entry]]:
    for name, value in content.items():
        full = f"{prefix}{name}"
        if isinstance(value, Entry):
            yield full, value
        elif isinstance(value, dict) and CHUNKED in value:
            yield full, _joined(value)
        elif isinstance(value, dict):
            yield from _leaves(path, value, f"{full}.")
        else:
            raise InputError(f"{path}: {full!r} is a {type(value).__name__}, not an array; {FIX}")


def _joined(value: dict[str, Any]) -> Entry:
    """An array that was too long for one piece: its shape, and flat parts by their numbers."""
    shape, parts = ([value[part][str(n)] for n in range(len(value[part]))] for part in ("shape", "chunks"))
    flat = all(isinstance(part, Entry) and len(part.shape) == 1 and part.dtype == parts[0].dtype for part in parts)
    sides = all(type(side) is int and side >= 0 for side in shape)
    if not parts or not flat or not sides or sum(part.shape[0] for part in parts) != math.prod(shape):
        raise ValueError(f"an array of shape {shape} in {len(parts)} parts that do not make it")

    def read() -> Any:
        import torch

        made, begin = torch.empty(math.prod(shape), dtype=getattr(torch, parts[0].dtype)), 0
        for part in parts:
            made[begin : begin + part.shape[0]] = part.read()
            begin += part.shape[0]
        return made.reshape(shape)

    return Entry(tuple(shape), parts[0].dtype, read)


def write_msgpack(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file that Flax reads, whole or not at all; names are split into maps at their dots.

    Raises:
        InputError: msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError:
        raise InputError("writing a file of Flax needs msgpack; pip install mimsuite[h5]") from None
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = name.split(".")
        inner = tree
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = tensor
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    with replacing(path) as part_path, part_path.open("wb") as file:
        for _ in _packed(packer, tree):
            file.write(packer.getbuffer())
            packer.reset()


def _packed(packer: Any, tree: Mapping[str, Any]) -> Iterator[None]:
    """Packs a tree, and stops where the packer should be emptied."""
    packer.pack_map_header(len(tree))
    for name, value in tree.items():
        packer.pack(name)
        if isinstance(value, dict):
            yield from _packed(packer, value)
        elif value.nbytes > CHUNK:
            pieces = value.flatten().split(CHUNK // value.element_size())
            packer.pack_map_header(3)
            for key, content in ((CHUNKED, True), ("shape", {str(n): side for n, side in enumerate(value.shape)})):
                packer.pack(key)
                packer.pack(content)
            packer.pack("chunks")
            packer.pack_map_header(len(pieces))
            for number, piece in enumerate(pieces):
                packer.pack(str(number))
                packer.pack_ext_type(ARRAY, _bytes_of(piece))
                yield
        else:
            packer.pack_ext_type(ARRAY, _bytes_of(value))
        yield


def _bytes_of(tensor: Tensor) -> bytes:
    """An array in flax's form."""
    import msgpack
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    name = str(tensor.dtype).removeprefix("torch.")
    packed: bytes = msgpack.packb((list(tensor.shape), name, flat.view(torch.uint8).numpy().tobytes()))
    return packed
