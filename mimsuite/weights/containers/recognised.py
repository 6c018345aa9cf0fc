"""Which kind of file it is, by its first bytes, whatever its name says."""

from __future__ import annotations

import zipfile
from pathlib import Path

from mimsuite.errors import InputError, reading
from mimsuite.weights.tensors import Tensors

HDF5 = b"\x89HDF\r\n\x1a\n"
PICKLE = b"\x80"
KNOWN = "safetensors, torch archives (.pth, .pt, .bin), NumPy archives (.npz), HDF5 (.h5), MessagePack (.msgpack)"


def open_file(path: Path) -> Tensors:
    """Opens a file of named arrays; of most kinds only the names and shapes are read.

    Raises:
        InputError: another kind of file, or a damaged one.
    """
    with reading(str(path), "give another file"):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    if head.startswith(HDF5):
        from mimsuite.weights.containers.h5 import open_h5

        return open_h5(path)
    if zipfile.is_zipfile(path):
        with reading(f"{path} is damaged and", "download it again"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            from mimsuite.weights.containers.npz import open_npz

            return open_npz(path)
        if not any(name.endswith("data.pkl") for name in names):
            raise InputError(f"{path} is a zip archive of {len(names)} other files; known are {KNOWN}")
        from mimsuite.weights.containers.torch_file import open_torch

        return open_torch(path)
    if size > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        from mimsuite.weights.containers.safetensors_file import open_safetensors

        return open_safetensors(path)
    if _is_map_of_names(head):
        from mimsuite.weights.containers.msgpack_file import open_msgpack

        return open_msgpack(path)
    if _is_pickle(head):
        from mimsuite.weights.containers.torch_file import open_torch

        return open_torch(path)
    raise InputError(f"{path} is not a file of weights; known are {KNOWN}")


def _is_map_of_names(head: bytes) -> bool:
    """Whether bytes begin as a map of MessagePack does whose first name is a text."""
    begins = {**dict.fromkeys(range(0x81, 0x90), 1), 0xDE: 3, 0xDF: 5}.get(head[0], len(head)) if head else 0
    return any(0xA0 <= first <= 0xBF or first in (0xD9, 0xDA, 0xDB) for first in head[begins : begins + 1])


def _is_pickle(head: bytes) -> bool:
    """Whether bytes begin as a pickle of protocol 2 to 5 does, as `torch.save` wrote before it wrote archives."""
    return head[:1] == PICKLE and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
