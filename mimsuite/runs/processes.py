"""The processes of one run: which of them this one is, and how several are started here and end together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from mimsuite.callbacks.stop import heard_signals
from mimsuite.config.python_path import task_command, task_environment
from mimsuite.errors import RunError
from mimsuite.runs.heartbeat import AGAIN, RESUME
from mimsuite.settings.machine import usable_cores
from mimsuite.settings.team import OWN, Team, check_alone, current_team, ignored_variables, node_rank

log = logging.getLogger("mimsuite")

PATIENCE = 60.0  # seconds that the others get to end by themselves after one has died
NOTHING_TO_SAVE = 5.0  # the same, where they only read


def is_leader() -> bool:
    """Whether this process writes and prints for its run."""
    found = current_team()
    return found is None or found.rank == 0


def processes_of(devices: int | None, nodes: int, accelerator: str) -> Team:
    """The processes that a run has: those that exist already, else as many as it asks for.

    Args:
        devices: processes on this machine; None: one per device.
        nodes: machines.
        accelerator: Lightning's name.

    Raises:
        InputError: the environment speaks of several processes, and this is not one of them.
    """
    if found := current_team():
        return found
    check_alone(devices is not None)
    from mimsuite.runs.machine import device_count

    return Team(0, devices or device_count(accelerator), nodes)


def read_in_processes(task: str, overrides: Sequence[str], devices: int | None) -> tuple[Team, int | None]:
    """Starts the processes that share the images of a task, where there are to be several and none is started.

    Args:
        task: its name.
        overrides: the command line's `key=value` arguments.
        devices: processes; None: one per GPU.

    Returns:
        The processes, and the exit code of those that were started here and have ended; None where none was.
    """
    for line in ignored_variables(1):
        log.warning("%s", line)
    team = processes_of(devices, 1, "auto")
    if team.size == 1 or current_team() is not None:
        return team, None
    return team, launch(task, command_line(task, overrides), team.local, 1, saves=False)


def command_line(task: str, overrides: Sequence[str]) -> list[str]:
    """What the processes of this run are started with: this command's arguments, or those of a call from Python."""
    import __main__

    own = getattr(__main__, "__spec__", None)
    return sys.argv[1:] if own is not None and own.name == f"mimsuite.tasks.{task}" else list(overrides)


def launch(task: str, arguments: Sequence[str], local: int, nodes: int, *, saves: bool = True) -> int:
    """Runs a task in `local` processes on this machine and waits for them; returns the exit code of the run.

    The signals that stop a run are passed on, also those that come while the processes start. When one process dies
    the others end by themselves, because their exchange breaks; after `PATIENCE` seconds they are killed, or after
    `NOTHING_TO_SAVE`.

    Args:
        task: a module of `mimsuite.tasks`.
        arguments: its command line.
        local: processes.
        nodes: machines; each runs this command with its own NODE_RANK and a common MASTER_ADDR and MASTER_PORT.
        saves: whether the task has checkpoints, to go on from.

    Raises:
        RunError: a process was killed.
    """
    command = task_command(task, list(arguments))
    node = node_rank(nodes)
    shared = {
        "MASTER_ADDR": os.environ["MASTER_ADDR"] if nodes > 1 else "127.0.0.1",
        "MASTER_PORT": os.environ["MASTER_PORT"] if nodes > 1 else str(free_port()),
        "NODE_RANK": str(node),
        "WORLD_SIZE": str(local * nodes),
        "LOCAL_WORLD_SIZE": str(local),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // local)),
        OWN: str(os.getpid()),
    }
    asked: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, lambda number, frame: asked.append(number)) for n in heard_signals()}
    children: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(local):
            environment = {**task_environment(), **shared, "LOCAL_RANK": str(i), "RANK": str(node * local + i)}
            # A session of its own: a terminal's Ctrl-C comes through us, once.
            children.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return wait_for(children, asked, saves=saves)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(children: Sequence[subprocess.Popen[bytes]], asked: Sequence[int] = (), *, saves: bool = True) -> int:
    """Waits until all have ended; returns the first exit code that is not 0, else 0.

    Args:
        children: the processes.
        asked: signals to pass on to them; it may grow meanwhile.
        saves: see `launch`.

    Raises:
        RunError: one was killed, and by no signal that was passed on.
    """
    first: tuple[int, int] | None = None
    patience = PATIENCE if saves else NOTHING_TO_SAVE
    deadline = float("inf")
    passed = 0
    while None in [child.poll() for child in children]:  # asks every one, for `first_failure`
        for number in asked[passed:]:
            passed += 1
            for child in children:
                child.send_signal(number)
        time.sleep(0.1)
        if first is None:
            first = first_failure(children)
            deadline = time.monotonic() + patience if first else deadline
        if time.monotonic() > deadline:
            log.warning("ending the processes that still run %d s after one died", patience)
            deadline = float("inf")
            for child in children:
                child.kill()
    first = first or first_failure(children)
    if first is None:
        return 0
    number, code = first
    if -code in asked:  # it had not begun to listen, so nothing is lost
        log.info("stopped by a signal before it had begun")
        return 130 if -code == signal.SIGINT else 143
    if code < 0:
        raise RunError(
            f"process {number} of {len(children)} was killed by {signal.Signals(-code).name}, and so the run ended; "
            f"{RESUME if saves else AGAIN}"
        )
    return code


def first_failure(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Number and exit code of a process that failed, one that was killed before others; None if none has."""
    failed = [(i, child.returncode) for i, child in enumerate(children) if child.returncode]
    return min(failed, key=lambda pair: pair[1], default=None)


def end_with_parent() -> None:
    """In a process that `launch` started: stops the run, with a checkpoint, when the launching one is gone."""
    if OWN not in os.environ:
        return
    parent = int(os.environ[OWN])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
