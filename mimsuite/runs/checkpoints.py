"""Checkpoints that survive: written beside, flushed, hashed, renamed, and only then named in `latest.json`."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from mimsuite.errors import InputError, RunError

log = logging.getLogger("mimsuite")

KEEP = 2
FAILURES = 3


class CommittedCheckpointIO(CheckpointIO):
    """Lightning's place to write checkpoints, made atomic.

    A save writes `NAME.part` in the same folder, flushes it to the disk, hashes it, renames it to `NAME`, flushes the
    folder, and replaces `latest.json` the same way. The two newest checkpoints are kept. A save that fails keeps the
    old ones, removes its rest and warns; three failures in a row stop the run.
    """

    def __init__(self) -> None:
        self._failures = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Commits a checkpoint.

        Raises:
            RunError: the third failure in a row.
        """
        path = Path(path)
        try:
            commit(checkpoint, path)
        except OSError as error:
            self._failures += 1
            path.with_name(f"{path.name}.part").unlink(missing_ok=True)
            log.warning("checkpoint %s was not written: %s; the one before it is kept", path.name, error)
            if self._failures >= FAILURES:
                raise RunError(
                    f"{FAILURES} checkpoints in a row could not be written to {path.parent}: {error}"
                ) from error
        else:
            self._failures = 0
            prune(path.parent, KEEP)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; tensors and plain values only, nothing in it is executed."""
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint file; one that is gone already is no error."""
        Path(path).unlink(missing_ok=True)


def commit(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes one checkpoint durably and points `latest.json` at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getbuffer()
    durable_write(path, content)
    latest = {
        "step": checkpoint["global_step"],
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    durable_write(path.parent / "latest.json", (json.dumps(latest, indent=2) + "\n").encode())


def durable_write(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file so that after a power cut either the old or the new content is there."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints."""
    for old in sorted(folder.glob("step_*.ckpt"))[:-keep]:
        old.unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """The newest committed checkpoint of a run's `checkpoints/`, or None where there is none.

    Where it is damaged, the one before it, with a warning.

    Raises:
        InputError: `latest.json` or the file it names is damaged, and no other checkpoint can be read.
    """
    pointer = folder / "latest.json"
    if not pointer.is_file():
        return None
    damaged = None
    try:
        latest = json.loads(pointer.read_text())
        damaged = path = folder / str(latest["file"])
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == latest["sha256"]:
            return path
        problem = "its sha256 differs from latest.json"
    except (OSError, ValueError, KeyError) as error:
        problem = str(error)
    for older in sorted(set(folder.glob("step_*.ckpt")) - {damaged}, reverse=True):
        try:
            step = load_checkpoint(older)["global_step"]
        except InputError:
            continue
        log.warning("checkpoint %s cannot be used (%s); going on from step %d instead", pointer, problem, step)
        return older
    raise InputError(
        f"checkpoint {pointer} cannot be used: {problem}; restore the file or start again with overwrite=true"
    )


def load_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint with `weights_only=True`.

    Raises:
        InputError: the file is no checkpoint, is damaged, or holds more than tensors and plain values.
    """
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be used
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"checkpoint {path} cannot be read: {first}; use another init= or an older checkpoint"
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise InputError(f"checkpoint {path} is not one of mimsuite's: it has no state_dict; use a run folder")
    return loaded
