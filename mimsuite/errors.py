"""Errors that a user can fix; the command line prints each as one line, without a traceback."""


class InputError(ValueError):
    """Bad configuration or input: the command line exits with 2.

    The message is one line that names the thing, the value seen, what is allowed, and the fix.
    """


class RunError(RuntimeError):
    """A run that had to stop (disk, network, diverged loss): the command line exits with 1.

    The message is one line; whatever was committed before stays loadable.
    """
