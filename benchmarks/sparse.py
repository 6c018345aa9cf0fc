"""Time of a training step with sparse maps beside the mean-filled one, interleaved in one process.

python benchmarks/sparse.py [--rounds N] [--batch N] [--side N] [--out FILE.json]

A step is forward, loss, backward and AdamW of bit_nano and cvt_nano with 60 % of the cells hidden: SimMIM's head on
mean-filled and on sparse maps, then the U-Net on both. Every second round runs in reverse order. Times are of the
processor, on one thread; ratios are medians over the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from surroundings import surroundings

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.models import AutoModelForMaskedImageModeling
from mimsuite.settings.models import model_node

RATIO, SEED = 0.6, 0
UNET = {"bit_nano": 64, "cvt_nano": 32}  # as `head.hidden_size=auto` makes them


def step_of(name: str, changes: dict[str, object], batch: int, side: int) -> Callable[[], None]:
    """A training step of a model on random pixels, under masks of the last map's cells."""
    torch.manual_seed(SEED)
    config = instantiate(model_node(conf_dir() / "model" / f"{name}.yaml")).changed(**changes)
    model = AutoModelForMaskedImageModeling.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels, cells = torch.randn(batch, 3, side, side), (side // config.stride[0]) ** 2
    mask = torch.rand(batch, cells).argsort(1).view(batch, side // config.stride[0], -1) < int(RATIO * cells)

    def run() -> None:
        optimizer.zero_grad()
        model.masked_loss(pixels, mask, int(RATIO * cells)).backward()
        optimizer.step()

    return run


def measure(name: str, rounds: int, batch: int, side: int) -> dict[str, object]:
    """Median milliseconds of every variant, and its ratio to the mean-filled one with the same head."""
    unet = {"decoder_hidden_size": UNET[name]}
    steps = {
        "mean-filled": step_of(name, {}, batch, side),
        "sparse": step_of(name, {"mask_mode": "sparse"}, batch, side),
        "mean-filled, U-Net": step_of(name, unet, batch, side),
        "sparse, U-Net": step_of(name, unet | {"mask_mode": "sparse"}, batch, side),
    }
    times: dict[str, list[float]] = {who: [] for who in steps}
    for run in steps.values():
        run()
    for number in range(rounds):
        for who in list(steps)[:: -1 if number % 2 else 1]:
            began = time.process_time()
            steps[who]()
            times[who].append(time.process_time() - began)
    found: dict[str, object] = {}
    for who, values in times.items():
        base = times["mean-filled, U-Net" if "U-Net" in who else "mean-filled"]
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{name} {who:20} {1e3 * statistics.median(values):7.1f} ms  x{middle:.3f} ({low:.3f} to {high:.3f})")
        found[who] = {"ms": 1e3 * statistics.median(values), "ratio": [middle, low, high]}
    return found


def main() -> None:
    """Measures both families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = surroundings(SEED, given.batch)
    print(facts)
    cases = {name: measure(name, given.rounds, given.batch, given.side) for name in UNET}
    if given.out is not None:
        given.out.write_text(json.dumps(facts | {"side": given.side, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
