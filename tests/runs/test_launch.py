"""How the processes of a run are started: when, with what, and that a signal to the command reaches all of them."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mimsuite import api
from mimsuite.errors import InputError, RunError
from mimsuite.runs import folder, life, processes
from mimsuite.runs.processes import launch

# Not a shell script: a shell cannot trap what was ignored when it started, as SIGINT is below nohup.
STUB = f"""#!{sys.executable} -S
import os, signal, sys, time

def write(*words):
    with open(os.environ["OUT"], "a") as file:
        file.write(" ".join(words) + chr(10))

def stop(number, frame):
    write(signal.Signals(number).name.removeprefix("SIG"), os.environ["RANK"], sys.argv[4])
    os._exit(7)

for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
    signal.signal(getattr(signal, name), stop)
write("ready", os.environ["RANK"], *sys.argv[1:5], os.environ["WORLD_SIZE"])
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_command_passes_signals_on_to_all_that_it_started(number, tmp_path, monkeypatch):
    """Of processes that stand for those of a run."""
    stub, out = tmp_path / "stub", tmp_path / "lines"
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setenv("OUT", str(out))
    before = signal.getsignal(number)
    threading.Thread(target=send_when_ready, args=(number, before, out), daemon=True).start()
    assert launch("finetune", ["a=1"], 2, 1) == 7
    assert signal.getsignal(number) is before
    lines = sorted(out.read_text().splitlines())
    name = number.name.removeprefix("SIG")
    assert lines == sorted(
        [f"ready {rank} -P -m mimsuite.tasks.finetune a=1 2" for rank in (0, 1)]
        + [f"{name} {rank} a=1" for rank in (0, 1)]
    )


def send_when_ready(number, before, out):
    """Signals this process as soon as both are there and the command has taken the signals over."""
    while signal.getsignal(number) is before or not out.exists() or out.read_text().count("ready") < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("first", "second", "code"), [("exit 0", "exit 0", 0), ("exit 0", "exit 5", 5)])
def test_a_command_ends_as_its_processes_do(first, second, code, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, first, second)
    assert launch("pretrain", [], 2, 1) == code


def test_a_process_that_was_killed_is_named(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "sleep 0.3; exit 1", "kill -9 $$")
    with pytest.raises(RunError, match="process 1 of 2 was killed by SIGKILL, and so the run ended; resume=true"):
        launch("pretrain", [], 2, 1)


def test_the_others_are_ended_at_once_where_nothing_is_to_be_saved(tmp_path, monkeypatch):
    """A process that only reads does not notice for long that another is gone."""
    monkeypatch.setattr(processes, "NOTHING_TO_SAVE", 0.2)
    stand_in(tmp_path, monkeypatch, "exec sleep 60", "kill -9 $$")
    began = time.monotonic()
    with pytest.raises(RunError, match="process 1 of 2 was killed by SIGKILL, and so the run ended; start it again"):
        launch("evaluate", [], 2, 1, saves=False)
    assert time.monotonic() - began < 30


def stand_in(tmp_path, monkeypatch, first, second):
    """What the two processes of a run do instead of running."""
    stub = tmp_path / "stub"
    stub.write_text(f"#!/bin/sh\nif [ $RANK = 0 ]; then {first}; else {second}; fi\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))


@pytest.mark.parametrize("task", ["pretrain", "finetune", "probe", "embed", "evaluate"])
def test_a_task_for_two_devices_starts_two_processes_of_itself(task, tmp_path, monkeypatch):
    started = []

    def launched(*arguments, **_):
        started.append(arguments)
        return 5

    trains = task in ("pretrain", "finetune")
    monkeypatch.setattr(life if trains else processes, "launch", launched)
    out = "out.npz" if task == "embed" else "out"
    values = {"out": str(tmp_path / out), "devices": 2} | ({"batch": 8} if trains else {"init": "demo:vit"})
    assert api.call(task, values)["exit_code"] == 5
    ((name, arguments, local, nodes),) = started
    assert (name, local, nodes) == (task, 2, 1)
    assert "devices=2" in arguments
    assert any(a.startswith("out=") and str(tmp_path / "out") in a for a in arguments)


def test_a_batch_that_two_processes_cannot_share_is_refused_before_they_start(tmp_path):
    with pytest.raises(InputError, match="batch=31 is not a multiple of the 2 devices; use batch=32"):
        api.call("pretrain", {"out": str(tmp_path / "out"), "batch": 31, "devices": 2})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("devices", [3, "auto"])
def test_a_batch_that_is_chosen_is_shared_by_three_processes(devices, tmp_path, monkeypatch):
    """Here as many as devices; of `devices=auto` the processes themselves know how many they are."""
    stand_in(tmp_path, monkeypatch, "exit 5", "exit 0")
    monkeypatch.setattr("mimsuite.runs.machine.device_count", lambda accelerator: 3)
    assert api.call("pretrain", {"out": str(tmp_path / "out"), "devices": devices})["exit_code"] == 5


def test_a_failure_of_the_processes_is_not_reported_with_numbers_of_an_earlier_start(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "exit 1", "exit 0")
    for task, values in {
        "pretrain": {"batch": 8},
        "probe": {"init": "demo:vit"},
        "evaluate": {"init": "demo:vit"},
    }.items():
        out = tmp_path / task
        out.mkdir()
        (out / "config.yaml").touch()
        (out / "summary.json").write_text('{"status": "done", "steps": 8, "metrics": {"val/loss": 0.5}}')
        assert api.call(task, values | {"out": str(out), "devices": 2, "overwrite": True}) == {"exit_code": 1}


@pytest.mark.parametrize(
    ("status", "code", "kept"),
    [("done", 0, True), ("interrupted", 143, True), ("interrupted", 1, False), ("done", 130, False)],
)
def test_the_summary_is_that_of_the_processes_that_ended(status, code, kept, tmp_path):
    (tmp_path / "summary.json").write_text(f'{{"status": "{status}"}}')
    assert folder.summary_after(tmp_path, code) == ({"status": status} if kept else {}) | {"exit_code": code}


@pytest.fixture
def begun(tmp_path):
    """A run of batch=16 micro_batch=8 that was stopped at step 4 of 8."""
    old = Path(__file__).parents[1] / "data" / "runs_0_1_0" / "pretrain_interrupted"
    return shutil.copytree(old, tmp_path / "begun")


@pytest.mark.parametrize(("processes_now", "micro_batch"), [(1, 8), (2, 8), (4, 4), (8, 2)])
def test_a_run_goes_on_in_any_number_of_processes_that_share_its_batch(processes_now, micro_batch, begun, monkeypatch):
    """Also where torchrun, srun or the GPUs of the machine say how many, and no devices= does."""
    found = []
    monkeypatch.setattr(life, "heavy_imports", contextlib.nullcontext)
    monkeypatch.setattr(life, "train_here", lambda settings, *_: found.append(settings.inputs.micro_batch) or {})
    monkeypatch.setattr(life, "launch", lambda *_: found.append("started") or 0)
    monkeypatch.setattr("mimsuite.runs.machine.device_count", lambda accelerator: processes_now)
    api.call("pretrain", {"out": str(begun), "resume": True})
    assert found == [8 if processes_now == 1 else "started"]
    values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": processes_now, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    api.call("pretrain", {"out": str(begun), "resume": True})
    assert found[1] == micro_batch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_processes_start_ends_the_run(number, code, tmp_path, monkeypatch):
    """They do not listen yet, so the signal ends them: as asked for, and nothing is left running."""
    stand_in(tmp_path, monkeypatch, "exec sleep 60", "exec sleep 60")
    begin = processes.subprocess.Popen
    started = []

    def popen(*arguments, **keywords):
        if len(started) == 1:
            os.kill(os.getpid(), number)
        started.append(begin(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    assert launch("pretrain", [], 2, 1) == code
    assert [child.returncode for child in started] == [-number, -number]


def test_one_machine_meets_at_its_own_address(tmp_path, monkeypatch):
    """Variables of another job are left over."""
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.setenv("NODE_RANK", "3")
    stand_in(tmp_path, monkeypatch, '[ "$MASTER_ADDR $RANK" = "127.0.0.1 0" ]', '[ "$NODE_RANK $RANK" = "0 1" ]')
    assert launch("pretrain", [], 2, 1) == 0
