"""Where the rows of samples are kept: in two files for all shards, or, as older versions did, in one per shard."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.fetching.retry import persistently
from mimsuite.data.storage import replacing
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.stores.remote import TIMEOUT
from mimsuite.data.tar import FIRST_RECORD, RECORD
from mimsuite.errors import InputError, RunError, reading

T = TypeVar("T")

#: The rows of all samples, and their keys once more: what is chosen by keys reads 8 bytes of a sample instead of 58.
ROWS, KEYS = "samples.idx.npy", "keys.idx.npy"
BLOCK_ROWS = 1 << 18  # read at a time where all are looked at, or a shard where that has more
_COPIED = 256 << 20  # bytes; a larger table of another machine is read by ranges
_HEADER = 2048  # bytes; a table's header has 512
_FIX = "pack the data again"


class RowRange(NamedTuple):
    """Rows that lie side by side in one table.

    Attributes:
        table: a `.npy` file with one `tar.RECORD` per sample.
        keys: a `.npy` file with the keys of all rows of the table, uint64; None where there is none.
        first: the first row.
        samples: how many.
        owner: the shard they belong to, or the first of several, for errors.
    """

    table: str
    keys: str | None
    first: int
    samples: int
    owner: str

    def joined(self, other: RowRange) -> RowRange | None:
        """Both as one, where the other follows in the same table and they are no more than `BLOCK_ROWS`; else None."""
        follows = self.table == other.table and self.first + self.samples == other.first
        small = self.samples + other.samples <= BLOCK_ROWS
        return self._replace(samples=self.samples + other.samples) if follows and small else None


class TableFile:
    """A `.npy` file of one dimension, read in parts: mapped into memory, or, of another machine, by ranges of bytes.

    What is not too large is copied from there to the user's cache, and mapped as well.

    Attributes:
        dtype: of its elements.
    """

    def __init__(self, name: str) -> None:
        """Reads the header.

        Raises:
            InputError: it cannot be read, or is no table.
            RunError: it lies on another machine, which does not give it.
        """
        self._name = name
        with reading(name, _FIX):
            self._file = self._find_file()
            self.dtype, shape, self._offset = _read_header(self._start())
            if len(shape) != 1 or self.dtype.hasobject or shape[0] < 0:
                raise ValueError(f"it holds {self.dtype} of shape {shape}")
        self._length = shape[0]

    def __len__(self) -> int:
        return self._length

    def _find_file(self) -> Path | None:
        """The file or its copy; None where it is too large to be copied."""
        store = store_of(self._name)
        if scheme_of(self._name) and self._fetched(lambda: store.stat(self._name).size) > _COPIED:
            return None
        return self._fetched(lambda: store.local_copy(self._name))

    def _start(self) -> bytes:
        if self._file is None:
            return self._range(0, _HEADER)
        with self._file.open("rb") as file:
            return file.read(_HEADER)

    def _range(self, offset: int, size: int) -> bytes:
        return self._fetched(lambda: store_of(self._name).read(self._name, offset, size))

    def _fetched(self, call: Callable[[], T]) -> T:
        """Calls, and again where a fault may pass."""
        try:
            return persistently(call, TIMEOUT)
        except StoreError as error:
            raise RunError(f"{self._name} cannot be read: {error.strerror}; check the connection") from error

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Elements `first` to `first + count`.

        Raises:
            InputError: the file cannot be read, or is shorter than its header says.
            RunError: it lies on another machine, which does not give it.
        """
        if count == 0:
            return np.empty(0, self.dtype)
        offset, size = self._offset + first * self.dtype.itemsize, count * self.dtype.itemsize
        with reading(self._name, _FIX):
            if self._file is not None:
                return np.memmap(self._file, self.dtype, "r", offset, (count,)).view(np.ndarray)
            data = self._range(offset, size)
            if len(data) < size:
                raise ValueError(f"it ends before offset {offset + size}")
            return np.frombuffer(data, self.dtype)


def read_rows(table: TableFile, where: RowRange) -> NDArray[np.void]:
    """The rows of a range.

    Raises:
        InputError: the table is not that of the shard.
    """
    end = where.first + where.samples
    fits = len(table) >= end if where.keys else len(table) == end
    if table.dtype not in (RECORD, FIRST_RECORD) or not fits:
        raise _foreign(where.table, where)
    return table.read(where.first, where.samples)


def read_keys(table: TableFile, where: RowRange) -> NDArray[np.uint64]:
    """The keys of the rows of a range; `table` is the file of keys, or that of the rows where there is none.

    Raises:
        InputError: the file is not that of the shards.
    """
    if where.keys is None:
        return column_of(read_rows(table, where), "key")
    if table.dtype != RECORD["key"] or len(table) < where.first + where.samples:
        raise _foreign(where.keys, where)
    return table.read(where.first, where.samples)


def column_of(rows: NDArray[np.void], name: str) -> NDArray[Any]:
    """A copy of a field of rows; zeros where their table was written before there was this field."""
    return np.array(rows[name]) if name in (rows.dtype.names or ()) else np.zeros(len(rows), RECORD[name])


def write_tables(folder: Path, rows: Iterable[NDArray[np.void]], total: int) -> None:
    """Writes `ROWS` and `KEYS`.

    Args:
        folder: where.
        rows: `tar.RECORD`s, or those of older tables, in pieces.
        total: how many rows there are.
    """
    with (
        replacing(folder / ROWS) as rows_part,
        replacing(folder / KEYS) as keys_part,
        rows_part.open("wb") as to_rows,
        keys_part.open("wb") as to_keys,
    ):
        for file, dtype in ((to_rows, RECORD), (to_keys, RECORD["key"])):
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
        for piece in rows:
            whole = np.zeros(len(piece), RECORD)
            for name in piece.dtype.names or ():
                whole[name] = piece[name]
            to_rows.write(whole.data)
            to_keys.write(np.ascontiguousarray(whole["key"]).data)


def _read_header(start: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Dtype, shape and length of the header of a `.npy` file that begins so."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of .npy is not one that is written here")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return dtype, shape, file.tell()


def _foreign(table: str, where: RowRange) -> InputError:
    return InputError(f"{table} does not belong to {where.owner} ({where.samples} samples); {_FIX}")
