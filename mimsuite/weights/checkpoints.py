"""Committed checkpoints of a run, read: the newest that is whole. Written they are by `mimsuite.runs.checkpoints`."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError, cause_of
from mimsuite.weights.containers.torch_file import load_torch

log = logging.getLogger("mimsuite")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest committed checkpoint of a run's `checkpoints/`, or None where there is none.

    Where it is damaged, or `latest.json` is, the newest that can be read, with a warning.

    Raises:
        InputError: `latest.json` or the file it names is damaged, and no other checkpoint can be read.
    """
    pointer = folder / "latest.json"
    files = set(folder.glob("step_*.ckpt"))
    if not pointer.is_file() and not files:
        return None
    named, damaged = pointer, None
    try:
        latest = json.loads(pointer.read_text())
        named = damaged = path = folder / str(latest["file"])
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == latest["sha256"]:
            return path
        problem = "its sha256 differs from latest.json"
    except Exception as error:  # whatever is wrong with it: an older one is looked for
        problem = cause_of(error)
    for older in sorted(files - {damaged}, reverse=True):
        try:
            step = load_checkpoint(older)["global_step"]
        except (InputError, KeyError):
            continue
        log.warning("%s cannot be used (%s); going on from step %d instead", named, problem, step)
        return older
    raise InputError(
        f"checkpoint {named} cannot be used: {problem}; restore the file or start again with overwrite=true"
    )


def load_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint with `weights_only=True`.

    Raises:
        InputError: the file is not a checkpoint, is damaged, or holds more than tensors and plain values.
    """
    try:
        loaded: dict[str, Any] = load_torch(path, map_location or "cpu")
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be used
        raise InputError(
            f"checkpoint {path} cannot be read: {cause_of(error)}; use another init= or an older checkpoint"
        ) from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise InputError(f"checkpoint {path} is not one of mimsuite's: it has no state_dict; use a run folder")
    return loaded
