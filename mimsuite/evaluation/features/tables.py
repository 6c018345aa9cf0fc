"""Features as a table that other programs read: .npz, .parquet or .csv, one row per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.storage import replacing, write_rows
from mimsuite.data.tar import to_text
from mimsuite.settings.embed import TABLES

Writer = Callable[[Path, NDArray[np.float32], NDArray[Any] | None, Sequence[str]], None]


def write_table(out: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Writes a table in one step, by the ending of `out`.

    Args:
        out: .npz, .parquet or .csv; its folder is made.
        x: `(N, D)`.
        labels: `(N,)` classes, `(N, K)` targets, or None for a table without labels.
        keys: names of the N samples.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[out.suffix.lower()](out, x, labels, keys)


def write_npz(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Arrays `features`, `keys` and perhaps `labels`; read with `numpy.load`."""
    arrays = {"features": x, "keys": np.array(keys)} | ({} if labels is None else {"labels": labels})
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_parquet(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Columns `keys`, perhaps `labels`, and `features`, lists of D numbers."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    def column(values: NDArray[Any]) -> Any:
        flat = pyarrow.array(values.reshape(-1))
        return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])

    columns = {"keys": pyarrow.array([to_text(key) for key in keys], pyarrow.string())}
    if labels is not None:
        columns["labels"] = column(labels)
    with replacing(path) as part:
        parquet.write_table(pyarrow.table(columns | {"features": column(x)}), part)


def write_text_table(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Columns `keys`, perhaps `labels` (or `labels_0`, ...), and `features_0`, ...; nine digits keep every float32."""
    columns: list[list[str]] = [[to_text(key) for key in keys]]
    names = ["keys"]
    for name, values in (("labels", labels), ("features", x)):
        if values is not None:
            several = values.ndim == 2
            names += [f"{name}_{i}" for i in range(values.shape[1])] if several else [name]
            for one in values.T if several else [values]:
                columns.append([str(v) if isinstance(v, int) else f"{v:.9g}" for v in one.tolist()])
    write_rows(path, names, zip(*columns, strict=True))


WRITERS: dict[str, Writer] = dict(zip(TABLES, (write_npz, write_parquet, write_text_table), strict=True))
