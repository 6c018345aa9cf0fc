"""The report that a training run writes of itself when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger

from mimsuite.data.storage import OptionalWrites
from mimsuite.runs.loggers.guest import Guest
from mimsuite.runs.reporting.facts import read_facts
from mimsuite.runs.reporting.page import write_report

REPORT = "report.html"


def report_itself(folder: Path, loggers: Iterable[Logger]) -> None:
    """Writes `report.html` into the folder of a run, and gives it to the loggers that take one.

    A report that cannot be written costs a line.
    """
    with OptionalWrites(REPORT, Exception).attempt():
        write_report([read_facts(folder, folder.resolve().name, ended=True)], folder / REPORT)
        for logger in loggers:
            if isinstance(logger, Guest):
                logger.log_report(folder / REPORT)
