"""`mimsuite evaluate`: what a classifier, a probe or a pretraining run is worth on a split, and what it gets wrong."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, open_dict

from mimsuite import app
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.label_table import read_labels
from mimsuite.data.labels import Label
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.evaluation.judging.answers import Answers, match
from mimsuite.evaluation.judging.trained import TrainedModel, find_trained, fit_dtype, own_answers, scorer
from mimsuite.masked.geometry import check_image_size
from mimsuite.models.device import torch_device
from mimsuite.models.load import check_channels, config_of, normalizer_of, trained_model
from mimsuite.runs.folder import RunFolder, check_out, speak
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.masks import BATCH, Masking, masking_of
from mimsuite.settings.read import format_size, read_flag, read_int, read_size
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

Size = tuple[int, int]


@dataclass(frozen=True)
class EvaluateSettings:
    """An evaluation, decided and checked.

    Attributes:
        trained: what is evaluated.
        prefix: of the metrics' names.
        sizes: `(H, W)` pixels of the centre crops, one row of figures each.
        labels: of all images, for a classifier.
        answers: what a classifier predicts; None of a masked image model.
        masking: what is hidden from one; None of a classifier.
        flip: whether mirrored images are looked at, too.
        mistakes: images in the picture.
    """

    trained: TrainedModel
    index: DataIndex
    part: Selection
    prefix: str
    sizes: tuple[Size, ...]
    labels: Sequence[Label]
    answers: Answers | None
    masking: Masking | None
    flip: bool
    mistakes: int
    batch: int
    workers: int


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluates; returns the content of `summary.json`."""
    speak()
    overwrite = read_flag(cfg, "overwrite")
    check_out(cfg.out, overwrite=overwrite)
    check_apart(cfg)
    plan = decide(cfg, overrides)
    if plan.masking is not None:
        with open_dict(cfg):
            cfg.mask = plan.masking.mask  # those of a run, perhaps: config.yaml says what was done
    with RunFolder(cfg.out, overwrite=overwrite) as folder:
        folder.log_to_file()
        folder.describe(cfg, overrides, {"device": torch_device()})
        count = plan.index.num_samples(plan.part)
        log.info("mimsuite %s evaluate of %s -> %s", __version__, cfg.init, cfg.out)
        log.info(
            "data      %s: %s (%s images) at %s px",
            *(plan.index.root, plan.prefix, f"{count:,}", ", ".join(map(format_size, plan.sizes))),
        )
        if plan.masking is not None:
            log.info("masks     %s", plan.masking.note)
        rows, more = judge_all(plan, folder.path) if plan.masking is None else masked_all(plan, plan.masking)
        for size, row in zip(plan.sizes, rows, strict=True):
            log.info("%-9s %s", format_size(size), ", ".join(f"{name} {value:.4f}" for name, value in row.items()))
        if len(rows) > 1:
            several = [{"image_size": list(size), **row} for size, row in zip(plan.sizes, rows, strict=True)]
            write_csv(folder.path / "sizes.csv", several)
            more["sizes"] = several
        metrics = {f"{plan.prefix}/{name}": value for name, value in rows[0].items()}
        more |= {"split": plan.prefix, "image_size": list(plan.sizes[0])}
        return folder.summary("evaluate", "done", 0, metrics, **more)


# --- what is to be done --------------------------------------------------------------------------------------------


def decide(cfg: DictConfig, overrides: Sequence[str]) -> EvaluateSettings:
    """Checks every key.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    flip, mistakes = read_flag(cfg, "flip"), read_int(cfg, "mistakes", least=0)
    trained = find_trained(cfg.init)
    config = config_of(trained.weights)
    if trained.masked and flip:
        raise InputError(f"flip=true is for classifiers, and init={cfg.init} predicts pixels; use flip=false")
    index = open_data(cfg.data)
    check_channels(index, trained.weights)
    part = choose_part(index, str(cfg.split), masked=trained.masked)
    sizes = image_sizes(cfg.image_size, trained.image_size)
    check_sizes(config, sizes)
    labels: Sequence[Label] = ()
    answers = masking = None
    if trained.masked:
        masking = masking_of(cfg, overrides, config, sizes, index.num_samples(part))
    else:
        if not index.has_labels:
            raise InputError(
                f"data={cfg.data} has no labels; to evaluate a classifier takes one per image (.cls or .json in the "
                "shards)"
            )
        labels = read_labels(index, index.records(part))
        answers = match(own_answers(trained, config), labels, index.classes, f"data={cfg.data or 'emoji-64'}")
    return EvaluateSettings(
        *(trained, index, part, part.split if part.part == "all" else "held_out", sizes),
        *(labels, answers, masking, flip, mistakes),
        batch=read_int(cfg, "batch", auto=masking.batch if masking else BATCH),
        workers=read_int(cfg, "workers", auto=auto_workers(), least=0),
    )


def check_apart(cfg: DictConfig) -> None:
    """Refuses an `out` that holds what `init` names: overwriting would remove it."""
    init, out = Path(str(cfg.init)).resolve(), Path(cfg.out).resolve()
    if out == init or out in init.parents:
        raise InputError(f"out={cfg.out} holds init={cfg.init}, which it would replace; use another out=")


def choose_part(index: DataIndex, split: str, *, masked: bool) -> Selection:
    """The split that is asked for; of `auto` test, else val, else what a pretraining run held out of train.

    Raises:
        InputError: the data has no such split.
    """
    if split == "auto":
        return index.select("curve" if masked and not {"test", "val"} & set(index.splits) else "test")
    index.num_samples(split)
    return Selection(split)


def image_sizes(value: Any, native: Size) -> tuple[Size, ...]:
    """The sizes that `image_size=` names: a side, `[height,width]`, or a list of three sides or more, or of lists.

    Raises:
        InputError: no sizes, or one twice.
    """
    if value == "auto":
        return (native,)
    listed = isinstance(value, ListConfig) and (len(value) > 2 or any(isinstance(v, ListConfig) for v in value))
    found = tuple(read_size(v) for v in value) if listed else (read_size(value),)
    if len(set(found)) < len(found):
        raise InputError(f"image_size={value} names a size twice; use different ones, such as image_size=[224,288,384]")
    return found


def check_sizes(config: Any, sizes: Sequence[Size]) -> None:
    """Checks that a ViT's patches tile each size, and that its positions can be resized to it."""
    if config.model_type != "vit":
        return
    for size in sizes:
        check_image_size(size, config.stride)
        if config.use_shared_relative_position_bias and size != read_size(config.image_size):
            own = format_size(read_size(config.image_size))
            raise InputError(
                f"image_size={format_size(size)}: relative positions cannot be resized; use image_size={own}"
            )


# --- doing it ------------------------------------------------------------------------------------------------------


def judge_all(plan: EvaluateSettings, folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The figures of a classifier at every size, and what else the summary says; files for the first size."""
    from mimsuite.evaluation.judging.classifier import judge, label_tensor
    from mimsuite.evaluation.judging.predictions import images_of, report

    answers, records = plan.answers, plan.index.records(plan.part)
    assert answers is not None
    if answers.note:
        log.info("classes   %s", answers.note)
    labels = label_tensor(plan.labels, answers.kind, answers.outputs)
    rows: list[dict[str, float]] = []
    more: dict[str, Any] = {"kind": answers.kind, "flip": plan.flip}
    for size in plan.sizes:
        classifier = scorer(plan.trained, plan.index, answers, size, flip=plan.flip)
        judged = judge(classifier, plan.index, records, labels, image_size=size, batch=plan.batch, workers=plan.workers)
        rows.append(judged.worth.figures | {"loss": judged.loss})
        if size == plan.sizes[0]:
            more |= {"images": len(judged.keys)}
            more["mistakes"] = report(
                *(folder, judged, answers.kind, answers.names),
                pictures=plan.mistakes,
                what=plan.prefix,
                images=lambda numbers: images_of(plan.index, records, numbers, plan.sizes[0]),
            )
    return rows, more


def masked_all(plan: EvaluateSettings, masking: Masking) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The figures of a masked image model at every size, and what else the summary says."""
    from mimsuite.data.datamodule import eval_loader
    from mimsuite.evaluation.judging.masked import masked_figures

    device, count = torch_device(), plan.index.num_samples(plan.part)
    normalize = normalizer_of(plan.trained.weights).to(device)
    fit_dtype(normalize, plan.index)
    rows = []
    for size, unit in zip(plan.sizes, masking.units, strict=True):
        model = trained_model(plan.trained.weights, config_of(plan.trained.weights), size).to(device)
        loader = eval_loader(
            *(plan.index, plan.part),
            image_size=size,
            batch=plan.batch,
            workers=plan.workers,
            labels=False,
            mask=masking.sampler,
            mask_unit=unit,
        )
        rows.append(masked_figures(model, loader, normalize, loss=masking.loss, device=device, images=count))
    return rows, {"kind": "masked", "images": count, "mask": masking.mask}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a line per image size."""
    figures = [name for name in rows[0] if name != "image_size"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "width", *figures])
        writer.writerows([*row["image_size"], *(row[name] for name in figures)] for row in rows)


if __name__ == "__main__":
    app.main("evaluate", run)
