"""May this be written? The checks of every `out=` and of other files that tasks write; nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError

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


def check_run_folder(out: str | Path, *, resume: bool | None = None, overwrite: bool = False) -> bool:
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


def check_file(key: str, value: Any, endings: Sequence[str], *, overwrite: bool) -> Path:
    """Checks whether a task may write the file that a key names; changes nothing.

    Args:
        key: the key, for errors.
        value: what the user gave.
        endings: allowed ones; the first is proposed.
        overwrite: whether a file that exists may be replaced.

    Raises:
        InputError: another ending, a folder, or a file that exists and may not be replaced.
    """
    path = Path(str(value))
    if path.suffix.lower() not in endings:
        raise InputError(
            f"{key}={value} does not end in {', '.join(endings)}; use {key}={path.with_suffix(endings[0])}"
        )
    if path.is_dir():
        raise InputError(f"{key}={value} is a folder; name a file in it: {key}={path / f'file{endings[0]}'}")
    if path.exists() and not overwrite:
        raise InputError(f"{key}={value} exists; use another {key}=, or overwrite=true")
    return path
