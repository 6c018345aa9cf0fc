"""Which faults of a disk or a server pass, and how a read is tried again until its time is over."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from mimsuite.data.stores.fault import StoreError

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
    """One read that is tried again, until it has made no progress for `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._end = timeout, time.monotonic() + timeout
        self._pause = _PAUSES[0]

    def wait(self, error: OSError) -> None:
        """Waits for the next attempt: twice as long as for the last, and by chance up to half less.

        Raises:
            OSError: `error`, where it does not pass, or the time is over.
        """
        pause = self._pause * _chance.uniform(0.5, 1.0)
        if not passes(error) or time.monotonic() + pause > self._end:
            raise error
        time.sleep(pause)
        self._pause = min(2 * self._pause, _PAUSES[1])


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
