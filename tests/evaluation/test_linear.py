"""The matrix of linear heads: against scikit-learn and torch, and what it may look at."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes import linear
from mimsuite.evaluation.probes.linear import LinearHead, Trial, fit_heads, probe_matrix, rate_at
from mimsuite.evaluation.probes.selection import best_of, held_out
from mimsuite.evaluation.probes.task import LabelTask
from mimsuite.settings.probe import LinearRecipe
from mimsuite.settings.views import View

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = LinearRecipe(("batchnorm", "layernorm", "none"), (0.03, 0.3), 10, 128, "newton")
A, B, WIDE = View(1, "mean"), View(2, "mean"), View(2, "both")


def made(n, seed, classes=6, width=20, kind="1"):
    """Overlapping classes; strongly correlated features, one of them constant."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=g)
    fixed = torch.Generator().manual_seed(7)
    centres = 0.6 * torch.randn(classes, width, generator=fixed)
    spread = torch.randn(width, width, generator=fixed) @ torch.diag(torch.logspace(0, -1.5, width))
    x = (centres[labels] + torch.randn(n, width, generator=g)) @ spread.T + torch.linspace(-2, 2, width)
    x[:, 5] = 3.0
    return Features(x, labels, torch.arange(n) + 10**6 * seed, kind)


def views(n, seed, **changes):
    """Three views of the same images; the second tells little, the third is wider."""
    a = made(n, seed, **changes)
    noise = torch.randn(a.x.shape, generator=torch.Generator().manual_seed(seed))
    return {
        A: a,
        B: a._replace(x=a.x + 3 * noise, kind="2"),
        WIDE: a._replace(x=torch.cat([noise, noise - a.x], 1), kind="3"),
    }


def whole(n):
    return torch.ones(n, dtype=torch.bool)


def of_classes(features, outputs=6):
    return LabelTask("classes", outputs, features.labels, features.labels)


def one(norm="none", lr=0.3, **changes):
    return LinearRecipe((norm,), (lr,), **({"epochs": 3, "batch": 32, "optimizer": "sgd"} | changes))


def test_newton_agrees_with_scikit_learn_without_penalty_where_sgd_does_not():
    train, test = made(2000, 0), made(1000, 1)
    scaler = StandardScaler().fit(train.x)
    theirs = LogisticRegression(C=1e4, max_iter=3000).fit(scaler.transform(train.x), train.labels)
    expected = theirs.score(scaler.transform(test.x), test.labels)
    reached = {}
    for optimizer in ("newton", "sgd"):
        recipe = replace(FAST, optimizer=optimizer, epochs=20)
        reached[optimizer] = probe_matrix({A: train}, {A: test}, recipe).scores.metrics["top1"]
    assert reached["newton"] == pytest.approx(expected, abs=0.01)
    assert reached["sgd"] < expected - 0.02


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
@pytest.mark.parametrize("norm", ["none", "layernorm", "batchnorm"])
def test_a_head_is_that_of_a_plain_loop(norm, optimizer):
    """The same batches through `nn.Linear`, autograd and a textbook optimizer."""
    train = made(200, 0)
    recipe = one(norm, optimizer=optimizer, warmup=1.0)
    got = fit_heads({A: train.x}, whole(200), of_classes(train), recipe, seed=3)[Trial(A, norm, 0.3)]

    x = train.x.double()
    if norm == "batchnorm":
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-6 + (x.var(0) == 0)).sqrt()
    elif norm == "layernorm":
        x = nn.functional.layer_norm(x, x.shape[1:], eps=1e-6)
    weight, bias = torch.zeros(6, 20, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    if optimizer == "lars":
        start = torch.Generator().manual_seed(linear.mix_hashes(linear._SALT_INIT, 3))
        weight = torch.zeros(6, 20).normal_(0, 0.01, generator=start).double()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    motion = [torch.zeros_like(p) for p in parameters]
    steps = math.ceil(200 / 16)
    for epoch in range(3):
        order = torch.from_numpy(linear.permute(200, linear.mix_hashes(3, epoch)))
        for number, rows in enumerate(order.tensor_split(steps)):
            loss = nn.functional.cross_entropy(x[rows] @ weight.T + bias, train.labels[rows])
            slopes = list(torch.autograd.grad(loss, parameters))
            if optimizer == "lars":
                slopes[0] = slopes[0] * 0.001 * weight.norm() / slopes[0].norm()
            lr = 0.3 * 32 / 256 * rate_at(epoch * steps + number, 3 * steps, steps)
            with torch.no_grad():
                for p, m, slope in zip(parameters, motion, slopes, strict=True):
                    m.mul_(0.9).add_(slope)
                    p.sub_(lr * m)
    expected = x @ weight.T + bias
    torch.testing.assert_close(got.scores(train.x), expected.detach(), rtol=1e-3, atol=1e-4)


def test_heads_trained_together_are_those_trained_alone():
    train = views(200, 0)
    xs, task = {v: f.x for v, f in train.items()}, of_classes(train[A])
    together = fit_heads(xs, whole(200), task, FAST)
    assert len(together) == 18
    for trial in (Trial(A, "none", 0.3), Trial(B, "layernorm", 0.03), Trial(WIDE, "batchnorm", 0.3)):
        alone = replace(FAST, norms=(trial.norm,), lrs=(trial.lr,))
        head = fit_heads({trial.view: xs[trial.view]}, whole(200), task, alone)[trial]
        torch.testing.assert_close(head.weight, together[trial].weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(head.bias, together[trial].bias, rtol=1e-3, atol=1e-4)


def test_trials_come_in_the_order_of_views_normalisations_and_rates():
    train = views(60, 0)
    found = fit_heads({v: train[v].x for v in (WIDE, A)}, whole(60), of_classes(train[A]), replace(FAST, epochs=1))
    assert list(found) == [Trial(v, q, lr) for v in (WIDE, A) for q in FAST.norms for lr in FAST.lrs]


def test_the_best_view_wins_and_only_it_meets_the_test_features():
    train, test = views(400, 0), views(200, 1)
    for view in (B, WIDE):
        test[view] = test[view]._replace(x=torch.full_like(test[view].x, torch.nan))
    found = probe_matrix(train, test, FAST)
    assert found.best.view == A
    assert found.held_out[found.best] == max(found.held_out.values())
    assert found.scores.metrics["top1"] > 0.5


def test_choice_is_made_on_the_held_out_fifth_and_the_winner_fitted_to_everything(monkeypatch):
    train, test, seen = views(300, 0), views(100, 1), []
    fit = linear.fit_heads

    def spy(xs, rows, *args, **kwargs):
        seen.append((list(xs), rows))
        return fit(xs, rows, *args, **kwargs)

    monkeypatch.setattr(linear, "fit_heads", spy)
    found = probe_matrix(train, test, FAST)
    held = held_out(train[A].labels, train[A].ids)
    assert [v for v, _ in seen] == [[A, B, WIDE], [found.best.view]]
    assert torch.equal(seen[0][1], ~held)
    assert seen[1][1].all()


def test_test_features_change_neither_choice_nor_head():
    a, b = (probe_matrix(views(300, 0), views(100, seed), FAST) for seed in (1, 2))
    assert a.held_out == b.held_out
    assert torch.equal(a.head.weight, b.head.weight)
    assert a.scores.metrics != b.scores.metrics


def test_the_first_of_equals_wins_and_a_diverged_head_never():
    trials = [Trial(A, "none", lr) for lr in (0.1, 0.2, 0.3)]
    assert best_of(dict(zip(trials, (math.nan, 0.5, 0.5), strict=True))) == trials[1]
    with pytest.raises(RunError, match="all 3 heads diverged; use smaller learning rates"):
        best_of(dict.fromkeys(trials, math.nan))


def test_a_head_that_diverges_is_nan_in_the_table():
    train, test = made(200, 0), made(100, 1)
    numbers = [f._replace(labels=f.x[:, :1].clone()) for f in (train, test)]
    recipe = LinearRecipe(("none",), (1e-2, 1e9), 5, 32)
    found = probe_matrix({A: numbers[0]}, {A: numbers[1]}, recipe)
    assert math.isnan(found.held_out[Trial(A, "none", 1e9)])
    assert found.best.lr == 1e-2


@pytest.mark.parametrize(("n", "batch"), [(65, 16), (129, 16), (100, 128)])
def test_every_sample_counts_once_an_epoch_whatever_the_last_batch(n, batch, monkeypatch):
    seen, step = [], linear._Group.step

    def spy(self, rows, *args):
        seen.append(rows)
        step(self, rows, *args)

    monkeypatch.setattr(linear._Group, "step", spy)
    train = made(n, 0)
    fit_heads({A: train.x}, whole(n), of_classes(train), one(epochs=2, batch=batch))
    half = len(seen) // 2
    for epoch in (seen[:half], seen[half:]):
        assert torch.equal(torch.cat(epoch).sort().values, torch.arange(n))
        assert max(map(len, epoch)) <= 16
        assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
    assert not torch.equal(torch.cat(seen[:half]), torch.cat(seen[half:]))


def test_rows_left_out_have_no_say():
    train, rows = made(200, 0), torch.arange(200) % 4 > 0
    spoiled = train.x.clone()
    spoiled[~rows] = torch.nan
    a, b = (fit_heads({A: x}, rows, of_classes(train), FAST) for x in (train.x, spoiled))
    for trial in a:
        assert torch.equal(a[trial].weight, b[trial].weight)


def test_half_precision_and_memory_maps_are_taken(tmp_path):
    train = made(200, 0)
    np.save(tmp_path / "x.npy", train.x.half().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    a, b = (fit_heads({A: x}, whole(200), of_classes(train), FAST) for x in (mapped, train.x.half().float()))
    for trial in a:
        torch.testing.assert_close(a[trial].weight, b[trial].weight, rtol=1e-3, atol=1e-4)


def test_inputs_prepared_anew_for_every_batch_give_the_same_heads(monkeypatch):
    train = views(200, 0)
    xs, task = {v: f.x for v, f in train.items()}, of_classes(train[A])
    kept = fit_heads(xs, whole(200), task, FAST)
    monkeypatch.setattr(linear, "_KEPT", 0)
    anew = fit_heads(xs, whole(200), task, FAST)
    for trial in kept:
        torch.testing.assert_close(anew[trial].weight, kept[trial].weight, rtol=1e-3, atol=1e-4)


def test_seed_decides_the_order_and_nothing_else_does():
    train = made(200, 0)
    heads = []
    for seed in (0, 0, 1):
        torch.rand(seed + 1)
        heads.append(fit_heads({A: train.x}, whole(200), of_classes(train), one(), seed=seed)[Trial(A, "none", 0.3)])
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_gradient_is_that_of_autograd(kind):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 7, generator=g, requires_grad=True)
    targets = torch.randint(0, 4, (7,), generator=g)
    if kind == "classes":
        loss = nn.functional.cross_entropy(
            scores.permute(0, 1, 3, 2).reshape(-1, 4), targets.repeat(6), reduction="sum"
        )
    else:
        targets = torch.randint(0, 2, (7, 4), generator=g).float()
        wide = targets.T.expand_as(scores)
        sums = {"multilabel": nn.functional.binary_cross_entropy_with_logits, "regression": nn.functional.mse_loss}
        loss = sums[kind](scores, wide, reduction="sum") * (0.5 if kind == "regression" else 1)
    loss.backward()
    torch.testing.assert_close(linear.loss_gradient(scores.detach().clone(), targets, kind), scores.grad)


def test_the_rate_rises_linearly_and_falls_along_a_cosine():
    assert [rate_at(step, 12, 4) for step in (0, 1, 2, 4, 8, 12)] == pytest.approx([0, 0.25, 0.5, 1, 0.5, 0])
    assert rate_at(0, 8, 0) == 1


def test_numbers_agree_with_scikit_learn():
    train, test = made(600, 0), made(300, 1)
    rule = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 1000])
    a, b = (f._replace(labels=f.x @ rule + 50 + f.labels[:, None]) for f in (train, test))
    found = probe_matrix({A: a}, {A: b}, replace(FAST, epochs=20))
    theirs = Ridge(1e-3).fit(a.x.double(), a.labels.double())
    assert found.task.kind == "regression"
    assert found.scores.metrics["r2"] == pytest.approx(theirs.score(b.x.double(), b.labels.double()), abs=0.005)
    assert found.head.scores(b.x).shape == (300, 3)


def test_label_sets_agree_with_scikit_learn():
    from sklearn.metrics import average_precision_score

    a, b = made(1000, 0), made(500, 1)
    a, b = (f._replace(labels=torch.stack([f.labels < 2, f.labels % 2 == 0, f.labels == 5], 1).float()) for f in (a, b))
    found = probe_matrix({A: a}, {A: b}, FAST)
    scaler = StandardScaler().fit(a.x)
    scores = np.stack(
        [
            LogisticRegression(C=100, max_iter=2000)
            .fit(scaler.transform(a.x), a.labels[:, k])
            .decision_function(scaler.transform(b.x))
            for k in range(3)
        ],
        1,
    )
    expected = average_precision_score(b.labels, scores, average="macro")
    assert found.task.kind == "multilabel"
    assert found.scores.metrics["map"] == pytest.approx(expected, abs=0.01)


def test_features_of_two_kinds_are_refused():
    with pytest.raises(InputError, match="make both in the same way"):
        probe_matrix({A: made(100, 0)}, {A: made(100, 1, kind="other")}, FAST)


def test_one_class_is_refused():
    train = made(100, 0)
    with pytest.raises(InputError, match="a probe needs two classes"):
        probe_matrix({A: train._replace(labels=torch.zeros(100).long())}, {A: made(100, 1)}, FAST)


def test_scores_are_float64_and_layernorm_is_the_heads_own():
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0)) + 2
    head = LinearHead(torch.eye(20, dtype=torch.float64)[:6], torch.zeros(6, dtype=torch.float64), True)
    expected = nn.functional.layer_norm(x.double(), (20,), eps=1e-6)[:, :6]
    torch.testing.assert_close(head.scores(x), expected)
