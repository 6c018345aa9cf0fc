"""Metrics in the run folder: `metrics.csv` and `metrics.jsonl`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from mimsuite.data.storage import OptionalWrites, write_text
from mimsuite.errors import reading
from mimsuite.runs.loggers.guest import Sink


def read_rows_until(file: Path, step: int) -> list[dict[str, float]]:
    """The metrics of a run up to a step; none where there is no file.

    Raises:
        InputError: a damaged file.
    """
    if not file.exists():
        return []
    with reading(str(file), "restore it, or remove it to go on without the metrics so far"):
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may have cut the last line
        if not all(isinstance(value, int | float) for row in rows for value in row.values()):
            raise ValueError("a value is not a number")
        return [row for row in rows if row["step"] <= step]


class FileLogger(Sink):
    """Appends each set of metrics to `metrics.jsonl` and to `metrics.csv` (columns `step` and the metric names).

    What cannot be written now is written with the next set that can.

    Args:
        folder: the run folder.
        step: metrics of later steps are dropped first, because a resumed run writes them again; -1 drops all.
    """

    def __init__(self, folder: Path, step: int = -1) -> None:
        super().__init__()
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        self._rows = read_rows_until(self._jsonl, step)
        self._columns: list[str] = ["step"]
        self.last: dict[str, float] = {}
        for row in self._rows:
            self.last |= {k: v for k, v in row.items() if k != "step"}
        self._files = OptionalWrites("metrics.csv")
        with self._files.attempt():
            self._write_all()

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return "files"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends one row."""
        row: dict[str, float] = {"step": step or 0} | {k: float(v) for k, v in metrics.items() if k != "epoch"}
        self.last |= {k: v for k, v in row.items() if k != "step"}
        self._rows.append(row)
        behind = self._files.failed or any(key not in self._columns for key in row)
        with self._files.attempt():
            if behind:
                self._write_all()
            else:
                self._append(row)

    def _append(self, row: dict[str, float]) -> None:
        with self._jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")
        with self._csv.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _write_all(self) -> None:
        write_text(self._jsonl, "".join(json.dumps(row) + "\n" for row in self._rows))
        for row in self._rows:
            self._columns += [key for key in row if key not in self._columns]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._csv, text.getvalue())
