"""The files of an evaluation: tables of images and of classes, a confusion matrix, a picture of the worst mistakes."""

from __future__ import annotations

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
from mimsuite.data.storage import write_rows
from mimsuite.data.tar import to_text
from mimsuite.evaluation.judging.classifier import Evaluation
from mimsuite.metrics.scores import MOST_CONFUSED
from mimsuite.pictures.confusion import draw_confusion, write_confusion
from mimsuite.pictures.display import show_pixels
from mimsuite.pictures.mistakes import Caption, mistakes_sheet
from mimsuite.pictures.saving import save_image
from mimsuite.types import DisplayRange
from mimsuite.words import LabelKind

log = logging.getLogger("mimsuite")

COLUMNS: dict[LabelKind, tuple[str, ...]] = {
    "classes": ("key", "file", "label", "predicted", "probability_of_predicted", "probability_of_label"),
    "multilabel": ("key", "file", "labels", "predicted", "most_wrong", "probability_of_most_wrong"),
    "regression": ("key", "file", "label", "predicted", "error"),
}
"""Columns of `predictions.csv`; `most_wrong` is the label of a set whose probability is farthest from the truth."""

CAPTIONS: dict[LabelKind, str] = {
    "classes": "green: the true class, red: the predicted one, each with the probability that the model gives it",
    "multilabel": "green: the label that is most wrong, and whether it is there; red: what the model says, and the "
    "label's probability",
    "regression": "green: the true number, red: the predicted one",
}
"""What the lines below the pictures of `mistakes.png` are."""


def write_report(
    folder: Path,
    evaluation: Evaluation,
    files: Sequence[str],
    kind: LabelKind,
    names: Sequence[str] | None,
    *,
    pictures: int,
    split: str,
    images: Callable[[Tensor], Sequence[NDArray[np.uint8]]],
    footer: str = "",
) -> int:
    """Writes the files of an evaluation but for its summary, and returns how many images are wrong.

    `predictions.csv`; of classes and label sets `per_class.csv`; of up to 2,000 classes `confusion.csv` and
    `confusion.png`; and where something is wrong `mistakes.png`.

    Args:
        folder: where to.
        evaluation: of the split.
        files: the paths of its images, see `members.read_files`.
        kind: what was predicted.
        names: of the classes; None for their numbers.
        pictures: images in `mistakes.png`, at most; 0 for no picture.
        split: its name.
        images: gives the pictures of samples by their numbers.
        footer: what stands below them.
    """
    write_predictions(folder / "predictions.csv", evaluation, files, kind, names)
    if evaluation.scores.per_class is not None:
        write_per_class(folder / "per_class.csv", evaluation, kind, names)
    counts = evaluation.scores.confusion
    if counts is None and kind == "classes":
        log.info("no confusion matrix: there are more than %s classes", f"{MOST_CONFUSED:,}")
    elif counts is not None:
        write_confusion(counts, folder / "confusion.csv", names)
        draw_confusion(counts, folder / "confusion.png", names)
    chosen, mistakes = choose_worst(evaluation, pictures)
    if not mistakes:
        log.info("nothing is wrong, so there is no picture of mistakes")
    if len(chosen):
        captions = [caption_of(evaluation, place, kind, names, files[place]) for place in chosen.tolist()]
        noun = "errors" if kind == "regression" else "mistakes"
        title = f"the {len(chosen)} worst of {mistakes:,} {noun} among {len(evaluation.keys):,} images of {split}"
        below = "; ".join(filter(None, (CAPTIONS[kind], footer)))
        sheet = mistakes_sheet(images(evaluation.numbers[chosen]), captions, title, below)
        save_image(sheet, folder / "mistakes.png")
    return mistakes


def write_predictions(
    path: Path, evaluation: Evaluation, files: Sequence[str], kind: LabelKind, names: Sequence[str] | None
) -> None:
    """Writes a CSV with a line per image, in the order of the samples; columns: see `COLUMNS`.

    Sets of labels are joined by `|`.
    """
    answers = evaluation.answers
    subjects, own, true = (t.tolist() for t in (answers.subject, answers.probability, answers.probability_of_true))
    rows: Iterable[tuple[Any, ...]]
    if kind == "classes":
        columns = zip(evaluation.labels.tolist(), subjects, own, true, strict=True)
        rows = ((class_name(label, names), class_name(n, names), f"{p:.6g}", f"{q:.6g}") for label, n, p, q in columns)
    elif kind == "multilabel":
        sets = (
            [join_label_names(row, names) for row in table.bool()] for table in (evaluation.labels, answers.predicted)
        )
        answered = zip(*sets, subjects, own, strict=True)
        rows = ((label, predicted, class_name(n, names), f"{p:.6g}") for label, predicted, n, p in answered)
    else:
        numbers = zip(evaluation.labels[:, 0].tolist(), answers.predicted[:, 0].tolist(), strict=True)
        rows = ((f"{label:.9g}", f"{p:.9g}", f"{p - label:.6g}") for label, p in numbers)
    named = zip(evaluation.keys, files, rows, strict=True)
    write_rows(path, COLUMNS[kind], ((to_text(key), to_text(file), *row) for key, file, row in named))


def write_per_class(path: Path, evaluation: Evaluation, kind: LabelKind, names: Sequence[str] | None) -> None:
    """Writes a CSV with a line per class: its images, and its accuracy or average precision, empty without images."""
    per_class, labels = evaluation.scores.per_class, evaluation.labels
    assert per_class is not None
    images = labels.bincount(minlength=len(per_class)) if kind == "classes" else labels.sum(0).long()
    metric = "accuracy" if kind == "classes" else "average_precision"
    lines = enumerate(zip(images.tolist(), per_class.tolist(), strict=True))
    rows = ((class_name(n, names), count, f"{value:.6g}" if count else "") for n, (count, value) in lines)
    write_rows(path, ("class", "images", metric), rows)


def choose_worst(evaluation: Evaluation, count: int) -> tuple[Tensor, int]:
    """The most wrong images, at most `count`, the worst first, `(M,)` int64; and how many are wrong at all."""
    error = evaluation.answers.error
    mistakes = int((error >= 0).sum())
    order = torch.argsort(error, descending=True, stable=True)
    return order[: min(count, mistakes)], mistakes


def caption_of(evaluation: Evaluation, place: int, kind: LabelKind, names: Sequence[str] | None, file: str) -> Caption:
    """What stands below the picture of an image."""
    answers = evaluation.answers
    subject, own = int(answers.subject[place]), float(answers.probability[place])
    if kind == "classes":
        label, true = int(evaluation.labels[place]), float(answers.probability_of_true[place])
        return Caption((class_name(label, names), f"{true:.2f}"), (class_name(subject, names), f"{own:.2f}"), file)
    if kind == "multilabel":
        there = bool(evaluation.labels[place, subject])
        words = ("present", "absent") if there else ("absent", "present")
        return Caption((f"{class_name(subject, names)}: {words[0]}", ""), (words[1], f"{own:.2f}"), file)
    values = (float(table[place, subject]) for table in (evaluation.labels, answers.predicted))
    label_text, predicted = (f"{value:.4g}" for value in values)
    return Caption(("true", label_text), ("predicted", predicted), file)


def images_of(
    index: DataIndex,
    samples: Samples,
    numbers: Tensor,
    image_size: tuple[int, int],
    display: DisplayRange | None = None,
) -> list[NDArray[np.uint8]]:
    """The pictures of some samples as the classifier sees them, for people, each `(H, W, 3)`.

    Of more than three channels the first three are shown, of one or two the first.

    Args:
        index: the data set.
        samples: of the split.
        numbers: `(M,)` int64, all different, in any order.
        image_size: `(H, W)` pixels.
        display: which values are shown; None: all.
    """
    order = numbers.argsort()
    chosen = samples.take(numbers[order].numpy())
    (batch,) = eval_loader(index, chosen, image_size=image_size, batch=len(chosen), workers=0, labels=False)
    shown = show_pixels(batch.images.numpy(), index.maximum, display)
    return [shown[place] for place in order.argsort().tolist()]


def class_name(number: int, names: Sequence[str] | None) -> str:
    """A class's name, or its number where there are no names."""
    return str(number) if names is None else names[number]


def join_label_names(row: Tensor, names: Sequence[str] | None) -> str:
    """The names of the labels that a `(K,)` bool has."""
    return "|".join(class_name(n, names) for n in row.nonzero()[:, 0].tolist())
