"""Standard output and terminals that go away: a training goes on, or stops with a checkpoint; others end quietly."""

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time

import pytest
from processes import start

from mimsuite.data.terminal import Tolerant

NANO = {"model": "vit_nano", "batch": 16, "workers": 0, "precision": "32-true", "loader.val_limit": 32}


def committed(out):
    file = out / "checkpoints" / "latest.json"
    return json.loads(file.read_text())["step"] if file.exists() else 0


def wait_for_a_checkpoint(out, task):
    deadline = time.monotonic() + 90
    while not committed(out):
        assert task.poll() is None, (out / "train.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def first_line(fifo, found):
    """Reads as `head -1` does."""
    with open(fifo, "rb") as file:
        found.append(file.readline())


def test_a_stream_whose_reader_is_gone_takes_what_is_written_and_raises_nothing():
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as pipe:
        os.close(reads)
        for _ in range(2):
            print("a line", file=Tolerant(pipe), flush=True)
    with open("/dev/full", "w") as full:
        print("x" * 100_000, file=Tolerant(full), flush=True)


@pytest.mark.slow
def test_a_training_goes_on_without_the_reader_of_its_output(tmp_path):
    """`| head -1`, beside `>/dev/full`."""
    fifo, found = tmp_path / "pipe", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=first_line, args=(fifo, found))
    reader.start()
    values = NANO | {"steps": 12, "val_every": 12}
    tasks = [
        start("pretrain", output=out, out=tmp_path / name, **values) for name, out in (("a", fifo), ("b", "/dev/full"))
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    reader.join()
    assert found[0].startswith(b"no data= given")
    for name in ("a", "b"):
        log = (tmp_path / name / "train.log").read_text()
        assert "done: 12 steps" in log
        assert "Error" not in log


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="opens a terminal by its name to make it the controlling one")
def test_a_closed_terminal_stops_a_training_with_a_checkpoint(tmp_path):
    """It gets SIGHUP, with its loader workers, and each write to the terminal fails from then on."""
    master, slave = pty.openpty()
    out = tmp_path / "out"
    task = start("pretrain", output=os.ttyname(slave), out=out, **NANO | {"steps": 5000, "save_every": 5, "workers": 1})
    closed = threading.Event()
    reader = threading.Thread(target=drain, args=(master, closed))
    reader.start()
    wait_for_a_checkpoint(out, task)
    os.close(slave)
    before = committed(out)
    closed.set()
    reader.join()
    os.close(master)
    assert task.wait() == 143
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert committed(out) == summary["steps"] >= before
    log = (out / "train.log").read_text()
    assert "SIGHUP: stopping after this step, with a checkpoint" in log
    assert "Traceback" not in log


def drain(master, closed):
    """Reads what is printed, so that the printing process never waits, until the terminal is closed."""
    while not closed.is_set():
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 4096)


@pytest.mark.parametrize("arguments", [("--help",), ("pack", "--help")])
def test_help_ends_quietly_where_nobody_reads_it(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "mimsuite.cli", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")
