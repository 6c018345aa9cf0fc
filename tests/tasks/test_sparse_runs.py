"""Runs of masked convolution: they resume to the bit, and two processes give what one does."""

import json

import pytest
import torch
from lightning import Callback
from processes import run_two
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.pictures.curves import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = {
    **{"model": "cvt_nano", "objective": "spark", "objective.fourier": 0.5, "batch": 16, "steps": 4, "lr": 1e-3},
    **{"val_every": 2, "save_every": 1, "loader.val_limit": 32, "precision": "32-true", "workers": 0},
    "callbacks.monitor.log_every": 1,
}
BIT = {"model": "bit_nano", "objective": "simmim", "objective.mask_mode": "sparse"}
TOKEN = {"model": "bit_nano", "objective": "simmim", "objective.mask_layer": 2}


class EndsAt(Callback):
    """Raises in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("the end")


def pretrain(out, **values):
    api.call("pretrain", {"out": str(out), **KEYS, **values})
    return load_file(out / "weights" / "model.safetensors"), read_metrics(out / "metrics.csv")


@pytest.mark.parametrize("values", [{}, TOKEN], ids=["spark", "added token"])
def test_a_run_that_ends_in_the_middle_goes_on_to_the_bit(values, tmp_path):
    wanted, metrics = pretrain(tmp_path / "whole", **values)
    with pytest.raises(RuntimeError, match="the end"):
        pretrain(tmp_path / "out", callbacks=EndsAt(2), **values)
    assert json.loads((tmp_path / "out" / "checkpoints" / "latest.json").read_text())["step"] == 2
    found, others = pretrain(tmp_path / "out", resume=True, **values)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert others["train/loss"][1].tolist() == metrics["train/loss"][1].tolist()


def in_two(out, **values):
    run_two("pretrain", out=out, **(KEYS | values | {"devices": 2}))
    return load_file(out / "weights" / "model.safetensors"), read_metrics(out / "metrics.csv")


def test_two_processes_give_what_one_does(tmp_path):
    wanted, metrics = pretrain(tmp_path / "one", micro_batch=8, **BIT)
    found, others = in_two(tmp_path / "two", **BIT)
    assert others["train/loss"][1] == pytest.approx(metrics["train/loss"][1], rel=1e-5)
    assert others["val/loss"][1] == pytest.approx(metrics["val/loss"][1], rel=1e-5)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_batch_norm_counts_the_visible_positions_of_all_processes(tmp_path):
    wanted, metrics = pretrain(tmp_path / "one")
    found, others = in_two(tmp_path / "two", **{"trainer.sync_batchnorm": True})
    assert others["train/loss"][1] == pytest.approx(metrics["train/loss"][1], rel=1e-5)
    assert others["val/loss"][1] == pytest.approx(metrics["val/loss"][1], rel=1e-5)
    running = [name for name in wanted if "running" in name]
    assert running
    for name in running:  # the two halves of a batch are far apart, so the statistics of one alone would be, too
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)
