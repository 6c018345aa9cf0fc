"""Few-shot: what is drawn, what is fitted, what is averaged."""

import statistics

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes.few_shot import STRENGTH, draw_images, few_shot
from mimsuite.evaluation.probes.logistic import accuracy, fit_linear


def made(n, seed, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 8, generator=torch.Generator().manual_seed(7))
    x = centres[labels] + torch.randn(n, 8, generator=g)
    return Features(x, labels, torch.arange(n) + 10**6 * seed, "mean")


@pytest.fixture(scope="module")
def found():
    return few_shot(made(120, 0), made(80, 1), shots=(1, 5), seeds=(0, 1, 2))


def test_accuracy_is_that_of_the_fixed_regression_on_the_drawn_images(found):
    train, test = made(120, 0), made(80, 1)
    expected = []
    for seed in (0, 1, 2):
        rows = draw_images(train.labels, train.ids, 5, seed)
        fitted = fit_linear(train.x[rows], train.labels[rows], 4, STRENGTH)
        expected.append(accuracy(fitted.logits(test.x), test.labels))
    assert found[5].accuracies == tuple(expected)
    assert found[5].mean == pytest.approx(statistics.fmean(expected))
    assert found[5].std == pytest.approx(statistics.stdev(expected))
    assert found[5].mean > found[1].mean > 0.25


def test_images_that_are_not_drawn_have_no_say(found):
    train = made(120, 0)
    drawn = torch.cat([draw_images(train.labels, train.ids, 5, seed) for seed in (0, 1, 2)])
    spoilt = torch.full_like(train.x, torch.nan)
    spoilt[drawn] = train.x[drawn]
    assert few_shot(train._replace(x=spoilt), made(80, 1), shots=(1, 5), seeds=(0, 1, 2)) == found


def test_draw_has_that_many_of_every_class_and_holds_the_smaller_draw():
    train = made(120, 0)
    few, more = (draw_images(train.labels, train.ids, n, 3) for n in (2, 7))
    assert train.labels[more].bincount().tolist() == [7] * 4
    assert len(set(more.tolist())) == 28
    assert set(few.tolist()) < set(more.tolist())


def test_draw_follows_ids_and_seed_not_the_order():
    train = made(120, 0)
    base = set(train.ids[draw_images(train.labels, train.ids, 3, 0)].tolist())
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    labels, ids = train.labels[order], train.ids[order]
    assert set(ids[draw_images(labels, ids, 3, 0)].tolist()) == base
    assert set(ids[draw_images(labels, ids, 3, 1)].tolist()) != base


def test_a_class_with_too_few_images_is_named():
    train, test = made(120, 0), made(80, 1)
    rare = torch.where(train.labels == 2, 3, train.labels)
    rare[:3] = 2
    with pytest.raises(InputError, match=r"shots=5, but class 2 \(owl\) has 3 training images; use 1 to 3"):
        few_shot(train._replace(labels=rare), test, shots=(1, 5), names=["ape", "bee", "owl", "yak"])
    with pytest.raises(InputError, match="class 4 has no training images"):
        few_shot(train, test._replace(labels=test.labels + 2), shots=(1,))


@pytest.mark.parametrize("shots", [0, 31])
def test_impossible_shots_are_refused(shots):
    with pytest.raises(InputError, match=rf"shots={shots}, but class 0 has 30 training images; use 1 to 30"):
        few_shot(made(120, 0), made(80, 1), shots=(shots,))


def test_one_seed_is_refused():
    with pytest.raises(InputError, match=r"seeds=\[3, 3\] gives no deviation"):
        few_shot(made(120, 0), made(80, 1), seeds=(3, 3))
