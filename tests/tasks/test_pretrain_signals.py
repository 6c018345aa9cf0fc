"""Pretraining that a signal stops, in a process of its own: what is kept, and that it goes on to the bit."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import start
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.pictures.curves import read_metrics

pytestmark = pytest.mark.slow

NANO = {"model": "vit_nano", "batch": 16, "steps": 24, "val_every": 24, "loader.val_limit": 32, "precision": "32-true"}


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


def wait_until(true, task):
    deadline = time.monotonic() + 90
    while not true():
        assert task.poll() is None, task.finish()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("model", ["vit_nano", "cvt_nano"])  # CvT: BatchNorm's running statistics too
def test_an_interrupted_run_resumes_to_the_bit(model, tmp_path):
    out, values = tmp_path / "out", NANO | {"model": model}
    alike = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    task = start("pretrain", env=alike, out=out, workers=1, save_every=1, **values)
    wait_until((out / "checkpoints" / "latest.json").exists, task)
    task.send_signal(signal.SIGTERM)
    assert task.wait() == 143
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 0 < summary["steps"] < NANO["steps"]
    api.call("pretrain", {"out": str(tmp_path / "whole"), "workers": 0, **values})
    assert api.call("pretrain", {"out": str(out), "resume": True})["status"] == "done"
    found, wanted = weights(out), weights(tmp_path / "whole")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_signal_to_every_process_of_a_run_commits_a_checkpoint(tmp_path):
    """As a scheduler sends it: the loader's workers get it too."""
    out = tmp_path / "out"
    task = start("pretrain", out=out, workers=2, **NANO | {"steps": 5000, "val_every": 100})
    wait_until(lambda: len(read_steps(out)) > 0, task)
    os.killpg(task.pid, signal.SIGTERM)
    code, text = task.finish()
    assert code == 143, text
    assert "Traceback" not in text
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert steps >= 10
    assert json.loads((out / "checkpoints" / "latest.json").read_text())["step"] == steps


def read_steps(out):
    """The steps whose loss a run has written down."""
    file = out / "metrics.csv"
    return read_metrics(file).get("train/loss", ([],))[0] if file.exists() and file.read_text() else []


def listens(pid):
    """Whether a run has taken the signals over, as it does before its first validation."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc for the moment when the run listens")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_before_the_first_step_still_commits_a_checkpoint(number, code, tmp_path):
    out = tmp_path / "out"
    task = start("pretrain", out=out, workers=0, **NANO | {"steps": 500, "val_every": 2, "loader.val_limit": 303})
    wait_until(lambda: listens(task.pid), task)
    task.send_signal(number)
    assert task.wait() == code
    assert json.loads((out / "summary.json").read_text())["steps"] >= 1
    assert (out / "checkpoints" / "latest.json").exists()
