"""Steps whose gradients are not finite change nothing: no weight, no moment, no count, no running statistic."""

import copy

import pytest
import torch
from torch import nn

from mimsuite.objectives.averaging import AveragedWeights
from mimsuite.objectives.clipping import clip_gradients
from mimsuite.objectives.large_batch import LAMB, LARS
from mimsuite.objectives.skipping import StepGuard, takes_flag

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "lamb": lambda p: LAMB(p, lr=0.1, weight_decay=0.1),
    "lars": lambda p: LARS(p, lr=0.1, weight_decay=0.1),
    "not fused": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
}


class Run:
    """A small network, its optimizer, and steps that may be broken."""

    def __init__(self, name):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = OPTIMIZERS[name](self.net.parameters())
        self.guard = StepGuard(self.net)
        self.averaged = AveragedWeights(self.net, 0.9)

    def step(self, seed, value=None):
        torch.manual_seed(seed)
        self.guard.begin()
        self.optimizer.zero_grad()
        self.net(torch.randn(8, 3)).square().mean().backward()
        if value is not None:
            self.net[1].running_mean[0] = value
            self.net[0].weight.grad[0, 0] = value
        self.guard.decide(clip_gradients(self.net.parameters(), 1.0), self.optimizer)
        self.optimizer.step()
        self.averaged.update(self.net, self.guard.finish())

    def state(self):
        inner = {f"{i}.{k}": v for i, s in self.optimizer.state_dict()["state"].items() for k, v in s.items()}
        return copy.deepcopy(self.net.state_dict() | self.averaged.state_dict() | inner)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_goes_on(name, value):
    run, other = Run(name), Run(name)
    run.step(1)
    before = run.state()
    run.step(2, value)
    assert run.guard.skipped
    assert_equal(run.state(), before)
    run.step(3)
    assert not run.guard.skipped
    other.step(1)
    other.step(3)
    assert_equal(run.state(), other.state())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_may_be_the_one_that_is_not_finite(name):
    run, other = Run(name), Run(name)
    run.step(1, float("nan"))
    run.step(2)
    run.step(3)
    other.step(2)
    other.step(3)
    assert_equal(run.state(), other.state())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_from_the_third_in_a_row_on_nothing_changes_any_more(name):
    run = Run(name)
    run.step(1)
    before = run.state()
    for seed in (2, 3, 4):
        run.step(seed, float("nan"))
    for seed in (5, 6):
        run.step(seed)
        assert run.guard.skipped
    assert_equal(run.state(), before)


def test_two_in_a_row_and_then_another_do_not_stop():
    run = Run("adamw")
    for seed, value in ((1, float("nan")), (2, float("nan")), (3, None), (4, float("nan")), (5, None)):
        run.step(seed, value)
    assert not run.guard.skipped


def test_which_optimizers_take_the_flag():
    made = {name: Run(name) for name in OPTIMIZERS}
    for run in made.values():
        run.step(1)
    assert {name for name, run in made.items() if takes_flag(run.optimizer)} == {"adamw", "sgd", "lamb", "lars"}


@pytest.mark.parametrize("name", ["lamb", "lars", "adamw"])
def test_the_flag_costs_no_bit(name):
    flagged, plain = Run(name), Run(name)
    for seed in range(3):
        flagged.step(seed)
        torch.manual_seed(seed)
        plain.optimizer.zero_grad()
        plain.net(torch.randn(8, 3)).square().mean().backward()
        clip_gradients(plain.net.parameters(), 1.0)
        plain.optimizer.step()
    assert_equal(flagged.net.state_dict(), plain.net.state_dict())
