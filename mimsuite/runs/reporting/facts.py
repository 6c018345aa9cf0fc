"""What a report knows of a run, read from the files in its folder; what is missing or damaged is left out and named."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimsuite.data.fingerprint import DATA, count_images
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError, reading
from mimsuite.pictures.curves import Series, read_metrics
from mimsuite.runs.listing import ALL_LINES, Row, RunReader, read_run
from mimsuite.settings.resume import first_overrides

Flat = Mapping[str, str]


@dataclass(frozen=True)
class RunFacts:
    """One run.

    Attributes:
        name: what the report calls it.
        folder: where it lies.
        row: as `mimsuite runs` lists it.
        summary: `summary.json`; empty where there is none.
        config: the keys of `config.yaml` with dots, and their values as text.
        given: the command line's `key=value` arguments.
        series: the metrics against steps.
        environment: `environment.json`.
        probe: `probe.json`; empty for other tasks.
        heads: the rows of `probe.csv`.
        per_class: the rows of `per_class.csv` of an evaluation.
        images: of each split, as training counted them.
        skipped: steps without an update, as the loss was not finite.
        bad: images that could not be decoded.
        problems: files that could not be read.
    """

    name: str
    folder: Path
    row: Row
    summary: Mapping[str, Any]
    config: Flat
    given: Sequence[str]
    series: Series
    environment: Mapping[str, Any]
    probe: Mapping[str, Any]
    heads: Sequence[Mapping[str, str]]
    per_class: Sequence[Mapping[str, str]]
    images: Mapping[str, int]
    skipped: int
    bad: int
    problems: Sequence[str] = field(default=())

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value of every metric."""
        found: Mapping[str, float] = self.row["metrics"]
        return found


def read_facts(folder: Path, name: str, *, ended: bool = False) -> RunFacts:
    """Reads a run folder, also of a run that still runs or was killed.

    Args:
        folder: the run's.
        name: what the report calls it.
        ended: whether the run has ended, though this process still holds its folder.

    Raises:
        InputError: the folder is of another program.
    """
    row = read_run(folder, folder, ended=ended)
    if row is None:
        raise InputError(f"runs={folder} was written by another program; give folders of runs of mimsuite")
    problems: list[str] = [] if row["problem"] is None else [row["problem"]]
    reader = RunReader(folder)
    series: Series = {}
    if (folder / "metrics.csv").is_file():
        try:
            series = read_metrics(folder / "metrics.csv")
        except InputError as error:
            problems.append(to_text(str(error)))
    return RunFacts(
        name=name,
        folder=folder,
        row=row,
        summary=reader.summary(),
        config=dict(flatten(reader.config())),
        given=first_overrides(folder) if (folder / "overrides.txt").is_file() else [],
        series=series,
        environment=read_json(folder / "environment.json", problems),
        probe=read_json(folder / "probe.json", problems),
        heads=read_table(folder / "probe.csv", problems),
        per_class=read_table(folder / "per_class.csv", problems),
        images=count_images(read_json(folder / DATA, problems)),
        skipped=count_different(reader.lines("skipped_steps.jsonl", ALL_LINES), "step"),
        bad=count_different(reader.lines("bad_samples.jsonl", ALL_LINES), "shard", "key"),
        problems=problems,
    )


def count_different(lines: Sequence[Mapping[str, Any]], *names: str) -> int:
    """How many different values these names have: each process writes its own lines, and a resumed run again."""
    return len({tuple(str(line.get(name)) for name in names) for line in lines})


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key with dots and value as text, of nested values; a list is one value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, json.dumps(value, ensure_ascii=False, default=str).strip('"')


def read_json(file: Path, problems: list[str]) -> dict[str, Any]:
    """An object in a file; empty where there is none, or a damaged one, which is noted."""
    if not file.is_file():
        return {}
    try:
        with reading(str(file), "repeat the run"):
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
    except InputError as error:
        problems.append(to_text(str(error)))
        return {}
    return found


def read_table(file: Path, problems: list[str]) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is none, or a damaged one, which is noted."""
    if not file.is_file():
        return []
    try:
        with reading(str(file), "repeat the run"), file.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            return [{key: text for key, text in row.items() if isinstance(text, str) and key} for row in rows]
    except (InputError, csv.Error) as error:
        problems.append(to_text(str(error)))
        return []
