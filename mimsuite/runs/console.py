"""The package's log lines on the terminal; of a run's several processes only the first one prints."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

from mimsuite.data.terminal import Tolerant
from mimsuite.runs.secrets import hide_in_record

log = logging.getLogger("mimsuite")


class Console(logging.Handler):
    """Prints log lines as plain text on whatever `sys.stdout` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        line = self.format(record).encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
        print(line, file=sys.stdout and Tolerant(sys.stdout), flush=True)


def report_next(purpose: str, task: str, **values: object) -> None:
    """Reports a command that is of use now; values that are None are left out."""
    lists = {key: f"[{','.join(map(str, value))}]" for key, value in values.items() if isinstance(value, list | tuple)}
    words = [f"{key}={value}" for key, value in (values | lists).items() if value is not None]
    log.info("next      %s: mimsuite %s", purpose, shlex.join([task, *words]))


def report_reader(table: Path) -> None:
    """Reports how a table is read in Python."""
    call = {".npz": "numpy.load", ".parquet": "pandas.read_parquet", ".csv": "pandas.read_csv"}[table.suffix.lower()]
    log.info("next      read it in Python: %s(%r)", call, str(table))


def log_to_console() -> None:
    """Sends the package's log lines to the terminal; calling it again changes nothing."""
    if hide_in_record not in log.filters:
        log.addFilter(hide_in_record)
    if not any(isinstance(handler, Console) for handler in log.handlers):
        log.addHandler(Console())
        log.setLevel(logging.INFO)
