"""Columns as a table that other programs read: .npz, .parquet or .csv, one row per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.collate import targets_of
from mimsuite.data.index import EVERY_SPLIT, DataIndex, Selection
from mimsuite.data.label_table import has_label, read_labels
from mimsuite.data.members import read_files
from mimsuite.data.shard_files import files_for
from mimsuite.data.storage import replacing, write_rows
from mimsuite.data.tar import to_text
from mimsuite.settings.embed import TABLES

Labels = np.ma.MaskedArray[Any, np.dtype[Any]]
Columns = dict[str, Sequence[str] | NDArray[Any]]
"""By name: texts, or numbers `(N,)` or `(N, D)`; masked rows are empty cells, and in .npz what is below the mask."""


def name_columns(index: DataIndex, part: Selection, numbers: NDArray[np.int64]) -> Columns:
    """`file`, the paths of these images (see `members.read_files`); of several splits `split`, of sets `data`."""
    samples = index.records(part).take(numbers)
    columns: Columns = {"file": read_files(files_for(index, samples), samples)}
    if part.split == EVERY_SPLIT and len(index.splits) > 1:
        every = np.repeat(list(index.splits), [index.num_samples(split) for split in index.splits])
        columns["split"] = every[numbers].tolist()
    if index.sets:
        roots = [index.sets[shard.path] for shard in samples.shards]
        columns["data"] = np.repeat(roots, samples.sizes).tolist()
    return columns


def known_labels(index: DataIndex, part: Selection, numbers: NDArray[np.int64]) -> Labels | None:
    """The labels of these images of a part, where not all have one; None where none has.

    `(N,)` int64 classes, `(N, K)` float32 zeros and ones of label sets, `(N, 1)` float32 of numbers. Rows without a
    label are masked; what fills them is -1, and NaN for numbers.
    """
    samples = index.records(part).take(numbers)
    known = has_label(index, samples) if index.has_labels else np.zeros(len(samples), dtype=bool)
    if not known.any():
        return None
    labels = read_labels(index, samples.take(np.flatnonzero(known)))
    found = targets_of(labels, len(index.classes) if index.classes else None)
    assert found is not None
    regression = found.ndim == 2 and not isinstance(labels[0], tuple)
    filled = np.full((len(known), *found.shape[1:]), np.nan if regression else -1, dtype=found.numpy().dtype)
    filled[known] = found.numpy()
    return np.ma.masked_array(filled, np.broadcast_to(~known.reshape(-1, *[1] * (filled.ndim - 1)), filled.shape))


def write_table(out: Path, columns: Columns) -> None:
    """Writes a table in one step, by the ending of `out`: .npz, .parquet or .csv; its folder is made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[out.suffix.lower()](out, columns)


def write_npz(path: Path, columns: Columns) -> None:
    """Arrays by name; read with `numpy.load`. (`numpy.savez` takes no array that is called `file`.)"""
    with replacing(path) as part, ZipFile(part, "w") as archive:
        for name, values in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(np.ma.getdata(values)), allow_pickle=False)


def write_parquet(path: Path, columns: Columns) -> None:
    """Columns by name; `(N, D)` numbers are one column of lists of D."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    def column(values: Sequence[str] | NDArray[Any]) -> Any:
        if not isinstance(values, np.ndarray):
            return pyarrow.array(list(map(to_text, values)), pyarrow.string())
        flat, empty = np.ma.getdata(values).reshape(-1), np.ma.getmaskarray(values).reshape(len(values), -1).all(1)
        if values.ndim == 1:
            return pyarrow.array(flat, mask=empty if empty.any() else None)
        mask = pyarrow.array(empty) if empty.any() else None
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), values.shape[1], mask=mask)

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
            texts.append(["" if v is None else str(v) if isinstance(v, int) else f"{v:.9g}" for v in one.tolist()])
    write_rows(path, names, zip(*texts, strict=True))


Writer = Callable[[Path, Columns], None]
WRITERS: dict[str, Writer] = dict(zip(TABLES, (write_npz, write_parquet, write_text_table), strict=True))
