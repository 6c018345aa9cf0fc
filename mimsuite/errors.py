"""Errors that a user can fix; the command line prints each as one line, without a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_LONGEST = 300  # characters of a cause


class InputError(ValueError):
    """Bad configuration or input: the command line exits with 2.

    The message is one line that names the thing, the value seen, what is allowed, and the fix.
    """


class RunError(RuntimeError):
    """A run that had to stop (disk, network, diverged loss): the command line exits with 1.

    The message is one line; whatever was committed before stays loadable.
    """


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
        said = error.strerror if isinstance(error, OSError) and error.strerror else cause_of(error)
        raise InputError(f"{what} cannot be read ({said}); {fix}") from error
