"""Weights in bfloat16 beside float32 originals: what is computed in which, and that the originals are exact."""

import copy

import pytest
import torch
from coloured import write_shards
from safetensors.torch import load_file
from torch import nn

from mimsuite import api
from mimsuite.callbacks.checkpoints import Checkpoints
from mimsuite.errors import InputError
from mimsuite.models.device import Device
from mimsuite.objectives.averaging import AveragedWeights
from mimsuite.objectives.clipping import clip_gradients
from mimsuite.objectives.large_batch import LAMB, LARS
from mimsuite.objectives.master_weights import RoundedCopy
from mimsuite.objectives.objective import Objective
from mimsuite.objectives.skipping import StepGuard
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs.machine import choose_precision
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "lamb": lambda p: LAMB(p, lr=0.01, weight_decay=0.1),
    "lars": lambda p: LARS(p, lr=0.1, weight_decay=0.1),
    "not fused": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}
SIZES = {
    **{"model": "vit_nano", "model.hidden_size": 24, "model.num_hidden_layers": 2, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 48, "model.patch_size": 4, "model.drop_path_rate": 0.2, "lr": 0.01},
}
CVT = {"model": "cvt_nano", "model.depth": [1, 1], "model.embed_dim": [8, 24], "lr": 0.03}
KEYS = {
    **{"batch": 16, "steps": 6, "val_every": 3, "save_every": 3, "micro_batch": 8, "image_size": 16, "workers": 0},
    **{"callbacks.monitor.log_every": 1, "optim.master_weights": True},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread(one_thread):
    """Bits are compared."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 60, "val": 45, "test": 30})


class Run:
    """A small network, its copy, and the parts of an optimizer step in their order."""

    def __init__(self, name):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.averaged, self.rounded = AveragedWeights(self.net, 0.9), RoundedCopy(self.net)
        self.both = nn.ModuleDict({"net": self.net, "rounded": self.rounded})
        self.optimizer, self.guard = OPTIMIZERS[name](self.net.parameters()), StepGuard(self.both)

    def step(self, seed, value=None, parts=1):
        torch.manual_seed(seed)
        self.guard.begin()
        self.optimizer.zero_grad()
        for x in torch.randn(8, 3).chunk(parts):
            with torch.autocast("cpu", torch.bfloat16):
                (self.rounded.module(x).float().square().mean() / parts).backward()
            self.rounded.give_gradients()
        if value is not None:
            self.rounded.module[1].running_mean[0] = value
            self.net[0].weight.grad[0, 0] = value
        self.gradients = [p.grad.clone() for p in self.net.parameters()]
        self.guard.decide(clip_gradients(self.net.parameters(), 1.0), self.optimizer)
        self.optimizer.step()
        skipped = self.guard.finish()
        self.rounded.follow()
        self.averaged.update(self.net, skipped)

    def state(self):
        inner = {f"{i}.{k}": v for i, s in self.optimizer.state_dict()["state"].items() for k, v in s.items()}
        copied = {f"copy.{name}": value for name, value in self.rounded.module.state_dict().items()}
        return copy.deepcopy(self.net.state_dict() | self.averaged.state_dict() | copied | inner)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def test_all_but_norms_are_in_bfloat16_and_only_the_originals_in_state_dicts():
    run = Run("adamw")
    kinds = {name: p.dtype for name, p in run.rounded.module.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {"1.weight", "1.bias"}
    assert kinds["0.weight"] == kinds["0.bias"] == torch.bfloat16
    assert {p.dtype for p in run.net.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in run.net.parameters())
    state = run.both.state_dict()
    assert set(state) == {f"net.{name}" for name in run.net.state_dict()}
    run.step(1)
    run.both.load_state_dict(state)
    run.rounded.load()
    for name, own in run.rounded.module.named_parameters():
        assert torch.equal(own, state[f"net.{name}"].to(own.dtype))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_originals_move_as_a_float32_optimizer_moves_them_and_the_copy_is_they_rounded(name):
    run = Run(name)
    alone = copy.deepcopy(run.net).requires_grad_()
    optimizer = OPTIMIZERS[name](alone.parameters())
    for seed in range(3):
        run.step(seed)
        for parameter, gradient in zip(alone.parameters(), run.gradients, strict=True):
            parameter.grad = gradient.clone()
        clip_gradients(alone.parameters(), 1.0)
        optimizer.step()
        assert_equal(dict(run.net.named_parameters()), dict(alone.named_parameters()))
    for own, original in zip(run.rounded.module.parameters(), run.net.parameters(), strict=True):
        assert torch.equal(own, original.to(own.dtype))
    assert_equal(dict(run.net.named_buffers()), dict(run.rounded.module.named_buffers()))
    assert all(p.grad is None for p in run.both.parameters())


def test_steps_too_small_for_bfloat16_add_up():
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    rounded = RoundedCopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    for _ in range(100):
        rounded.module.weight.grad = torch.ones(1, 1, dtype=torch.bfloat16)
        rounded.give_gradients()
        optimizer.step()
        rounded.follow()
    assert net.weight.item() == pytest.approx(0.99, abs=1e-5)
    assert rounded.module.weight.item() == pytest.approx(0.99, abs=4e-3)
    assert rounded.module.weight.item() < 1


def test_running_statistics_follow_on_another_device():
    run = Run("adamw")
    run.both._apply(torch.clone)  # as by `to("cuda")`, parameters stay the same objects, and buffers do not
    run.guard = StepGuard(run.both)
    run.net[1].running_mean.fill_(3)
    run.rounded.load()
    assert run.rounded.module[1].running_mean[0] == 3
    run.step(1)
    assert run.net[1].num_batches_tracked == 1
    assert_equal(dict(run.net.named_buffers()), dict(run.rounded.module.named_buffers()))


def test_gradients_of_micro_batches_are_summed_in_float32():
    net = nn.Linear(1, 1, bias=False)
    rounded = RoundedCopy(net)
    for value in (1.0, *[2.0**-9] * 8):  # each too small beside 1 in bfloat16
        rounded.module.weight.grad = torch.full((1, 1), value, dtype=torch.bfloat16)
        rounded.give_gradients()
    assert net.weight.grad.item() == 1 + 2.0**-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_goes_on(name, value):
    run, other = Run(name), Run(name)
    run.step(1)
    before = run.state()
    run.step(2, value)
    assert run.guard.skipped
    assert_equal(run.state(), before)
    run.step(3, parts=2)
    other.step(1)
    other.step(3, parts=2)
    assert_equal(run.state(), other.state())


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-true"])
def test_other_precisions_are_refused(precision, tmp_path):
    line = f"^optim.master_weights=true keeps weights in bfloat16, which precision={precision} does not; use"
    with pytest.raises(InputError, match=line):
        api.call("pretrain", {"out": str(tmp_path / "out"), "optim.master_weights": True, "precision": precision})


def test_auto_takes_the_precision_that_they_need():
    slow = Device("cpu", "CPU, 2 threads", 0.0, False)
    assert choose_precision("auto", slow, True) == ("bf16-mixed", "for optim.master_weights=true")


def figures(out):
    series = read_metrics(out / "metrics.csv")
    return {name: [x.tolist() for x in pair] for name, pair in series.items() if not name.startswith("perf/")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("pretrain", SIZES | {"optim": "lamb"}),
        ("pretrain", SIZES | {"objective": "mae", "head": "dec1"}),
        ("finetune", CVT | {"layer_decay": 0.7, "objective.ema": 0.7}),
    ],
    ids=["simmim-lamb", "mae", "finetune-cvt"],
)
def test_a_run_stopped_in_the_middle_goes_on_to_the_bit_and_its_files_are_float32(
    task, values, data, tmp_path, monkeypatch
):
    keys = {"data": data, **KEYS, **values}
    api.call(task, {"out": str(tmp_path / "whole"), **keys})
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_agreed", lambda self, trainer, now: (143 * (now == 4), False))
        assert api.call(task, {"out": str(tmp_path / "out"), **keys})["steps"] == 4
    api.call(task, {"out": str(tmp_path / "out"), "resume": True})
    found, wanted = (load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("out", "whole"))
    assert_equal(found, wanted)
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    saved = load_checkpoint(newest_checkpoint(tmp_path / "whole" / "checkpoints"))
    states = [state for each in saved["optimizer_states"][0]["state"].values() for state in each.values()]
    tensors = [*saved["state_dict"].values(), *found.values(), *(x for x in states if x.ndim)]
    assert {x.dtype for x in tensors if x.is_floating_point()} == {torch.float32}
    assert not [name for name in saved["state_dict"] if name.startswith("rounded")]
    assert any((value != value.bfloat16()).any() for value in found.values())  # not just in the type


@pytest.mark.slow
def test_twenty_losses_follow_those_of_mixed_precision_and_of_float32(data, tmp_path, monkeypatch):
    kinds = set()
    right = Objective.on_after_backward

    def watch(self):
        kinds.update(p.grad.dtype for p in self.trained_model.parameters() if p.grad is not None)
        right(self)

    monkeypatch.setattr(Objective, "on_after_backward", watch)
    keys = {"data": data, **KEYS, **SIZES, "steps": 20, "val_every": 20, "save_every": 20}
    ways = {
        "master": {"precision": "bf16-mixed"},
        "mixed": {"precision": "bf16-mixed", "optim.master_weights": False},
        "float32": {"precision": "32-true", "optim.master_weights": False},
    }
    losses = {}
    for name, changes in ways.items():
        api.call("pretrain", {"out": str(tmp_path / name), **keys, **changes})
        losses[name] = figures(tmp_path / name)["train/loss"][1]
        if name == "master":
            assert kinds == {torch.bfloat16, torch.float32}  # the norms' are in float32
    assert losses["master"] != losses["mixed"]
    assert losses["master"] == pytest.approx(losses["mixed"], rel=5e-3)
    assert losses["master"] == pytest.approx(losses["float32"], rel=1e-2)
    assert losses["master"][-1] < 0.95 * losses["master"][0]
