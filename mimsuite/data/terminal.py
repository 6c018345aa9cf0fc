"""Standard output and error that may go away while a task runs: a closed pipe, a full disk, a closed terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Tolerant:
    """A text stream that raises nothing where its reader is gone: from then on all output goes to nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, and returns the number of characters."""
        with tolerating(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Empties the buffer."""
        with tolerating(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def has_terminal() -> bool:
    """Whether somebody watches standard output; a program without one (a service, `pythonw`) has None in its place."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def tolerating(stream: Any) -> Iterator[None]:
    """Leaves a stream whose reader is gone; one that only takes nothing at the moment loses what was to be written."""
    try:
        yield
    except BlockingIOError:
        return
    except OSError:
        leave(stream)


def tolerate_lost_output() -> None:
    """Lets nothing that this process prints, by whatever library, end it: `| head -1`, `>/dev/full`, a closed ssh."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with `>&-`
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif not isinstance(stream, Tolerant):
            setattr(sys, name, Tolerant(stream))


def leave(stream: Any) -> None:
    """Sends all that is still written to the file of a stream to nowhere, what it holds back included."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
