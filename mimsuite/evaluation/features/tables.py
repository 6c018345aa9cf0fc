"""Columns as a table that other programs read: .npz, .parquet or .csv, one row per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.index import EVERY_SPLIT, DataIndex, Selection
from mimsuite.data.members import read_files
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.storage import replacing, write_rows
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.settings.embed import TABLES

Columns = Mapping[str, Sequence[str] | NDArray[Any]]
"""By name: texts, or numbers `(N,)` or `(N, D)`."""


def name_columns(index: DataIndex, part: Selection, numbers: NDArray[np.int64]) -> dict[str, Sequence[str]]:
    """`file`, the paths of these images of a part (see `members.read_files`), and of several splits `split`."""
    samples = index.records(part).take(numbers)
    columns: dict[str, Sequence[str]] = {"file": read_files(ShardFiles(store_of(index.root)), samples)}
    if part.split == EVERY_SPLIT and len(index.splits) > 1:
        every = np.repeat(list(index.splits), [index.num_samples(split) for split in index.splits])
        columns["split"] = every[numbers].tolist()
    return columns


def write_table(out: Path, columns: Columns) -> None:
    """Writes a table in one step, by the ending of `out`: .npz, .parquet or .csv; its folder is made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[out.suffix.lower()](out, columns)


def write_npz(path: Path, columns: Columns) -> None:
    """Arrays by name; read with `numpy.load`. (`numpy.savez` takes no array that is called `file`.)"""
    with replacing(path) as part, ZipFile(part, "w") as archive:
        for name, values in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array(values), allow_pickle=False)


def write_parquet(path: Path, columns: Columns) -> None:
    """Columns by name; `(N, D)` numbers are one column of lists of D."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    def column(values: Sequence[str] | NDArray[Any]) -> Any:
        if not isinstance(values, np.ndarray):
            return pyarrow.array(list(map(to_text, values)), pyarrow.string())
        flat = pyarrow.array(values.reshape(-1))
        return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])

    with replacing(path) as part:
        parquet.write_table(pyarrow.table({name: column(values) for name, values in columns.items()}), part)


def write_text_table(path: Path, columns: Columns) -> None:
    """Columns by name; of `(N, D)` numbers D of them, `NAME_0` and so on. Nine digits keep every float32."""
    names, texts = list[str](), list[Sequence[str]]()
    for name, values in columns.items():
        if not isinstance(values, np.ndarray):
            names.append(name)
            texts.append(list(map(to_text, values)))
            continue
        several = values.ndim == 2
        names += [f"{name}_{i}" for i in range(values.shape[1])] if several else [name]
        for one in values.T if several else [values]:
            texts.append([str(v) if isinstance(v, int) else f"{v:.9g}" for v in one.tolist()])
    write_rows(path, names, zip(*texts, strict=True))


Writer = Callable[[Path, Columns], None]
WRITERS: dict[str, Writer] = dict(zip(TABLES, (write_npz, write_parquet, write_text_table), strict=True))
