"""What `mimsuite embed` writes: the values of `conf/embed.yaml`, read once and checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite.config.instantiate import trusted_targets
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.models.load import check_channels, config_of, warn_of_preprocessing
from mimsuite.settings.images import choose_split, read_image_size
from mimsuite.settings.init_keys import fit_weights
from mimsuite.settings.machine import read_workers
from mimsuite.settings.outputs import check_file, check_outside
from mimsuite.settings.read import read, read_choice, read_data, read_flag, read_int
from mimsuite.settings.views import VECTOR_POOLS, View, read_view
from mimsuite.weights.init import Weights, find_weights

TABLES = (".npz", ".parquet", ".csv")


@dataclass(frozen=True)
class EmbedSettings:
    """Which features go where, decided and checked.

    Attributes:
        out: the table.
        picture: the map, or None for none.
        weights: the encoder's.
        index: the data.
        part: the images.
        view: layer and pooling.
        image_size: `(H, W)` pixels of the centre crops.
        batch: images per forward pass.
        workers: loader processes.
        devices: processes that compute the features; None: one per GPU.
        title: of the map.
    """

    out: Path
    picture: Path | None
    weights: Weights
    index: DataIndex
    part: Selection
    view: View
    image_size: tuple[int, int]
    batch: int
    workers: int
    devices: int | None
    title: str


def read_embed(cfg: DictConfig, overrides: Sequence[str] = ()) -> EmbedSettings:
    """Reads and checks every key.

    Raises:
        InputError: a value that the task, the encoder or the data does not take.
    """
    overwrite = read_flag(cfg, "overwrite")
    out = read_table(cfg.out, TABLES, overwrite=overwrite)
    picture = read_map(read(cfg, "map"), out, overwrite=overwrite)
    pool = read_choice(cfg, "pool", VECTOR_POOLS)
    batch, devices = read_int(cfg, "batch"), read_int(cfg, "devices", auto=0) or None
    workers = read_workers(cfg, devices)
    weights = find_weights(cfg.init).trusting(trusted_targets(cfg, overrides))
    view = read_view(read(cfg, "layer"), pool, config_of(weights).class_tokens)
    image_size = read_image_size(read(cfg, "image_size"), weights.image_size)
    data = read_data(cfg)
    check_outside(cfg.out, data)
    index = open_data(data, weights.alpha or "white")
    weights = fit_weights(cfg, weights, index)
    check_channels(index, weights)
    warn_of_preprocessing(weights, "those of the data")
    part = choose_split(index, str(cfg.split), otherwise="train", whole=True)
    title = f"{view} of {cfg.init}: {part.split} of {cfg.data or 'emoji-64'}"
    return EmbedSettings(out, picture, weights, index, part, view, image_size, batch, workers, devices, title)


def read_table(value: Any, endings: Sequence[str], *, overwrite: bool) -> Path:
    """Where the table goes, which has one of these endings, the preferred one first.

    Raises:
        InputError: it may not be written there, or .parquet without pyarrow.
    """
    path = check_file("out", str(value), endings, overwrite=overwrite)
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(
            f'out={value} needs pyarrow, which is not installed; pip install "mimsuite[parquet]", or use '
            f"out={path.with_suffix(endings[0])}"
        )
    return path


def read_map(value: Any, out: Path, *, overwrite: bool) -> Path | None:
    """Where the map goes, if there is to be one.

    Raises:
        InputError: it may not be written there.
    """
    if value is None or str(value).lower() == "false":  # the command line hands on a path as text
        return None
    place = auto_map(out, overwrite=overwrite) if value == "auto" else str(value)
    try:
        return check_file("map", place, (".png",), overwrite=overwrite)
    except InputError as error:
        raise InputError(f"{error}; map=false draws none") from None


def auto_map(out: Path, *, overwrite: bool) -> Path:
    """The map beside a table: `x.png` of `x.npz`; `x.npz.png` where `x.png` is there, as that of `x.csv`."""
    beside = out.with_suffix(".png")
    return out.with_name(f"{out.name}.png") if beside.exists() and not overwrite else beside
