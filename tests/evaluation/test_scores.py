"""Figures of predictions against scikit-learn, and that every image counts once."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, r2_score

from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes.task import label_kind, task_of
from mimsuite.metrics.scores import Tally, image_losses, scores_of, wilson_interval


def drawn(n=60, k=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=g), torch.randint(0, k, (n,), generator=g)


def sets(n=60, k=7):
    scores, _ = drawn(n, k)
    return scores, (torch.rand(n, k, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def test_confusion_matrix_and_accuracies_equal_those_of_scikit_learn():
    scores, labels = drawn()
    labels[labels == 3] = 2  # of class 3 there is no image
    got = scores_of(scores, labels, "classes")
    expected = confusion_matrix(labels, scores.argmax(1), labels=range(7))
    assert got.confusion.tolist() == expected.tolist()
    assert got.metrics["top1"] == pytest.approx(np.trace(expected) / 60)
    assert got.per_class[3].isnan()
    assert got.per_class[[0, 1, 2]].tolist() == pytest.approx([expected[c, c] / expected[c].sum() for c in range(3)])


def test_of_very_many_classes_nothing_but_the_table_is_left_out(monkeypatch):
    scores, labels = drawn()
    labels[labels == 3] = 2
    small = scores_of(scores, labels, "classes")
    monkeypatch.setattr("mimsuite.metrics.scores.MOST_CONFUSED", 6)
    large = scores_of(scores, labels, "classes")
    assert large.confusion is None
    assert large.metrics == small.metrics
    assert torch.equal(large.per_class.nan_to_num(-1), small.per_class.nan_to_num(-1))


def test_top5_counts_the_five_best_and_is_left_out_where_there_are_no_more_classes():
    scores = torch.arange(7.0).expand(7, 7)
    assert scores_of(scores, torch.arange(7), "classes").metrics["top5"] == pytest.approx(5 / 7)
    assert scores_of(scores[:6, :6], torch.arange(6), "classes").metrics["top5"] == pytest.approx(5 / 6)
    assert scores_of(scores[:5, :5], torch.arange(5), "classes").metrics == {"top1": 1 / 5}


def test_average_precision_equals_that_of_scikit_learn_also_of_large_scores_and_ties():
    scores, labels = sets()
    scores = (scores * 3).round() * 100
    got = scores_of(scores, labels, "multilabel")
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(7)]
    assert got.per_class.tolist() == pytest.approx(expected, abs=1e-6)
    assert got.metrics == {"map": pytest.approx(np.mean(expected), abs=1e-6)}


def test_a_label_that_no_image_has_is_left_out_of_the_mean():
    scores, labels = sets()
    labels[:, 2] = 0
    got = scores_of(scores, labels, "multilabel")
    assert got.per_class[2].isnan()
    others = [0, 1, 3, 4, 5, 6]
    assert got.metrics["map"] == pytest.approx(
        scores_of(scores[:, others], labels[:, others], "multilabel").metrics["map"]
    )


def test_regression_equals_scikit_learn():
    scores, _ = drawn(k=1)
    labels = scores + torch.randn(60, 1, generator=torch.Generator().manual_seed(5))
    got = scores_of(scores, labels, "regression").metrics
    assert got["r2"] == pytest.approx(r2_score(labels, scores), abs=1e-6)
    assert got["mae"] == pytest.approx(float((scores - labels).abs().mean()), abs=1e-6)
    assert scores_of(scores, labels[:, 0], "regression").metrics == got


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_every_image_counts_once_whatever_the_batches(kind):
    scores, labels = drawn() if kind == "classes" else sets()
    tally = Tally(kind, 7)
    for part in torch.arange(60).split(23):  # the last is smaller
        tally.update(scores[part], labels[part])
    assert tally.compute().metrics == scores_of(scores, labels, kind).metrics


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (torch.zeros(4, dtype=torch.int64), "classes"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "multilabel"),
        (torch.tensor([[1.0, 0.5], [0.0, 0.0]]), "regression"),
        (torch.tensor([[1.0], [0.0]]), "regression"),
        (torch.tensor([1.0, 0.0]), "regression"),
    ],
)
def test_kind_of_labels(labels, kind):
    assert label_kind(labels, "test") == kind


def test_other_labels_are_refused():
    with pytest.raises(InputError, match=r"the test labels are torch.int64 of shape \(4, 2\)"):
        label_kind(torch.zeros(4, 2, dtype=torch.int64), "test")


def test_task_counts_classes_of_both_splits_and_refuses_two_kinds():
    ids = torch.arange(3)
    a, b = (Features(torch.zeros(3, 2), labels, ids, "mean") for labels in (ids, torch.tensor([0, 0, 5])))
    assert task_of(a, b)[:2] == ("classes", 6)
    with pytest.raises(InputError, match=r"the training labels are classes .* the test labels regression"):
        task_of(a, b._replace(labels=torch.zeros(3)))
    with pytest.raises(InputError, match="the training images have no labels"):
        task_of(a._replace(labels=None), b)


def test_regression_task_has_a_column_for_every_number():
    ids = torch.arange(3)
    one = Features(torch.zeros(3, 2), torch.tensor([0.5, 1.0, 2.0]), ids, "mean")
    assert task_of(one, one).train.tolist() == [[0.5], [1.0], [2.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_stop(bad):
    scores, labels = drawn()
    scores[3, 1] = bad
    with pytest.raises(RunError, match="scores of 1 of 60 images are not finite"):
        scores_of(scores, labels, "classes")


def test_what_is_not_defined_is_refused():
    scores, labels = sets()
    with pytest.raises(InputError, match="none of the images has a label"):
        scores_of(scores, labels * 0, "multilabel")
    with pytest.raises(InputError, match="R2 is not defined"):
        scores_of(scores[:, :1], torch.ones(60, 1), "regression")
    for kind in ("classes", "regression"):
        with pytest.raises(InputError, match="there are no images"):
            Tally(kind, 3).compute()


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 30, 0.0, 0.1135), (30, 30, 0.8865, 1.0), (485, 500, 0.9511, 0.9817)],
)
def test_the_interval_of_an_accuracy_is_that_of_wilson(right, images, low, high):
    found = wilson_interval(right / images, images)
    assert found == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_scores_carry_the_mean_loss_whatever_the_batches(kind):
    scores, labels = drawn() if kind == "classes" else sets()
    tally = Tally(kind, 7)
    for part in (slice(0, 17), slice(17, 60)):
        tally.update(scores[part], labels[part])
    assert tally.compute().loss == pytest.approx(float(image_losses(scores, labels, kind).mean()), rel=1e-6)
