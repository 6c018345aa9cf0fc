"""The loader of batches: a `DataLoader` whose workers' troubles come out as one line, and never as a hang."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from mimsuite.data.batches import Item
from mimsuite.data.collate import Collate
from mimsuite.data.fetching.ahead import FetchesAhead, nothing_ahead
from mimsuite.data.reader import ImageReader
from mimsuite.data.workers import PATIENCE, WorkerWatch, end_at_lost_batch, fit_shared_memory
from mimsuite.errors import InputError, RunError
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")

_END: Any = object()


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` that raises the error of a worker here, with its own one-line message, and never waits for ever.

    Args:
        patience: seconds without a batch after which the workers are given up.
        asked: whether the run is asked to stop.
        ahead: a block around the reading, whose function is told how many batches came; see `fetching_ahead`.
        keywords: those of `DataLoader`.

    Attributes:
        waited: seconds that its user has waited for batches so far, in all passes.
    """

    def __init__(
        self, *, patience: float, asked: Callable[[], bool], ahead: Callable[[], FetchesAhead], **keywords: Any
    ) -> None:
        super().__init__(**keywords)
        self._patience, self._asked, self._ahead = patience, asked, ahead
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields batches.

        Raises:
            InputError: images that cannot be decoded, too many of them, or wrong labels.
            RunError: a shard that cannot be read; a worker that was killed, is stopped or gives no batch.
            StoppedWaitingError: a signal asked to stop while no batch came.
        """
        with _death_raises_nothing():
            batches: Any = super().__iter__()
        watch = WorkerWatch(getattr(batches, "_workers", ()), self._patience, self._asked)
        try:
            with self._ahead() as tell:
                for count in itertools.count(1):
                    began = time.perf_counter()
                    with watch.waiting():
                        batch = next(batches, _END)
                    self.waited += time.perf_counter() - began
                    if batch is _END:
                        return
                    if isinstance(batch, (InputError, RunError)):
                        raise batch
                    tell(count)
                    yield batch
        finally:
            watch.close()
            del batches  # or an error's traceback would hold it, and with it the workers


@contextmanager
def _death_raises_nothing() -> Iterator[None]:
    """Keeps torch from raising a worker's death wherever the main process is at that moment, as in an optimizer's step.

    It is found when a batch is awaited.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)


@dataclass(frozen=True)
class Loading:
    """By whom batches are read.

    Attributes:
        workers: processes that read; 0 reads in the main process.
        processes: of the run on this machine, each with such workers.
        patience: seconds without a batch after which the workers are given up.
        asked: whether the run is asked to stop.
    """

    workers: int
    processes: int = 1
    patience: float = PATIENCE
    asked: Callable[[], bool] = lambda: False


def make_loader(
    reader: ImageReader,
    batches: Sampler[list[Item]],
    collate: Collate,
    batch: int,
    loading: Loading,
    keep: bool = False,
    ahead: Callable[[], FetchesAhead] = nothing_ahead,
) -> BatchLoader:
    """A loader with a generator of its own: torch would draw a seed for the workers from the global one."""
    workers, ready, line = fit_shared_memory(loading.workers, batch * reader.sample_bytes, loading.processes)
    if line is not None:
        log.warning("%s", line)
    return BatchLoader(
        patience=loading.patience,
        asked=loading.asked,
        ahead=ahead,
        dataset=reader,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=ready if workers else None,
        persistent_workers=keep and workers > 0,
        multiprocessing_context=_context() if workers else None,
        worker_init_fn=_start_worker if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def _context() -> multiprocessing.context.BaseContext:
    """Fork on Linux: workers start at once and share the parent's memory.

    They do nothing that a fork makes unsafe: they compute on one thread, touch no device, and read files
    whose positions nobody shares. On macOS fork itself is unsafe.
    """
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _start_worker(worker: int) -> None:
    """One thread per worker; and signals are for the main process, which ends its workers itself."""
    torch.set_num_threads(1)
    end_at_lost_batch()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this worker at a SIGTERM of its parent and at no other.

    Schedulers send one to every process of a run, and the parent needs its workers for the step in hand.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
