"""Which faults of a disk or a server pass, and how a read is tried again until its time is over."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.remote import SLOWEST
from mimsuite.errors import RunError

T = TypeVar("T")

# What a disk, a network file system or FUSE reports when it may work again in a moment.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EAGAIN", "EBUSY", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ENOMEM"),
    )
    if hasattr(errno, name)
)
_PAUSES = 0.1, 2.0  # seconds: the first and the longest
_chance = random.Random()  # of its own: the random numbers of a run do not depend on faults


def passes(error: OSError) -> bool:
    """Whether the same read may succeed in a moment."""
    return error.passes if isinstance(error, StoreError) else error.errno in _PASSING


class Attempts:
    """One read that is tried again, until it has made no progress for `timeout` seconds.

    Progress is `SLOWEST` bytes a second over that time: what comes slower counts as nothing.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._start()

    def _start(self) -> None:
        self._end, self._pause, self._new = time.monotonic() + self._timeout, _PAUSES[0], 0

    def advance(self, size: int) -> None:
        """Takes note of `size` bytes that came."""
        self._new += size
        if self._new >= SLOWEST * self._timeout:
            self._start()

    def wait(self, error: OSError) -> None:
        """Waits for the next attempt: twice as long as for the last, by chance up to half less, or as a server asks.

        Raises:
            OSError: `error`, where it does not pass, or the time is over.
        """
        pause, left = self._pause * _chance.uniform(0.5, 1.0), self._end - time.monotonic()
        if not passes(error) or left < pause:
            raise error
        asked = error.retry_after if isinstance(error, StoreError) else None
        time.sleep(pause if asked is None else min(max(pause, asked), left))
        self._pause = min(2 * self._pause, _PAUSES[1])


def give_up(what: str, error: OSError, fix: str = "") -> RunError:
    """The error for a read that was tried in vain.

    Args:
        what: what cannot be done, as people may see it.
        error: the last fault.
        fix: what to do about it, beside going on.
    """
    return RunError(f"{what}: {error.strerror or error}{fix and '; '}{fix}, and resume the run")


def persistently(call: Callable[[], T], timeout: float) -> T:
    """Calls, and again after each fault that passes, for `timeout` seconds.

    Raises:
        OSError: the last fault.
    """
    attempts: Attempts | None = None
    while True:
        try:
            return call()
        except OSError as error:
            attempts = attempts or Attempts(timeout)
            attempts.wait(error)
