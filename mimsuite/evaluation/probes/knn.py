"""Weighted k nearest neighbours of frozen features: their votes for classes, their mean for label sets and numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features, check_comparable
from mimsuite.evaluation.probes.task import task_of
from mimsuite.metrics.scores import scores_of

log = logging.getLogger("mimsuite")

KS = (1, 5, 10, 20)
TEMPERATURE = 0.07


def knn_predict(
    train_x: Tensor,
    train_labels: Tensor,
    test_x: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    chunk: int = 512,
    device: torch.device | str = "cpu",
    own: Tensor | None = None,
) -> Tensor:
    """Votes of the k nearest training vectors by cosine, each weighted by exp(cosine / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.

    Args:
        train_x: `(N, D)`, float32 or float64; computed in this type.
        train_labels: `(N,)` int64.
        test_x: `(M, D)`, of the type of `train_x`.
        ks: numbers of neighbours, each at most N.
        temperature: smaller weighs near neighbours more.
        chunk: test vectors at a time; the memory needed is `chunk * N` values.
        device: where to compute.
        own: `(M,)` int64, which training vector is the same image, and so no neighbour; -1 for none.

    Returns:
        Predicted classes, `(len(ks), M)` int64 on the CPU; of classes with equal votes the lowest.

    Raises:
        InputError: a k that is not in 1..N.
    """
    labels = train_labels.to(device)
    classes = int(labels.max()) + 1
    predicted = []
    for weight, index in _neighbours(train_x, test_x, ks, temperature, chunk, device, own):
        near = labels[index]
        votes = [weight.new_zeros(len(weight), classes).scatter_add_(1, near[:, :k], weight[:, :k]) for k in ks]
        predicted.append(torch.stack([v.argmax(1) for v in votes]).cpu())
    return torch.cat(predicted, dim=1)


def knn_mean(
    train_x: Tensor,
    train_targets: Tensor,
    test_x: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    chunk: int = 512,
    device: torch.device | str = "cpu",
    own: Tensor | None = None,
) -> Tensor:
    """The mean of the k nearest training targets, weighted as in `knn_predict`, whose arguments these are.

    Args:
        train_targets: `(N, K)` floats: a set of labels as zeros and ones, or numbers.

    Returns:
        `(len(ks), M, K)` on the CPU, of the type of `train_x`.
    """
    targets = train_targets.to(device, train_x.dtype)
    means = []
    for weight, index in _neighbours(train_x, test_x, ks, temperature, chunk, device, own):
        shares = [weight[:, :k] / weight[:, :k].sum(1, keepdim=True) for k in ks]
        means.append(torch.stack([(s[:, None] @ targets[index[:, : s.shape[1]]])[:, 0] for s in shares]).cpu())
    return torch.cat(means, dim=1)


def knn_metrics(
    train: Features,
    test: Features,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
) -> dict[int, dict[str, float]]:
    """Returns for each k the metrics of `test` with `train` as the neighbours.

    These are `top1` for classes, `map` for label sets, `r2` and `mae` for numbers. None of the ks is selected here:
    report one that was fixed before. A k above the number of training images is skipped, with a log line. An image that
    is in both is not its own neighbour.

    Raises:
        InputError: no labels, labels or features of two kinds, or no k that is left.
    """
    check_comparable(train, test)
    task = task_of(train, test)
    own = find_own(train, test)
    most = len(train.x) - bool((own >= 0).any())
    fitting = [k for k in ks if k <= most]
    if fitting != list(ks):
        skipped = ", ".join(str(k) for k in ks if k not in fitting)
        log.info("kNN       k=%s skipped: there are only %s training images", skipped, f"{most:,}")
    if not fitting:
        raise InputError(f"k={min(ks)} neighbours of {most} training images; use 1 to {most}")
    x, test_x = train.x.float(), test.x.float()
    if task.kind == "classes":
        predicted = knn_predict(x, task.train, test_x, ks=fitting, temperature=temperature, device=device, own=own)
        return {k: {"top1": _share_right(row, task.test)} for k, row in zip(fitting, predicted, strict=True)}
    means = knn_mean(x, task.train, test_x, ks=fitting, temperature=temperature, device=device, own=own)
    return {k: scores_of(mean, task.test, task.kind).metrics for k, mean in zip(fitting, means, strict=True)}


def find_own(train: Features, test: Features) -> Tensor:
    """Which training image each test image is: `(M,)` int64; -1 where it is none.

    The same image has the same id and the same features. Ids alone are hashed keys, and two folders may each have
    their own `0001.png`.
    """
    ids, order = train.ids.sort()
    place = torch.searchsorted(ids, test.ids).clamp_max(len(ids) - 1)
    own = torch.where(ids[place] == test.ids, order[place], -1)
    rows = (own >= 0).nonzero()[:, 0]
    different = (train.x[own[rows]] != test.x[rows]).any(1)
    own[rows[different]] = -1
    return own


def _share_right(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).double().mean())


def _neighbours(
    train_x: Tensor,
    test_x: Tensor,
    ks: Sequence[int],
    temperature: float,
    chunk: int,
    device: torch.device | str,
    own: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields weights and numbers of the nearest training vectors, nearest first: `(<= chunk, max(ks))`, `device`."""
    for k in ks:
        if not 1 <= k <= len(train_x):
            raise InputError(f"k={k} neighbours of {len(train_x)} training images; use 1 to {len(train_x)}")
    bank = F.normalize(train_x.to(device), dim=1)
    same = test_x.new_full((len(test_x),), -1, dtype=torch.int64) if own is None else own
    for part, place in zip(torch.split(test_x, chunk), torch.split(same, chunk), strict=True):
        cosine = F.normalize(part.to(device), dim=1) @ bank.T
        rows = (place >= 0).nonzero()[:, 0]
        cosine[rows.to(device), place[rows].to(device)] = -torch.inf
        top, index = cosine.topk(max(ks), dim=1)
        # The difference to the nearest neighbour: the same votes up to a factor, and exp cannot overflow.
        yield ((top - top[:, :1]) / temperature).exp(), index
