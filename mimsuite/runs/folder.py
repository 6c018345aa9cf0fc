"""The run folder: what a run writes, who may write it, and how it is repeated.

Layout: `config.yaml overrides.txt environment.json data.json` (all that is needed to repeat the run), `metrics.csv
metrics.jsonl summary.json`, `train.log`, `bad_samples.jsonl`, `skipped_steps.jsonl`, `checkpoints/`, `weights/`,
`pictures/`, `report.html`, those of loggers. What may be written where is decided by `mimsuite.settings.outputs`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import shutil
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from mimsuite.callbacks.stop import EXIT_CODES
from mimsuite.data.fingerprint import DATA, Fingerprint
from mimsuite.data.storage import OptionalWrites, read_object, write_json, write_text
from mimsuite.errors import InputError
from mimsuite.runs.environment import describe_environment
from mimsuite.runs.secrets import redact
from mimsuite.settings.outputs import LEFT_BY_A_KILL, RUN_NAMES, check_run_folder, holds_run, writing
from mimsuite.settings.resume import first_overrides, joined_overrides
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

PICTURES = "pictures"
SUMMARY, NO_SUMMARY = "summary.json", "remove it, and repeat the command to have it written again"

_claimed: set[Path] = set()  # folders that runs of this process hold
_looking = threading.Lock()  # closing a lock's file, even one that was only looked at, would give back its lock

# C's `struct flock`: here its type and whence, start, length, process; of macOS in another order.
_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"
_TYPE = 3 if sys.platform == "darwin" else 0


@contextlib.contextmanager
def held_lines() -> Iterator[list[logging.LogRecord]]:
    """Collects the log lines of a block, for the `train.log` of a folder that is not claimed yet."""
    handler = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL)
    log.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        log.removeHandler(handler)


class RunFolder:
    """One run's folder, held by a lock while the run lives.

    Of a run's several processes one claims the folder and writes; for the others every method that writes does
    nothing.

    Attributes:
        path: the folder.
        leads: whether this process is the one that writes.
        resumed: whether the folder already held a run that this one goes on with.
    """

    def __init__(
        self, out: str | Path, *, resume: bool | None = None, overwrite: bool = False, leads: bool = True
    ) -> None:
        """Claims the folder; with `overwrite`, removes what an earlier run wrote there.

        Raises:
            InputError: as `check_run_folder`; another process runs in the folder; it cannot be written.
        """
        self.path, self.leads = Path(out), leads
        self._lock: IO[str] | None = None
        if not leads:
            self.resumed = resume is True and holds_run(out)
            return
        held = check_run_folder(out, resume=resume, overwrite=overwrite)
        with writing("out", out):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        self.resumed = resume is True and held
        if overwrite:
            self._clear()

    def _take_lock(self) -> IO[str]:
        busy = InputError(f"out={self.path} is in use by another run; use another out= or wait for it")
        if self.path.resolve() in _claimed:  # the lock itself is of the whole process
            raise busy
        with _looking:
            handle = (self.path / ".lock").open("a")
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited: loader workers may outlive a kill
            except (BlockingIOError, PermissionError):
                handle.close()
                raise busy from None
            _claimed.add(self.path.resolve())
            return handle

    def _clear(self) -> None:
        for name in (*RUN_NAMES, *sorted(LEFT_BY_A_KILL - {".lock"})):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif name != ".lock":
                path.unlink(missing_ok=True)

    @property
    def pictures(self) -> Path:
        """Where reconstructions and curves go."""
        return self.path / PICTURES

    def describe(self, config: Mapping[str, Any], overrides: Sequence[str], devices: dict[str, Any]) -> None:
        """Writes `config.yaml` (resolved), `overrides.txt` and `environment.json`.

        Args:
            config: the config of the run, plain values.
            overrides: the command line's `key=value` arguments; a resumed run's follow the first ones.
            devices: what the run trains on, for `environment.json`.
        """
        if not self.leads:
            return
        write_text(self.path / "config.yaml", redact(OmegaConf.to_yaml(OmegaConf.create(dict(config)))))
        file = self.path / "overrides.txt"
        lines = joined_overrides(first_overrides(self.path) if self.resumed else [], overrides)
        write_text(file, redact("".join(f"{line}\n" for line in lines)))
        write_json(self.path / "environment.json", describe_environment() | devices)

    def describe_data(self, about: Fingerprint) -> None:
        """Writes `data.json`, by which a run that goes on knows its data again."""
        if self.leads:
            write_json(self.path / DATA, dict(about))

    def log_to_file(self, earlier: Sequence[logging.LogRecord] = ()) -> None:
        """Appends every log line to `train.log`, with the time.

        Args:
            earlier: lines from before the folder was claimed.
        """
        if not self.leads:
            return
        handler = RunLog(self.path.resolve() / "train.log")
        for record in earlier:
            handler.handle(record)
        log.addHandler(handler)

    def summary(self, task: str, status: str, steps: int, metrics: dict[str, float], **more: Any) -> dict[str, Any]:
        """Writes and returns `summary.json`: task, status (`done`, `interrupted`), steps, last metric values."""
        summary = {
            "task": task,
            "status": status,
            "steps": steps,
            "metrics": metrics,
            "mimsuite": __version__,
            **more,
        }
        if self.leads:
            write_json(self.path / SUMMARY, summary)
        return summary

    def close(self) -> None:
        """Gives the lock back and stops writing `train.log`."""
        for handler in [h for h in log.handlers if isinstance(h, RunLog)]:
            if handler.file.parent == self.path.resolve():
                log.removeHandler(handler)
        if self._lock is not None:
            self._lock.close()
            _claimed.discard(self.path.resolve())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def is_held(folder: Path) -> bool:
    """Whether a run holds a folder now, of this process or of another one, which may be on another machine.

    The lock is asked for and never taken, so that no run that starts at this moment finds its folder in use. A killed
    process holds nothing.

    Raises:
        OSError: the lock cannot be read.
    """
    with _looking:
        if folder.resolve() in _claimed:
            return True
        try:
            handle = os.open(folder / ".lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            asked = [0] * 5
            asked[_TYPE] = fcntl.F_RDLCK
            answer = fcntl.fcntl(handle, fcntl.F_GETLK, struct.pack(_FLOCK, *asked))
        finally:
            os.close(handle)
    return bool(struct.unpack(_FLOCK, answer)[_TYPE] != fcntl.F_UNLCK)


class RunLog(logging.Handler):
    """Appends lines to a log file, each at once; what the disk refuses is reported on the other ways, once.

    Attributes:
        file: where it writes.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self._writes = file, OptionalWrites(file.name)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Appends one line."""
        with (
            self._writes.attempt(),
            self.file.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(self.format(record) + "\n")


def summary_after(out: str | Path, code: int) -> dict[str, Any]:
    """What processes that were started for a run have left when they ended with an exit code, and that code.

    A run that failed wrote no summary: one that lies there is of an earlier start.
    """
    summary = read_summary(out)
    stopped = summary.get("status") == "interrupted" and code in EXIT_CODES.values()
    return (summary if code == 0 or stopped else {}) | {"exit_code": code}


def read_summary(out: str | Path) -> dict[str, Any]:
    """What the run's first process wrote, or nothing where it did not get so far."""
    file = Path(out) / SUMMARY
    return read_object(file, NO_SUMMARY) if file.is_file() else {}
