"""Runs a training program as it is and writes down the moment and the loss of each optimizer step.

python benchmarks/peers/clock.py STEPS.txt MODULE|SCRIPT.py [ARGUMENT ...]

Each line of STEPS.txt is the system-wide monotonic clock in seconds and the loss that was differentiated last. The
program is not changed: a hook that PyTorch offers for every optimizer, and a wrapper around `Tensor.backward`. Where
stable-pretraining is installed, it adds ten callbacks to every Trainer of Lightning; only its own program keeps them.
"""

from __future__ import annotations

import importlib.metadata
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

FACTORIES = "lightning.pytorch.callbacks_factory"


def hide_callbacks() -> None:
    """Lightning finds no callbacks of other packages."""
    found = importlib.metadata.entry_points

    def without(**keys: Any) -> Any:
        return importlib.metadata.EntryPoints() if keys.get("group") == FACTORIES else found(**keys)

    importlib.metadata.entry_points = without


def main() -> None:
    file, program, *arguments = sys.argv[1:]
    if "stable_pretraining" not in program:
        hide_callbacks()
    lines = Path(file).open("w", buffering=1)  # noqa: SIM115 (open as long as the program runs)
    last: dict[str, torch.Tensor] = {}
    backward = torch.Tensor.backward

    def remember(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        last["loss"] = loss.detach()
        backward(loss, *args, **kwargs)

    def write_step(*_: object) -> None:
        lines.write(f"{time.monotonic()} {float(last['loss'])}\n")

    torch.Tensor.backward = remember  # type: ignore[method-assign,assignment]
    register_optimizer_step_post_hook(write_step)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    else:
        del sys.path[0]
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
