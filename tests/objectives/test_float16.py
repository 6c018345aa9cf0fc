"""`precision=16-mixed`: gradients are clipped and measured without the factor on the loss; an overflow costs a step."""

import functools
import math

import pytest
import torch
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.errors import RunError
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.pictures.curves import read_metrics
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

pytestmark = pytest.mark.slow

KEYS = {
    "model": "vit_nano",
    "batch": 16,
    "val_every": 100,
    "loader.val_limit": 16,
    "workers": 0,
    "callbacks.monitor.log_every": 1,
    "lr": 1e-3,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread(one_thread):
    """Bits are compared."""


@pytest.fixture
def huge_factor(monkeypatch):
    """A factor on the loss that the first gradients overflow with, and that grows after each step that does not."""
    right = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(right, init_scale=2.0**24, growth_interval=1))


def pretrain(out, **values):
    return api.call("pretrain", {"out": str(out), **KEYS, **values})


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_the_norm_of_a_gradient_is_that_of_float32(optim, tmp_path):
    values = {"optim": optim, "steps": 3, "lr": 1e-3, "trainer.clip": 0.01}
    for precision in ("16-mixed", "32-true"):
        pretrain(tmp_path / precision, precision=precision, **values)
    half, single = (read_metrics(tmp_path / name / "metrics.csv") for name in ("16-mixed", "32-true"))
    assert half["optim/grad_norm"][1].tolist() == pytest.approx(single["optim/grad_norm"][1].tolist(), rel=0.02)
    assert half["train/loss"][1].tolist() == pytest.approx(single["train/loss"][1].tolist(), rel=0.01)
    a, b = weights(tmp_path / "16-mixed"), weights(tmp_path / "32-true")
    if optim == "sgd":  # Adam's first steps depend on signs alone
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_steps_that_overflow_are_skipped_and_not_counted_as_diverged(huge_factor, tmp_path, caplog):
    out = tmp_path / "out"
    summary = pretrain(out, precision="16-mixed", steps=12)
    assert summary["status"] == "done"
    skipped = caplog.text.count("float16 overflowed; the factor on the loss is halved")
    assert 3 < skipped < 12
    assert not (out / "skipped_steps.jsonl").exists()
    saved = load_checkpoint(newest_checkpoint(out / "checkpoints"))
    assert {state["step"].item() for state in saved["optimizer_states"][0]["state"].values()} == {12 - skipped}
    assert 1 < saved["MixedPrecision"]["scale"] < 2.0**24
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_resumed_run_has_the_factor_and_goes_on_to_the_bit(huge_factor, monkeypatch, tmp_path):
    pretrain(tmp_path / "whole", precision="16-mixed", steps=8)
    right, calls = ForMaskedImageModeling.masked_pass, iter(range(1, 100))

    def broken(*arguments):
        if not arguments[1].is_meta and next(calls) == 7:  # on meta, the FLOPs of a step are counted
            raise OSError(5, "Input/output error")
        return right(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ForMaskedImageModeling, "masked_pass", broken)
        with pytest.raises(RunError, match="checkpoint of step 6 is whole"):
            pretrain(tmp_path / "out", precision="16-mixed", steps=8)
    api.call("pretrain", {"out": str(tmp_path / "out"), "resume": True})
    a, b = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_loss_that_is_not_finite_still_counts(monkeypatch, tmp_path):
    right, calls = ForMaskedImageModeling.masked_pass, iter(range(1, 100))
    wrong = {3, 4, 5}

    def masked_pass(*arguments):
        loss, features = right(*arguments)
        return loss * (math.nan if not arguments[1].is_meta and next(calls) in wrong else 1), features

    monkeypatch.setattr(ForMaskedImageModeling, "masked_pass", masked_pass)
    with pytest.raises(RunError, match="not finite in 3 steps in a row, up to step 5"):
        pretrain(tmp_path / "out", precision="16-mixed", steps=9)
