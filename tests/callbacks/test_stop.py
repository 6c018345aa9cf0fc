"""Signals: the first is answered at once and stops after the step in hand, a second Ctrl-C stops at once."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mimsuite.callbacks.stop import EXIT_CODES, StopRequest

BUSY = bytes(400_000_000)  # to hash it is one operation of about half a second, as a backward pass is


class Timed(StopRequest):
    handled = 0.0

    def _stop(self, number, frame):
        self.handled = time.perf_counter()
        super()._stop(number, frame)


@pytest.fixture
def request_(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by `nohup`
    made = Timed(forces=False, when="after this step")
    made.listen()
    yield made
    made.release()
    signal.signal(signal.SIGHUP, before)


def send(number, after):
    timer = threading.Timer(after, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def test_ctrl_c_is_answered_while_the_step_still_computes(request_, caplog):
    timer = send(signal.SIGINT, 0.05)
    hashlib.sha256(BUSY).hexdigest()
    timer.join()
    assert request_.exit_code == 130
    said = [r for r in caplog.records if r.message == ANSWER]
    assert len(said) == 1
    assert time.time() - said[0].created > time.perf_counter() - request_.handled  # before Python could call a handler


ANSWER = "stopping after this step, with a checkpoint; press Ctrl-C again to stop now"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_other_signals_are_named(request_, number, caplog):
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 5
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.01)
    assert request_.exit_code == 143
    assert caplog.messages == [f"{signal.Signals(number).name}: stopping after this step, with a checkpoint"]


def test_a_second_ctrl_c_is_an_interrupt(request_):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_taken_is_given_back(caplog):
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    made = StopRequest(forces=False, when="after this step")
    made.listen()
    made.release()
    assert {number: signal.getsignal(number) for number in EXIT_CODES} == before
    assert signal.set_wakeup_fd(-1) == -1
    deadline = time.monotonic() + 5
    while "signals" in (names := {thread.name for thread in threading.enumerate()}) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "signals" not in names


def test_a_signal_that_a_program_around_python_has_taken_stays_its_own(monkeypatch):
    right, taken = signal.getsignal, []
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGUSR1 else right(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: taken.append(number) or right(number))
    made = StopRequest(forces=False, when="after this step")
    made.listen()
    made.release()
    assert signal.SIGUSR1 not in taken
    assert {signal.SIGINT, signal.SIGTERM} <= set(taken)


def test_a_hangup_that_is_ignored_stays_ignored():
    """As `nohup` sets it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    made = StopRequest(forces=False, when="after this step")
    try:
        made.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert made.exit_code == 0
    finally:
        made.release()
        signal.signal(signal.SIGHUP, before)


STUCK = """
import hashlib, logging, os, signal, sys, threading
from mimsuite.callbacks import stop
logging.basicConfig(format="%(message)s")
stop.NOW = 0.2
made = stop.StopRequest(forces=True, when="after this step")
made.listen()
for after in (0.05, 0.1):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_a_command_that_cannot_answer_a_second_ctrl_c_is_ended():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.splitlines() == [ANSWER, "stopping now"]
