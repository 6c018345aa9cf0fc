"""RunningMetrics of a validation pass: those of `scores.scores`, however the images come in batches and processes."""

import copy
import math

import pytest
import torch

from mimsuite.metrics.running import MeanLoss, RunningMetrics
from mimsuite.metrics.scores import METRICS, scores_of

KINDS = tuple(METRICS)


def answers(kind, count=37, outputs=7):
    """Scores and labels of some images."""
    draw = torch.Generator().manual_seed(0)
    if kind == "regression":
        labels = torch.randn(count, 1, generator=draw)
        return labels + 0.5 * torch.randn(count, 1, generator=draw), labels
    scores = torch.randn(count, outputs, generator=draw)
    if kind == "classes":
        return scores, torch.randint(outputs, (count,), generator=draw)
    return scores, (torch.rand(count, outputs, generator=draw) < 0.3).float()


def summed(kind, scores, labels, size):
    metrics = RunningMetrics(kind, scores.shape[1])
    for part, own in zip(scores.split(size), labels.split(size), strict=True):
        metrics.update(part, own)
    return metrics


@pytest.mark.parametrize("size", [1, 8, 37])
@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_all_images_at_once(kind, size):
    scores, labels = answers(kind)
    wanted = scores_of(scores, labels, kind).metrics
    assert tuple(wanted) == METRICS[kind]
    assert summed(kind, scores, labels, size).compute() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_different_counts_find_what_one_finds(kind):
    """Their states as torchmetrics brings them together: sums, and lists one after the other."""
    scores, labels = answers(kind)
    parts = [summed(kind, scores[rank::2], labels[rank::2], 5) for rank in (0, 1)]
    both = copy.deepcopy(parts[0])
    for name, how in both._reductions.items():
        one, other = (getattr(part, name) for part in parts)
        setattr(both, name, one + other if isinstance(one, list) else how(torch.stack([one, other])))
    assert both.compute() == pytest.approx(scores_of(scores, labels, kind).metrics, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_another_pass_starts_from_nothing(kind):
    scores, labels = answers(kind)
    metrics = summed(kind, scores[:10], labels[:10], 5)
    metrics.compute()
    metrics.reset()
    metrics.update(scores[10:], labels[10:])
    assert metrics.compute() == pytest.approx(scores_of(scores[10:], labels[10:], kind).metrics, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_not_finite_are_worth_nothing(kind):
    scores, labels = answers(kind)
    scores[3] = torch.nan
    found = summed(kind, scores, labels, 8).compute()
    assert tuple(found) == METRICS[kind]
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("damage", [0.0, torch.nan])
def test_of_five_classes_no_five_best_are_reported(damage):
    scores, labels = answers("classes", outputs=5)
    assert list(summed("classes", scores + damage, labels, 8).compute()) == ["top1"]


def test_numbers_may_come_as_integers_in_some_batches():
    metrics = RunningMetrics("regression", 1)
    metrics.update(torch.tensor([[1.0], [2.5]]), torch.tensor([1, 2]))
    metrics.update(torch.tensor([[0.0]]), torch.tensor([[0.5]]))
    assert metrics.compute()["mae"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_left_out_of_the_mean(wrong):
    loss, plain = MeanLoss(), MeanLoss()
    for value, weight in ((1.0, 3), (wrong, 1), (2.0, 1)):
        loss.update(torch.tensor(value), weight=weight)
        if math.isfinite(value):
            plain.update(torch.tensor(value), weight=weight)
    assert not math.isfinite(loss.compute())
    assert plain.compute() == 1.25
