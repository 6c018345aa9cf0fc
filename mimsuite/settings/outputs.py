"""May this be written? The checks of every `out=` and of other files that tasks write; nothing stays changed here."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mimsuite.data.stores.names import scheme_of
from mimsuite.errors import FULL, InputError

RUN_NAMES = (
    "config.yaml",
    "overrides.txt",
    "environment.json",
    "data.json",
    "metrics.csv",
    "metrics.jsonl",
    "summary.json",
    "train.log",
    "report.html",
    "bad_samples.jsonl",
    "skipped_steps.jsonl",
    "checkpoints",
    "weights",
    "pictures",
    "wandb",
    "tensorboard",
    "mlflow",
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
    "weights-teacher",
    "weights-best",
    ".lock",
)

LEFT_BY_A_KILL = {".lock", *(f".{name}.part" for name in RUN_NAMES)}
"""The lock of a dead process, and what a kill may leave of a file that was being replaced: no content."""

PROBE = 4096  # bytes: file systems keep a few more inodes than blocks

BEFORE_CONFIG = {"train.log"}  # written before `config.yaml`, which makes a folder a run's


def check_run_folder(out: str | Path, *, resume: bool | None = None, overwrite: bool = False) -> bool:
    """Checks whether `out` may be written; returns whether it holds something already.

    Args:
        out: the folder.
        resume: whether the run goes on with what is there; None: the task cannot.
        overwrite: whether it replaces what is there.

    Raises:
        InputError: `out` holds something and neither `resume` nor `overwrite` is set; it is a file; it holds names
            that no run writes, unless they lie beside a run that goes on (files of a user's callback, or notes); there
            is nothing to resume.
    """
    if resume and overwrite:
        raise InputError("resume=true and overwrite=true contradict each other; give one")
    held = [name for name in held_names(out) if name not in LEFT_BY_A_KILL]
    if held and not (resume or overwrite):
        go_on = "" if resume is None else " resume=true to go on,"
        raise InputError(
            f"out={out} is not empty ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}); "
            f"use another out=,{go_on} or overwrite=true to replace the run"
        )
    strange = [name for name in held if name not in RUN_NAMES]
    if strange and not (resume and holds_run(out)):
        verb = "overwrite=true replaces" if overwrite else "resume=true goes on with"
        raise InputError(f"out={out} holds {strange[0]!r}, which no run writes; {verb} runs only; use another out=")
    check_writable("out", out)
    if resume and not set(held) - BEFORE_CONFIG:
        return False  # killed before its config was written: nothing to go on with, nothing to lose
    if resume and held and not holds_run(out):
        raise InputError(f"out={out} holds no config.yaml, so no run to resume; use overwrite=true or another out=")
    return bool(held)


def holds_run(out: str | Path) -> bool:
    """Whether a run has written its config into `out`."""
    return (Path(out) / "config.yaml").is_file()


def check_folder(out: str | Path, names: Sequence[str], *, overwrite: bool) -> Path:
    """Checks whether a task may write `names` into the folder `out`; returns its path.

    Raises:
        InputError: `out` is a file, holds something and `overwrite` is not set, or holds anything but `names`.
    """
    held = held_names(out)
    if strange := [name for name in held if name not in names]:
        raise InputError(f"out={out} holds {strange[0]!r}; use an absent or empty folder")
    if held and not overwrite:
        raise InputError(f"out={out} is not empty ({', '.join(held)}); use another out=, or overwrite=true")
    check_writable("out", out)
    return Path(out)


def check_file(key: str, value: str | Path, endings: Sequence[str], *, overwrite: bool) -> Path:
    """Checks whether a task may write the file that `key=value` names; returns its path.

    Args:
        key: such as `out` or `csv`.
        value: what the user gave.
        endings: allowed ones, in small letters, the preferred one first.
        overwrite: whether a file that exists is replaced.

    Raises:
        InputError: another ending, a folder, or a file that exists while `overwrite` is not set.
    """
    path = Path(value)
    if path.suffix.lower() not in endings:
        ends = f"does not end in {', '.join(endings)}"
        raise InputError(f"{key}={value} {ends}; use {key}={path.with_suffix(endings[0])}")
    if path.is_dir():
        raise InputError(f"{key}={value} is a folder; name a file in it: {key}={path / f'name{endings[0]}'}")
    if path.exists() and not overwrite:
        raise InputError(f"{key}={value} exists; use another {key}=, or overwrite=true")
    check_writable(key, path)
    return path


def check_outside(out: str | Path, data: str | Sequence[str] | None, key: str = "data") -> None:
    """Refuses an `out` below the data (`key=data`): what a task writes would be read as data.

    Raises:
        InputError: it lies there.
    """
    if data is not None and not isinstance(data, str):
        for address in data:
            check_outside(out, address, key)
        return
    if data is None or scheme_of(data) or not Path(data).expanduser().is_dir():
        return
    inside, place = Path(data).expanduser().resolve(), Path(out).expanduser().resolve()
    if place == inside or inside in place.parents:
        beside = Path(os.path.relpath(inside.parent / place.name))
        raise InputError(
            f"out={out} lies in {key}={data}, so what is written there would be read as data; use an out= beside it "
            f"(out={beside})"
        )


def check_writable(key: str, value: str | Path, need: int = 0) -> None:
    """Finds out, before any work, whether something can be written where `key=value` says, by writing a little there.

    Args:
        key: such as `out`.
        value: a file or a folder, which need not exist.
        need: bytes that will be written.

    Raises:
        InputError: a disk that is full, too small for `need` or read-only, no right to write, a file in the path.
    """
    path = Path(value).absolute()
    folder = next(place for place in (path, *path.parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mimsuite-") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
        missing = path.relative_to(folder).parts
        if len(missing) > 1 and os.path.lexists(folder / missing[0]):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fix = "free some space or use" if error.errno in FULL else "use"
        raise InputError(f"{key}={value} cannot be written: {error.strerror}; {fix} another {key}=") from error
    if free < need:
        raise InputError(
            f"{key}={value} needs {need / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB left; "
            f"free some space or use another {key}="
        )


@contextmanager
def writing(key: str, value: str | Path) -> Iterator[None]:
    """Writes where `key=value` says.

    Raises:
        InputError: the system refuses it.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{key}={value} cannot be written: {reason}; use another {key}=") from error


def check_apart(init: str | None, out: str, key: str = "init") -> None:
    """Refuses an `out` that holds what `key=init` names, if it lies on this disk: overwriting would remove it.

    Raises:
        InputError: it does.
    """
    if not isinstance(init, str) or not os.path.exists(init):
        return
    inside, outside = Path(init).resolve(), Path(out).resolve()
    if outside == inside or outside in inside.parents:
        raise InputError(f"out={out} holds {key}={init}, which it would replace; use another out=")


def held_names(out: str | Path) -> list[str]:
    """What a folder holds, sorted; nothing where there is none.

    Raises:
        InputError: `out` is a file or a dangling link, or cannot be read.
    """
    path = Path(out)
    if scheme_of(str(out)):
        raise InputError(
            f"out={scheme_of(str(out))}://... is not a folder of this machine; use a local out=, and copy it"
        )
    if path.is_symlink() and not path.exists():
        raise InputError(f"out={out} is a dangling link; remove it or use another out=")
    if path.exists() and not path.is_dir():
        raise InputError(f"out={out} is a file; out= names a folder; use another out=")
    try:
        return sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise InputError(f"out={out} cannot be read: {error.strerror}; use another out=") from error
