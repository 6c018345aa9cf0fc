"""A run that loses a loader worker, or is told to stop while one does not answer: a checkpoint, and one line."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from mimsuite import api
from mimsuite.data import workers
from mimsuite.errors import RunError
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

KEYS = {"model": "vit_nano", "batch": 8, "steps": 5000, "val_every": 5000, "save_every": 5000, "loader.val_limit": 8}


def lose(out, numbers):
    """Sends signals to a worker of the training loader, and then to this process, once steps have been taken."""
    while not (out / "metrics.csv").exists() or "\n10," not in (out / "metrics.csv").read_text():
        time.sleep(0.05)
    newest = max(multiprocessing.active_children(), key=lambda child: int(child.name.rpartition("-")[2]))
    for pid, number in zip((newest.pid, os.getpid()), numbers, strict=False):
        os.kill(pid, number)
        time.sleep(0.2)


@pytest.mark.parametrize("numbers", [(signal.SIGKILL,), (signal.SIGSTOP, signal.SIGTERM)])
def test_a_run_without_its_worker_commits_a_checkpoint(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "STOPPED_FOR", 100)
    out = tmp_path / "out"
    threading.Thread(target=lose, args=(out, numbers), daemon=True).start()
    values = {"out": str(out), "workers": 2} | KEYS
    if len(numbers) == 2:
        assert api.call("pretrain", values)["exit_code"] == 143
    else:
        with pytest.raises(RunError, match=r"loader worker . of 2 was killed"):
            api.call("pretrain", values)
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] >= 10
