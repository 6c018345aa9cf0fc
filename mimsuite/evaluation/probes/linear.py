"""The matrix: linear heads for layers, poolings, normalisations and learning rates, trained side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.data.hashing import mix_hashes, permute
from mimsuite.evaluation.features.views import Features, check_comparable
from mimsuite.evaluation.probes.selection import choose_then_refit
from mimsuite.evaluation.probes.standardise import feature_statistics
from mimsuite.evaluation.probes.task import LabelTask, task_of, training_targets
from mimsuite.metrics.scores import Scores, scores_of
from mimsuite.settings.probe import LinearRecipe
from mimsuite.settings.views import View
from mimsuite.words import LabelKind, Norm

EPS = 1e-6  # of both normalisations; MAE's BatchNorm has the same
MOMENTUM = 0.9
TRUST = 0.001  # of LARS, as MAE has it
DAMPING = 1e-3  # of "newton", times the mean variance of an input's dimensions
_SALT_INIT = 0x48454144
_CHUNK = 4096  # samples at a time where nothing is trained
_KEPT = 2 << 30  # bytes of prepared inputs, at most; more are prepared again for every batch
_SHARE, _LEAST = 64, 16  # a batch is at most a 64th of the samples, but may have 16

# Shapes: V views of one width D, Q normalisations, G = Q * V inputs, L learning rates, K outputs, B samples.


class Trial(NamedTuple):
    """One head of the matrix; `lr` is the base learning rate, for a batch of 256."""

    view: View
    norm: Norm
    lr: float


class LinearHead(NamedTuple):
    """A linear head on features as an encoder gives them.

    Attributes:
        weight: `(K, D)` float64; BatchNorm's statistics are folded in.
        bias: `(K,)` float64.
        layernorm: whether each feature vector is normalised first, without affine parameters.
    """

    weight: Tensor
    bias: Tensor
    layernorm: bool

    def scores(self, x: Tensor) -> Tensor:
        """Returns `(N, K)` float64 logits, or predicted numbers, of features `x (N, D)`."""
        x = x.double()
        if self.layernorm:
            x = F.layer_norm(x, x.shape[1:], eps=EPS)
        return x @ self.weight.T + self.bias


class LinearResult(NamedTuple):
    """What the matrix found.

    Attributes:
        held_out: of every trial, in the order of the matrix, top-1 accuracy, mean average precision, or R2 on the
            held-out part of the training features; NaN for heads that diverged.
        best: the trial that was chosen.
        head: trained as `best` on all training features.
        scores: of `head` on the test features.
        task: what was predicted.
    """

    held_out: dict[Trial, float]
    best: Trial
    head: LinearHead
    scores: Scores
    task: LabelTask


def best_by_layer(held_out: Mapping[Trial, float]) -> dict[str, dict[int, float]]:
    """Pooling -> layer -> the best score over normalisations and learning rates, without heads that diverged."""
    best: dict[str, dict[int, float]] = {}
    for (view, _, _), score in held_out.items():
        if not math.isnan(score):
            layers = best.setdefault(view.pool, {})
            layers[view.layer] = max(score, layers.get(view.layer, -math.inf))
    return best


def probe_matrix(
    train: Mapping[View, Features],
    test: Mapping[View, Features],
    recipe: LinearRecipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LinearResult:
    """Trains a head for every view, normalisation and learning rate, and reports the best one on the test features.

    A fifth of the training features, chosen by a hash of the sample ids (of every class, where there are classes), is
    held out while all heads are trained on the rest. The trial with the best score there (of equals the one with the
    lowest loss, then of the latest layer) is trained again on all training features, and the test features of its view
    are used once. No other trial is ever scored on them.

    Args:
        train: features of the training images, the same images in the same order for every view.
        test: likewise of the test images.
        recipe: how heads are trained.
        seed: decides the order of samples, and where LARS starts.
        device: where to compute, in float32.

    Raises:
        InputError: no labels, fewer than two classes, too few images, or features of two kinds.
        RunError: every head diverged.
    """
    for view in train:
        check_comparable(train[view], test[view])
    some = next(iter(train))
    task, xs = task_of(train[some], test[some]), {view: features.x for view, features in train.items()}

    def fit(trials: Sequence[Trial], rows: Tensor) -> Iterator[tuple[Trial, LinearHead | None]]:
        views, norms, lrs = (list(dict.fromkeys(column)) for column in zip(*trials, strict=True))
        own = replace(recipe, norms=norms, lrs=lrs)
        heads = fit_heads({view: xs[view] for view in views}, rows, task, own, seed=seed, device=device)
        for trial, head in heads.items():
            yield trial, head if head.weight.isfinite().all() and head.bias.isfinite().all() else None

    def score(trial: Trial, head: LinearHead, rows: Tensor) -> Scores:
        return scores_of(head.scores(xs[trial.view][rows]), task.train[rows], task.kind)

    trials = [Trial(view, norm, lr) for view in xs for norm in recipe.norms for lr in recipe.lrs]
    found = choose_then_refit(trials, task, train[some].ids, depth=lambda trial: trial.view.layer, fit=fit, score=score)
    scores = scores_of(found.head.scores(test[found.best.view].x), task.test, task.kind)
    return LinearResult(found.held_out, found.best, found.head, scores, task)


def fit_heads(
    xs: Mapping[View, Tensor],
    rows: Tensor,
    task: LabelTask,
    recipe: LinearRecipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[Trial, LinearHead]:
    """Trains one head for every view, normalisation and learning rate, all in one loop over the samples.

    Each epoch takes every sample once, in an order that depends on seed and epoch alone. The loss is cross entropy for
    classes, binary cross entropy summed over the labels for label sets, half the squared error of standardised targets
    for numbers. With SGD the heads start from zero (the problem is convex), with LARS from a normal distribution of
    deviation 0.01, as in MAE.

    "batchnorm" shifts and scales each dimension by mean and variance of all training features, in training as in
    evaluation: the limit of BatchNorm for large batches, to which MAE's of 16,384 images is closer than the
    batches that a small training set allows. So training and evaluation cannot differ, and a head is a plain linear
    layer once the statistics are folded in.

    Pooled features of one layer are strongly correlated, so that SGD is far from the optimum after 100 epochs. "newton"
    whitens each input, which is the same as multiplying the steps by (covariance + damping)^-1: but for a factor, the
    inverse curvature of the loss at zero weights. Ten epochs come as far as L-BFGS.

    Args:
        xs: `(N, D)` float features per view; D may differ.
        rows: `(N,)` bool, the samples to train on.
        task: what is predicted; its `train` labels belong to the samples.
        recipe: how.
        seed: decides the order of samples, and where LARS starts.
        device: where to compute, in float32.

    Returns:
        A head per trial in the order of views, normalisations, learning rates; of one that diverged the weights are
        not finite.
    """
    chosen = rows.nonzero()[:, 0]
    size = min(recipe.batch, max(_LEAST, len(chosen) // _SHARE))
    steps_per_epoch = math.ceil(len(chosen) / size)
    total, warmup = steps_per_epoch * recipe.epochs, steps_per_epoch * recipe.warmup
    targets, offset, spread = training_targets(task, chosen)
    targets = targets.to(device)
    widths = sorted({x.shape[1] for x in xs.values()})
    groups = [
        _Group({v: x for v, x in xs.items() if x.shape[1] == width}, chosen, task.outputs, recipe, seed, device)
        for width in widths
    ]
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(permute(len(chosen), mix_hashes(seed, epoch)))
        for number, place in enumerate(order.tensor_split(steps_per_epoch)):
            factor = rate_at(epoch * steps_per_epoch + number, total, warmup) * recipe.batch / 256
            wanted = targets[place.to(device)]
            for group in groups:
                group.step(place, wanted, task.kind, factor)
    found = {trial: head for group in groups for trial, head in group.heads(offset, spread).items()}
    return {Trial(v, q, lr): found[Trial(v, q, lr)] for v in xs for q in recipe.norms for lr in recipe.lrs}


class _Group:
    """The heads of all views of one width, and what training them needs."""

    def __init__(
        self,
        xs: Mapping[View, Tensor],
        rows: Tensor,
        outputs: int,
        recipe: LinearRecipe,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self._views, self._rows, self._recipe, self._device = list(xs), rows, recipe, device
        self._xs = [x.to(device) for x in xs.values()]
        width = self._xs[0].shape[1]
        newton = recipe.optimizer == "newton"
        centres, scales = zip(*[_centring(x, rows, q, newton) for q in recipe.norms for x in xs.values()], strict=True)
        self._centres, self._scales = torch.stack(centres), torch.stack(scales)  # (G, D) float64
        self._shift, self._factor = (
            t.float().to(device).view(len(recipe.norms), len(xs), 1, width) for t in (self._centres, self._scales)
        )
        inputs = len(centres)
        start = torch.zeros(outputs, width)
        if recipe.optimizer == "lars":
            start.normal_(0, 0.01, generator=torch.Generator().manual_seed(mix_hashes(_SALT_INIT, seed)))
        self._shape = (inputs, len(recipe.lrs), outputs)
        self._weight = start.to(device).expand(*self._shape, width).flatten(1, 2).clone()
        self._bias = torch.zeros(inputs, len(recipe.lrs) * outputs, 1, device=device)
        self._motion = [torch.zeros_like(self._weight), torch.zeros_like(self._bias)]
        lrs = torch.tensor(recipe.lrs, device=device).repeat_interleave(outputs)
        self._lrs = lrs[None, :, None]
        self._root: Tensor | None = None
        if newton:
            self._root = self._whitening()
        self._kept = self._all_inputs() if inputs * len(rows) * width * 4 <= _KEPT else None

    def step(self, place: Tensor, targets: Tensor, kind: LabelKind, factor: float) -> None:
        """One optimizer step of every head.

        Args:
            place: `(B,)` int64, numbers of the samples among those to train on.
            targets: `(B,)` int64 classes or `(B, K)` float32.
            kind: what the targets are.
            factor: times the base learning rate.
        """
        z = self._inputs(place) if self._kept is None else self._kept.index_select(1, place.to(self._device))
        scores = torch.baddbmm(self._bias, self._weight, z.transpose(1, 2)).view(*self._shape, len(place))
        slope = loss_gradient(scores, targets, kind).flatten(1, 2).div_(len(place))
        slopes = [torch.bmm(slope, z), slope.sum(2, keepdim=True)]
        if self._recipe.optimizer == "lars":
            slopes[0] *= self._trust(slopes[0])
        for value, motion, slope in zip((self._weight, self._bias), self._motion, slopes, strict=True):
            motion.mul_(MOMENTUM).add_(slope)
            value.addcmul_(motion, self._lrs, value=-factor)

    def _inputs(self, place: Tensor) -> Tensor:
        """Returns what the heads see of samples, `(G, B, D)`; normalisations outermost."""
        rows = self._rows[place].to(self._device)
        x = self._shift.new_empty(len(self._xs), len(place), self._shift.shape[3])
        for part, source in zip(x, self._xs, strict=True):
            part.copy_(source[rows])
        z = x.new_empty(len(self._recipe.norms), *x.shape)
        for q, norm in enumerate(self._recipe.norms):
            y = F.layer_norm(x, x.shape[2:], eps=EPS) if norm == "layernorm" else x
            torch.sub(y, self._shift[q], out=z[q])
            if norm == "batchnorm":
                z[q] *= self._factor[q]
        return z.flatten(0, 1) if self._root is None else torch.bmm(z.flatten(0, 1), self._root)

    def _all_inputs(self) -> Tensor:
        """Returns the inputs of all samples to train on, `(G, N, D)`."""
        kept = self._shift.new_empty(len(self._centres), len(self._rows), self._shift.shape[3])
        for part in torch.split(torch.arange(len(self._rows)), _CHUNK):
            kept[:, part[0] : part[-1] + 1] = self._inputs(part)
        return kept

    def _whitening(self) -> Tensor:
        """Returns what each input is multiplied by, `(G, D, D)`: R with R R^T = (covariance + damping)^-1."""
        inputs, width = self._centres.shape
        total = torch.zeros(inputs, width, width, dtype=torch.float64)
        for part in torch.split(torch.arange(len(self._rows)), _CHUNK):
            z = self._inputs(part)
            total += torch.bmm(z.transpose(1, 2), z).cpu()
        total /= len(self._rows)
        diagonal = total.diagonal(dim1=1, dim2=2)
        diagonal += DAMPING * diagonal.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        one = torch.eye(width, dtype=torch.float64).expand_as(total)
        root: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(total), one, upper=False)
        return root.transpose(1, 2).float().contiguous().to(self._device)

    def _trust(self, slope: Tensor) -> Tensor:
        """Returns LARS's factor of each head, repeated for its outputs, `(G, L * K, 1)`; 1 where a norm is 0."""
        weight, slope = (t.view(*self._shape, -1).norm(dim=(2, 3)) for t in (self._weight, slope))
        trust = torch.where((weight > 0) & (slope > 0), TRUST * weight / slope, torch.ones_like(weight))
        return trust.repeat_interleave(self._shape[2], 1)[..., None]

    def heads(self, offset: Tensor, spread: Tensor) -> dict[Trial, LinearHead]:
        """Returns the heads with all that was done to features and targets folded in.

        Args:
            offset: `(K,)` float64, mean of the targets; 0 for classes.
            spread: `(K,)` float64, their deviation; 1 for classes.
        """
        weights = self._weight.cpu().double()
        if self._root is not None:
            weights = weights @ self._root.cpu().double().transpose(1, 2)
        weights = weights.view(*self._shape, -1)
        biases = self._bias.cpu().double().view(*self._shape)
        found = {}
        for number, norm in enumerate(self._recipe.norms):
            for v, view in enumerate(self._views):
                g = number * len(self._views) + v
                for place, lr in enumerate(self._recipe.lrs):
                    weight = weights[g, place] * self._scales[g]
                    bias = biases[g, place] - weight @ self._centres[g]
                    folded = weight * spread[:, None], bias * spread + offset
                    found[Trial(view, norm, lr)] = LinearHead(*folded, norm == "layernorm")
        return found


def _centring(x: Tensor, rows: Tensor, norm: Norm, newton: bool) -> tuple[Tensor, Tensor]:
    """Returns what is subtracted from an input and what it is then multiplied by, `(D,)` float64."""
    if norm == "batchnorm":
        mean, std = feature_statistics(x, rows)
        return mean, (std.square() + EPS).rsqrt()
    centre = torch.zeros(x.shape[1], dtype=torch.float64)
    if newton:
        centre, _ = feature_statistics(
            F.layer_norm(x.float(), x.shape[1:], eps=EPS) if norm == "layernorm" else x, rows
        )
    return centre, torch.ones_like(centre)


def loss_gradient(scores: Tensor, targets: Tensor, kind: LabelKind) -> Tensor:
    """Returns the derivative of each sample's loss by the scores, `(G, L, K, B)`, as `scores`.

    Args:
        scores: `(G, L, K, B)`.
        targets: `(B,)` int64 classes or `(B, K)` float32.
        kind: what the targets are.
    """
    if kind == "classes":
        wanted = scores.new_zeros(scores.shape[2:]).scatter_(0, targets[None], 1.0)
        return scores.softmax(2).sub_(wanted)
    if kind == "multilabel":
        return scores.sigmoid_().sub_(targets.T)
    return scores.sub_(targets.T)


def rate_at(step: int, total: int, warmup: float) -> float:
    """Returns the part of the learning rate at an optimizer step: a linear rise from 0, then half a cosine to 0."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
