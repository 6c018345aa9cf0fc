"""`mimsuite embed`: features of every image of a data set in a file, and a map of them."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.data.tar import printable
from mimsuite.errors import InputError
from mimsuite.models.device import torch_device
from mimsuite.models.load import check_channels, config_of, load_encoder
from mimsuite.runs.folder import check_picture, speak
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.read import FALLBACK_SIZE, format_size, read_choice, read_flag, read_int, read_size
from mimsuite.weights.init import Weights, find_weights

if TYPE_CHECKING:
    from mimsuite.evaluation.features.stored import StoredFeatures
    from mimsuite.evaluation.features.views import Pool, View

log = logging.getLogger("mimsuite")

ENDINGS = (".npz", ".parquet", ".csv")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the features of a split; returns counts and places."""
    speak()
    overwrite = read_flag(cfg, "overwrite")
    out = check_table(cfg.out, overwrite=overwrite)
    picture = check_map(cfg, out, overwrite=overwrite)
    pool = read_choice(cfg, "pool", ("mean", "cls", "both"))
    batch, workers = read_int(cfg, "batch"), read_int(cfg, "workers", auto=auto_workers(), least=0)
    weights = find_weights(cfg.init)
    config = config_of(weights)
    layer = layer_of(cfg, config.class_tokens, pool)
    size = (
        weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE) if cfg.image_size == "auto" else read_size(cfg.image_size)
    )
    index = open_data(cfg.data)
    check_channels(index, weights)
    part = choose_part(index, str(cfg.split))
    count = index.num_samples(part)
    log.info("data      %s: %s (%s images) at %s px", index.root, part.split, f"{count:,}", format_size(size))
    stored, view = features(weights, index, part, (layer, pool), size, batch, workers)
    found = stored.features(view)
    x, labels = found.x.numpy(), None if found.labels is None else found.labels.numpy()
    try:
        write(out, x, labels, stored.keys)
        if picture is not None:
            draw(picture, x, labels, index, f"{view} of {cfg.init}: {part.split} of {cfg.data or 'emoji-64'}")
    except OSError as error:
        raise InputError(f"out={out} cannot be written: {error.strerror or error}; use another out=") from error
    log.info("%s of %s: features (%d, %d) in %s", view, cfg.init, *x.shape, out)
    if picture is not None:
        log.info("map in %s", picture)
    return {
        "out": str(out),
        "map": None if picture is None else str(picture),
        "samples": len(x),
        "width": x.shape[1],
        "layer": layer,
        "pool": pool,
        "split": part.split,
        "labels": labels is not None,
    }


# --- what is to be done --------------------------------------------------------------------------------------------


def check_table(out: Any, *, overwrite: bool) -> Path:
    """Says whether the table may be written; changes nothing.

    Raises:
        InputError: another ending, a folder, a file that is there, or no pyarrow for a .parquet.
    """
    path = Path(str(out))
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"out={out} does not end in {', '.join(ENDINGS)}; use out={path.with_suffix('.npz')}")
    if path.is_dir():
        raise InputError(f"out={out} is a folder; name a file in it: out={path / 'features.npz'}")
    if path.exists() and not overwrite:
        raise InputError(f"out={out} exists; use another out=, or overwrite=true")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(
            f'out={out} needs pyarrow, which is not installed; pip install "mimsuite[parquet]", or use '
            f"out={path.with_suffix('.npz')}"
        )
    return path


def check_map(cfg: DictConfig, out: Path, *, overwrite: bool) -> Path | None:
    """Where the map goes, if there is to be one.

    Raises:
        InputError: it may not be written there.
    """
    if cfg.map in (None, False):
        return None
    try:
        return check_picture(out.with_suffix(".png") if cfg.map == "auto" else cfg.map, overwrite=overwrite)
    except InputError as error:
        raise InputError(str(error).replace("out=", "map=") + "; map=false draws none") from None


def layer_of(cfg: DictConfig, tokens: Sequence[bool], pool: str) -> int:
    """The number of the layer that `layer=` names.

    Args:
        cfg: read is `layer`.
        tokens: whether each layer has a class token.
        pool: what is wanted of it.

    Raises:
        InputError: no such layer, or one without the class token that `pool` needs.
    """
    depth = len(tokens)
    named: dict[Any, int] = {"auto": depth, "middle": max(1, depth // 2)}
    layer = named.get(cfg.layer, cfg.layer)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= depth:
        raise InputError(f"layer={cfg.layer}: this encoder's layers are 1 to {depth}; use one of these, middle or auto")
    if pool != "mean" and not tokens[layer - 1]:
        having = [n for n, has in enumerate(tokens, start=1) if has]
        fix = f"use layer={having[-1]} or pool=mean" if having else "use pool=mean"
        raise InputError(f"pool={pool}, but layer {layer} of this encoder has no class token; {fix}")
    return layer


def choose_part(index: DataIndex, split: str) -> Selection:
    """The split that is asked for; of `auto` the test images, and where nothing is held out, all there are.

    Raises:
        InputError: the data has no such split.
    """
    name = split if split != "auto" else next((s for s in ("test", "val") if s in index.splits), "train")
    part = Selection(name)
    index.num_samples(part)
    return part


# --- doing it ------------------------------------------------------------------------------------------------------


def features(
    weights: Weights,
    index: DataIndex,
    part: Selection,
    wanted: tuple[int, str],
    size: tuple[int, int],
    batch: int,
    workers: int,
) -> tuple[StoredFeatures, View]:
    """One view of the images, computed or read where an earlier task stored it."""
    from mimsuite.evaluation.features.passes import feature_pass
    from mimsuite.evaluation.features.views import View

    encoder = load_encoder(weights, config_of(weights), size)
    reading = feature_pass(weights, index, encoder, size, device=torch_device(), batch=batch, workers=workers)
    view = View(wanted[0], cast("Pool", wanted[1]))
    return reading.read(index, part, [view]), view


def write(out: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Writes the table in one step, by the ending of `out`.

    Args:
        out: .npz, .parquet or .csv; its folder is made.
        x: `(N, D)`.
        labels: `(N,)` classes, `(N, K)` targets, or None for a table without labels.
        keys: names of the N samples.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        {".npz": write_npz, ".parquet": write_parquet, ".csv": write_csv}[out.suffix.lower()](part, x, labels, keys)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def write_npz(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Arrays `features`, `keys` and perhaps `labels`; read with `numpy.load`."""
    arrays = {"features": x, "keys": np.array(keys)} | ({} if labels is None else {"labels": labels})
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_parquet(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Columns `keys`, perhaps `labels`, and `features`, lists of D numbers."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    def column(values: NDArray[Any]) -> Any:
        flat = pyarrow.array(values.reshape(-1))
        return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])

    columns = {"keys": pyarrow.array([printable(key) for key in keys], pyarrow.string())}
    if labels is not None:
        columns["labels"] = column(labels)
    parquet.write_table(pyarrow.table(columns | {"features": column(x)}), path)


def write_csv(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, keys: Sequence[str]) -> None:
    """Columns `keys`, perhaps `labels` (or `labels_0`, ...), and `features_0`, ...; nine digits keep every float32."""
    columns: list[list[str]] = [[printable(key) for key in keys]]
    names = ["keys"]
    for name, values in (("labels", labels), ("features", x)):
        if values is not None:
            several = values.ndim == 2
            names += [f"{name}_{i}" for i in range(values.shape[1])] if several else [name]
            for one in values.T if several else [values]:
                columns.append([str(v) if isinstance(v, int) else f"{v:.9g}" for v in one.tolist()])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))


def draw(path: Path, x: NDArray[np.float32], labels: NDArray[Any] | None, index: DataIndex, title: str) -> None:
    """Draws the map; points have colours where every image has one class."""
    from mimsuite.pictures.maps import draw_map, principal_plane

    one_class = labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    draw_map(principal_plane(x), labels if one_class else None, index.classes, title, path)


if __name__ == "__main__":
    app.main("embed", run)
