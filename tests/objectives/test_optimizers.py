"""LAMB and LARS against their papers' formulas, and what every optimizer group of the configuration can do."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mimsuite.config.instantiate import instantiate
from mimsuite.errors import InputError
from mimsuite.objectives.large_batch import LAMB, LARS

CONF = Path(__file__).parents[2] / "conf/optim"
# A matrix, a bias, a filter, a matrix of zeros, a bias of zeros, and a matrix whose gradient is 0.
SHAPES = [(5, 4), (6,), (3, 2, 3, 3), (4, 2), (3,), (2, 3)]
ZERO, WITHOUT_GRADIENT = (3, 4), 5
RATES = [0.1, 0.02, 0.03, 0.2, 0.05]  # a schedule
ALL = range(len(RATES))
GROUPS = [(slice(0, 3), 1.0, 0.1), (slice(3, 6), 0.5, 0.0)]  # parameters, factor on the rate, weight decay


def draw(seed=0):
    """Parameters and, for each step, their gradients, as float64 arrays."""
    rng = np.random.default_rng(seed)
    start = [np.zeros(s) if i in ZERO else 3 * rng.standard_normal(s) for i, s in enumerate(SHAPES)]
    return start, [[rng.standard_normal(s) * (i != WITHOUT_GRADIENT) for i, s in enumerate(SHAPES)] for _ in RATES]


def lamb_formula(w, gradients, rates, decay, betas=(0.9, 0.99), eps=1e-6):
    """You et al. 2020, algorithm 2, with the identity for phi."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        r = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * w
        norms = np.sqrt((w**2).sum()), np.sqrt((r**2).sum())
        ratio = norms[0] / norms[1] if w.ndim > 1 and min(norms) > 0 else 1
        w = w - rate * ratio * r
    return w


def lars_formula(w, gradients, rates, decay, momentum=0.8, trust=0.01):
    """You et al. 2017, algorithm 1."""
    v = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        norms = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        below = norms[1] + decay * norms[0]
        ratio = trust * norms[0] / below if w.ndim > 1 and norms[0] > 0 and below > 0 else 1
        v = momentum * v + rate * ratio * (g + decay * w)
        w = w - v
    return w


def lamb(groups):
    return LAMB(groups, betas=[0.9, 0.99])


def lars(groups):
    return LARS(groups, momentum=0.8, trust=0.01)


def optimizer_of(make, start):
    """The optimizer on parameters that begin at `start`, in two groups of different rate and decay."""
    parameters = [torch.nn.Parameter(torch.tensor(w)) for w in start]
    groups = [{"params": parameters[s], "lr": 1.0, "factor": f, "weight_decay": decay} for s, f, decay in GROUPS]
    return make(groups), parameters


def take(optimizer, parameters, gradients, steps=ALL):
    """Takes the steps of these numbers, each with its gradients and its rate."""
    for rate, step in ((RATES[n], gradients[n]) for n in steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for p, g in zip(parameters, step, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()


both = pytest.mark.parametrize(("make", "formula"), [(lamb, lamb_formula), (lars, lars_formula)], ids=["lamb", "lars"])


@both
def test_five_steps_follow_the_paper(make, formula):
    start, gradients = draw()
    optimizer, parameters = optimizer_of(make, start)
    take(optimizer, parameters, gradients)
    for which, factor, decay in GROUPS:
        for number in range(len(SHAPES))[which]:
            expected = formula(start[number], [g[number] for g in gradients], [factor * r for r in RATES], decay)
            found = parameters[number].detach().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=str(SHAPES[number]))


@both
def test_a_run_resumed_from_a_file_without_code_takes_bit_equal_steps(make, formula):
    start, gradients = draw()
    whole, expected = optimizer_of(make, start)
    take(whole, expected, gradients)
    first, reached = optimizer_of(make, start)
    take(first, reached, gradients, range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second, found = optimizer_of(make, [p.detach().numpy() for p in reached])
    second.load_state_dict(torch.load(file, weights_only=True))
    take(second, found, gradients, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@both
def test_a_parameter_without_gradient_stays_and_gradients_are_left_as_they_were(make, formula):
    start, gradients = draw()
    optimizer, parameters = optimizer_of(make, start)
    for p, g in zip(parameters[1:], gradients[0][1:], strict=True):
        p.grad = torch.tensor(g)
    optimizer.step()
    assert np.array_equal(parameters[0].detach().numpy(), start[0])
    assert not np.array_equal(parameters[1].detach().numpy(), start[1])
    assert all(np.array_equal(p.grad.numpy(), g) for p, g in zip(parameters[1:], gradients[0][1:], strict=True))


@pytest.mark.parametrize("kind", [LAMB, LARS])
def test_a_closure_computes_the_gradients_first(kind):
    w = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = kind([w])

    def closure():
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert (w < 1).all()


def test_numbers_outside_their_range_are_refused():
    w = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(InputError, match=r"betas=\[0.9, 1.5\] are not two numbers in \[0, 1\)"):
        LAMB([w], betas=[0.9, 1.5])
    with pytest.raises(InputError, match=r"momentum=1 is not in \[0, 1\)"):
        LARS([w], momentum=1)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lars"])
def test_every_group_of_the_configuration_makes_an_optimizer_that_learns(name):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    lr = node.pop("base_lr")
    assert node.pop("base_batch") > 0
    assert node.pop("master_weights") is False
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = instantiate(node, lr=lr)([{"params": [w], "names": ["w"], "lr": lr, "lr_scale": 1.0}])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append((w - 1).square().sum())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert optimizer.param_groups[0]["weight_decay"] == node.weight_decay
