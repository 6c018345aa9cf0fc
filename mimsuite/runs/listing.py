"""The runs below a folder, from the files that they wrote: what each is, how far it got, whether it still runs."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mimsuite.config.yaml_files import read_plain
from mimsuite.data.storage import read_object
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError, reading
from mimsuite.runs.folder import is_held
from mimsuite.settings.losses import describe_loss, split_override
from mimsuite.settings.models import model_files, model_node
from mimsuite.settings.outputs import RUN_NAMES
from mimsuite.settings.read import LARGEST, is_int, is_number
from mimsuite.settings.resume import first_overrides
from mimsuite.words import RUN_TASKS, SKIPPED_IN_A_ROW

DEEPEST = 6  # folders below the one that is listed
MARKS = {".lock", "overrides.txt", "environment.json", "summary.json", "train.log"}  # two of them make a run folder
WRITES = ("metrics.jsonl", "train.log", "summary.json", "config.yaml")  # while a run goes on
FIRST_LINES, LAST_LINES, ALL_LINES = 1 << 13, 1 << 13, 1 << 22  # bytes
STARTED = re.compile(r"mimsuite \S+ (\w+) ")  # of `train.log`
CHANGED = {"image_size", "num_channels"}  # sizes of a model config that the data of a run decide

Row = dict[str, Any]


def find_runs(root: Path) -> tuple[list[Path], list[str]]:
    """Run folders below a folder, or that folder itself, and a line for each folder that cannot be read.

    Links to folders are followed, after all folders that lie there themselves; each folder is found once.
    """
    found: list[Path] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[Path, int]] = [(root, 0)]
    links: list[tuple[Path, int]] = []
    while waiting or links:
        folder, depth = (waiting or links).pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names = {entry.name: entry for entry in entries}
        except FileNotFoundError:  # removed at this moment, or a dangling link
            continue
        except OSError as error:
            problems.append(f"{to_text(str(folder))} cannot be read: {error.strerror}")
            continue
        is_run = len(MARKS & names.keys()) > 1
        if is_run:
            found.append(folder)
        if depth == DEEPEST:
            continue
        for name, entry in names.items():
            if name.startswith(".") or (is_run and name in RUN_NAMES):
                continue
            if entry.is_symlink() and os.path.isdir(entry.path):
                links.append((Path(entry.path), depth + 1))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), depth + 1))
    return found, problems


def read_run(folder: Path, root: Path, *, ended: bool = False) -> Row | None:
    """One run's row of the table; None for the folder of another program.

    Args:
        folder: the run's.
        root: the folder that is listed, for its name.
        ended: whether the run has ended, though this process still holds its folder.
    """
    reader = RunReader(folder)
    summary = reader.summary()
    if summary and "mimsuite" not in summary:
        return None
    config = reader.config()
    held = not ended and reader.held()
    rows = reader.metrics(LAST_LINES)
    last = max((int(row["step"]) for row in rows), default=0)
    planned = config["steps"] if is_int(config.get("steps")) else None
    steps, status = max(last, summary.get("steps", 0)), summary.get("status")
    early = summary.get("stopped_early_of") == planned
    if last > summary.get("steps", 0) or (status == "done" and steps < (planned or 0) and not early):
        status = None  # of an earlier start: the run has gone on since
    metrics = summary.get("metrics", {})
    if held or status is None:
        metrics = metrics | {key: row[key] for row in reader.metrics(ALL_LINES) for key in row if key != "step"}
    if held:
        status = "running"
    elif status is None:
        status = "diverged" if reader.ends_skipping(last) else "failed"
    name = os.path.relpath(folder, root)
    task, init = summary.get("task") or reader.started_task(), config.get("init")
    return {
        "name": to_text(folder.resolve().name if name == "." else name),
        "folder": str(folder),
        "task": task,
        "status": status if not reader.problem or held else "damaged",
        "model": None if init is not None and "model" not in given_of(folder) else name_model(config, folder),
        "init": None if init is None else str(init),
        "data": describe_data(config),
        "loss": describe_loss(config, metrics) or None,
        "steps": steps if task in RUN_TASKS[:2] else None,
        "of": planned if task in RUN_TASKS[:2] else None,
        "hours": reader.hours(summary, running=held, over=status in ("done", "interrupted")),
        "updated": reader.updated(),
        "metrics": {str(key): float(value) for key, value in metrics.items()},
        "problem": reader.problem,
    }


class RunReader:
    """Reads the files of one run folder; what is damaged is noted, and the rest is read.

    Attributes:
        problem: the first damaged file in one line; None where all is well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None
        self._times = {name: found for name in WRITES if (found := self._time(name)) is not None}

    def _time(self, name: str) -> float | None:
        try:
            return (self.folder / name).stat().st_mtime
        except OSError:
            return None

    def _note(self, error: InputError) -> None:
        self.problem = self.problem or to_text(" ".join(str(error).split()))

    def summary(self) -> Row:
        """`summary.json`; empty where there is none, or a damaged one."""
        if "summary.json" not in self._times:
            return {}
        file = self.folder / "summary.json"
        try:
            with reading(str(file), "repeat the run"):
                found = read_object(file, "repeat the run")
                for key, kind in {"task": str, "status": str, "steps": int, "metrics": dict}.items():
                    if key in found and not isinstance(found[key], kind):
                        raise ValueError(f"{key} is {found[key]!r}")
                check_numbers(found.get("metrics", {}))
                check_numbers({key: found[key] for key in ("steps", "seconds") if key in found})
        except InputError as error:
            self._note(error)
            return {}
        return found

    def config(self) -> Row:
        """`config.yaml`; empty where there is none: the run had not begun."""
        if "config.yaml" not in self._times:
            return {}
        try:
            return read_plain(self.folder / "config.yaml", "restore it")
        except InputError as error:
            self._note(error)
            return {}

    def held(self) -> bool:
        """Whether the run lives."""
        try:
            with reading(str(self.folder / ".lock"), "ask who owns it"):
                return is_held(self.folder)
        except InputError as error:
            self._note(error)
            return False

    def metrics(self, most: int) -> list[dict[str, float]]:
        """The rows at the end of `metrics.jsonl`, without one that is just being written, or that a kill has cut."""
        return [row for row in self.lines("metrics.jsonl", most) if is_int(row.get("step"))]

    def ends_skipping(self, last: int) -> bool:
        """Whether the run ended because its loss was not finite; `last`: the last step with metrics."""
        steps = {int(row["step"]) for row in self.lines("skipped_steps.jsonl", LAST_LINES) if is_int(row.get("step"))}
        end = max(steps, default=0)
        return end >= last and all(end - n in steps for n in range(SKIPPED_IN_A_ROW))

    def started_task(self) -> str | None:
        """The task by the first lines of `train.log`; None where they do not say it."""
        if "train.log" not in self._times:
            return None
        try:
            with reading(str(self.folder / "train.log"), "restore it"), (self.folder / "train.log").open("rb") as file:
                found = STARTED.search(file.read(FIRST_LINES).decode("utf-8", "replace"))
        except InputError as error:
            self._note(error)
            return None
        return found[1] if found and found[1] in RUN_TASKS else None

    def hours(self, summary: Mapping[str, Any], *, running: bool, over: bool) -> float | None:
        """Hours of training: as its summary says, with the time since its last start if it has not come to an end."""
        seconds: float | None = summary.get("seconds")
        if not over and "config.yaml" in self._times:  # which every start writes
            end = time.time() if running else max(self._times.values())
            seconds = (seconds or 0) + max(0.0, end - self._times["config.yaml"])
        return None if seconds is None else seconds / 3600

    def updated(self) -> str | None:
        """When the run wrote last, in local time."""
        newest = max(self._times.values(), default=None)
        return None if newest is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest))

    def lines(self, name: str, most: int) -> list[dict[str, Any]]:
        """The objects at the end of a `.jsonl` file, one a line; none where there is none, or a damaged one."""
        file = self.folder / name
        if not file.is_file():
            return []
        try:
            with reading(str(file), "restore it"):
                rows = [json.loads(line) for line in last_lines(file, most)]
                if not all(isinstance(row, dict) for row in rows):
                    raise ValueError("a line holds no object")
                if name == "metrics.jsonl":
                    for row in rows:
                        check_numbers(row)
        except InputError as error:
            self._note(error)
            return []
        return rows


def last_lines(file: Path, most: int) -> Iterator[str]:
    """The whole lines in the last `most` bytes of a file."""
    with file.open("rb") as stream:
        start = max(0, stream.seek(0, os.SEEK_END) - most)
        stream.seek(start)
        lines = stream.read().decode("utf-8", "replace").split("\n")
    return (line for line in lines[1 if start else 0 : -1] if line.strip())


def check_numbers(values: Mapping[str, Any]) -> None:
    """Checks that all values are numbers.

    Raises:
        ValueError: one is not.
    """
    for key, value in values.items():
        if not is_number(value) or (is_int(value) and abs(value) > LARGEST):
            raise ValueError(f"{key} is {value!r}, which is not a number")


def describe_data(config: Mapping[str, Any]) -> str | None:
    """The data of a run as the user named it, `embedded` where none was named; None where no config tells it."""
    if not config:
        return None
    data = config.get("data") or "embedded"
    return ",".join(map(str, data)) if isinstance(data, list) else str(data)


def name_model(config: Mapping[str, Any], folder: Path) -> str | None:
    """The name of the model config that a run has: by its sizes, else as given, else its family."""
    node = config.get("model")
    if not isinstance(node, dict):
        return None
    family = class_name(node)
    same = [
        (known.get("image_size") != node.get("image_size"), len(name), name)
        for name, known in known_models()
        if class_name(known) == family and all(node.get(key) == value for key, value in sizes_of(known).items())
    ]
    if same:
        return min(same)[2]
    return given_of(folder).get("model") or family.removesuffix("Config").lower() or None


def given_of(folder: Path) -> dict[str, str]:
    """Keys and values of the command that began a run; one with `init=` and without `model=` has the weights' model."""
    return dict(map(split_override, first_overrides(folder))) if (folder / "overrides.txt").is_file() else {}


def sizes_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a model large or small: the values that are whole numbers, or lists of them."""
    whole = {k: v for k, v in node.items() if all(map(is_int, v if isinstance(v, list) else [v]))}
    return {key: value for key, value in whole.items() if key not in CHANGED}


def class_name(node: Mapping[str, Any]) -> str:
    """The class of a config node, without its module: that of old runs has another one."""
    return str(node.get("_target_", "")).rpartition(".")[2]


@functools.cache
def known_models() -> Sequence[tuple[str, dict[str, Any]]]:
    """The values of every model config, by name."""
    nodes = ((file.stem, OmegaConf.to_container(model_node(file))) for file in model_files())
    return [(name, {str(k): v for k, v in node.items()}) for name, node in nodes if isinstance(node, dict)]


def sort_rows(rows: Sequence[Row], order: str) -> list[Row]:
    """Rows by a column: times and numbers with the largest first, words by the alphabet; what is not known last."""
    named = sorted(rows, key=lambda row: str(row["name"]))
    known = [row for row in named if row[order] is not None]
    known.sort(key=lambda row: row[order], reverse=order in ("updated", "steps", "hours"))
    return known + [row for row in named if row[order] is None]


def best_rows(rows: Sequence[Row], metric: str, *, larger: bool) -> list[Row]:
    """The rows that have a metric, the best first; values that are not numbers last.

    Raises:
        InputError: there are rows, and none has it.
    """
    having = [row for row in rows if metric in row["metrics"]]
    if rows and not having:
        known = sorted({key for row in rows for key in row["metrics"]})
        has = f"they have {', '.join(known)}" if known else "they have none"
        raise InputError(f"best={metric}: none of these runs has this metric; {has}")

    def place(row: Row) -> tuple[bool, float]:
        value: float = row["metrics"][metric]
        return math.isnan(value), -value if larger else value

    return sorted(having, key=place)
