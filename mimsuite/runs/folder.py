"""The run folder: what a run writes, who may write it, and how it is repeated.

Layout: `config.yaml overrides.txt environment.json` (all that is needed to repeat the run), `metrics.csv metrics.jsonl
summary.json`, `train.log`, `bad_samples.jsonl`, `skipped_steps.jsonl`, `checkpoints/`, `weights/`, `pictures/`,
`wandb/`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.data.storage import write_json, write_text
from mimsuite.errors import InputError
from mimsuite.runs.processes import leads
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

NAMES = (
    "config.yaml",
    "overrides.txt",
    "environment.json",
    "metrics.csv",
    "metrics.jsonl",
    "summary.json",
    "train.log",
    "bad_samples.jsonl",
    "skipped_steps.jsonl",
    "checkpoints",
    "weights",
    "pictures",
    "wandb",
    "probe.csv",
    "probe.json",
    "probe.png",
    "confusion.csv",
    "confusion.png",
    "head.safetensors",
    "head.json",
    "per_class.csv",
    "mistakes.png",
    "predictions.csv",
    "sizes.csv",
    "weights-last",
    ".lock",
)

# What a kill may leave of a file that was being replaced, and the lock of a dead process: no content.
_RESTS = {".lock", *(f".{name}.part" for name in NAMES)}
# Written before `config.yaml`, which makes a folder a run's.
_BEFORE_CONFIG = {"train.log"}

_SECRET = re.compile(  # `api_key=...`, `hub_token: ...`, not `cls_token: ...`
    r"(?im)^((?:.*[\s.+])?(?:(?:\w+_)?(?:api_?key|access_key|secret|secret_key|password|passwd)|(?!cls_|mask_)\w*token)"
    r"\s*[=:][ \t]*)(?!null$)\S.*$"
)

_claimed: set[Path] = set()  # folders that runs of this process hold

LIBRARIES = (
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "webdataset",
    "wandb",
    "numpy",
    "Pillow",
    "safetensors",
    "simplejpeg",
)


def check_out(out: str | Path, *, resume: bool | None = None, overwrite: bool = False) -> bool:
    """Says whether `out` may be written, and whether it holds something already; changes nothing.

    Args:
        out: the folder.
        resume: whether the run goes on with what is there; None: the task cannot.
        overwrite: whether it replaces what is there.

    Raises:
        InputError: `out` holds something and neither `resume` nor `overwrite` is set; it is a file; it holds names
            that no run writes; there is nothing to resume.
    """
    path = Path(out)
    if resume and overwrite:
        raise InputError("resume=true and overwrite=true contradict each other; give one")
    if path.is_symlink() and not path.exists():
        raise InputError(f"out={out} is a dangling link; remove it or use another out=")
    if path.exists() and not path.is_dir():
        raise InputError(f"out={out} is a file; out= names a folder; use another out=")
    try:
        held = sorted(p.name for p in path.iterdir() if p.name not in _RESTS) if path.exists() else []
    except OSError as error:
        raise InputError(f"out={out} cannot be read: {error.strerror}; use another out=") from error
    if held and not (resume or overwrite):
        go_on = "" if resume is None else " resume=true to go on,"
        raise InputError(
            f"out={out} is not empty ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}); "
            f"use another out=,{go_on} or overwrite=true to replace the run"
        )
    if strange := [name for name in held if name not in NAMES]:
        verb = "overwrite=true replaces" if overwrite else "resume=true goes on with"
        raise InputError(f"out={out} holds {strange[0]!r}, which no run writes; {verb} runs only; use another out=")
    if resume and not set(held) - _BEFORE_CONFIG:
        return False  # killed before it had written down what it was: nothing to go on with, nothing to lose
    if resume and held and not holds_run(out):
        raise InputError(f"out={out} holds no config.yaml, so no run to resume; use overwrite=true or another out=")
    return bool(held)


def holds_run(out: str | Path) -> bool:
    """Whether a run has written down in `out` what it is."""
    return (Path(out) / "config.yaml").is_file()


def check_outputs(out: str | Path, names: Sequence[str], *, overwrite: bool) -> Path:
    """Says whether a task may write `names` into the folder `out`; changes nothing.

    Raises:
        InputError: `out` is a file, holds something and `overwrite` is not set, or holds anything but `names`.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise InputError(f"out={out} is a file; out= names a folder; use another out=")
    held = sorted(p.name for p in path.iterdir()) if path.exists() else []
    if strange := [name for name in held if name not in names]:
        raise InputError(f"out={out} holds {strange[0]!r}; use an absent or empty folder")
    if held and not overwrite:
        raise InputError(f"out={out} is not empty ({', '.join(held)}); use another out=, or overwrite=true")
    return path


def check_picture(out: str | Path, *, overwrite: bool) -> Path:
    """Says whether a task may write the picture `out`; changes nothing.

    Raises:
        InputError: it exists and `overwrite` is not set, is a folder, or does not end in .png.
    """
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise InputError(f"out={out} is no .png; the picture is written as PNG: use out={path.with_suffix('.png')}")
    if path.is_dir():
        raise InputError(f"out={out} is a folder; name a file in it: out={path / 'sheet.png'}")
    if path.exists() and not overwrite:
        raise InputError(f"out={out} exists; use another out=, or overwrite=true")
    return path


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
            InputError: as `check_out`; another process runs in the folder; it cannot be written.
        """
        self.path, self.leads = Path(out), leads
        self._lock: IO[str] | None = None
        if not leads:
            self.resumed = resume is True and holds_run(out)
            return
        held = check_out(out, resume=resume, overwrite=overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise InputError(f"out={out} cannot be written: {error.strerror}; use another out=") from error
        self.resumed = resume is True and held
        if overwrite:
            self._clear()

    def _take_lock(self) -> IO[str]:
        busy = InputError(f"out={self.path} is in use by another run; use another out= or wait for it")
        if self.path.resolve() in _claimed:  # the lock itself is of the whole process
            raise busy
        handle = (self.path / ".lock").open("a")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited: loader workers may outlive a kill
        except (BlockingIOError, PermissionError):
            handle.close()
            raise busy from None
        _claimed.add(self.path.resolve())
        return handle

    def _clear(self) -> None:
        for name in (*NAMES, *sorted(_RESTS - {".lock"})):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif name != ".lock":
                path.unlink(missing_ok=True)

    @property
    def pictures(self) -> Path:
        """Where reconstructions and curves go."""
        return self.path / "pictures"

    def describe(self, cfg: DictConfig, overrides: Sequence[str], devices: dict[str, Any]) -> None:
        """Writes `config.yaml` (resolved), `overrides.txt` and `environment.json`.

        Args:
            cfg: the composed config of the run.
            overrides: the command line's `key=value` arguments; a resumed run's are added to the first ones.
            devices: what the run trains on, for `environment.json`.
        """
        if not self.leads:
            return
        write_text(self.path / "config.yaml", redact(OmegaConf.to_yaml(cfg, resolve=True)))
        file = self.path / "overrides.txt"
        lines = file.read_text().splitlines() if self.resumed else []
        lines += [line for line in overrides if line not in (*lines, "resume=true")]
        write_text(file, redact("".join(f"{line}\n" for line in lines)))
        write_json(self.path / "environment.json", environment() | devices)

    def log_to_file(self) -> None:
        """Appends every log line to `train.log`, with the time."""
        if not self.leads:
            return
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
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
            write_json(self.path / "summary.json", summary)
        return summary

    def close(self) -> None:
        """Gives the lock back and stops writing `train.log`."""
        for handler in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
            if Path(handler.baseFilename).parent == self.path.resolve():
                handler.close()
                log.removeHandler(handler)
        if self._lock is not None:
            self._lock.close()
            _claimed.discard(self.path.resolve())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()




def environment() -> dict[str, Any]:
    """Versions and machine facts that a repetition needs; no variables of the environment, so no secrets."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "mimsuite": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": versions,
    }


def redact(text: str) -> str:
    """Config text without secrets: passwords in addresses, and the values of keys that are named like secrets."""
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1<secret>@", text)
    return _SECRET.sub(r"\1<secret>", text)






class Console(logging.Handler):
    """Prints log lines as plain text on whatever `sys.stdout` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        line = self.format(record).encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
        print(line, flush=True)


def speak() -> None:
    """Sends the package's log lines to the terminal; calling it again changes nothing.

    Of a run's several processes only the first speaks.
    """
    if not leads():
        log.disabled = True
        return
    if not any(isinstance(handler, Console) for handler in log.handlers):
        log.addHandler(Console())
        log.setLevel(logging.INFO)
