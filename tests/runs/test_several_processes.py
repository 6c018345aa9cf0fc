"""A run in two processes: the same losses as in one, one run folder, signals and deaths that reach both."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import run_two
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs.processes import free_port
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = {
    "batch": 32,
    "steps": 20,
    "val_every": 10,
    "save_every": 1,
    "loader.val_limit": 33,  # one process validates a batch more than the other
    "precision": "32-true",
    "workers": 0,
    "callbacks.monitor.log_every": 1,
}
MORE = {
    "vit_nano": {
        "online_probe": True,
        "callbacks.online_probe.images": 69,
        "callbacks.online_probe.val_images": 31,
    },
    "bit_nano": {"steps": 8, "val_every": 4},
    "cvt_nano": {"steps": 8, "val_every": 4},
}
QUIET = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
OURS = ("-m", "mimsuite.tasks.pretrain")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *OURS)


def start(out, program=OURS, *, env=(), **values):
    command = [sys.executable, *program, f"out={out}", *(f"{k}={v}" for k, v in (KEYS | values).items())]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(env), **QUIET)


def finish(process):
    text = process.communicate(timeout=200)[0]
    return process.returncode, text


def losses(out):
    return torch.tensor(read_metrics(out / "metrics.csv")["train/loss"][1])


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


def summary(out):
    return json.loads((out / "summary.json").read_text())


def wait_for_checkpoint(out):
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "latest.json").exists():
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Runs of vit_nano, bit_nano and cvt_nano in two processes, made when first asked for; torchrun starts vit_nano."""
    made = {}

    def run(model):
        if model not in made:
            out = tmp_path_factory.mktemp(model) / "out"
            values = KEYS | {"model": model, **MORE[model]}
            if model == "vit_nano":
                code, text = finish(start(out, TORCHRUN, **values))
                assert code == 0, text
            else:
                run_two("pretrain", out=out, **values)
            made[model] = out
        return made[model]

    return run


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same in one process."""
    made = {}

    def run(model):
        if model not in made:
            halves = {"micro_batch": 16} if model == "cvt_nano" else {}  # its BatchNorm sees micro-batches
            out = tmp_path_factory.mktemp(f"one-{model}") / "out"
            api.call("pretrain", {"out": str(out), "model": model, **KEYS, **MORE[model], **halves})
            made[model] = out
        return made[model]

    return run


@pytest.mark.parametrize("model", ["vit_nano", "bit_nano", "cvt_nano"])
def test_two_processes_give_the_losses_of_one(model, one, two):
    found, wanted = losses(two(model)), losses(one(model))
    assert len(found) == (KEYS | MORE[model])["steps"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    for name in ("val/loss", "val/psnr"):
        found, wanted = (read_metrics(run(model) / "metrics.csv")[name][1] for run in (two, one))
        assert found == pytest.approx(wanted, rel=1e-4)  # BatchNorm's statistics: one step of 16, or two


def test_two_processes_give_the_online_figures_of_one(one, two):
    """69 and 31 images: both processes have a last partial batch, and one has an image more."""
    found, wanted = (read_metrics(run("vit_nano") / "metrics.csv") for run in (two, one))
    for name in ("knn/top1", "probe/top1", "quality/rankme", "quality/alpha_req"):
        (steps, values), (_, others) = found[name], wanted[name]
        assert (steps[0], steps[-1]) == (0, 20)
        assert values[0] == pytest.approx(others[0], rel=1e-5)
        assert values[-1] == pytest.approx(others[-1], rel=1e-3, abs=0.04 if "top1" in name else 0)  # one image of 31


def test_one_folder_is_written_once(two):
    out = two("vit_nano")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 21))
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 10, 20]
    assert summary(out)["status"] == "done"
    assert json.loads((out / "environment.json").read_text())["processes"] == 2
    assert (out / "train.log").read_text().count("done: 20 steps") == 1


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run on two devices whose command got a signal."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    process = start(out, model="vit_nano", devices=2)
    wait_for_checkpoint(out)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code == 143, text
    return out


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


def test_a_signal_stops_both_and_resuming_goes_on_to_the_bit(stopped, two, tmp_path):
    assert summary(stopped)["status"] == "interrupted"
    assert 0 < summary(stopped)["steps"] < 20
    out = copy_of(stopped, tmp_path)
    run_two("pretrain", out=out, resume="true")
    found, wanted = weights(out), weights(two("vit_nano"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_one_process_goes_on_where_two_stopped(stopped, two, tmp_path):
    out = copy_of(stopped, tmp_path)
    api.call("pretrain", {"out": str(out), "resume": True, "devices": 1})
    torch.testing.assert_close(losses(out), losses(two("vit_nano")), rtol=1e-4, atol=0)


def test_two_machines_share_one_run(two, tmp_path):
    out = tmp_path / "out"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    keys = {"model": "vit_nano", "devices": 1, "trainer.num_nodes": 2}
    ends = [finish(p) for p in [start(out, env=place | {"NODE_RANK": node}, **keys) for node in ("0", "1")]]
    assert [code for code, _ in ends] == [0, 0], ends
    torch.testing.assert_close(losses(out), losses(two("vit_nano")), rtol=1e-6, atol=0)


def test_fewer_validation_images_than_processes(tmp_path):
    """One process has none; the loss is still that of the image."""
    keys = {"model": "vit_nano", **KEYS, "steps": 1, "val_every": 1, "loader.val_limit": 1}
    run_two("pretrain", out=tmp_path / "two", **keys)
    api.call("pretrain", {"out": str(tmp_path / "one"), **keys})
    found, wanted = (read_metrics(tmp_path / name / "metrics.csv") for name in ("two", "one"))
    for name in ("val/loss", "val/psnr"):
        assert found[name][1] == pytest.approx(wanted[name][1], rel=1e-5)


def children(process):
    """The processes that a command has started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def rank_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((v[5:].decode() for v in variables if v.startswith(b"RANK=")), None)


def test_the_death_of_one_process_ends_the_run_with_a_checkpoint(tmp_path):
    out = tmp_path / "out"
    process = start(out, model="vit_nano", devices=2, steps=5000, val_every=5000)
    wait_for_checkpoint(out)
    victim = next(pid for pid in children(process) if rank_of(pid) == "1")
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    code, text = finish(process)
    assert time.monotonic() - began < 120
    assert code == 1
    said = [line for line in text.splitlines() if line.startswith("mimsuite pretrain:")]
    assert [line.partition(", and so")[0] for line in said] == [
        "mimsuite pretrain: process 1 of 2 was killed by SIGKILL"
    ], text
    assert "Traceback" not in text
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] > 0


def test_the_death_of_a_machine_ends_the_run_and_names_it(tmp_path):
    """Of two commands with processes of their own, as on two machines, one and its process are killed at once."""
    out = tmp_path / "out"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    keys = {"model": "vit_nano", "devices": 1, "trainer.num_nodes": 2, "steps": 5000, "val_every": 5000}
    first, second = (start(out, env=place | {"NODE_RANK": node}, **keys) for node in ("0", "1"))
    wait_for_checkpoint(out)
    for pid in (second.pid, *children(second)):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    code, text = finish(first)
    assert time.monotonic() - began < 120
    assert code == 1
    said = [line for line in text.splitlines() if line.startswith("mimsuite pretrain:")]
    place = f"on {socket.gethostname()}, was killed or is cut off"
    assert said == [f"mimsuite pretrain: process 1 of 2, {place}; resume=true goes on from the last checkpoint"], text
    assert "Traceback" not in text
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] > 0
    second.communicate()


def test_the_death_of_the_command_stops_its_processes_with_a_checkpoint(tmp_path):
    out = tmp_path / "out"
    process = start(out, model="vit_nano", devices=2, steps=5000, val_every=5000)
    wait_for_checkpoint(out)
    process.kill()
    deadline = time.monotonic() + 90
    while not (out / "summary.json").exists():
        assert time.monotonic() < deadline, "the processes go on"
        time.sleep(0.2)
    end = summary(out)
    assert end["status"] == "interrupted"
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] == end["steps"]
    process.communicate()
