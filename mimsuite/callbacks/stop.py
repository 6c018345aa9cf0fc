"""What signals do to a run: the first asks it to stop after the step in hand, and is answered at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

log = logging.getLogger("mimsuite")

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 143}
NOW = 5.0  # seconds after a second Ctrl-C in which a command may still end by itself
_END = 0  # no signal has this number


def heard_signals() -> list[signal.Signals]:
    """The signals that stop a run.

    Not a hangup that is ignored (`nohup`), nor a signal that a program around Python has taken: Python could not give
    it back.
    """
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [
        number
        for number in EXIT_CODES
        if signal.getsignal(number) is not None and not (number == signal.SIGHUP and hangup_ignored)
    ]


class StopRequest:
    """Listens for the signals that stop a run; a second SIGINT ends it at once.

    Python calls a handler between two operations of the main thread, and a backward pass is one operation. So another
    thread, which the system wakes, gives the answer, and ends a command that does not come to its end.

    Args:
        forces: whether this process may be ended, because it is a command and nothing else.
        when: the end of the answer: when the run stops.

    Attributes:
        exit_code: 0, or that of the signal that came: 130 (SIGINT) or 143.
    """

    def __init__(self, *, forces: bool, when: str) -> None:
        self.forces, self.when = forces, when
        self.exit_code = 0
        self._before: dict[signal.Signals, Any] = {}
        self._wakes: int | None = None

    def listen(self) -> None:
        """Takes the signals over; a second call changes nothing, and a thread that is not the main one gets none."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in heard_signals():
            self._before[number] = signal.signal(number, self._stop)
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        other = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        if other != -1:  # an event loop has it already
            signal.set_wakeup_fd(other)
            os.close(reads)
            os.close(writes)
            return
        self._wakes = writes
        threading.Thread(target=self._answer, args=(reads,), name="signals", daemon=True).start()

    def release(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._wakes is not None:
            signal.set_wakeup_fd(-1)
            os.write(self._wakes, bytes([_END]))  # loader workers have the pipe, too: closing it wakes nobody
            os.close(self._wakes)
            self._wakes = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = EXIT_CODES[signal.Signals(number)]

    def _answer(self, reads: int) -> None:
        """The thread: tells what came."""
        came = 0
        while True:
            for number in os.read(reads, 64):
                if number == _END:
                    os.close(reads)
                    return
                if number not in EXIT_CODES:
                    continue
                came += 1
                if number != signal.SIGINT:
                    log.warning("%s: stopping %s, with a checkpoint", signal.Signals(number).name, self.when)
                elif came == 1:
                    log.warning("stopping %s, with a checkpoint; press Ctrl-C again to stop now", self.when)
                elif self.forces:
                    log.warning("stopping now")
                    time.sleep(NOW)
                    os._exit(EXIT_CODES[signal.SIGINT])
