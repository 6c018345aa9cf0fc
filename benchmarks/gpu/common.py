"""What the parts share: where they write, how long they may take, what machine this is."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from mimsuite.data.storage import write_json
from mimsuite.runs.environment import describe_environment

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Place:
    """Where a part writes and how long it may take.

    Attributes:
        out: for results.
        work: for runs and data; a later call goes on with what it finds there.
        dry: a few steps on the CPU.
        again: do what is done already once more.
        deadline: when to stop, by `time.monotonic`.
    """

    out: Path
    work: Path
    dry: bool = False
    again: bool = False
    deadline: float = float("inf")

    @property
    def device(self) -> str:
        """torch's name of what is measured."""
        return "cpu" if self.dry else "cuda"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def read_place(parser: argparse.ArgumentParser) -> tuple[Place, argparse.Namespace]:
    """Reads the options that all parts have, and those of `parser`."""
    parser.add_argument("--dry", action="store_true", help="a few steps on the CPU")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument("--minutes", type=float, default=7.0, help="then stop; the same command goes on (default: 7)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", HERE / "out")))
    parser.add_argument("--work", type=Path, default=HERE / "work")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --dry tries the part on the CPU")
    for folder in (given.out, given.work):
        folder.mkdir(parents=True, exist_ok=True)
    margin = 20.0  # seconds to commit a checkpoint and to write the results
    deadline = time.monotonic() + 60 * given.minutes - margin
    return Place(given.out.resolve(), given.work.resolve(), given.dry, given.again, deadline), given


def machine(place: Place) -> dict[str, Any]:
    """The device, its memory, and the versions of what computes."""
    found = {"device": "CPU", **describe_environment()}
    found["libraries"] |= {"transformers": metadata.version("transformers")}
    if not place.dry:
        facts = torch.cuda.get_device_properties(0)
        found |= {"device": facts.name, "memory_gib": round(facts.total_memory / 2**30), "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()
    return found


@dataclass
class Results:
    """What a part has found so far: PART.json in the folder of results, and a copy in the folder of work to go on from.

    Attributes:
        found: one entry for each thing measured.
    """

    part: str
    place: Place
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Takes over what an earlier call has found."""
        if self._kept.is_file() and not self.place.again:
            self.found = json.loads(self._kept.read_text())["found"]

    @property
    def _kept(self) -> Path:
        return self.place.work / f"{self.part}{'-dry' if self.place.dry else ''}.json"

    def put(self, name: str, value: Any) -> None:
        """Keeps one entry, on disk too."""
        self.found[name] = value
        self.write("unfinished")

    def write(self, status: str, **more: Any) -> None:
        """Writes the file: `status` is done, failed or unfinished (the same command goes on)."""
        content = {"part": self.part, "status": status, "dry": self.place.dry, "machine": machine(self.place)}
        for file in (self._kept, self.place.out / f"{self.part}.json"):
            write_json(file, content | more | {"found": self.found})


class StopWhen(Callback):
    """Asks a run to stop, as a scheduler does, at the first step of which `condition(trainer)` is true."""

    def __init__(self, condition: Callable[[Any], bool]) -> None:
        self.condition, self.asked = condition, False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.asked and self.condition(trainer):
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)


def free_memory() -> None:
    """Gives the device's memory back."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
