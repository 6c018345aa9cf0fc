"""The attentive probe: a head that attends to all cells, trained by AdamW on frozen features."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.data.hashing import mix_hashes, permute
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features, check_comparable
from mimsuite.evaluation.probes.linear import rate_at
from mimsuite.evaluation.probes.selection import choose_then_refit
from mimsuite.evaluation.probes.task import LabelTask, task_of, training_targets
from mimsuite.heads.attentive import EPS, AttentiveHead
from mimsuite.metrics.scores import Scores, Tally
from mimsuite.words import LabelKind

_CHUNK = 512  # images at a time where nothing is trained
_SALT = 0x41545450


@dataclass(frozen=True)
class AttentiveRecipe:
    """How an attentive head is trained.

    The defaults were tuned on 2,000 images of Imagenette at 96 px, features of a ViT by SimMIM: with lower rates or
    fewer than 20 epochs, heads stayed behind a linear probe of the mean.

    Attributes:
        lrs: peak learning rates to choose from.
        epochs: passes over the training features.
        batch: images per step, at most; an epoch is cut into equal parts.
        warmup: the part of all steps in which the learning rate rises from 0, before it falls to 0 along a cosine.
        weight_decay: of AdamW, on the matrices; biases are spared.
        queries: of the head; None for its own default.
    """

    lrs: Sequence[float] = (3e-3, 1e-2, 3e-2)
    epochs: int = 30
    batch: int = 128
    warmup: float = 0.1
    weight_decay: float = 0.1
    queries: int | None = None


class AttentiveResult(NamedTuple):
    """What an attentive probe found.

    Attributes:
        held_out: of every learning rate, top-1 accuracy, mean average precision, or R2 on the held-out part of the
            training features; NaN where it diverged.
        lr: the one that was chosen.
        epochs: how long each head was trained.
        seconds: wall-clock time of it all.
        head: trained with `lr` on all training features, on the CPU; takes float32 cells.
        scores: of `head` on the test features.
        task: what was predicted.
    """

    held_out: dict[float, float]
    lr: float
    epochs: int
    seconds: float
    head: AttentiveHead
    scores: Scores
    task: LabelTask


def attentive_probe(
    train: Features,
    test: Features,
    recipe: AttentiveRecipe | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveResult:
    """Trains a head per learning rate, and reports the best one on the test features.

    A fifth of the training features, chosen by a hash of the sample ids (of every class, where there are classes), is
    held out while the learning rate is chosen (of equals the one with the lowest loss); with it a head is
    trained again on all training features, and the test features are used once.

    Args:
        train: features whose `x` is `(N, T, D)`, T cells of width D; a half type and a memory-mapped tensor are fine,
            for batches are gathered and widened one by one.
        test: likewise.
        recipe: how heads are trained; None for the defaults.
        seed: decides where heads start and the order of samples.
        device: where to compute, in float32.

    Raises:
        InputError: features without cells or of two kinds, no labels, fewer than two classes, or too few images.
        RunError: every head diverged.
    """
    started, recipe = time.monotonic(), recipe or AttentiveRecipe()
    check_comparable(train, test)
    if train.x.ndim != 3 or train.x.shape[1:] != test.x.shape[1:]:
        raise InputError(
            f"an attentive probe takes features (images, cells, width), alike in both splits; got "
            f"{tuple(train.x.shape)} and {tuple(test.x.shape)}; extract them with pool=grid and one image size"
        )
    task = task_of(train, test)

    def fit(lrs: Sequence[float], rows: Tensor) -> Iterator[tuple[float, AttentiveHead | None]]:
        for lr in lrs:
            yield lr, fit_attentive(train.x, rows.nonzero()[:, 0], task, lr, recipe, seed=seed, device=device)

    def score(_: float, head: AttentiveHead, rows: Tensor) -> Scores:
        return score_head(head, train.x, rows.nonzero()[:, 0], task.train, task.kind)

    found = choose_then_refit(recipe.lrs, task, train.ids, heads="attentive heads", fit=fit, score=score)
    scores = score_head(found.head, test.x, torch.arange(len(test.x)), task.test, task.kind)
    seconds = time.monotonic() - started
    return AttentiveResult(found.held_out, found.best, recipe.epochs, seconds, found.head.cpu(), scores, task)


def fit_attentive(
    x: Tensor,
    rows: Tensor,
    task: LabelTask,
    lr: float,
    recipe: AttentiveRecipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveHead | None:
    """Trains one head on cells standardised by the training samples; None where it diverged.

    The loss is cross entropy for classes, binary cross entropy for label sets, squared error of standardised targets
    for numbers, whose scale is then folded into the last layer.

    Args:
        x: `(N, T, D)` floats.
        rows: `(M,)` int64, the samples to train on.
        task: what is predicted; its `train` labels belong to the samples.
        lr: peak learning rate.
        recipe: the rest.
        seed: decides where the head starts and the order of samples.
        device: where to compute.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_hashes(_SALT, seed) >> 1)
        head = AttentiveHead(x.shape[2], task.outputs, recipe.queries).to(device)
    head.standardise(*cell_statistics(head, x, rows))
    targets, offset, spread = training_targets(task, rows)
    targets = targets.to(device)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in head.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in head.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    steps_per_epoch = math.ceil(len(rows) / recipe.batch)
    total = steps_per_epoch * recipe.epochs
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(permute(len(rows), mix_hashes(seed, epoch)))
        for number, place in enumerate(order.tensor_split(steps_per_epoch)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate_at(epoch * steps_per_epoch + number + 1, total + 1, recipe.warmup * total)
            with torch.enable_grad():
                scores = head(x[rows[place]].to(device, torch.float32))
                loss = _loss(scores, targets[place.to(device)], task.kind)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not loss.isfinite():
            return None
    with torch.no_grad():
        head.classifier.weight *= spread.to(device, torch.float32)[:, None]
        head.classifier.bias.mul_(spread.to(device)).add_(offset.to(device))
    return head if all(p.isfinite().all() for p in head.parameters()) else None


def cell_statistics(head: AttentiveHead, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of the cells after the head's LayerNorm, `(D,)` float64 each.

    Args:
        head: on any device.
        x: `(N, T, D)` floats; gathered in parts.
        rows: `(M,)` int64, the samples to use.
    """
    width = x.shape[2]
    total, squares = torch.zeros(2, width, dtype=torch.float64)
    for part in torch.split(rows, _CHUNK):
        cells = head.normed(x[part].to(head.query.device, torch.float32)).reshape(-1, width).cpu().double()
        total += cells.sum(0)
        squares += cells.square().sum(0)
    count = len(rows) * x.shape[1]
    # Cells have deviation 1 over their dimensions, so the difference of squares loses nothing that matters.
    variance = squares / count - (total / count).square()
    return total / count, (variance + EPS).sqrt()


def score_head(head: AttentiveHead, x: Tensor, rows: Tensor, labels: Tensor, kind: LabelKind) -> Scores:
    """Returns the scores of a head on some samples.

    Args:
        head: on any device.
        x: `(N, T, D)` floats; gathered in parts.
        rows: `(M,)` int64, the samples to use.
        labels: of all N samples, as `scores.Tally.update` takes them.
        kind: what the labels are.
    """
    device, tally = head.query.device, Tally(kind, head.classifier.out_features)
    with torch.inference_mode():
        for part in torch.split(rows, _CHUNK):
            tally.update(head(x[part].to(device, torch.float32)), labels[part])
    return tally.compute()


def _loss(scores: Tensor, targets: Tensor, kind: LabelKind) -> Tensor:
    if kind == "classes":
        return F.cross_entropy(scores, targets)
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(scores, targets)
    return F.mse_loss(scores, targets)
