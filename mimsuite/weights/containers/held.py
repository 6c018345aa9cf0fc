"""A file that stays open while tensors are read from it, and how much memory its content may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

FIX = "download or write it again"
MOST_TIMES, FREE = 20, 2**28  # what a file may become in memory: so many times its size, and so many bytes more


class Held:
    """A file that stays open, so that all is read of the file whose header was read, also if another takes its place.

    Args:
        path: of the file.

    Attributes:
        size: its bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._number).st_size

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)

    def read(self, count: int, place: int) -> bytes:
        """The bytes at a place.

        Raises:
            EOFError: the file is shorter.
        """
        if count > self.size - place:
            raise EOFError("it is shorter than its header says")
        values = bytearray(count)
        self._read_into(memoryview(values), place)
        return bytes(values)

    def _read_into(self, values: memoryview, place: int) -> None:
        done = 0
        while done < len(values):
            got = os.preadv(self._number, [values[done:]], place + done)
            if not got:
                raise EOFError("it is shorter than its header says")
            done += got

    def entry(self, place: int, shape: tuple[int, ...], dtype: str) -> Entry:
        """The tensor whose values lie at a place, one after the other, in the order of this machine."""

        def read() -> Tensor:
            import torch

            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            if tensor.numel():
                values: Any = tensor.view(-1).view(torch.uint8).numpy()
                with reading(f"{self.path} is damaged and", FIX):
                    self._read_into(memoryview(values), place)
            return tensor

        return Entry(shape, dtype, read)


def check_growth(path: Path, tensors: Tensors) -> None:
    """Refuses a file whose content would fill the memory, although it is small: packed, or one array under many names.

    Raises:
        InputError: its arrays are far larger than it is.
    """
    size = path.stat().st_size
    held = sum(meta.nbytes for meta in tensors.metas().values())
    if held > FREE + MOST_TIMES * size:
        raise InputError(
            f"{path} has {size:,} bytes and would become {held:,} in memory, as no trained weights do; {FIX}"
        )
