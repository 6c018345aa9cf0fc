"""What `mimsuite predict` writes: the values of `conf/predict.yaml`, read once and checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.config.instantiate import trusted_targets
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.models.load import HALF, check_channels, config_of, warn_of_preprocessing
from mimsuite.settings.class_match import MatchedOutputs
from mimsuite.settings.embed import read_table
from mimsuite.settings.evaluate import check_sizes
from mimsuite.settings.images import Size, choose_split, read_image_size
from mimsuite.settings.machine import read_workers
from mimsuite.settings.outputs import check_outside
from mimsuite.settings.read import read, read_data, read_flag, read_int
from mimsuite.settings.trained import TrainedModel, classifier_outputs, find_trained

ENDINGS = (".csv", ".parquet")


@dataclass(frozen=True)
class PredictSettings:
    """Which images are classified, decided and checked.

    Attributes:
        out: the table.
        trained: a classifier or a probe.
        outputs: what it predicts.
        index: the data.
        part: the images.
        size: `(H, W)` pixels of the centre crops.
        top: how many classes are named.
        every_class: whether every class has a column.
        flip: whether mirrored images are predicted, too, and averaged.
        batch: images per forward pass.
        workers: loader processes.
    """

    out: Path
    trained: TrainedModel
    outputs: MatchedOutputs
    index: DataIndex
    part: Selection
    size: Size
    top: int
    every_class: bool
    flip: bool
    batch: int
    workers: int


def read_predict(cfg: DictConfig, overrides: Sequence[str] = ()) -> PredictSettings:
    """Reads and checks every key.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    out = read_table(cfg.out, ENDINGS, overwrite=read_flag(cfg, "overwrite"))
    top, every = read_int(cfg, "top"), read_flag(cfg, "every_class")
    trained = find_trained(cfg.init, trusted_targets(cfg, overrides))
    if trained.masked:
        raise InputError(
            f"init={cfg.init} predicts pixels, not classes; train a classifier with `mimsuite probe` or `mimsuite "
            f"finetune init={cfg.init}`"
        )
    config = config_of(trained.weights)
    own = classifier_outputs(trained, config)
    kind = own.kind or "classes"
    if kind == "regression" and (top > 1 or every):
        key = "every_class=true" if every else f"top={top}"
        raise InputError(f"{key} is for classes, and init={cfg.init} predicts a number; remove it")
    size = read_image_size(read(cfg, "image_size"), trained.image_size)
    check_sizes(config, [size])
    data = read_data(cfg)
    check_outside(cfg.out, data)
    index = open_data(data, trained.alpha)
    check_channels(index, trained.weights)
    if trained.probe is None:
        warn_of_preprocessing(trained.weights, HALF)
    return PredictSettings(
        out=out,
        trained=trained,
        outputs=MatchedOutputs(kind, len(own.names), tuple(own.names), None, ""),
        index=index,
        part=choose_split(index, str(cfg.split), otherwise="train", whole=True),
        size=size,
        top=min(top, len(own.names)),
        every_class=every,
        flip=read_flag(cfg, "flip"),
        batch=read_int(cfg, "batch"),
        workers=read_workers(cfg),
    )
