"""Faults in the middle of a run: nothing is lost, and what a run can do without does not end it."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.callbacks.best_weights import BestWeights
from mimsuite.errors import InputError, RunError
from mimsuite.objectives.mim import MIMObjective
from mimsuite.pictures import saving
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs.folder import RunLog
from mimsuite.runs.loggers.files import FileLogger
from mimsuite.settings import budget
from mimsuite.settings.outputs import check_writable

KEYS = {"batch": 16, "steps": 4, "val_every": 2, "workers": 0, "precision": "32-true", "loader.val_limit": 32}


def fault(code):
    return OSError(code, os.strerror(code))


def failing(right, numbers, code=errno.EIO):
    """A method that works, but for the calls of these numbers, counted from 1, which fail when all is done.

    Where the FLOPs of a step are counted, on tensors without memory, is not a call.
    """
    count = 0

    def call(*arguments, **named):
        nonlocal count
        result = right(*arguments, **named)
        counted = any(getattr(getattr(value, "images", None), "is_meta", False) for value in arguments)
        count += not counted
        if count in numbers and not counted:
            raise fault(code)
        return result

    return call


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def committed(out):
    return json.loads((out / "checkpoints" / "latest.json").read_text())["step"]


@pytest.fixture(scope="module", autouse=True)
def one_thread(one_thread):
    """Bits are compared."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs: of CvT, whose BatchNorm changes with every micro-batch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    api.call("pretrain", {"out": str(out), "model": "cvt_nano", "micro_batch": 4, **KEYS})
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("call", "step"), [(10, 2), (9, 2), (16, 3)])
def test_an_error_between_two_micro_batches_commits_the_last_whole_step(
    call, step, whole, monkeypatch, tmp_path, caplog
):
    out = tmp_path / "out"
    values = {"out": str(out), "model": "cvt_nano", "micro_batch": 4, "save_every": 100, **KEYS}
    with monkeypatch.context() as patch:
        patch.setattr(MIMObjective, "training_step", failing(MIMObjective.training_step, {call}))
        with pytest.raises(RunError, match=f"Input/output error; the checkpoint of step {step} is whole"):
            api.call("pretrain", values)
    assert f"step {step} is committed before the run ends" in caplog.text
    assert committed(out) == step
    api.call("pretrain", {"out": str(out), "resume": True})
    assert same(weights(out), weights(whole))
    assert read_metrics(out / "metrics.csv")["val/loss"][1].tolist() == [
        *read_metrics(whole / "metrics.csv")["val/loss"][1]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 6])  # of the eight batches of the validation after step 2
def test_a_validation_that_an_error_ended_is_done_again(number, whole, monkeypatch, tmp_path):
    out = tmp_path / "out"
    values = {"out": str(out), "model": "cvt_nano", "micro_batch": 4, "save_every": 100, **KEYS}
    with monkeypatch.context() as patch:
        patch.setattr(MIMObjective, "validation_step", failing(MIMObjective.validation_step, {8 + number}))
        with pytest.raises(RunError, match="Input/output error; the checkpoint of step 2 is whole"):
            api.call("pretrain", values)
    api.call("pretrain", {"out": str(out), "resume": True})
    assert same(weights(out), weights(whole))
    found, wanted = (read_metrics(folder / "metrics.csv")["val/loss"] for folder in (out, whole))
    assert [row.tolist() for row in found] == [row.tolist() for row in wanted]


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_has_nothing_left(whole, caplog):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    summary = api.call("pretrain", {"out": str(whole), "resume": True})
    assert f"nothing left: the run in {whole} did its 4 steps; give a larger steps= to train longer" in caplog.text
    assert summary == json.loads((whole / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_best_weights_that_could_not_be_written_are_written_when_the_run_goes_on(monkeypatch, tmp_path, caplog):
    """The last line, too, is about the best weights."""
    values = {"init": "demo:vit", **KEYS, "val_every": 1, "lr": 1e-3}
    api.call("finetune", {"out": str(tmp_path / "whole"), **values})
    best = json.loads((tmp_path / "whole" / "summary.json").read_text())["best_step"]
    assert best < KEYS["steps"]
    series = read_metrics(tmp_path / "whole" / "metrics.csv")
    top1 = dict(zip(*series["val/top1"], strict=True))[best]
    done = next(line for line in caplog.messages if line.startswith("done: "))
    assert done.startswith(f"done: 4 steps; best weights, of step {best}: ")
    assert f"val/top1 {top1:.4f}" in done
    right = BestWeights.on_validation_end

    def full(self, trainer, module):
        if trainer.global_step == best:
            self.save_weights = failing(lambda _: None, {1}, errno.ENOSPC)
        right(self, trainer, module)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(BestWeights, "on_validation_end", full)
        with pytest.raises(RunError, match=f"No space left on device; .*the checkpoint of step {best} is whole"):
            api.call("finetune", {"out": str(out), **values})
    assert api.call("finetune", {"out": str(out), "resume": True})["best_step"] == best
    assert same(weights(out), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_no_picture_curve_metric_or_log_line_ends_a_run(monkeypatch, tmp_path, caplog):
    out = tmp_path / "out"

    def broken(*_):
        raise fault(errno.ENOSPC)

    monkeypatch.setattr("mimsuite.callbacks.reconstructions.save_image", broken)
    monkeypatch.setattr(saving, "save_image", broken)
    monkeypatch.setattr("mimsuite.pictures.curves.save_figure", broken, raising=False)
    monkeypatch.setattr(FileLogger, "_append", failing(FileLogger._append, {1, 2}, errno.EDQUOT))
    summary = api.call("pretrain", {"out": str(out), "model": "vit_nano", "callbacks.monitor.log_every": 1, **KEYS})
    assert summary["status"] == "done"
    assert read_metrics(out / "metrics.csv")["train/loss"][0].tolist() == [1, 2, 3, 4]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 7
    for what in ("metrics.csv", "a picture of reconstructions"):
        assert caplog.text.count(f"{what} cannot be written, and the run goes on without") == 1


def test_a_full_disk_costs_a_log_its_lines_and_one_warning(caplog):
    log = logging.getLogger("mimsuite")
    handler = RunLog(Path("/dev/full"))
    log.addHandler(handler)
    try:
        for _ in range(3):
            log.warning("a line")
    finally:
        log.removeHandler(handler)
    said = [m for m in caplog.messages if m != "a line"]
    assert said == [
        "full cannot be written, and the run goes on without: No space left on device; free some space, or use "
        "another place"
    ]


@pytest.mark.slow
def test_time_too_makes_checkpoints_due(monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "SAVE_SECONDS", 0.0)
    out = tmp_path / "out"
    steps = []
    monkeypatch.setattr("mimsuite.runs.checkpoints.commit", lambda content, path: steps.append(content["global_step"]))
    api.call("pretrain", {"out": str(out), "model": "vit_nano", **KEYS})
    assert steps == [1, 2, 3, 4]


def test_a_place_is_tried_before_any_work(tmp_path):
    check_writable("out", tmp_path / "new" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Not a directory; use another out="):
        check_writable("out", tmp_path / "file" / "run")
    with pytest.raises(InputError, match=r"needs 1000000000 MB and its disk has \d+ MB left; free some space or"):
        check_writable("out", tmp_path / "a.npz", need=10**15)
    with pytest.raises(InputError, match="cannot be written"):
        check_writable("out", "/proc/run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
