"""What a step of a training run costs beyond the same step in a bare loop: `vit_nano`, with and without our callbacks.

python benchmarks/loop.py [--blocks 7] [--steps 400] [--batch 2] [--profile] [--json FILE]

The bare loop normalises, computes the loss, goes backward, clips, and moves optimizer and schedule. All three repeat
one batch from memory, so that no loader is measured. What is beyond the step does not depend on the images in it, so
these are few. Times are of the processor, one thread, blocks in turn; a block is a run of its own, without its first
steps.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import torch
from lightning import Callback

import mimsuite

WARM = 100  # steps of a block that are not timed


class Clock(Callback):
    """Processor time of the steps of a run after its first ones; with `profiler`, also where it went."""

    def __init__(self, last: int, profiler: cProfile.Profile | None = None) -> None:
        self.last, self.seconds, self.profiler = last, 0.0, profiler

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == WARM:
            if self.profiler is not None:
                self.profiler.enable()
            self.seconds = -time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.last:
            self.seconds = (self.seconds + time.process_time()) / (self.last - WARM)
            if self.profiler is not None:
                self.profiler.disable()


class Repeated:
    """A loader that gives one batch again and again, and lets nobody wait."""

    waited = 0.0

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            yield self.batch


def run_seconds(values: dict[str, Any], batch: Any, profiler: cProfile.Profile | None = None) -> float:
    """Of a step of `mimsuite.pretrain`, with all that it does."""
    clock, loader = Clock(values["steps"] - 1, profiler), Repeated(batch, values["steps"])
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("mimsuite.data.datamodule.ImageData.train_dataloader", return_value=loader),
    ):
        mimsuite.pretrain(out=f"{folder}/run", logger="null", callbacks=[clock], **values)
    return clock.seconds


def trainer_seconds(values: dict[str, Any], batch: Any) -> float:
    """Of a step of the same module in a Trainer that has neither our callbacks nor loggers."""
    module, _, arguments = mimsuite.build("pretrain", **values)
    clock = Clock(values["steps"] - 1)
    arguments |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    arguments |= {"enable_model_summary": False, "callbacks": [clock], "num_sanity_val_steps": 0}
    module.log_every = None
    trainer = lightning.Trainer(**arguments | {"limit_val_batches": 0})
    trainer.fit(module, train_dataloaders=Repeated(batch, values["steps"]))  # type: ignore[arg-type]
    return clock.seconds


def bare_seconds(values: dict[str, Any], batch: Any) -> float:
    """Of a step of a bare loop."""
    module, _, _ = mimsuite.build("pretrain", **values)
    made = module.train().configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    parameters = list(module.model.parameters())
    for step in range(values["steps"]):
        if step == WARM:
            began = time.process_time()
        optimizer.zero_grad()
        loss = module.model.masked_loss(module.normalize(batch.images), batch.mask, batch.hidden, module.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, module.clip)
        optimizer.step()
        schedule.step()
    return (time.process_time() - began) / (values["steps"] - WARM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400, help="of a block")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="also print where a run's steps spend their time")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps = given.steps + WARM
    values: dict[str, Any] = {"model": "vit_nano", "batch": given.batch, "steps": steps, "workers": 0}
    values |= {"val_every": steps, "save_every": steps, "loader.val_limit": 2, "precision": "32-true"}
    _, data, _ = mimsuite.build("pretrain", **values)
    batch = next(iter(data.train_dataloader()))
    calls: dict[str, Callable[[], float]] = {
        "bare loop": lambda: bare_seconds(values, batch),
        "Trainer alone": lambda: trainer_seconds(values, batch),
        "run": lambda: run_seconds(values, batch),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(given.blocks):
        for name in list(calls)[:: -1 if block % 2 else 1]:
            times[name].append(1e3 * calls[name]())
    over = {
        f"{name} beyond the bare loop": [a - b for a, b in zip(times[name], times["bare loop"], strict=True)]
        for name in ("Trainer alone", "run")
    }
    for name, found in (times | over).items():
        print(f"{name:36} median {statistics.median(found):6.3f} ms a step  ({min(found):.3f} to {max(found):.3f})")
    if given.profile:
        profiler = cProfile.Profile()
        run_seconds(values, batch, profiler)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    if given.json:
        rows = [
            {"what": name, "ms": statistics.median(found), "lowest": min(found), "highest": max(found)}
            for name, found in (times | over).items()
        ]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
