"""What is evaluated, on which images and how: the values of `conf/evaluate.yaml`, read once. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite.config.instantiate import trusted_targets
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.label_table import read_labels
from mimsuite.data.labels import Label
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.masked.geometry import check_image_size
from mimsuite.models.load import HALF, check_channels, config_of, warn_of_preprocessing
from mimsuite.settings.class_match import MatchedOutputs, is_only_a_number, match_outputs
from mimsuite.settings.given_labels import read_label_file, read_labelled
from mimsuite.settings.images import Size, choose_split, read_image_sizes
from mimsuite.settings.machine import read_workers
from mimsuite.settings.masks import BATCH, Masking, read_masking
from mimsuite.settings.model import overrides_group
from mimsuite.settings.outputs import check_apart, check_outside, check_run_folder
from mimsuite.settings.read import format_size, read, read_data, read_flag, read_int
from mimsuite.settings.resolve import plain_values, with_values
from mimsuite.settings.taught import LatentTeacher, find_teacher
from mimsuite.settings.trained import TrainedModel, classifier_outputs, find_trained
from mimsuite.types import EncoderConfig


@dataclass(frozen=True)
class EvaluateSettings:
    """An evaluation, decided and checked.

    Attributes:
        out: the run folder.
        overwrite: whether it may replace a run there.
        trained: what is evaluated.
        index: the data.
        part: the images.
        split: their name, the prefix of the metrics' names.
        sizes: `(H, W)` pixels of the centre crops; each gives a row of metrics.
        labels: of all images, for a classifier.
        outputs: what a classifier predicts; None of a masked image model.
        masking: what is hidden from one; None of a classifier.
        teachers: whose features it predicts, for each of `sizes`; empty where it predicts none.
        flip: whether mirrored images are evaluated, too, and averaged.
        mistakes: images in the picture.
        batch: images per forward pass.
        workers: loader processes.
        devices: processes that share the images; None: one per GPU.
        config: what `config.yaml` holds, with the masks that are used: perhaps those of a run.
    """

    out: Path
    overwrite: bool
    trained: TrainedModel
    index: DataIndex
    part: Selection
    split: str
    sizes: tuple[Size, ...]
    labels: Sequence[Label]
    outputs: MatchedOutputs | None
    masking: Masking | None
    teachers: tuple[LatentTeacher, ...]
    flip: bool
    mistakes: int
    batch: int
    workers: int
    devices: int | None
    config: Mapping[str, Any]

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.index.num_samples(self.part)


def read_evaluate(cfg: DictConfig, overrides: Sequence[str], *, leads: bool = True) -> EvaluateSettings:
    """Reads and checks every key.

    Args:
        cfg: the composed config.
        overrides: the command line's `key=value` arguments.
        leads: whether this process writes `out`, which must be free then.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    overwrite = read_flag(cfg, "overwrite")
    if leads:
        check_run_folder(cfg.out, overwrite=overwrite)
    check_apart(str(cfg.init), str(cfg.out))
    devices = read_int(cfg, "devices", auto=0) or None
    flip, mistakes = read_flag(cfg, "flip"), read_int(cfg, "mistakes", least=0)
    trusted = trusted_targets(cfg, overrides)
    trained = find_trained(cfg.init, trusted)
    config = config_of(trained.weights)
    predicts = "pixels" if config.mim_predictor is None else "features"
    if trained.masked and flip:
        raise InputError(f"flip=true is for classifiers, and init={cfg.init} predicts {predicts}; use flip=false")
    for key, of_masked in (("mask", True), ("mistakes", False)):
        if of_masked != trained.masked and overrides_group(overrides, key) and read(cfg, key) != 0:
            whose = "masked image models" if of_masked else "classifiers"
            made = f"predicts {predicts}" if trained.masked else "is a classifier"
            raise InputError(f"{key}= is for {whose}, and init={cfg.init} {made}; remove it")
    data = read_data(cfg)
    check_outside(cfg.out, data)
    index = open_data(data, trained.alpha)
    check_channels(index, trained.weights)
    if trained.probe is None:
        warn_of_preprocessing(trained.weights, HALF)
    if trained.masked and read_label_file(cfg) is not None:
        raise InputError(
            f"labels={cfg.labels} is for classifiers, and init={cfg.init} predicts {predicts}; remove labels="
        )
    if not trained.masked:
        own = classifier_outputs(trained, config).names
        known = [str(number) for number in range(len(own))] if is_only_a_number(own) else own
        index = read_labelled(cfg, index, "the evaluation of a classifier", known)
    part = choose_split(index, str(cfg.split))
    sizes = read_image_sizes(read(cfg, "image_size"), trained.image_size)
    check_sizes(config, sizes)
    masking = read_masking(cfg, overrides, config, sizes, index.num_samples(part)) if trained.masked else None
    of_features = trained.masked and config.mim_predictor is not None
    teachers = [find_teacher(trained.weights, config, size, trusted) for size in sizes] if of_features else ()
    labels, outputs = ((), None) if trained.masked else read_classes(trained, config, index, part, cfg.data)
    return EvaluateSettings(
        out=Path(cfg.out),
        overwrite=overwrite,
        trained=trained,
        index=index,
        part=part,
        split=part.split if part.part == "all" else "held_out",
        sizes=sizes,
        labels=labels,
        outputs=outputs,
        masking=masking,
        teachers=tuple(teachers),
        flip=flip,
        mistakes=mistakes,
        batch=read_int(cfg, "batch", auto=masking.batch if masking else BATCH),
        workers=read_workers(cfg, devices),
        devices=devices,
        config=plain_values(with_values(cfg, {"mask": masking.node}) if masking else cfg),
    )


def read_classes(
    trained: TrainedModel, config: EncoderConfig, index: DataIndex, part: Selection, data: str | None
) -> tuple[Sequence[Label], MatchedOutputs]:
    """The labels of all images, and which output of the classifier is which of their classes.

    Raises:
        InputError: labels that the classifier does not predict.
    """
    labels = read_labels(index, index.records(part))
    own = classifier_outputs(trained, config)
    return labels, match_outputs(own, labels, index.classes, f"data={data or 'emoji-64'}")


def check_sizes(config: EncoderConfig, sizes: Sequence[Size]) -> None:
    """Checks that a ViT's patches tile each size, and that its positions can be resized to it."""
    if not config.needs_whole_cells:
        return
    for size in sizes:
        check_image_size(size, config.stride)
        own = config.fixed_size
        if config.fixed_grid and own is not None and size != own:
            raise InputError(
                f"image_size={format_size(size)}: relative positions cannot be resized; "
                f"use image_size={format_size(own)}"
            )
