"""The exact linear probe: logistic regression on frozen features, its strength chosen inside the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.data.hashing import splitmix64
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features, check_comparable, class_labels

STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
HELD_OUT = 0.2
_CHUNK = 4096  # samples at a time that are made float64


class Linear(NamedTuple):
    """A linear classifier on features as they are: `logits = x @ weight.T + bias`.

    Attributes:
        weight: `(K, D)` float64; some dimensions may have a large mean and a small spread.
        bias: `(K,)` float64.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Returns `(N, K)` float64 scores of features `x (N, D)`, float32 or wider."""
        return x.double() @ self.weight.T + self.bias


class ProbeResult(NamedTuple):
    """What a probe found.

    Attributes:
        top1: accuracy on the test features, 0 to 1.
        top5: the same, right if the class is among the five best (or among all, with fewer classes).
        strength: the L2 strength that was chosen.
        held_out: accuracy on the held-out part of the training features for every strength tried.
        classifier: fitted to all training features.
    """

    top1: float
    top5: float
    strength: float
    held_out: dict[float, float]
    classifier: Linear


def linear_probe(
    train: Features,
    test: Features,
    *,
    strengths: Sequence[float] = STRENGTHS,
    device: torch.device | str = "cpu",
) -> ProbeResult:
    """Fits on `train`, looks at `test` once.

    A fifth of every class of `train`, chosen by a hash of the sample ids, is held out; the strength with the
    best accuracy there (the larger of equals) is fitted again on all of `train`.

    Raises:
        InputError: no classes as labels, one class only, features of two kinds, or too few images.
    """
    check_comparable(train, test)
    labels, test_labels = class_labels(train, "training"), class_labels(test, "test")
    classes = int(max(labels.max(), test_labels.max())) + 1
    held, present = held_out(labels, train.ids), torch.unique(labels)
    if len(present) < 2 or not held.any():
        raise InputError(
            f"a probe needs two classes and some with 3 images or more; got {len(labels)} training images of "
            f"{len(present)} classes"
        )
    found: dict[float, float] = {}
    for strength in sorted(strengths, reverse=True):
        tried = fit_linear(train.x[~held], labels[~held], classes, strength, device=device)
        found[strength] = accuracy(tried.logits(train.x[held]), labels[held])
    best = max(found, key=lambda s: (found[s], s))
    classifier = fit_linear(train.x, labels, classes, best, device=device)
    scores = classifier.logits(test.x)
    return ProbeResult(accuracy(scores, test_labels), accuracy(scores, test_labels, 5), best, found, classifier)


def fit_linear(
    x: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    *,
    device: torch.device | str = "cpu",
) -> Linear:
    """Minimises mean cross entropy + strength / 2 * |weight|^2 by full-batch L-BFGS on standardised `x`.

    Each dimension is shifted and scaled to mean 0 and variance 1 over `x`; the bias is not penalised.
    scikit-learn's `LogisticRegression` minimises the same on standardised features with
    `C = 1 / (strength * N)`. Shift and scale are folded into the result.

    Args:
        x: `(N, D)` float32 features.
        labels: `(N,)` int64, under `classes`.
        classes: K, the number of outputs.
        strength: L2 penalty, positive.
        device: where to compute.
    """
    if strength <= 0:
        raise InputError(f"strength={strength} must be positive; use 1e-5 to 0.1")
    mean, std = statistics(x)
    z = (x.double() - mean) / std
    # In these coordinates the loss curves about equally in all directions: L-BFGS needs tens of steps.
    curvature, basis = torch.linalg.eigh(z.T @ z / len(z))
    scale = (curvature.clamp_min(0) * (classes - 1) / classes**2 + strength).rsqrt()
    inputs, shrink = (z @ (basis * scale)).float().to(device), scale.float().to(device)
    targets = labels.to(device)
    weight = torch.zeros(classes, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(classes, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = strength / 2 * (weight * shrink).square().sum()
        loss: Tensor = F.cross_entropy(inputs @ weight.T + bias, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    folded = (weight.detach().cpu().double() * scale) @ basis.T / std
    return Linear(folded, bias.detach().cpu().double() - folded @ mean)


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Returns how often `labels (N,)` is among the `k` highest of `scores (N, K)`, 0 to 1."""
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((top == labels[:, None]).any(1).double().mean())


def statistics(x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation `(D,)` in float64; the latter is 1 where it would be 0.

    Args:
        x: `(N, D)` floats.
        rows: `(M,)` int64, the samples to take; None for all.
    """
    chosen = torch.arange(len(x)) if rows is None else rows
    places = torch.split(chosen, _CHUNK)
    mean = torch.stack([x[p].double().sum(0) for p in places]).sum(0) / len(chosen)
    std = (torch.stack([(x[p].double() - mean).square().sum(0) for p in places]).sum(0) / len(chosen)).sqrt()
    constant = std <= 1e-6 * mean.abs()
    return mean, torch.where(constant, torch.ones_like(std), std)


def held_out(labels: Tensor, ids: Tensor) -> Tensor:
    """Returns `(N,)` bool, True = held out: of every class the fifth with the lowest hashed id.

    Args:
        labels: `(N,)` classes; all equal where there are none, so that a fifth of all samples is held out.
        ids: `(N,)` int64 sample ids.
    """
    rank = torch.from_numpy(splitmix64(ids.numpy().view(np.uint64)).view(np.int64))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = (labels == label).nonzero()[:, 0]
        order = members[rank[members].argsort(stable=True)]
        held[order[: round(HELD_OUT * len(members))]] = True
    return held
