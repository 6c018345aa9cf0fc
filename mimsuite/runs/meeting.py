"""Where the processes of a run meet, how long they wait for each other, and the message when one does not come."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from mimsuite.errors import InputError, RunError
from mimsuite.runs.heartbeat import CUT_OFF, DONE, FAILED, RESUME, Heartbeat
from mimsuite.runs.machine import is_broken_exchange
from mimsuite.settings.team import Team

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

RENDEZVOUS = timedelta(minutes=15)  # from the first process's start to the last one's
EXCHANGE = timedelta(days=7)  # a process that lives may be waited for: `heartbeat` finds those that do not
SEEN_WITHIN = 60.0  # seconds after which a shared folder shows a file that another machine wrote


@contextmanager
def joined(team: Team, backend: str | None = None, *, task: str, fix: str = RESUME) -> Iterator[Store | None]:
    """Joins the processes of a run; gives what they share, or None for one process alone.

    Args:
        team: the processes.
        backend: torch's name; None chooses by the device.
        task: name of the task, for messages.
        fix: what to do when a process is lost, the end of a message.

    Raises:
        RunError: not all of them met, or one was lost.
    """
    if team.size == 1:
        yield None
        return
    from torch import distributed
    from torch.distributed import distributed_c10d
    from torch.distributed.rendezvous import rendezvous

    place, life = f"{team.address}:{team.port}", None
    try:
        socket.getaddrinfo(team.address, team.port)
        meeting = rendezvous(f"tcp://{place}", team.rank, team.size, timeout=RENDEZVOUS)
        store, _, _ = next(meeting)
        life = Heartbeat(team, store, task=task, fix=fix)
        distributed.init_process_group(backend, store=store, rank=team.rank, world_size=team.size, timeout=EXCHANGE)
        store.set_timeout(EXCHANGE)
        for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
            setattr(distributed_c10d, name, EXCHANGE)  # of groups to come
        life.learn_hosts()
    except (RuntimeError, OSError) as error:
        if life is not None:
            life.leave(FAILED)
        raise RunError(describe_failure(team, error)) from error
    state = FAILED
    try:
        yield store
        state = DONE
    except RuntimeError as error:
        if isinstance(error, RunError) or not is_broken_exchange(error):
            raise
        state = CUT_OFF
        raise life.explain(error) from error
    finally:
        life.leave(state)
    distributed.destroy_process_group()  # not after an error: the others may not answer any more


def describe_failure(team: Team, error: Exception) -> str:
    """Why the processes did not meet, in one line."""
    text = str(error).partition("\n")[0].removesuffix(".")
    if isinstance(error, socket.gaierror):
        return f"this machine finds no host MASTER_ADDR={team.address}; give the first machine's name or address"
    if "EADDRINUSE" in text or "already in use" in text:
        return f"MASTER_PORT={team.port} is in use by another program on {team.address}; use another one everywhere"
    return (
        f"the {team.size} processes of this run did not all meet at {team.address}:{team.port} within "
        f"{format_minutes(RENDEZVOUS)} ({text}); start all of them with the same MASTER_ADDR and MASTER_PORT, which "
        "every machine must reach; if one has ended, its own message has the reason"
    )


def format_minutes(duration: timedelta) -> str:
    """`10 minutes`, or below two of them `90 seconds`."""
    seconds = round(duration.total_seconds())
    return f"{seconds // 60} minutes" if seconds >= 120 else f"{seconds} seconds"


OUT = "out={}", "use an out= on a file system that they share, by its absolute path"
CACHE = "{}", "set XDG_CACHE_HOME to a folder on a file system that they share"


def check_shared(folder: Path, team: Team, store: Store | None, words: tuple[str, str] = OUT) -> None:
    """Checks that all machines of a run see a folder of the first process.

    Args:
        folder: as this process knows it.
        team: the processes.
        store: what they share.
        words: how the message begins and ends.

    Raises:
        InputError: some do not.
    """
    if team.nodes == 1 or store is None:
        return
    if team.rank == 0:
        token = folder / f".shared-{uuid4().hex}"
        token.touch()
        store.set("mimsuite/token", token.name)
        try:
            blind = [host for rank in range(1, team.size) if (host := store.get(f"mimsuite/blind/{rank}").decode())]
        finally:
            token.unlink(missing_ok=True)
        hosts = " ".join(sorted(set(blind)))
        store.set("mimsuite/all", hosts)
        for rank in range(1, team.size):
            store.wait([f"mimsuite/heard/{rank}"])  # what they share is in this process, which may end now
    else:
        seen = appears(folder, store.get("mimsuite/token").decode())
        store.set(f"mimsuite/blind/{team.rank}", "" if seen else socket.gethostname())
        hosts = store.get("mimsuite/all").decode()
        store.set(f"mimsuite/heard/{team.rank}", "")
    if hosts:
        raise InputError(
            f"{words[0].format(folder)} is not the same folder on all machines: {hosts} cannot see what the first "
            f"process writes; {words[1]}"
        )


def appears(folder: Path, name: str) -> bool:
    """Whether a folder shows a file within a minute."""
    end = time.monotonic() + SEEN_WITHIN
    while True:
        if folder.is_dir() and name in os.listdir(folder):  # listing makes network file systems look again
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
