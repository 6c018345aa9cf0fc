"""torch.compile for training: which batches run compiled, how many graphs there are, and that the losses agree."""

import csv

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from mimsuite import api
from mimsuite.errors import InputError, RunError
from mimsuite.models import ViTConfig, ViTModel
from mimsuite.models.device import Device
from mimsuite.models.parts import blocks_of
from mimsuite.objectives import compiling
from mimsuite.objectives.compiling import CompiledBlocks, why_not_compile
from mimsuite.runs.machine import choose_compile

CPU, GPU = Device("cpu", "CPU, 2 threads", 0.0, False), Device("gpu", "H100", 80.0, True)
KEYS = {"batch": 8, "val_every": 3, "save_every": 100, "loader.val_limit": 20, "workers": 0, "precision": "32-true"}


@pytest.fixture
def counter(monkeypatch):
    """A backend that counts graphs and runs them as they are."""
    torch._dynamo.reset()
    counts = CompileCounter()
    monkeypatch.setattr(compiling, "BACKEND", counts)
    yield counts
    torch._dynamo.reset()


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).square()


def test_blocks_that_are_alike_share_a_graph_and_other_batches_run_as_they_are(counter):
    layers = nn.ModuleList(Square() for _ in range(3))
    blocks = CompiledBlocks(list(layers), 8)

    def run(batch):
        x = torch.ones(batch, 4) * torch.ones(1, requires_grad=True)
        for layer in layers:
            x = layer(x)

    with blocks.run():
        run(8)
        assert counter.frame_count == 0
        for batch, graphs in ((8, 1), (8, 1), (5, 1), (8, 1)):
            with blocks.phase(batch):
                run(batch)
            assert counter.frame_count == graphs


def test_a_block_that_cannot_be_compiled_is_one_line_with_the_fix(counter):
    class Broken(nn.Module):
        def forward(self, x):
            return x * x.sum().item() if x.sum() > 0 else x

    block = Broken()
    blocks = CompiledBlocks([block], 2)
    line = r"^the model cannot be compiled \(.+\); use trainer.compile=false$"
    with pytest.raises(RunError, match=line) as caught, blocks.run(), blocks.phase(2):
        block(torch.ones(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "device", "steps", "wanted"),
    [
        (False, GPU, 10**6, (False, "as given")),
        (None, CPU, 10**6, (False, "CPU, 2 threads: it pays on GPUs")),
        (None, GPU, 4_999, (False, "it pays from 5,000 steps on")),
        (None, GPU, 5_000, (True, "a GPU, and at least 5,000 steps")),
        (True, CPU, 1, (True, "as given")),
    ],
)
def test_when_a_run_is_compiled(asked, device, steps, wanted, monkeypatch):
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: None)
    assert choose_compile(asked, device, steps) == wanted


def test_a_machine_without_compiler_runs_as_it_is_and_says_why_or_refuses(monkeypatch):
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: "no C++ compiler")
    assert choose_compile(None, GPU, 10**6) == (False, "torch cannot compile here: no C++ compiler")
    with pytest.raises(
        InputError, match=r"trainer.compile=true, but torch cannot compile here: no C\+\+ compiler; use"
    ):
        choose_compile(True, CPU, 1)


def test_a_compiler_that_fails_is_told_in_a_few_words(monkeypatch):
    def broken(*arguments, **options):
        raise OSError("g++ not found\nand more")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    assert "g++ not found" in why_not_compile("cpu")
    assert "\n" not in why_not_compile("cpu")


def test_blocks_are_named_by_a_method_and_not_by_an_attribute_of_that_name():
    theirs = nn.Module()
    theirs.blocks = nn.ModuleList([nn.Linear(1, 1)])
    ours = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8))
    assert blocks_of(theirs, ours, nn.Identity()) == list(ours.encoder.layer)


def losses(folder, name="train/loss"):
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "keys", "graphs"),
    [
        ("pretrain", {"model": "vit_nano"}, 3),
        ("pretrain", {"model": "vit_nano", "objective": "mae", "head": "dec1", "micro_batch": 4}, 5),
        ("pretrain", {"model": "cvt_nano"}, None),
        ("pretrain", {"model": "vit_nano", "precision": "bf16-mixed", "optim.master_weights": True}, 3),
        ("pretrain", {"model": "bit_nano"}, None),
        ("pretrain", {"model": "vit_nano", "objective": "latent", "online_probe": False, "image_size": 32}, None),
        ("finetune", {"model": "vit_nano", "objective.ema": 0.9}, 3),
    ],
)
def test_a_compiled_run_has_the_losses_of_the_other_and_no_graph_after_its_first_validation(
    task, keys, graphs, counter, tmp_path, monkeypatch
):
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: None)
    runs = {}
    for compiled in (False, True):
        runs[compiled] = tmp_path / str(compiled)
        given = {"out": str(runs[compiled]), "steps": 7, "callbacks.monitor.log_every": 1, "trainer.compile": compiled}
        api.call(task, KEYS | keys | given)
    assert losses(runs[True]) == pytest.approx(losses(runs[False]), rel=1e-5)
    assert losses(runs[True], "val/loss") == pytest.approx(losses(runs[False], "val/loss"), rel=1e-5)
    assert counter.frame_count > 0
    if graphs is not None:
        assert counter.frame_count == graphs


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_losses_of_the_real_compiler_agree(tmp_path):
    torch._dynamo.reset()
    if (obstacle := why_not_compile("cpu")) is not None:
        pytest.skip(f"torch cannot compile here: {obstacle}")
    for compiled in (False, True):
        given = {"out": str(tmp_path / str(compiled)), "steps": 20, "trainer.compile": compiled, "val_every": 20}
        api.call("pretrain", KEYS | {"model": "vit_nano", "callbacks.monitor.log_every": 1} | given)
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-5)
