"""Where a run's metrics go: `metrics.csv` and `metrics.jsonl` in the run folder, and wandb."""

from __future__ import annotations

import configparser
import contextlib
import csv
import importlib.util
import io
import json
import logging
import netrc
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from mimsuite.callbacks.context import RunContext, make_parts
from mimsuite.data.storage import OptionalWrites, read_object, write_text
from mimsuite.errors import InputError, reading
from mimsuite.runs.secrets import redact

log = logging.getLogger("mimsuite")

WANDB_HOSTS = ["api.forge.coreweave.com", "api.wandb.ai"]  # of wandb from 0.31 on, and before
WANDB_PATIENCE = 10.0
OFF = ("disabled", "offline", "dryrun")  # modes that send nothing


def make_loggers(nodes: DictConfig, context: RunContext, trusted: Collection[str]) -> list[Logger]:
    """The loggers that the config names, in the process that leads; none in the others.

    Args:
        nodes: the config's `logger`.
        context: facts of the run.
        trusted: further targets that may be called.

    Raises:
        InputError: a node without a target, a target that is not allowed, or one that is not a logger.
    """
    return make_parts("logger", nodes, Logger, context, trusted) if context.leads else []


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Ends the loggers that have a `close`."""
    for logger in loggers:
        getattr(logger, "close", lambda: None)()


class _Sink(Logger):
    """What Lightning asks of a logger and ours have no use for."""

    @property
    def version(self) -> str:
        """Unused."""
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them, and wandb got the config when it began."""


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


def read_wandb_state(record: Path) -> dict[str, Any]:
    """The id of a run in wandb, and how often it was started.

    Raises:
        InputError: a damaged file.
    """
    fix = "the run gets a new id"
    state = read_object(record, fix)
    if not isinstance(state.get("id"), str) or type(state.get("starts")) is not int:
        raise InputError(f"{record} names no id and no number of starts; {fix}")
    return state


class FileLogger(_Sink):
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


class WandbLogger(_Sink):
    """wandb as a guest: it never prompts, never ends a run, and costs at most ten seconds when it cannot be reached.

    Online only if a key is there (`WANDB_API_KEY`, or a netrc entry for its server) and neither `WANDB_MODE` nor what
    `wandb disabled` and `wandb offline` wrote says otherwise. Its files stay in the run folder. All calls run on a
    thread of their own, which begins after the first optimizer step: opening a run takes the processor for a second.
    After the first failure wandb is switched off for this run and one line says so.

    Args:
        project: wandb project.
        group: wandb group, or None for none.
        context: facts of the run.
    """

    def __init__(self, *, project: str, group: str | None, context: RunContext) -> None:
        super().__init__()
        self.failed = False
        self._queue: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        # In a notebook wandb asks every Jupyter server for the notebook's name, and complains in red that none
        # knows it, unless this variable names something that exists.
        os.environ.setdefault("WANDB_NOTEBOOK_NAME", str(context.folder))
        self._trouble = load_user_settings()
        self._thread = threading.Thread(
            target=self._work,
            args=(self._arguments(context.folder, project, group, context.config),),
            name="wandb",
            daemon=True,
        )
        self._begun = False

    @staticmethod
    def is_wanted(context: RunContext) -> bool:
        """Not where the user has disabled wandb.

        Raises:
            InputError: wandb is not installed.
        """
        if wandb_mode() == "disabled":
            return False
        if importlib.util.find_spec("wandb") is None:
            raise InputError("logger.wandb needs wandb, which is not installed; pip install wandb, or use logger=null")
        return True

    @staticmethod
    def _arguments(folder: Path, project: str, group: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
        """What `wandb.init` gets; a resumed run keeps its id online and becomes `-r2`, `-r3`, ... offline."""
        record = folder / "wandb" / "run.json"
        state: dict[str, Any] = {"id": secrets.token_hex(4), "starts": 0}
        with OptionalWrites("wandb/run.json", (OSError, ValueError)).attempt():
            record.parent.mkdir(parents=True, exist_ok=True)
            if record.exists():
                state = read_wandb_state(record)
            write_text(record, json.dumps(state | {"starts": state["starts"] + 1}))
        state["starts"] += 1
        mode, first = wandb_mode(), state["starts"] == 1
        again = not first and mode == "offline"
        return {
            "project": project,
            "group": state["id"] if again and group is None else group,
            "name": folder.resolve().name,
            "id": f"{state['id']}-r{state['starts']}" if again else state["id"],
            "resume": "allow" if mode == "online" else None,
            "dir": str(folder),
            "mode": mode,
            "config": dict(config),
        }

    def _work(self, arguments: dict[str, Any]) -> None:
        """The thread: opens the wandb run, then does what is put into the queue until None comes."""
        try:
            if self._trouble is not None:
                raise self._trouble
            import wandb

            settings = wandb.Settings(
                init_timeout=WANDB_PATIENCE * 0.8,
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
            )
            run = wandb.init(settings=settings, **arguments)
            while (call := self._queue.get()) is not None:
                call(run)
            run.finish()
        except Exception as error:  # a guest's trouble, of whatever kind, must not become the run's
            self.failed = True
            first = redact((str(error).splitlines() or [type(error).__name__])[0])
            log.warning(
                "wandb cannot be reached; switched off for this run; metrics are in metrics.csv (wandb says: %s)", first
            )

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return "wandb"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Queues a set of metrics."""
        row = {k: float(v) for k, v in metrics.items() if k != "epoch"}
        self._put(lambda run: run.log(row, step=step))
        if step:
            self._begin()

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Queues a picture that lies in the run folder."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path))}, step=step)

        self._put(send)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()

    def _put(self, call: Callable[[Any], None]) -> None:
        if not self.failed:
            self._queue.put(call)

    @rank_zero_only
    def close(self) -> None:
        """Ends the wandb run; waits at most ten seconds for it."""
        self._queue.put(None)
        self._begin()
        self._thread.join(WANDB_PATIENCE)
        if self._thread.is_alive():
            self.failed = True
            log.warning(
                "wandb did not finish within %d s and was switched off; its files stay in the run folder",
                WANDB_PATIENCE,
            )


def load_user_settings() -> Exception | None:
    """Lets wandb read its settings now, from the user's folder and the environment alone; returns what went wrong.

    It would also read `wandb/settings` of the working folder, where a downloaded data set could name another server,
    which would get the key. It reads its settings once in each process.
    """
    try:
        from wandb.sdk import wandb_setup

        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            assert wandb_setup.singleton().settings is not None
    except Exception as error:
        return error
    return None


def wandb_mode() -> str:
    """`online` if a key is there, else `offline`; `WANDB_MODE` decides where it is set, then wandb's settings files."""
    if mode := os.environ.get("WANDB_MODE") or mode_of_files():
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    given = os.environ.get("WANDB_BASE_URL")
    hosts = [urlsplit(given).hostname or ""] if given else WANDB_HOSTS
    try:
        return "online" if any(map(netrc.netrc().authenticators, hosts)) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def mode_of_files() -> str | None:
    """What `wandb disabled`, `offline` or `online` wrote, for the user or for this folder; None for nothing.

    The working folder may be a downloaded data set: it can keep wandb from sending, and nothing else.
    """
    user = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config/wandb")
    here = _mode_in(os.path.join(os.environ.get("WANDB_DIR") or "", "wandb"))
    return here if here in OFF else _mode_in(user)


def _mode_in(folder: str) -> str | None:
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(os.path.join(folder, "settings"), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return None
    return settings.get("default", "mode", fallback=None)
