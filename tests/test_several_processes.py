"""A run in two processes: the same losses as in one, one run folder, signals and deaths that reach both."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from processes import run_two
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs import life
from mimsuite.runs.processes import Team, current_team, free_port, launch
from mimsuite.tasks import probe
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = {
    "batch": 32,
    "steps": 20,
    "val_every": 10,
    "save_every": 1,
    "loader.val_limit": 32,
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


def rank_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((v[5:].decode() for v in variables if v.startswith(b"RANK=")), None)


def test_the_death_of_one_process_ends_the_run_with_a_checkpoint(tmp_path):
    out = tmp_path / "out"
    process = start(out, model="vit_nano", devices=2, steps=5000, val_every=5000)
    wait_for_checkpoint(out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = next(int(pid) for pid in children if rank_of(pid) == "1")
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    code, text = finish(process)
    assert time.monotonic() - began < 120
    assert code == 1
    assert "was killed by SIGKILL" in text
    assert "Traceback" not in text
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] > 0


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


STUB = """#!/bin/sh
for name in INT TERM USR1; do trap "echo $name $RANK $3 >> $OUT; exit 7" $name; done
echo ready $RANK $2 $3 $WORLD_SIZE >> $OUT
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_command_passes_signals_on_to_all_that_it_started(number, tmp_path, monkeypatch):
    """Of processes that stand for those of a run."""
    stub, out = tmp_path / "stub", tmp_path / "lines"
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setenv("OUT", str(out))
    threading.Thread(target=send_when_ready, args=(number, out)).start()
    before = signal.getsignal(number)
    assert launch("finetune", ["a=1"], 2, 1) == 7
    assert signal.getsignal(number) is before
    lines = sorted(out.read_text().splitlines())
    name = number.name.removeprefix("SIG")
    assert lines == sorted(
        [f"ready {rank} mimsuite.tasks.finetune a=1 2" for rank in (0, 1)] + [f"{name} {rank} a=1" for rank in (0, 1)]
    )


def send_when_ready(number, out):
    while not out.exists() or out.read_text().count("ready") < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("task", ["pretrain", "finetune", "probe"])
def test_a_task_for_two_devices_starts_two_processes_of_itself(task, tmp_path, monkeypatch):
    started = []

    def launched(*arguments):
        started.append(arguments)
        return 5

    monkeypatch.setattr(probe if task == "probe" else life, "launch", launched)
    values = {"out": str(tmp_path / "out"), "devices": 2} | ({"init": "demo:vit"} if task == "probe" else {"batch": 8})
    assert api.call(task, values)["exit_code"] == 5
    ((name, arguments, local, nodes),) = started
    assert (name, local, nodes) == (task, 2, 1)
    assert "devices=2" in arguments
    assert any(a.startswith("out=") and str(tmp_path / "out") in a for a in arguments)


def test_a_batch_that_two_processes_cannot_share_is_refused_before_they_start(tmp_path):
    with pytest.raises(InputError, match="batch=31 is not a multiple of the 2 devices; use batch=32"):
        api.call("pretrain", {"out": str(tmp_path / "out"), **KEYS, "batch": 31, "devices": 2})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"LOCAL_RANK": "1", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Team(5, 4, 2)),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "3", "SLURM_NNODES": "2"}, Team(3, 8, 2)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ],
)
def test_the_environment_says_which_process_this_is(variables, expected, monkeypatch):
    for name in (
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "SLURM_NTASKS",
        "SLURM_PROCID",
        "SLURM_NNODES",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert current_team() == expected
