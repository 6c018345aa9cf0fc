"""Which process of which run this is, as `torchrun`, `srun` or our own launcher say in the environment. No torch.

A variable that says nothing by itself (a lone RANK, SLURM's in a batch script) is never taken for an answer.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mimsuite.errors import InputError

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
OWN = "MIMSUITE_PARENT"  # the process that started this one for `devices=`


@dataclass(frozen=True)
class Team:
    """The processes of a run.

    Attributes:
        rank: this process among all; 0 writes the run folder and prints.
        local: processes on this machine.
        nodes: machines.
        address: host of the first process, where all meet.
        port: its port.
        launcher: what started them: "devices=", "torchrun" or "srun"; "" for a process of its own.
    """

    rank: int
    local: int
    nodes: int
    address: str = ""
    port: int = 0
    launcher: str = ""

    @property
    def size(self) -> int:
        """All processes."""
        return self.local * self.nodes


def current_team() -> Team | None:
    """The team that this process was started into; None for a process of its own.

    Raises:
        InputError: variables that contradict each other.
    """
    if all(os.environ.get(name) for name in TORCHRUN):
        return _of_torchrun()
    return _of_srun() if all(os.environ.get(name) for name in SRUN) else None


def _of_torchrun() -> Team:
    rank, world = read_variable("RANK"), read_variable("WORLD_SIZE", least=1)
    local = read_variable("LOCAL_WORLD_SIZE", least=1) if os.environ.get("LOCAL_WORLD_SIZE") else world
    if rank >= world or world % local or read_variable("LOCAL_RANK") != rank % local:
        values = " ".join(f"{name}={os.environ[name]}" for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        raise InputError(
            f"{values} LOCAL_WORLD_SIZE={local} contradict each other; every machine needs the same number of "
            "processes, numbered machine by machine, as torchrun starts them"
        )
    launcher = "devices=" if OWN in os.environ else "torchrun"
    place = os.environ["MASTER_ADDR"], read_variable("MASTER_PORT", least=1)
    return Team(rank, local, world // local, *place, launcher=launcher)


def _of_srun() -> Team | None:
    """Of a step of several tasks; a step of one is a process of its own, which may start others."""
    rank, tasks, nodes = (
        read_variable(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
    )
    if tasks <= 1:
        return None
    if tasks % max(nodes, 1) or read_variable("SLURM_LOCALID") != rank % (tasks // nodes):
        raise InputError(
            f"srun started {tasks} tasks on {nodes} machines, not the same number on each in blocks; use "
            "--ntasks-per-node= and --distribution=block"
        )
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    hosts = next((os.environ[name] for name in lists if os.environ.get(name)), "127.0.0.1")
    job, step = (int(re.sub(r"\D", "", os.environ.get(name, "")) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = 15000 + (job + step) % 10000  # the same in all tasks, another one for a step beside this one
    return Team(
        *(rank, tasks // nodes, nodes),
        address=os.environ.get("MASTER_ADDR") or first_host(hosts),
        port=read_variable("MASTER_PORT", least=1) if os.environ.get("MASTER_PORT") else port,
        launcher="srun",
    )


def first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts: `gpu07` of `gpu[07-09,12],login1`, `rack1n3` of `rack[1-2]n[3-4]`."""
    found = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0]) if found else hosts


def read_variable(name: str, *, least: int = 0) -> int:
    """A whole number of the environment.

    Raises:
        InputError: it is none, or below `least`.
    """
    text = os.environ[name]
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise InputError(f"{name}={text} in the environment is not a whole number of at least {least}; unset it")
    return int(text)


def team_size(devices: int | None, nodes: int) -> int:
    """The processes of a run, as far as they are known without torch.

    Args:
        devices: processes on this machine; None: one per device, which counts as one until they are started.
        nodes: machines.
    """
    found = current_team()
    return (devices or 1) * nodes if found is None else found.size


def node_rank(nodes: int) -> int:
    """Which of several machines this is; NODE_RANK counts only where the run asks for several.

    Raises:
        InputError: there are several, and NODE_RANK names none of them.
    """
    if nodes == 1:
        return 0
    if not os.environ.get("NODE_RANK"):
        raise InputError(
            f"trainer.num_nodes={nodes}, but NODE_RANK is not set; on each machine set NODE_RANK=0, 1, ..., and "
            "everywhere the same MASTER_ADDR and MASTER_PORT"
        )
    rank = read_variable("NODE_RANK")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing or rank >= nodes:
        what = f"{' and '.join(missing)} not set" if missing else f"NODE_RANK={rank} is not below it"
        raise InputError(
            f"trainer.num_nodes={nodes}, but {what}; on each machine set NODE_RANK=0, 1, ..., and everywhere the same "
            "MASTER_ADDR and MASTER_PORT"
        )
    return rank


def check_alone(asked: bool) -> None:
    """Refuses to run alone where the environment is meant for several processes, unless `devices=` says how many.

    Raises:
        InputError: a batch script without srun, or some but not all variables of several processes.
    """
    if asked:
        return
    if os.environ.get("WORLD_SIZE", "") not in ("", "1"):
        raise InputError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, but {missing_variables()} not: start the processes with "
            "torchrun or devices=, or unset WORLD_SIZE"
        )
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks not in ("", "1") and "SLURM_STEP_NUM_TASKS" not in os.environ:
        raise InputError(
            f"SLURM has {tasks} tasks, but this was not started by srun; put srun before the command, or give "
            "devices= to start processes on this machine"
        )


def missing_variables() -> str:
    """What torchrun would set, and nobody has."""
    return ", ".join(name for name in TORCHRUN if not os.environ.get(name))


def ignored_variables(nodes: int) -> list[str]:
    """What the environment says of several processes and is not used, one line each.

    Args:
        nodes: machines that the run asks for.
    """
    if current_team() is not None:
        return []
    lines = []
    given = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if os.environ.get(name)]
    if given:
        verb = "is" if len(given) == 1 else "are"
        lines.append(f"{' and '.join(given)} {verb} ignored: {missing_variables()} not set, so this process is alone")
    if nodes == 1 and os.environ.get("NODE_RANK", "0") not in ("", "0"):
        lines.append(f"NODE_RANK={os.environ['NODE_RANK']} is ignored: it counts with trainer.num_nodes above 1")
    return lines
