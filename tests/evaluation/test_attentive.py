"""The attentive probe: finds what the mean of the cells hides, chooses on the held-out part, repeats."""

import numpy as np
import pytest
import torch

from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes import attentive
from mimsuite.evaluation.probes.attentive import AttentiveRecipe, attentive_probe, fit_attentive
from mimsuite.evaluation.probes.logistic import held_out
from mimsuite.metrics.scores import task_of

QUICK = AttentiveRecipe(lrs=(1e-3, 1e-2), epochs=8, batch=32)


def made(n, seed, target="classes"):
    """One cell of six, marked in the first dimension, tells the class; the others say the opposite."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=g)
    sign = (2.0 * labels - 1)[:, None]
    x = 0.3 * torch.randn(n, 6, 16, generator=g)
    x[:, :, 1] -= sign / 3
    place = torch.randint(0, 6, (n,), generator=g)
    x[torch.arange(n), place, 0] += 4.0
    x[torch.arange(n), place, 1] += 2 * sign[:, 0]
    found = {
        "classes": labels,
        "multilabel": torch.stack([labels, 1 - labels, labels], 1).float(),
        "regression": 100 + 7 * sign,
    }[target]
    return Features(x.half(), found, torch.arange(n) + 10**6 * seed, "grid")


@pytest.fixture(scope="module")
def found():
    return attentive_probe(made(200, 0), made(100, 1), QUICK)


def test_finds_the_cell_that_tells_the_class(found):
    assert found.scores.metrics["top1"] > 0.9
    assert found.scores.confusion.sum() == 100
    assert found.epochs == 8
    assert found.seconds > 0


def test_the_mean_of_the_cells_does_not_tell_it():
    train = made(200, 0)
    means = [train.x[train.labels == label].float().mean((0, 1)) for label in (0, 1)]
    assert (means[0] - means[1]).abs().max() < 0.1


def test_learning_rate_is_the_best_on_the_held_out_part(found):
    assert list(found.held_out) == [1e-3, 1e-2]
    assert found.lr == max(found.held_out, key=found.held_out.get)


def test_held_out_figure_is_that_of_a_head_that_never_saw_that_part(found):
    train = made(200, 0)
    held, task = held_out(train.labels, train.ids), task_of(train, train)
    spoilt = train.x.clone()
    spoilt[held] = torch.nan
    head = fit_attentive(spoilt, (~held).nonzero()[:, 0], task, 1e-3, QUICK)
    assert (
        score_head(head, train.x, held.nonzero()[:, 0], task.train, "classes").metrics["top1"] == found.held_out[1e-3]
    )


def test_head_is_trained_on_all_training_features_and_judged_on_the_test_features(found):
    train, test = made(200, 0), made(100, 1)
    head = fit_attentive(train.x, torch.arange(200), task_of(train, test), found.lr, QUICK)
    for name, value in head.state_dict().items():
        assert torch.equal(value, found.head.state_dict()[name])
    right = found.head(test.x.float()).argmax(1) == test.labels
    assert found.scores.metrics["top1"] == float(right.double().mean())


def test_cells_are_standardised_by_the_training_samples(found):
    cells = found.head.normed(made(200, 0).x.float()).flatten(0, 1)
    torch.testing.assert_close(found.head.mean, cells.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.head.std, cells.std(0, correction=0), atol=1e-5, rtol=1e-5)


def test_another_seed_gives_another_head(found):
    other = fit_attentive(made(200, 0).x, torch.arange(200), found.task, found.lr, QUICK, seed=1)
    assert not torch.equal(other.query, found.head.query)


def test_fitting_leaves_the_global_generator_alone(found):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit_attentive(made(40, 0).x, torch.arange(40), found.task, 1e-3, AttentiveRecipe(epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_features_on_disk_are_read_in_batches(found, tmp_path, monkeypatch):
    train, test = made(200, 0), made(100, 1)
    np.save(tmp_path / "x.npy", train.x.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="r+"))
    largest = []

    def spy(tokens):
        largest.append(len(tokens))

    monkeypatch.setattr(attentive, "_CHUNK", 16)
    init = attentive.AttentiveHead.__init__

    def watched(self, *args):
        init(self, *args)
        self.register_forward_pre_hook(lambda _, inputs: spy(inputs[0]))

    monkeypatch.setattr(attentive.AttentiveHead, "__init__", watched)
    again = attentive_probe(train._replace(x=mapped), test, QUICK)
    assert torch.equal(again.head.query, found.head.query)
    assert again.scores.metrics == found.scores.metrics
    assert max(largest) <= 32


@pytest.mark.parametrize(("target", "figure", "least"), [("multilabel", "map", 0.9), ("regression", "r2", 0.6)])
def test_label_sets_and_numbers(target, figure, least):
    recipe = AttentiveRecipe(lrs=(1e-2,), epochs=8, batch=32)
    got = attentive_probe(made(200, 0, target), made(100, 1, target), recipe)
    assert got.scores.metrics[figure] > least


def test_a_learning_rate_that_diverges_is_not_chosen():
    recipe = AttentiveRecipe(lrs=(1e30, 1e-2), epochs=2, batch=32)
    got = attentive_probe(made(100, 0), made(50, 1), recipe)
    assert np.isnan(got.held_out[1e30])
    assert got.lr == 1e-2
    with pytest.raises(RunError, match="all 1 attentive heads diverged"):
        attentive_probe(made(100, 0), made(50, 1), AttentiveRecipe(lrs=(1e30,), epochs=2, batch=32))


def test_vectors_are_refused():
    train = made(40, 0)
    flat = train._replace(x=train.x.mean(1))
    with pytest.raises(InputError, match=r"\(images, cells, width\), alike in both splits; got \(40, 16\)"):
        attentive_probe(flat, flat)
