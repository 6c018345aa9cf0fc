"""Processes of a run that wait for each other: as long as all live; one that is lost ends the run, and is named."""

import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
import torch

from mimsuite.app import run_guarded
from mimsuite.errors import LostProcessError, RunError
from mimsuite.runs import heartbeat
from mimsuite.runs.meeting import EXCHANGE, joined
from mimsuite.runs.processes import free_port
from mimsuite.settings.team import OWN, Team

FORK = multiprocessing.get_context("fork")  # a fresh process would spend its time on importing torch

pytestmark = pytest.mark.usefixtures("one_thread")

BEAT, SILENT, GRACE = 0.2, 5.0, 2.0
FIX = "; resume=true goes on from the last checkpoint"
CUT, ENDED = "was killed or is cut off", "ended; its own message has the reason"
SILENCE = "gave no sign of life for 5 seconds: it was killed, stopped or cut off"
STORE = "ended or was killed; it may have a message of its own"


def pause():
    time.sleep(SILENT + GRACE + 2)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RunError("the disk is full")


def exchange(group=None):
    torch.distributed.all_reduce(torch.zeros(1), group=group)
    backend = (group or torch.distributed.group.WORLD)._get_backend(torch.device("cpu"))
    assert backend.options._timeout == EXCHANGE


def hang():
    """As an exchange between GPUs does, of which the end of another process breaks nothing."""
    time.sleep(30)


CASES = {  # which process does what before its exchange, what the others do; which one is named, and how
    "the first process takes long": (0, pause, exchange, None, None),
    "another process takes long": (1, pause, exchange, None, None),
    "a process is stopped": (1, stop, exchange, 1, SILENCE),
    "the first process is stopped": (0, stop, exchange, 0, SILENCE),
    "a process is killed": (1, kill, exchange, 1, CUT),
    "the first process is killed": (0, kill, exchange, 0, STORE),
    "a process fails": (1, fail, exchange, 1, ENDED),
    "the first process fails": (0, fail, hang, 0, STORE),
    "a process fails beside GPUs": (1, fail, hang, 1, ENDED),
}


def take_part(rank, port, case, queue):
    """What a process of the run does; the queue gets what it says in the end."""
    who, does, others_do, _, _ = CASES[case]
    torch.set_num_threads(1)
    heartbeat.BEAT, heartbeat.SILENT, heartbeat.GRACE = BEAT, SILENT, GRACE
    socket.gethostname = lambda: f"gpu{rank}"
    os.environ.pop(OWN, None)

    def say(text):
        queue.put((case, rank, text))
        queue.close()
        queue.join_thread()
        os._exit(0)

    heartbeat.end_process = lambda lost, task: say(str(lost))
    try:
        with joined(Team(rank, 1, 3, "127.0.0.1", port, "srun"), "gloo", task="pretrain"):
            exchange(torch.distributed.new_group())  # FSDP has groups of its own, with limits of their own
            does() if rank == who else None
            others_do()
        say("done")
    except RunError as error:
        say(str(error))


@pytest.fixture(scope="module")
def said():
    """What the three processes of each case said, by case and rank; all cases at once."""
    queue, runs = FORK.Queue(), []
    for case in CASES:
        port = free_port()
        runs += [FORK.Process(target=take_part, args=(rank, port, case, queue)) for rank in range(3)]
    for run in runs:
        run.start()
    silent = sum(does in (stop, kill) for _, does, *_ in CASES.values())
    try:
        found = [queue.get(timeout=60) for _ in range(len(runs) - silent)]
    finally:
        for run in runs:
            run.kill()
    return {case: {rank: text for name, rank, text in found if name == case} for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_processes_wait_for_one_that_lives_and_name_one_that_is_lost(case, said):
    who, does, _, named, what = CASES[case]
    if named is None:
        assert said[case] == dict.fromkeys(range(3), "done")
        return
    own = {who: "the disk is full"} if does is fail else {}
    line = f"process {named} of 3, on gpu{named}, {what}{FIX}"
    assert said[case] == {rank: line for rank in range(3) if rank != who} | own


class SlowStore(dict):
    """A store in this process that takes its time over a count, and then writes it all the same."""

    set = dict.__setitem__

    def clone(self):
        slow = SlowStore(self)
        slow.set, slow.counting = slow.count, threading.Event()
        return slow

    def count(self, key, word):
        if word.isdigit() and word != "0":
            self.counting.set()
            time.sleep(0.3)
        self[key] = word

    def check(self, keys):
        return all(key in self for key in keys)

    def multi_get(self, keys):
        return [self[key].encode() for key in keys]


def test_no_count_follows_the_last_word(monkeypatch):
    """A process that ends while its other thread counts has not gone silent."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    life = heartbeat.Heartbeat(Team(1, 1, 2), SlowStore({"mimsuite/life/0": "0"}), task="pretrain", fix="fix")
    assert life._store.counting.wait(5)
    life.leave(heartbeat.DONE)
    time.sleep(0.5)
    assert life._store["mimsuite/life/1"] == heartbeat.DONE


@pytest.mark.parametrize(
    ("rank", "lost", "launched", "told"),
    [(1, [0], True, True), (1, [0], False, False), (2, [1], False, False), (3, [1], False, True), (1, [2], True, True)],
)
def test_one_process_of_a_machine_speaks(rank, lost, launched, told, monkeypatch):
    """Of four on two machines: about its own machine, unless `devices=` started it; about another, the first one."""
    monkeypatch.setenv(OWN, "7") if launched else monkeypatch.delenv(OWN, raising=False)
    life = object.__new__(heartbeat.Heartbeat)
    life._team, life._fix = Team(rank, 2, 2), "fix"
    life._hosts = {}
    found = life._lost(lost, CUT)
    assert isinstance(found, LostProcessError)
    assert found.told is told


def test_what_is_told_already_is_not_printed_again(capsys):
    def lose(told):
        raise LostProcessError("process 1 of 2 is lost", told=told)

    assert [run_guarded(lambda told=told: lose(told), "pretrain") for told in (True, False)] == [1, 1]
    assert capsys.readouterr().err == "mimsuite pretrain: process 1 of 2 is lost\n"
