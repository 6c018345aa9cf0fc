"""SLURM as its users meet it: processes that srun started, the signal before the end, the batch script, submitit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from processes import start

from mimsuite import api
from mimsuite.app import for_this_job
from mimsuite.config.submitted import check_launcher, read_codes
from mimsuite.errors import InputError, RunError
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slurm.sbatch"
SRUN = {  # what srun gives two tasks on one machine, as far as it says something about processes
    "SLURM_JOB_ID": str(70000 + os.getpid() % 10000),
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NPROCS": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
}
QUICK = {"model": "vit_nano", "batch": 8, "precision": "32-true", "workers": 0, "val_every": 5000, "save_every": 1}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_tasks_of_srun_train_together_and_end_with_the_code_to_be_queued_again(tmp_path):
    """Nobody names an address or a port: they come from the list of machines and the number of the job."""
    out = tmp_path / "out"
    tasks = [
        start("pretrain", env=SRUN | {"SLURM_PROCID": n, "SLURM_LOCALID": n}, out=out, steps=5000, **QUICK)
        for n in ("0", "1")
    ]
    deadline = time.monotonic() + 150
    while not (out / "checkpoints" / "latest.json").exists():
        assert time.monotonic() < deadline, "no checkpoint"
        assert [task.poll() for task in tasks] == [None, None], [task.output.read_text() for task in tasks]
        time.sleep(0.05)
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    (code, text), (other, more) = [task.finish() for task in tasks]
    assert (code, other) == (143, 0), text + more  # at another code of this one srun would kill the first, which writes
    assert "2 processes" in text
    assert "srun" in text
    assert "SIGUSR1: stopping within 5 steps, with a checkpoint" in text
    end = json.loads((out / "summary.json").read_text())
    assert end["status"] == "interrupted"
    assert load_checkpoint(newest_checkpoint(out / "checkpoints"))["global_step"] == end["steps"] > 0


def run_script(folder, code, *arguments, **variables):
    """What the batch script runs, with commands that stand for those of SLURM, and its exit code."""
    lines = folder / "lines"
    for name, end in (("srun", code), ("scontrol", 0)):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {lines}\nexit {end}\n')
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "71234", **variables}
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env=env, check=False, capture_output=True, text=True)
    assert done.stderr == ""
    return lines.read_text().splitlines(), done.returncode


def test_the_batch_script_is_queued_again_after_a_stop_and_only_then(tmp_path):
    train = (
        "srun --kill-on-bad-exit=1 mimsuite pretrain data=/shared/shards out=/shared/runs/first epochs=300 resume=true"
    )
    assert run_script(tmp_path, 143) == ([train, "scontrol requeue 71234"], 143)
    (tmp_path / "lines").unlink()
    assert run_script(tmp_path, 1, "batch=64") == ([f"{train} batch=64"], 1)
    (tmp_path / "lines").unlink()
    ((line,), code) = run_script(tmp_path, 0, SLURM_ARRAY_TASK_ID="1", OUT="/runs/a", DATA="/data")
    assert (line.partition("mimsuite ")[2], code) == (
        "pretrain data=/data out=/runs/a/1 epochs=300 resume=true lr=3e-4",
        0,
    )


def test_the_documented_sweep_composes_and_needs_the_extra_and_a_folder(monkeypatch, tmp_path):
    words = ["-m", "lr=1e-4,3e-4", "hydra/launcher=submitit_slurm", f"out={tmp_path}"]
    check_launcher(words)
    check_launcher(["-m", "lr=1e-4,3e-4"])
    with pytest.raises(InputError, match=r"hydra/launcher=submitit_slurm needs out=: what the jobs print goes to subm"):
        check_launcher(words[:3])
    monkeypatch.setattr("mimsuite.config.submitted.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs hydra-submitit-launcher; pip install "mimsuite\[slurm\]"'):
        check_launcher(words)


def test_the_jobs_that_failed_are_named(tmp_path):
    for number, code in enumerate((0, 2, 1)):
        (tmp_path / f"exit-{number}").write_text(str(code))
    with pytest.raises(RunError, match=r"2 of 3 jobs failed: 1, 2, the first with exit code 2; what they printed is"):
        read_codes(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_sweep_through_submitit_runs_each_job_in_a_folder_of_its_own(tmp_path):
    keys = {"init": "demo:vit", "split": "val", "image_size": 32, "devices": 1, "workers": 0, "out": tmp_path / "out"}
    command = [sys.executable, "-m", "mimsuite.tasks.evaluate", "-m", *(f"{k}={v}" for k, v in keys.items())]
    command += ["mask.ratio=0.5,0.7", "batch=303", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = {path.name for path in (tmp_path / "out").iterdir()}
    assert folders == {"0", "1", "submitit"}
    losses = [json.loads((tmp_path / "out" / n / "summary.json").read_text())["metrics"]["val/loss"] for n in "01"]
    alone = api.evaluate(**keys | {"out": str(tmp_path / "alone"), "mask.ratio": 0.7, "batch": 303})
    assert losses[1] == pytest.approx(alone["metrics"]["val/loss"], rel=1e-5)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("devices", "submitted", "expected"), [("auto", False, 1), (1, False, 1), ("auto", True, "auto"), (8, True, 8)]
)
def test_jobs_of_a_sweep_here_take_one_device_and_those_of_a_cluster_what_they_get(
    devices, submitted, expected, monkeypatch
):
    """With all devices of this machine a job would start the whole sweep again, in each of its processes."""
    sweep = OmegaConf.create({"mode": RunMode.MULTIRUN, "job": {"num": 3}})
    monkeypatch.setattr(HydraConfig, "get", lambda: sweep)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm") if submitted else monkeypatch.delenv("SUBMITIT_EXECUTOR", False)
    assert dict(for_this_job(OmegaConf.create({"out": "a", "devices": devices}), "pretrain")) == {
        "out": "a/3",
        "devices": expected,
    }


def test_more_devices_for_a_sweep_here_are_refused(monkeypatch):
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"mode": RunMode.MULTIRUN, "job": {"num": 3}}))
    monkeypatch.delenv("SUBMITIT_EXECUTOR", False)
    with pytest.raises(InputError, match="-m with devices=2: sweeps run on one device; use devices=1, start the runs"):
        for_this_job(OmegaConf.create({"out": "a", "devices": 2}), "pretrain")


@pytest.mark.parametrize(
    ("task", "out", "expected"),
    [
        ("pretrain", "runs/v1.5", "runs/v1.5/3"),
        ("plan", "plans/b.16.json", "plans/b.16-3.json"),
        ("report", "report.html", "report-3.html"),
        ("embed", "features", "features/3"),
        ("plan", None, None),
    ],
)
def test_jobs_of_a_sweep_write_folders_or_files_of_their_own(task, out, expected, monkeypatch):
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"mode": RunMode.MULTIRUN, "job": {"num": 3}}))
    assert for_this_job(OmegaConf.create({"out": out}), task).out == expected
