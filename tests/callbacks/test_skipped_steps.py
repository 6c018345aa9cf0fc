"""Steps whose loss or gradient is not finite: no update, the samples written down, three in a row stop."""

import json
import math

import pytest
import torch
from lightning import Callback
from torch import nn

from mimsuite import api
from mimsuite.callbacks import skipped_steps
from mimsuite.errors import RunError
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.objectives.clipping import clip_gradients, poison_if_not_finite
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

KEYS = {
    "model": "vit_nano",
    "batch": 16,
    "val_every": 100,
    "save_every": 100,
    "loader.val_limit": 16,
    "precision": "32-true",
    "workers": 0,
}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_poisons_every_gradient(value):
    weight = torch.ones(3, requires_grad=True)
    poison_if_not_finite(weight.sum() + value).backward()
    assert weight.grad.isnan().all()


def test_a_finite_loss_and_its_gradient_stay_to_the_bit():
    weight = torch.rand(3, requires_grad=True)
    loss = poison_if_not_finite(weight.pow(2).sum())
    loss.backward()
    assert torch.equal(loss, weight.pow(2).sum())
    assert torch.equal(weight.grad, 2 * weight)


def test_finite_gradients_are_clipped():
    layer = nn.Linear(2, 2)
    (100 * layer(torch.ones(1, 2)).sum()).backward()
    norm = clip_gradients(layer.parameters(), 1.0)
    assert norm > 100
    assert torch.nn.utils.get_total_norm(p.grad for p in layer.parameters()).item() == pytest.approx(1)


def broken(monkeypatch, calls, value=math.nan):
    """Makes the training loss of these calls, counted from 1, another value; on meta, FLOPs are counted."""
    right, count = ForMaskedImageModeling.masked_pass, iter(range(1, 1000))

    def masked_pass(*arguments):
        loss, features = right(*arguments)
        return loss * (value if not arguments[1].is_meta and next(count) in calls else 1), features

    monkeypatch.setattr(ForMaskedImageModeling, "masked_pass", masked_pass)


def lines(out):
    return [json.loads(line) for line in (out / "skipped_steps.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_skipped_steps_are_written_down_and_the_run_goes_on(value, monkeypatch, tmp_path, caplog):
    broken(monkeypatch, {2, 3, 5}, value)
    summary = api.call("pretrain", {"out": str(tmp_path / "out"), "steps": 6, **KEYS})
    assert summary["status"] == "done"
    assert math.isfinite(summary["metrics"]["val/loss"])
    rows = lines(tmp_path / "out")
    assert [(row["step"], len(set(row["ids"]))) for row in rows] == [(2, 16), (3, 16), (5, 16)]
    assert "step 2 skipped: loss or gradient is not finite" in caplog.text


@pytest.mark.slow
def test_of_an_accumulated_step_all_samples_are_written_down(monkeypatch, tmp_path):
    broken(monkeypatch, {4})
    api.call("pretrain", {"out": str(tmp_path / "out"), "steps": 2, "micro_batch": 4, **KEYS})
    (row,) = lines(tmp_path / "out")
    assert (row["step"], len(set(row["ids"]))) == (1, 16)


@pytest.mark.slow
def test_three_in_a_row_stop_with_the_weights_from_before(monkeypatch, tmp_path):
    out = tmp_path / "out"
    broken(monkeypatch, {3, 4, 5, 6})
    with pytest.raises(RunError, match=r"not finite in 3 steps in a row, up to step 5; the checkpoint has the weights"):
        api.call("pretrain", {"out": str(out), "steps": 9, **KEYS})
    saved = load_checkpoint(newest_checkpoint(out / "checkpoints"))
    assert saved["global_step"] == 5
    assert [row["step"] for row in lines(out)] == [3, 4, 5]
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert {state["step"].item() for state in saved["optimizer_states"][0]["state"].values()} == {2}


class EndsAfter(Callback):
    """Ends a run early, as EarlyStopping does."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 4


@pytest.mark.slow
def test_answers_that_were_not_read_yet_are_read_when_a_run_ends_early(monkeypatch, tmp_path):
    monkeypatch.setattr(skipped_steps, "late_steps", lambda device: 4)  # as on a GPU
    broken(monkeypatch, {2, 4})
    api.call("pretrain", {"out": str(tmp_path / "out"), "steps": 9, "callbacks": [EndsAfter()], **KEYS})
    assert [row["step"] for row in lines(tmp_path / "out")] == [2, 4]
