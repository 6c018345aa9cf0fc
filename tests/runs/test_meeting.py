"""Processes of a run that meet: what they share, that they see one folder, and what is said when one does not come."""

import math
import multiprocessing
import os
from datetime import timedelta

import pytest
import torch
from torch.distributed import PrefixStore

from mimsuite.errors import InputError, RunError
from mimsuite.metrics.running import RunningMetrics
from mimsuite.runs import meeting
from mimsuite.runs.meeting import check_shared, describe_failure, joined
from mimsuite.runs.processes import free_port
from mimsuite.settings.team import Team

FORK = multiprocessing.get_context("fork")  # a fresh process would spend its time on importing torch

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric"),
]


def team(rank, port, nodes=2):
    return Team(rank, 2 // nodes, nodes, "127.0.0.1", port, "torchrun")


def in_two(work, *more):
    """Runs `work(rank, port, queue, *more)` in two processes; returns what each put into the queue, by rank."""
    queue, port = FORK.Queue(), free_port()
    runs = [FORK.Process(target=guarded, args=(work, rank, port, queue, *more)) for rank in (0, 1)]
    for run in runs:
        run.start()
    found = dict(queue.get(timeout=60) for _ in runs)
    for run in runs:
        run.join(20)
        run.kill()
    return [found[rank] for rank in (0, 1)]


def guarded(work, rank, port, queue, *more):
    torch.set_num_threads(1)
    try:
        queue.put((rank, work(rank, port, *more)))
    except Exception as error:
        queue.put((rank, f"{type(error).__name__}: {error}"))
    queue.close()
    queue.join_thread()
    os._exit(0)


def meet(rank, port, folders):
    """What the metrics of ten images are where the second process has none, and what is said of its folder."""
    meeting.SEEN_WITHIN = 0.3
    found = []
    with joined(team(rank, port), "gloo", task="pretrain") as store:
        for kind in ("classes", "multilabel", "regression"):
            metrics = RunningMetrics(kind, 2)
            if rank == 0:
                draw = torch.Generator().manual_seed(0)
                labels = {
                    "classes": torch.arange(10) % 2,
                    "multilabel": (torch.rand(10, 2, generator=draw) < 0.5).float(),
                    "regression": torch.arange(20).reshape(10, 2),
                }
                metrics.update(torch.rand(10, 2, generator=draw), labels[kind])
            found.append(metrics.compute())
        for number, folder in enumerate(folders):
            try:
                check_shared(folder[rank], team(rank, port), PrefixStore(str(number), store))
                found.append("shared")
            except InputError as error:
                found.append(str(error))
    return found


def test_processes_share_metrics_and_a_folder(tmp_path):
    """Where one has no validation image, and where the folder of the second machine is another one."""
    other = tmp_path / "other"
    other.mkdir()
    first, second = in_two(meet, [(tmp_path, tmp_path), (tmp_path, other), (tmp_path, tmp_path / "absent")])
    assert first[:3] == second[:3], (first, second)
    assert first[0] == {"top1": pytest.approx(first[0]["top1"])}
    assert all(math.isfinite(value) for metrics in first[:3] for value in metrics.values())
    assert first[3] == second[3] == "shared"
    for said in (*first[4:], *second[4:]):
        assert "is not the same folder on all machines: " in said
        assert "use an out= on a file system that they share" in said
    assert not list(tmp_path.glob(".shared-*"))


def wait_in_vain(rank, port):
    meeting.RENDEZVOUS = timedelta(seconds=1)
    if rank == 1:
        return ""
    with joined(team(rank, port), "gloo", task="pretrain"):
        return "met"


def test_what_is_said_when_a_process_does_not_come():
    first, _ = in_two(wait_in_vain)
    assert first.startswith("RunError: the 2 processes of this run did not all meet at 127.0.0.1:")
    assert "within 1 seconds (" in first
    assert "start all of them with the same MASTER_ADDR and MASTER_PORT" in first


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("no.such.host.invalid", None, "this machine finds no host MASTER_ADDR=no.such.host.invalid; give the first"),
        ("host", RuntimeError("... EADDRINUSE ..."), "MASTER_PORT=7 is in use by another program on host; use another"),
    ],
)
def test_why_processes_cannot_meet(address, error, said):
    place = Team(0, 2, 1, address, 7)
    if error is not None:
        assert describe_failure(place, error).startswith(said)
        return
    with pytest.raises(RunError, match=said), joined(place, "gloo", task="pretrain"):
        pass


def test_one_process_meets_nobody():
    with joined(Team(0, 1, 1), task="pretrain") as store:
        assert store is None
    check_shared(None, Team(0, 2, 1), None)
