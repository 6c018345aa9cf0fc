"""What was predicted, written down: tables of images and of classes, a confusion matrix, the worst mistakes."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimsuite.data.datamodule import eval_loader
from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.tar import printable
from mimsuite.evaluation.judging.classifier import Evaluation
from mimsuite.metrics.scores import MOST_CONFUSED, LabelKind
from mimsuite.pictures.confusion import draw_confusion, write_confusion
from mimsuite.pictures.display import to_display
from mimsuite.pictures.mistakes import Caption, mistakes_sheet

log = logging.getLogger("mimsuite")

COLUMNS: dict[LabelKind, tuple[str, ...]] = {
    "classes": ("key", "label", "predicted", "probability_of_predicted", "probability_of_label"),
    "multilabel": ("key", "labels", "predicted", "most_wrong", "probability_of_most_wrong"),
    "regression": ("key", "label", "predicted", "error"),
}
"""Columns of `predictions.csv`; `most_wrong` is the label of a set whose probability is farthest from the truth."""


def report(
    folder: Path,
    judged: Evaluation,
    kind: LabelKind,
    names: Sequence[str] | None,
    *,
    pictures: int,
    what: str,
    images: Callable[[Tensor], Sequence[NDArray[np.uint8]]],
) -> int:
    """Writes all that an evaluation leaves beside its summary, and returns how many images are wrong.

    `predictions.csv`; of classes and label sets `per_class.csv`; of up to 2,000 classes `confusion.csv` and
    `confusion.png`; and where something is wrong `mistakes.png`.

    Args:
        folder: where to.
        judged: the split.
        kind: what was predicted.
        names: of the classes; None for their numbers.
        pictures: images in `mistakes.png`, at most; 0 for no picture.
        what: the split's name.
        images: gives the pictures of samples by their numbers.
    """
    write_predictions(folder / "predictions.csv", judged, kind, names)
    if judged.worth.per_class is not None:
        write_per_class(folder / "per_class.csv", judged, kind, names)
    counts = judged.worth.confusion
    if counts is None and kind == "classes":
        log.info("no confusion matrix: there are more than %s classes", f"{MOST_CONFUSED:,}")
    elif counts is not None:
        write_confusion(counts, folder / "confusion.csv", names)
        draw_confusion(counts, folder / "confusion.png", names)
    chosen, mistakes = worst(judged, pictures)
    if not mistakes:
        log.info("nothing is wrong, so there is no picture of mistakes")
    if len(chosen):
        said = [said_of(judged, place, kind, names) for place in chosen.tolist()]
        noun = "errors" if kind == "regression" else "mistakes"
        title = f"the {len(chosen)} worst of {mistakes:,} {noun} among {len(judged.keys):,} images of {what}"
        mistakes_sheet(images(judged.numbers[chosen]), said, title).save(folder / "mistakes.png")
    return mistakes


def write_predictions(path: Path, judged: Evaluation, kind: LabelKind, names: Sequence[str] | None) -> None:
    """Writes a CSV with a line per image, in the order of the samples; columns: see `COLUMNS`.

    Sets of labels are joined by `|`.
    """
    said = judged.verdicts
    at, own, true = said.at.tolist(), said.probability.tolist(), said.of_true.tolist()
    rows: Iterable[tuple[Any, ...]]
    if kind == "classes":
        answers = zip(judged.labels.tolist(), at, own, true, strict=True)
        rows = ((name(label, names), name(n, names), f"{p:.6g}", f"{q:.6g}") for label, n, p, q in answers)
    elif kind == "multilabel":
        sets = ([joined(row, names) for row in table.bool()] for table in (judged.labels, said.predicted))
        answered = zip(*sets, at, own, strict=True)
        rows = ((label, predicted, name(n, names), f"{p:.6g}") for label, predicted, n, p in answered)
    else:
        numbers = zip(judged.labels[:, 0].tolist(), said.predicted[:, 0].tolist(), strict=True)
        rows = ((f"{label:.9g}", f"{p:.9g}", f"{p - label:.6g}") for label, p in numbers)
    write_rows(path, COLUMNS[kind], ((printable(key), *row) for key, row in zip(judged.keys, rows, strict=True)))


def write_per_class(path: Path, judged: Evaluation, kind: LabelKind, names: Sequence[str] | None) -> None:
    """Writes a CSV with a line per class: its images, and its accuracy or average precision, empty without images."""
    per_class, labels = judged.worth.per_class, judged.labels
    assert per_class is not None
    images = labels.bincount(minlength=len(per_class)) if kind == "classes" else labels.sum(0).long()
    figure = "accuracy" if kind == "classes" else "average_precision"
    lines = enumerate(zip(images.tolist(), per_class.tolist(), strict=True))
    rows = ((name(n, names), count, f"{value:.6g}" if count else "") for n, (count, value) in lines)
    write_rows(path, ("class", "images", figure), rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def worst(judged: Evaluation, count: int) -> tuple[Tensor, int]:
    """The most wrong images, at most `count`, the worst first, `(M,)` int64; and how many are wrong at all."""
    wrong = judged.verdicts.wrong
    mistakes = int((wrong >= 0).sum())
    order = torch.argsort(wrong, descending=True, stable=True)
    return order[: min(count, mistakes)], mistakes


def said_of(judged: Evaluation, place: int, kind: LabelKind, names: Sequence[str] | None) -> Caption:
    """What stands below the picture of an image."""
    verdicts = judged.verdicts
    at, own = int(verdicts.at[place]), float(verdicts.probability[place])
    if kind == "classes":
        label, true = int(judged.labels[place]), float(verdicts.of_true[place])
        return Caption((name(label, names), f"{true:.2f}"), (name(at, names), f"{own:.2f}"))
    if kind == "multilabel":
        there = bool(judged.labels[place, at])
        words = ("present", "absent") if there else ("absent", "present")
        return Caption((f"{name(at, names)}: {words[0]}", ""), (words[1], f"{own:.2f}"))
    values = (float(table[place, at]) for table in (judged.labels, verdicts.predicted))
    label_text, predicted = (f"{value:.4g}" for value in values)
    return Caption(("true", label_text), ("predicted", predicted))


def images_of(
    index: DataIndex, samples: Samples, numbers: Tensor, image_size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    """The pictures of some samples as the classifier saw them, for the eye, each `(H, W, 3)`.

    Of more than three channels the first three are shown, of one or two the first.

    Args:
        index: the data set.
        samples: of the split.
        numbers: `(M,)` int64, all different, in any order.
        image_size: `(H, W)` pixels.
    """
    order = numbers.argsort()
    chosen = samples.take(numbers[order].numpy())
    (batch,) = eval_loader(index, chosen, image_size=image_size, batch=len(chosen), workers=0, labels=False)
    fractions = batch.images.numpy() / (65535 if index.dtype == "uint16" else 255)
    shown = to_display(fractions, [0.0] * index.channels, [1.0] * index.channels)
    return [shown[place] for place in order.argsort().tolist()]


def name(number: int, names: Sequence[str] | None) -> str:
    """A class's name, or its number where nobody gave names."""
    return str(number) if names is None else names[number]


def joined(row: Tensor, names: Sequence[str] | None) -> str:
    """The names of the labels that a `(K,)` bool has."""
    return "|".join(name(n, names) for n in row.nonzero()[:, 0].tolist())
