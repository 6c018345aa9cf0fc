"""Tensors of files by name, each read only when it is asked for: shapes are known before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


NUMBERS = frozenset(
    (
        *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
)
"""Names of the types that tensors of files may have."""


@dataclass(frozen=True)
class Entry:
    """One tensor that is not read yet.

    Attributes:
        shape: its shape.
        dtype: its type, by torch's name: "float32".
        read: reads it into memory of its own, or maps it from the file.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]

    def meta(self) -> Tensor:
        """A tensor of this shape and type without values, on torch's meta device."""
        import torch

        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device="meta")


class Tensors(Mapping[str, "Tensor"]):
    """Names -> tensors, read anew with every access.

    Args:
        entries: what there is.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Tensor:
        """Reads the tensor."""
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: Tensors) -> Tensors:
        """Both; of a name that both have the other's."""
        return Tensors(self.entries | other.entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names -> shapes; reads nothing."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def metas(self) -> dict[str, Tensor]:
        """Names -> tensors without values; reads nothing."""
        return {name: entry.meta() for name, entry in self.entries.items()}

    def only(self, names: Iterable[str]) -> Tensors:
        """Those of these names."""
        return Tensors({name: self.entries[name] for name in names})

    def in_parts(self, most_bytes: int) -> Iterator[dict[str, Tensor]]:
        """Reads all, in order, a few at a time: at least one, and no more than `most_bytes` together."""
        part: dict[str, Tensor] = {}
        for name in self:
            tensor = self[name]
            if part and sum(t.nbytes for t in part.values()) + tensor.nbytes > most_bytes:
                yield part
                part = {}
            part[name] = tensor
            del tensor
        if part:
            yield part

    def renamed(self, new_name: Callable[[str], str]) -> Tensors:
        """The same under other names."""
        return Tensors({new_name(name): entry for name, entry in self.entries.items()})


def in_memory(state: Mapping[str, Tensor]) -> Tensors:
    """Tensors that are in memory already."""

    def entry(tensor: Tensor) -> Entry:
        return Entry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: tensor)

    return Tensors({name: entry(tensor) for name, tensor in state.items()})


def as_tensors(state: Mapping[str, Tensor]) -> Tensors:
    """`state` itself if it reads what is asked for only; else what it holds."""
    return state if isinstance(state, Tensors) else in_memory(state)
