"""Signs of life between the processes of a run: each counts in what they share, and silence ends the run."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mimsuite.errors import LostProcessError, cause_of
from mimsuite.settings.team import OWN, Team

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

RESUME, AGAIN = "resume=true goes on from the last checkpoint", "start it again"  # what to do about a lost process

BEAT = 2.0  # seconds between two signs of life
SILENT = 60.0  # seconds without one after which a process counts as lost
GRACE = 30.0  # seconds for the main thread to end by itself, with a checkpoint, after another process has failed
LOOKS = 3  # beats without a change by which a process is found that broke an exchange

DONE, FAILED, CUT_OFF = "done", "failed", "cut off"  # last words instead of a count
_ENDED = "ended; its own message has the reason"


class Heartbeat:
    """Tells the other processes of a run that this one lives, and ends this one when one of them is lost.

    So an exchange may wait as long as another process needs, for a picture or a checkpoint, and a machine without power
    is found all the same. A thread counts up a number in the store. The first process looks at all others, these at
    the first one and at what it says. Time is measured in own beats, so that a machine that was suspended as a whole
    goes on. A thread of its own sees when the store itself does not answer.

    Args:
        team: the processes.
        store: what they share; it lives in the first process, or in torchrun.
        task: name of the task, for the message.
        fix: what to do about a lost process, the end of the message.
    """

    def __init__(self, team: Team, store: Store, *, task: str, fix: str) -> None:
        self._team, self._task, self._fix = team, task, fix
        self._store: Store = store.clone()  # type: ignore[attr-defined]  # a connection of its own: the other may wait for a key
        self._closed, self._rounds, self._explains = threading.Event(), 0, False
        self._speaking = threading.Lock()
        self._unchanged: dict[int, tuple[str, int]] = {}
        self._hosts, self._dead = {0: team.address}, set[int]()
        self._store.set(f"mimsuite/host/{team.rank}", socket.gethostname())
        self._store.set(self._key(team.rank), "0")
        for work in (self._beat, self._guard):
            threading.Thread(target=work, name="heartbeat", daemon=True).start()

    def learn_hosts(self) -> None:
        """Asks for the names of all machines, when all processes are there: later the store may be lost, too."""
        names = self._store.multi_get([f"mimsuite/host/{rank}" for rank in range(self._team.size)])
        self._hosts = {rank: name.decode() for rank, name in enumerate(names)}

    def leave(self, state: str) -> None:
        """Says the last word of this process; the first one then waits for those of the others.

        Args:
            state: `DONE`; `FAILED` with a message of its own; or `CUT_OFF` because of another process.
        """
        try:
            if state == DONE and self._team.rank == 0:
                while self._looking():
                    time.sleep(BEAT / 10)  # a process that is lost meanwhile is found by the other thread
            with self._speaking:  # or a count of the other thread could follow the last word
                self._closed.set()
                self._store.set(self._key(self._team.rank), state)
            end = time.monotonic() + 2 * LOOKS * BEAT  # the store goes with the first process
            while state == CUT_OFF and self._team.rank == 0 and time.monotonic() < end and self._looking():
                time.sleep(BEAT / 10)
        except RuntimeError:
            self._closed.set()  # the store is gone, and those who would read it have left

    def _looking(self) -> bool:
        """Whether another process that lives has not said its last word."""
        words = zip(self._others(), self._words(self._others()), strict=True)
        return any(word not in (DONE, FAILED, CUT_OFF) for rank, word in words if rank not in self._dead)

    def explain(self, error: Exception) -> LostProcessError:
        """Why an exchange broke: looks who has failed, or does not live any more."""
        self._explains = True
        try:
            before = self._words(range(self._team.size))
            for _ in range(10 * LOOKS):
                now = self._words(range(self._team.size))
                if failed := [rank for rank, word in enumerate(now) if word == FAILED]:
                    return self._lost(failed, _ENDED)
                time.sleep(BEAT / 10)
            now = self._words(range(self._team.size))
        except RuntimeError:
            return self._lost([0], "ended or was killed; it may have a message of its own")
        words = (DONE, FAILED, CUT_OFF)
        dead = [rank for rank, word in enumerate(now) if word == before[rank] and word not in words]
        if dead:
            self._dead = set(dead)
            return self._lost(dead, "was killed or is cut off")
        return self._lost([], f"an exchange between the processes of this run broke ({cause_of(error)})")

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            try:
                with self._speaking:
                    if self._closed.is_set():
                        return
                    self._store.set(self._key(self._team.rank), str(self._rounds + 1))
                lost = self._judge() if self._team.rank == 0 else self._obey()
            except RuntimeError:  # the store went with the first process
                lost = self._lost([0], "ended or was killed; it may have a message of its own"), GRACE
            self._rounds += 1
            if lost is not None:
                self._end(*lost)
                return

    def _guard(self) -> None:
        """Ends the process when the store has not answered the other thread for long."""
        rounds, unchanged = -1, 0
        while not self._closed.wait(BEAT):
            unchanged = unchanged + 1 if rounds == self._rounds else 0
            rounds = self._rounds
            if unchanged * BEAT >= SILENT + GRACE or (unchanged * BEAT >= SILENT and not self._explains):
                self._end(self._lost([0], self._silence()), 0)
                return

    def _judge(self) -> tuple[LostProcessError, float] | None:
        """In the first process: who is lost, told to the others, and how long the main thread may take to end."""
        words = dict(zip(self._others(), self._words(self._others()), strict=True))
        failed = [rank for rank, word in words.items() if word == FAILED]
        silent = [rank for rank, word in words.items() if self._is_silent(rank, word)]
        if not failed and not silent:
            return None
        self._store.set("mimsuite/lost", f"{FAILED if failed else 'silent'} {' '.join(map(str, failed or silent))}")
        if failed:
            return self._lost(failed, _ENDED), GRACE
        return self._lost(silent, self._silence()), 3 * BEAT  # the others read it meanwhile

    def _obey(self) -> tuple[LostProcessError, float] | None:
        """In another process: what the first one says, and whether it lives."""
        if self._store.check(["mimsuite/lost"]):
            kind, *ranks = self._store.get("mimsuite/lost").decode().split()
            if self._team.rank in (numbers := [int(rank) for rank in ranks]):
                return None  # this one leaves by itself
            return self._lost(numbers, _ENDED if kind == FAILED else self._silence()), GRACE if kind == FAILED else 0
        (word,) = self._words([0])
        if word == FAILED:
            return self._lost([0], _ENDED), GRACE
        return (self._lost([0], self._silence()), 0) if self._is_silent(0, word) else None

    def _is_silent(self, rank: int, word: str) -> bool:
        before, unchanged = self._unchanged.get(rank, ("", 0))
        unchanged = unchanged + 1 if word == before else 0
        self._unchanged[rank] = word, unchanged
        return word.isdigit() and unchanged * BEAT >= SILENT

    def _words(self, ranks: Iterable[int]) -> list[str]:
        """What processes have last said; nothing of those that have not come yet."""
        keys = [self._key(rank) for rank in ranks]
        if self._store.check(keys):
            return [word.decode() for word in self._store.multi_get(keys)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _others(self) -> Sequence[int]:
        return range(1, self._team.size)

    @staticmethod
    def _key(rank: int) -> str:
        return f"mimsuite/life/{rank}"

    @staticmethod
    def _silence() -> str:
        return f"gave no sign of life for {SILENT:g} seconds: it was killed, stopped or cut off"

    def _lost(self, ranks: Sequence[int], what: str) -> LostProcessError:
        """The error about lost processes.

        Not told where it is told by others: of a process of this machine by what started it, of one elsewhere by the
        first process of this machine.
        """
        team = self._team
        here = any(rank // team.local == team.rank // team.local for rank in ranks)
        told = OWN in os.environ and what != self._silence() if here else team.rank % team.local != 0
        if not ranks:
            return LostProcessError(f"{what}; {self._fix}", told=False)
        hosts = " and ".join(dict.fromkeys(self._hosts.get(rank, "an unknown machine") for rank in ranks))
        if len(ranks) == 1:
            who = f"process {ranks[0]} of {team.size}, on {hosts},"
        else:
            who = f"{len(ranks)} of the {team.size} processes, on {hosts}: each"
        return LostProcessError(f"{who} {what}; {self._fix}", told=told)

    def _end(self, lost: LostProcessError, grace: float) -> None:
        """Ends this process where its main thread has not left by itself: it waits in an exchange for what is lost."""
        if not self._closed.wait(grace) and not (self._explains and self._closed.wait(LOOKS * BEAT)):
            end_process(lost, self._task)


def end_process(lost: LostProcessError, task: str) -> None:
    """Ends this process at once, with the line that the command line would print."""
    if not lost.told:
        print(f"mimsuite {task}: {lost}", file=sys.stderr, flush=True)
    os._exit(1)
