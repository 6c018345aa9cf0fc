"""The exact linear probe: logistic regression on frozen features, its strength chosen inside the training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features, check_comparable, class_labels
from mimsuite.evaluation.probes.selection import choose_then_refit
from mimsuite.evaluation.probes.standardise import feature_statistics
from mimsuite.evaluation.probes.task import LabelTask
from mimsuite.metrics.scores import Scores, scores_of

STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


class LogisticClassifier(NamedTuple):
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


class LogisticResult(NamedTuple):
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
    classifier: LogisticClassifier


def linear_probe(
    train: Features,
    test: Features,
    *,
    strengths: Sequence[float] = STRENGTHS,
    device: torch.device | str = "cpu",
) -> LogisticResult:
    """Fits on `train`, and scores the chosen classifier on `test` once.

    A fifth of every class of `train`, chosen by a hash of the sample ids, is held out; the strength with the
    best accuracy there (of equals the one with the lowest loss) is fitted again on all of `train`.

    Raises:
        InputError: no classes as labels, one class only, features of two kinds, or too few images.
    """
    check_comparable(train, test)
    labels, test_labels = class_labels(train, "training"), class_labels(test, "test")
    task = LabelTask("classes", int(max(labels.max(), test_labels.max())) + 1, labels, test_labels)

    def fit(tried: Sequence[float], rows: Tensor) -> Iterator[tuple[float, LogisticClassifier]]:
        for strength in tried:
            yield strength, fit_linear(train.x[rows], labels[rows], task.outputs, strength, device=device)

    def score(_: float, classifier: LogisticClassifier, rows: Tensor) -> Scores:
        return scores_of(classifier.logits(train.x[rows]), labels[rows], "classes")

    found = choose_then_refit(sorted(strengths, reverse=True), task, train.ids, fit=fit, score=score)
    logits = found.head.logits(test.x)
    top1, top5 = (accuracy(logits, test_labels, k) for k in (1, 5))
    return LogisticResult(top1, top5, found.best, found.held_out, found.head)


def fit_linear(
    x: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    *,
    device: torch.device | str = "cpu",
) -> LogisticClassifier:
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
    mean, std = feature_statistics(x)
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
    return LogisticClassifier(folded, bias.detach().cpu().double() - folded @ mean)


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Returns how often `labels (N,)` is among the `k` highest of `scores (N, K)`, 0 to 1."""
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((top == labels[:, None]).any(1).double().mean())
