"""What goes wrong with loader workers, and how it ends: killed, stopped, or too slow is one line, never a hang.

A worker that is stopped, or hangs in a read, cannot answer, and the main process may be waiting for it in a call that
knows no time limit. So a thread looks at the workers while a batch is awaited, and kills those that it has given up.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

from mimsuite.errors import RunError

LOOK_EVERY = 1.0  # seconds
STOPPED_FOR = 30.0  # seconds after which a stopped worker is given up; Ctrl-Z stops the main process, too
PATIENCE = 600.0  # seconds without a batch after which the workers are given up
SHARED_MEMORY = Path("/dev/shm")
MORE_SHARED_MEMORY = (
    "give it more (docker run --shm-size=8g, or --ipc=host), or use fewer workers=, or a smaller micro_batch= or batch="
)
PREFETCH = 4  # batches that a worker has ready
SHARE = 0.4  # of the free shared memory that one loader may fill: that of training and of validation lie there at once


class StoppedWaitingError(Exception):
    """A signal asked the run to stop while it waited for a batch that does not come."""


class WorkerWatch:
    """Looks after the workers of one loader while a batch is awaited.

    Attributes:
        reason: why the workers were given up; None while they work.
    """

    def __init__(self, workers: Sequence[BaseProcess], patience: float, asked: Callable[[], bool]) -> None:
        """Starts to look.

        Args:
            workers: the processes.
            patience: seconds without a batch after which they are given up.
            asked: whether the run is asked to stop; then waiting ends soon.
        """
        self._workers, self._patience, self._asked = workers, patience, asked
        self._since: float | None = None
        self._ended = threading.Event()
        self.reason: Exception | None = None
        _known.update(workers)
        if workers:
            threading.Thread(target=self._look, name="loader workers", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for one batch: what the loss of a worker does to it comes out as one line.

        Raises:
            RunError: a worker was killed, is stopped, or gives no batch.
            StoppedWaitingError: a signal asked to stop.
        """
        self._since = time.monotonic()
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            lost = self._lost(error)
            if lost is None:
                raise
            end_workers(self._workers)
            raise lost from error
        except KeyboardInterrupt:
            end_workers(self._workers)  # a stopped worker would not end, and Python would wait for it
            raise
        finally:
            self._since = None

    def close(self) -> None:
        """Looks no longer."""
        self._ended.set()

    def _lost(self, error: Exception) -> Exception | None:
        """What an error of the loader means: the reason of the thread, a dead worker's, or None for anything else."""
        end = time.monotonic() + 2  # the connection of a killed worker breaks before it counts as dead
        while self.reason is None:
            for number, worker in enumerate(self._workers, 1):
                if (code := worker.exitcode) not in (None, 0):
                    return RunError(describe_death(number, len(self._workers), int(code or 0)))
            if time.monotonic() > end or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                return None
            time.sleep(0.05)
        return self.reason

    def _look(self) -> None:
        stopped = 0.0
        while not self._ended.wait(LOOK_EVERY):
            if (since := self._since) is None:
                stopped = 0.0
                continue
            halted = [number for number, worker in enumerate(self._workers, 1) if state_of(worker.pid) == "T"]
            stopped = stopped + LOOK_EVERY if halted else 0.0
            seconds = time.monotonic() - since
            if stopped >= STOPPED_FOR:
                self.reason = RunError(
                    f"loader worker {halted[0]} of {len(self._workers)} is stopped (SIGSTOP, or a debugger), and no "
                    "batch came"
                )
            elif seconds >= self._patience:
                self.reason = RunError(
                    f"no batch came from {len(self._workers)} loader workers for {seconds:.0f} s: the storage hangs or "
                    "is too slow; workers=0, or in training a longer loader.patience=, waits longer"
                )
            elif seconds >= 2 * LOOK_EVERY and self._asked():
                self.reason = StoppedWaitingError()
            if self.reason is not None and self._since is not None:
                end_workers(self._workers)
                return
            self.reason = None


_known: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def end_workers(workers: Iterable[BaseProcess]) -> None:
    """Kills processes, also those that are stopped."""
    for worker in workers:
        with contextlib.suppress(ProcessLookupError, ValueError):  # it has ended
            worker.kill()


@atexit.register
def _end_known() -> None:
    """Nobody reads any more, and Python would wait for a stopped worker for ever."""
    end_workers(list(_known))


def describe_death(number: int, count: int, code: int) -> str:
    """How a worker died, in one line.

    Args:
        number: which, from 1.
        count: workers.
        code: its exit code; below 0 the number of a signal.
    """
    who = f"loader worker {number} of {count}"
    if code in (-signal.SIGBUS, errno.ENOSPC):
        return f"{who} found {SHARED_MEMORY} full; {MORE_SHARED_MEMORY}"
    if code == -signal.SIGKILL:
        return f"{who} was killed (SIGKILL): out of memory? use fewer workers=, or a smaller micro_batch= or batch="
    if code < 0:
        return f"{who} was killed by {signal.Signals(-code).name}; workers=0 reads in the main process"
    return f"{who} ended with exit code {code}; workers=0 reads in the main process"


def end_at_lost_batch() -> None:
    """In a worker: ends it when a batch cannot be handed over; torch would drop the batch, and wait for it for ever."""

    def end(error: Exception, batch: object) -> None:
        print(f"loader worker: {error}", file=sys.stderr, flush=True)
        os._exit(errno.ENOSPC if finds_no_memory(error) else 1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def finds_no_memory(error: Exception) -> bool:
    """Whether an error of torch says that the shared memory is full."""
    return "No space left" in str(error) or "shared memory" in str(error)


def state_of(pid: int | None) -> str:
    """The state of a process as Linux has it ("T": stopped); "" where that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def free_shared_memory() -> int | None:
    """Bytes that are free where workers put batches; None where there is no such place to look at."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def fit_shared_memory(workers: int, batch_bytes: int, processes: int) -> tuple[int, int, str | None]:
    """How many workers, and batches ready in each, fit into the shared memory.

    Args:
        workers: as many as are wanted.
        batch_bytes: of one batch.
        processes: of the run on this machine; each has such a loader.

    Returns:
        Workers (0: the main process reads, and needs none), batches ready in each, and a line that says why these are
        fewer than wanted, or None.
    """
    free = free_shared_memory()
    if free is None or not workers:
        return workers, PREFETCH, None
    batches = int(free * SHARE / processes / max(1, batch_bytes))
    if batches >= workers * PREFETCH:
        return workers, PREFETCH, None
    fewer = min(workers, batches // 2)
    ready = min(PREFETCH, batches // fewer) if fewer else PREFETCH
    line = (
        f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free, too few for {workers} workers with {PREFETCH} batches of "
        f"{batch_bytes / 2**20:,.1f} MiB each: {fewer} workers with {ready}"
        if fewer
        else f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free, too few for a worker with batches of "
        f"{batch_bytes / 2**20:,.1f} MiB: the main process reads"
    )
    return fewer, ready, f"{line}; {MORE_SHARED_MEMORY}"
