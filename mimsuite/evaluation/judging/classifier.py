"""What a classifier predicts for every image of a split, and how good that is: one pass over whole images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.data.datamodule import eval_loader
from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.labels import Label
from mimsuite.data.members import read_files
from mimsuite.data.progress import report_progress
from mimsuite.data.shard_files import files_for
from mimsuite.errors import InputError
from mimsuite.evaluation.features.exchange import rank_and_size
from mimsuite.masked.losses import widen
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.scores import Scores, Tally
from mimsuite.types import BadSample
from mimsuite.words import LabelKind

log = logging.getLogger("mimsuite")

# Shapes: B images of a batch, N of the split, K outputs.


@dataclass(frozen=True)
class Classifier:
    """What gives predictions, and how images reach it.

    Attributes:
        network: normalised floats `(B, C, H, W)` to logits, or predicted numbers, `(B, K)`; in evaluation mode.
        normalize: images as loaded to normalised floats.
        kind: what is predicted.
        outputs: K.
        order: which of the network's outputs is the data's class 0, 1, ...; None where they agree.
        flip: whether each image is also mirrored, and the two predictions averaged, see `mean_of_views`.
        device: where network and statistics lie.
    """

    network: Callable[[Tensor], Tensor]
    normalize: Normalize
    kind: LabelKind
    outputs: int
    order: Sequence[int] | None = None
    flip: bool = False
    device: str = "cpu"

    def predict(self, images: Tensor) -> Tensor:
        """Logits or predicted numbers of images as loaded, `(B, K)`, in float32 or wider."""
        pixels = self.normalize(images.to(self.device, non_blocking=True))
        predictions = widen(self.network(pixels))
        if self.flip:
            predictions = mean_of_views(predictions, widen(self.network(pixels.flip(-1))), self.kind)
        return predictions if self.order is None else predictions[:, list(self.order)]


class Answers(NamedTuple):
    """What is predicted for each image, on the CPU.

    Attributes:
        predicted: `(N,)` int64 classes; `(N, K)` bool, labels with a probability of 0.5 or more; or `(N, K)` numbers.
        subject: `(N,)` int64, what the two next are about: the predicted class, or the label or column that is most
            wrong.
        probability: `(N,)` of it; NaN of numbers.
        probability_of_true: `(N,)` of the true class; NaN of anything else.
        error: `(N,)` how wrong: probability of the predicted minus that of the true class; distance of the label's
            probability from 0 or 1; absolute error. Negative where nothing is wrong.
    """

    predicted: Tensor
    subject: Tensor
    probability: Tensor
    probability_of_true: Tensor
    error: Tensor


class Evaluation(NamedTuple):
    """The scores of a classifier on a split, and what they come from.

    Attributes:
        scores: over all images.
        numbers: `(N,)` int64, which samples these are; those that cannot be decoded are skipped.
        keys: their N names.
        labels: `(N,)` int64 classes or `(N, K)` floats.
        answers: what was predicted for them.
    """

    scores: Scores
    numbers: Tensor
    keys: list[str]
    labels: Tensor
    answers: Answers


class Predicted(NamedTuple):
    """The predictions of a batch.

    Attributes:
        numbers: `(B,)` int64, which samples these are.
        keys: their names.
        outputs: `(B, K)`, see `Classifier.predict`.
    """

    numbers: Tensor
    keys: list[str]
    outputs: Tensor


@torch.inference_mode()
def predict_images(
    classifier: Classifier,
    index: DataIndex,
    samples: Samples,
    *,
    image_size: tuple[int, int],
    batch: int,
    workers: int,
    title: str,
    bad: list[BadSample],
    only: range | None = None,
) -> Iterator[Predicted]:
    """Predicts every image once, at the centre crop; those that cannot be decoded are skipped, see `check_decoded`.

    Args:
        classifier: at `image_size`.
        index: the data set.
        samples: whose images.
        image_size: `(H, W)` pixels.
        batch: images per forward pass.
        workers: processes that read.
        title: of the progress.
        bad: gets the images that cannot be decoded.
        only: the numbers of the samples of this process, of several that share them; None: all.

    Raises:
        RunError: a shard that cannot be read.
    """
    only = range(len(samples)) if only is None else only
    if not only:
        return
    ids, done = torch.from_numpy(samples.keys().view(np.int64)), only.start
    shape: dict[str, Any] = {"image_size": image_size, "batch": batch, "workers": workers}
    loader = eval_loader(index, samples, **shape, labels=False, keys=True, processes=rank_and_size()[1], only=only)
    with report_progress(title) if only.start == 0 else nullcontext(lambda done, total: None) as report:
        for part in loader:
            own = torch.arange(done, done + len(part.ids))
            good = part.ids == ids[own]  # another's picture stands in for one that cannot be decoded
            done += len(part.ids)
            report(done, only.stop)
            bad += part.bad
            if not good.any():
                continue
            keys = [key for key, kept in zip(part.keys or [], good.tolist(), strict=True) if kept]
            yield Predicted(own[good], keys, classifier.predict(part.images[good]))


def check_decoded(used: int, images: int, bad: Sequence[BadSample]) -> None:
    """Names the images that cannot be decoded.

    Args:
        used: images that could be.
        images: all.
        bad: the others.

    Raises:
        InputError: no image can be decoded.
    """
    reasons = "; ".join(dict.fromkeys(f"{b.key} in {b.shard}: {b.reason}" for b in bad))
    if not used:
        raise InputError(f"no image can be decoded: {reasons[:300]}; check the files")
    if used < images:
        log.warning("bad       skipped %d undecodable images: %s", images - used, reasons)


@dataclass
class Judged:
    """What a process found out about its share of the images, in their order.

    Attributes:
        tally: of the predictions.
        numbers, keys, answers: see `Evaluation`, batch by batch.
        bad: images that cannot be decoded.
    """

    tally: Tally
    numbers: list[Tensor]
    keys: list[str]
    answers: list[Answers]
    bad: list[BadSample]


def evaluate_classifier(
    classifier: Classifier,
    index: DataIndex,
    samples: Samples,
    labels: Tensor,
    *,
    image_size: tuple[int, int],
    batch: int,
    workers: int,
) -> Evaluation:
    """Predicts every image once and judges it; arguments and errors as of `judge_images` and `put_together`."""
    options: dict[str, Any] = {"image_size": image_size, "batch": batch, "workers": workers}
    return put_together([judge_images(classifier, index, samples, labels, **options)], labels)


@torch.inference_mode()
def judge_images(
    classifier: Classifier,
    index: DataIndex,
    samples: Samples,
    labels: Tensor,
    *,
    image_size: tuple[int, int],
    batch: int,
    workers: int,
    only: range | None = None,
) -> Judged:
    """Predicts images, see `predict_images`, and judges them.

    Args:
        classifier: at `image_size`.
        index: the data set.
        samples: whose images.
        labels: of all samples, see `label_tensor`.
        image_size: `(H, W)` pixels.
        batch: images per forward pass.
        workers: processes that read.
        only: see `predict_images`.

    Raises:
        RunError: scores that are not finite, or a shard that cannot be read.
    """
    seen = Judged(Tally(classifier.kind, classifier.outputs), [], [], [], [])
    options: dict[str, Any] = {"image_size": image_size, "batch": batch, "workers": workers, "only": only}
    title = f"evaluating {index.root}"
    for part in predict_images(classifier, index, samples, **options, title=title, bad=seen.bad):
        wanted = labels[part.numbers].to(classifier.device)
        seen.tally.update(part.outputs, wanted)
        seen.answers.append(Answers(*(t.cpu() for t in read_predictions(part.outputs, wanted, classifier.kind))))
        seen.numbers.append(part.numbers)
        seen.keys += part.keys
    return seen


def put_together(shares: Sequence[Judged], labels: Tensor) -> Evaluation:
    """The evaluation of all images, equal to that of one process.

    Args:
        shares: of the processes, in their order.
        labels: of all samples.

    Raises:
        InputError: no image can be decoded, or labels for which the metrics are not defined.
    """
    numbers = [part for seen in shares for part in seen.numbers]
    check_decoded(sum(map(len, numbers)), len(labels), [b for seen in shares for b in seen.bad])
    found = torch.cat(numbers)
    answers = [part for seen in shares for part in seen.answers]
    every = Answers(*(torch.cat(column) for column in zip(*answers, strict=True)))
    tally = shares[0].tally
    for seen in shares[1:]:
        tally.add(seen.tally)
    return Evaluation(tally.compute(), found, [key for seen in shares for key in seen.keys], labels[found], every)


def files_of(index: DataIndex, samples: Samples, numbers: Tensor) -> list[str]:
    """The paths of the images with these (ascending) numbers, see `members.read_files`."""
    chosen = samples.take(numbers.numpy())
    return read_files(files_for(index, chosen), chosen)


def label_tensor(labels: Sequence[Label], kind: LabelKind, outputs: int) -> Tensor:
    """`(N,)` int64 of classes, `(N, K)` float32 zeros and ones of label sets, `(N, 1)` float32 of numbers."""
    if kind == "classes":
        return torch.tensor(labels, dtype=torch.int64)
    if kind == "regression":
        return torch.tensor(labels, dtype=torch.float32)[:, None]
    sets = torch.zeros(len(labels), outputs)
    for row, own in zip(sets, labels, strict=True):
        row[list(own)] = 1.0  # type: ignore[arg-type]
    return sets


def mean_of_views(first: Tensor, second: Tensor, kind: LabelKind) -> Tensor:
    """The mean of two predictions of the same images.

    Probabilities are averaged (Krizhevsky et al. 2012, section 4.1, who average what the softmax gives over crops and
    their reflections), and numbers as they are. What is returned has these probabilities: their logarithms for
    classes, logits for label sets; computed from logarithms, so that none becomes 0 or 1.

    Args:
        first: `(B, K)` logits, or numbers.
        second: likewise.
        kind: what they are.
    """
    if kind == "regression":
        return (first + second) / 2
    if kind == "classes":
        return torch.logaddexp(first.log_softmax(1), second.log_softmax(1)) - math.log(2)
    there = torch.logaddexp(F.logsigmoid(first), F.logsigmoid(second))
    absent = torch.logaddexp(F.logsigmoid(-first), F.logsigmoid(-second))
    return there - absent


def read_predictions(predictions: Tensor, labels: Tensor, kind: LabelKind) -> Answers:
    """What predictions `(B, K)` mean for images with these labels."""
    nothing = torch.full((len(predictions),), torch.nan, dtype=predictions.dtype, device=predictions.device)
    if kind == "classes":
        probabilities, predicted = predictions.softmax(1), predictions.argmax(1)
        own, true = (probabilities.gather(1, which[:, None])[:, 0] for which in (predicted, labels))
        return Answers(predicted, predicted, own, true, torch.where(predicted == labels, -1.0, own - true))
    if kind == "multilabel":
        probabilities = predictions.sigmoid()
        present = probabilities >= 0.5
        distance, label = (probabilities - labels).abs().max(1)
        wrong = torch.where((present != labels.bool()).any(1), distance, -1.0)
        return Answers(present, label, probabilities.gather(1, label[:, None])[:, 0], nothing, wrong)
    error, column = (predictions - labels).abs().max(1)
    return Answers(predictions, column, nothing, nothing, torch.where(error > 0, error, -1.0))
