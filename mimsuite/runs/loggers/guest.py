"""Loggers that a run always trusts, and those of other libraries: guests, whose trouble never becomes the run's."""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mimsuite.runs.secrets import redact

log = logging.getLogger("mimsuite")

PATIENCE = 10.0  # seconds that the guests of a run get at its end, all together


class Sink(Logger):
    """What Lightning asks of a logger and ours have no use for."""

    @property
    def version(self) -> str:
        """Unused."""
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them, and guests get the config when they begin."""


class Guest(Sink):
    """A logger of another library: it never ends a run, and costs at most ten seconds at its end.

    All calls run on a thread of their own, which begins after the first optimizer step: opening takes the processor for
    a second. After the first failure the guest is switched off for this run and one line says so.

    Attributes:
        title: how lines call it.
        failed: whether it is switched off.
        first: the step of the first metrics; they come before `open`.
    """

    title = ""
    fault = "cannot be reached"

    def __init__(self) -> None:
        super().__init__()
        self.failed = False
        self.first = 0
        self._queue: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"logger {self.title}", daemon=True)
        self._begun = self._ended = self._counted = False

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return self.title

    @abstractmethod
    def open(self) -> Any:
        """Opens the library's run; in the guest's thread."""

    @abstractmethod
    def send_metrics(self, run: Any, metrics: dict[str, float], step: int) -> None:
        """Hands over a set of metrics."""

    @abstractmethod
    def send_picture(self, run: Any, name: str, path: Path, step: int) -> None:
        """Hands over a picture that lies in the run folder."""

    def send_report(self, run: Any, path: Path) -> None:
        """Hands over the report; nothing where the library has no place for one."""

    @abstractmethod
    def finish(self, run: Any) -> None:
        """Ends the library's run."""

    def _work(self) -> None:
        """The thread: opens, then does what is put into the queue until None comes."""
        try:
            run = self.open()
            while (call := self._queue.get()) is not None:
                call(run)
            self.finish(run)
        except Exception as error:  # a guest's trouble, of whatever kind, must not become the run's
            self.failed = True
            first = redact((str(error).splitlines() or [type(error).__name__])[0])
            log.warning(
                *("%s %s; switched off for this run; metrics are in metrics.csv (%s says: %s)", self.title, self.fault),
                *(self.title, first),
            )

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Queues a set of metrics."""
        row, at = {k: float(v) for k, v in metrics.items() if k != "epoch"}, step or 0
        if not self._counted:
            self.first, self._counted = at, True
        self._put(lambda run: self.send_metrics(run, row, at))
        if step:
            self._begin()

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Queues a picture that lies in the run folder."""
        self._put(lambda run: self.send_picture(run, name, path, step))

    @rank_zero_only
    def log_report(self, path: Path) -> None:
        """Queues the report of the run, whose `summary.json` lies beside it."""
        self._put(lambda run: self.send_report(run, path))

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()

    def _put(self, call: Callable[[Any], None]) -> None:
        if not self.failed:
            self._queue.put(call)

    def end(self) -> None:
        """Asks the guest to end after what is queued, and does not wait for it."""
        if not self._ended:
            self._ended = True
            self._queue.put(None)
            self._begin()

    @rank_zero_only
    def close(self, patience: float | None = None) -> None:
        """Ends the guest; waits at most `patience` seconds for it (None: `PATIENCE`)."""
        self.end()
        self._thread.join(PATIENCE if patience is None else patience)
        if self._thread.is_alive():
            self.failed = True
            log.warning(
                "%s did not finish within %d s and was switched off; metrics are in metrics.csv",
                *(self.title, PATIENCE),
            )


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Ends the loggers that have a `close`: the guests together, within the seconds that one of them may take."""
    several, until = list(loggers), time.monotonic() + PATIENCE
    for logger in several:
        if isinstance(logger, Guest):
            logger.end()
    for logger in several:
        if isinstance(logger, Guest):
            logger.close(max(0.0, until - time.monotonic()))
        else:
            getattr(logger, "close", lambda: None)()
