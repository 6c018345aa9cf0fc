"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.evaluation.features import Features, check_comparable, class_labels

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

    Returns:
        Predicted classes, `(len(ks), M)` int64 on the CPU; of classes with equal votes the lowest.

    Raises:
        InputError: a k that is not in 1..N.
    """
    for k in ks:
        if not 1 <= k <= len(train_x):
            raise InputError(f"k={k} neighbours of {len(train_x)} training images; use 1 to {len(train_x)}")
    bank = F.normalize(train_x.to(device), dim=1)
    labels = train_labels.to(device)
    classes = int(labels.max()) + 1
    predicted = []
    for part in torch.split(test_x, chunk):
        cosine = F.normalize(part.to(device), dim=1) @ bank.T
        top, index = cosine.topk(max(ks), dim=1)
        # The difference to the nearest neighbour: the same votes up to a factor, and exp cannot overflow.
        weight = ((top - top[:, :1]) / temperature).exp()
        near = labels[index]
        votes = [weight.new_zeros(len(part), classes).scatter_add_(1, near[:, :k], weight[:, :k]) for k in ks]
        predicted.append(torch.stack([v.argmax(1) for v in votes]).cpu())
    return torch.cat(predicted, dim=1)


def knn_accuracy(
    train: Features,
    test: Features,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
) -> dict[int, float]:
    """Returns the accuracy on `test` (0 to 1) for each k, with `train` as the neighbours.

    None of them is selected here: quote one k, fixed beforehand.
    """
    check_comparable(train, test)
    labels = class_labels(test, "test")
    predicted = knn_predict(
        train.x, class_labels(train, "training"), test.x, ks=ks, temperature=temperature, device=device
    )
    return {k: float((row == labels).double().mean()) for k, row in zip(ks, predicted, strict=True)}
