"""Tasks in processes of their own that start at once: forked from one that has imported torch and Lightning already.

Such a process runs what `python -m mimsuite.tasks.TASK` runs, as `__main__`, in a session of its own. A command that
starts processes itself, as with `devices=2`, imports everything in each again: five seconds of a processor each.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

from mimsuite.runs.processes import free_port

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        *("torch._dynamo", "lightning.pytorch", "torchmetrics", "matplotlib.pyplot", "hydra", "wandb"),
        *("wandb.sdk.launch.inputs.internal", "mimsuite.models", "mimsuite.runs.life", "mimsuite.objectives.mim"),
        *("mimsuite.callbacks.online_probe", "mimsuite.data.datamodule", "mimsuite.pictures.sheets"),
    ]
)
_started = []


class Task:
    """A task that runs in a process of its own; what it prints goes to a file, a pipe or a terminal."""

    def __init__(self, name, arguments, env, output=None):
        if output is None:
            handle, output = tempfile.mkstemp()
            os.close(handle)
        self.output = Path(output)
        self.process = FORKED.Process(target=be, args=(name, arguments, dict(env), str(output)))
        self.process.start()
        self.pid, self.returncode = self.process.pid, None
        _started.append(self)

    def poll(self):
        """The exit code, as `subprocess` has it; None while the process runs."""
        self.returncode = self.process.exitcode
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def wait(self, timeout=110):
        self.process.join(timeout)
        code = self.poll()
        if code is None:
            self.kill()
        assert code is not None, f"still running after {timeout} s:\n{self.output.read_text()}"
        return code

    def finish(self, timeout=110):
        """Exit code, and what was printed."""
        code, text = self.wait(timeout), self.output.read_text()
        self.output.unlink()
        return code, text


def be(name, arguments, env, output):
    """What such a process does."""
    import torch

    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` of the tests is not that of the task
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if os.isatty(1):
        os.close(os.open(output, os.O_RDWR))  # makes it the controlling terminal of this session
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may be another one
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS") or os.cpu_count()))
    sys.argv = [name, *arguments]
    runpy.run_module(f"mimsuite.tasks.{name}", run_name="__main__", alter_sys=True)


def start(name, *, env=(), output=None, **values):
    """Starts a task with `KEY=VALUE` arguments and more variables of the environment; `output` as of `Task`."""
    return Task(name, [f"{key}={value}" for key, value in values.items()], os.environ | dict(env), output)


def start_two(name, **values):
    """Starts the two processes of one run, with the variables that `torchrun` and `devices=2` give them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1"}
    return [start(name, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, **values) for rank in ("0", "1")]


def run_two(name, **values):
    """The same, to the end; returns what the first printed."""
    (code, text), (other, more) = [task.finish(280) for task in start_two(name, **values)]
    assert (code, other) == (0, 0), text + more
    return text


@atexit.register
def _end():
    for task in _started:
        task.kill()
