"""Checkpoints that survive: written beside, flushed, hashed, renamed, and only then named in `latest.json`."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from mimsuite.data.storage import read_object, write_bytes, write_json
from mimsuite.errors import RunError, describe_fault
from mimsuite.weights.checkpoints import load_checkpoint

log = logging.getLogger("mimsuite")

KEEP = 2
FAILURES = 3


class CommittedCheckpointIO(CheckpointIO):
    """Lightning's place to write checkpoints, made atomic.

    A save replaces the file in one step and flushes it to the disk, then `latest.json` in the same way. The two newest
    checkpoints are kept. A save that fails keeps the old ones, removes its rest and warns; three failures in a row
    stop the run.
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
            log.warning("checkpoint %s was not written: %s; the one before it is kept", path.name, error)
            if self._failures >= FAILURES:
                raise RunError(
                    f"{FAILURES} checkpoints in a row could not be written: {describe_fault(error)}; "
                    f"{goes_on_from(path.parent)}"
                ) from error
        else:
            self._failures = 0
            remove_old(path.parent, KEEP)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; tensors and plain values only, nothing in it is executed."""
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint file; one that is gone already is not an error."""
        Path(path).unlink(missing_ok=True)


def goes_on_from(folder: Path) -> str:
    """What is left of a run that had to stop, as part of a line: the step of the newest checkpoint.

    Args:
        folder: the run's `checkpoints/`.
    """
    try:
        step = int(read_object(folder / "latest.json", "")["step"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return "there is no checkpoint yet"
    return f"the checkpoint of step {step} is whole, and resume=true goes on from it"


def commit(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes one checkpoint durably and points `latest.json` at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getbuffer()
    write_bytes(path, content, durable=True)
    latest = {
        "step": checkpoint["global_step"],
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    write_json(path.parent / "latest.json", latest, durable=True)


def remove_old(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints."""
    for old in sorted(folder.glob("step_*.ckpt"))[:-keep]:
        old.unlink(missing_ok=True)
