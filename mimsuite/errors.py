"""Errors that a user can fix; the command line prints each as one line, without a traceback."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LONGEST = 300  # characters of a cause
HIDDEN = "<secret>"
"""Stands where a password or a signature was."""


def hide_addresses(text: str) -> str:
    """Any text without what may be secret in its addresses: user and password, and the query of a web address."""
    text = re.sub(r"(\w:/+)[^/\s]+@", rf"\1{HIDDEN}@", text)
    return re.sub(r"""(?i)(\bhttps?:/+[^\s?'"]*\?)[^\s'"\]]+""", rf"\1{HIDDEN}", text)


class InputError(ValueError):
    """Bad configuration or input: the command line exits with 2.

    The message is one line that names the thing, the value seen, what is allowed, and the fix.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_addresses(message))


class RunError(RuntimeError):
    """A run that had to stop (disk, network, diverged loss): the command line exits with 1.

    The message is one line; whatever was committed before stays loadable.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_addresses(message))


class LostProcessError(RunError):
    """Another process of the run is gone, and so this one ends.

    Attributes:
        told: whether somebody else tells it already; the command line then prints nothing.
    """

    def __init__(self, message: str, *, told: bool) -> None:
        super().__init__(message)
        self.told = told


def cause_of(error: BaseException) -> str:
    """What an error says, in one line that is not too long; its kind where it says nothing, or only a name."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not first or isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        first = f"{type(error).__name__}: {first}".removesuffix(": ")
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]}..."


@contextlib.contextmanager
def reading(what: str, fix: str) -> Iterator[None]:
    """The border of a reader: whatever a library raises for a damaged file becomes one line.

    Args:
        what: the file, and how the message begins.
        fix: how the message ends.

    Raises:
        InputError: the block failed; errors of ours pass as they are.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else cause_of(error)
        raise InputError(f"{what} cannot be read ({cause}); {fix}") from error


NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Of a place that this user may not write."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Of a place without room."""

FAULTS = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
"""Of a disk or a network that does not answer."""

LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Of a machine that gives no more."""


def describe_fault(error: OSError) -> str:
    """What the system refused, and the fix, as part of a line."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}{error.strerror}; free some space, or use another place"
    if error.errno in NOT_ALLOWED:
        return f"{where}{error.strerror}; use a place that you may write"
    if error.errno in LIMITS:
        return f"{where}{error.strerror}; raise the limit (ulimit), or use fewer workers="
    return f"{where}{error.strerror or error}"


def without_faults(call: Callable[[], T]) -> T:
    """Calls, and turns what disks and the system refuse into one line; an `OSError` of another kind is a defect.

    Raises:
        InputError: a place that may not be written.
        RunError: no room, a fault of a disk, a limit of the system.
    """
    try:
        return call()
    except OSError as error:
        if error.errno in NOT_ALLOWED:
            raise InputError(describe_fault(error)) from error
        if error.errno in FULL | FAULTS | LIMITS:
            raise RunError(describe_fault(error)) from error
        raise
