"""Time of a training step with latent targets beside MAE's, per view, interleaved in one process.

python benchmarks/latent.py [--rounds N] [--batch N] [--out FILE.json]

A step is forward, loss, backward and AdamW of ViT-S/16 at 224 px with 75 % of the patches dropped: MAE with its
decoder of eight blocks (`head=dec8`), with one (`head=dec1`), and with one as small as the predictor; and latent
targets with one and two views, where a step also has a pass of the teacher for each image, and moves the teacher. All
have as many masked images in a batch: with two views they are masks of half as many images. Every second round runs
in reverse order. Times are of the processor, on one thread; ratios are medians over the rounds, with the smallest and
the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.masked.latent import latent_error, take_cells
from mimsuite.masked.samplers import RandomMask
from mimsuite.models import AutoModelForMaskedImageModeling
from mimsuite.models.latent import copy_encoder, latent_pass
from mimsuite.objectives.teacher import Teacher
from mimsuite.settings.models import model_node

RATIO, SEED, SIDE, GRID = 0.75, 0, 224, (14, 14)
PREDICTOR = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
DECODERS = {
    "MAE, dec8": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 16, "intermediate_size": 2048},
    "MAE, dec1": {"hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 2048},
    "MAE, as the predictor": PREDICTOR,
}


def vit_small() -> Any:
    """The config of ViT-S."""
    return instantiate(model_node(conf_dir() / "model" / "vit_small.yaml")).with_image_size((SIDE, SIDE))


def model_of(**changes: Any) -> Any:
    """A ViT-S that drops hidden patches."""
    torch.manual_seed(SEED)
    return AutoModelForMaskedImageModeling.from_config(vit_small().changed(mask_mode="drop", **changes)).train()


def masks(batch: int) -> torch.Tensor:
    """A mask for each image."""
    draw = torch.Generator().manual_seed(SEED)
    return torch.stack([RandomMask(RATIO)(GRID, draw) for _ in range(batch)])


def mae(batch: int, sizes: dict[str, int]) -> Callable[[], None]:
    """A step of MAE on random pixels."""
    model = model_of(mim_target="norm_pixels", **{f"decoder_{key}": value for key, value in sizes.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pixels, mask = torch.randn(batch, 3, SIDE, SIDE), masks(batch)

    def run() -> None:
        optimizer.zero_grad()
        model.masked_loss(pixels, mask, int(mask[0].sum()), "mse").backward()
        optimizer.step()

    return run


def latent(batch: int, views: int) -> Callable[[], None]:
    """A step of latent targets on random pixels, the mean of the last half of the teacher's blocks."""
    config = vit_small()
    about = {"kind": "transformer", "features": config.num_features, "layers": config.latent_blocks, "combine": "mean"}
    model = model_of(mim_predictor={**PREDICTOR, **about, "pixels": False})
    teacher = Teacher(copy_encoder(model), config.latent_blocks, "mean")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    pixels, mask, no = torch.randn(batch // views, 3, SIDE, SIDE), masks(batch), torch.tensor(False)

    def run() -> None:
        optimizer.zero_grad()
        made = latent_pass(model, pixels.repeat(views, 1, 1, 1), mask, int(mask[0].sum()))
        target = take_cells(teacher(pixels, pixels, GRID), made.predicted.where)
        latent_error(made.predicted.features, target, "smooth_l1", 2.0).backward()
        optimizer.step()
        teacher.update(model.encoder, 0.996, no)

    return run


def measure(rounds: int, batch: int) -> dict[str, object]:
    """Median milliseconds for a view of every variant, and how many times MAE's step the latent ones are."""
    steps = {name: mae(batch, sizes) for name, sizes in DECODERS.items()}
    steps |= {f"latent, views={views}": latent(batch, views) for views in (1, 2)}
    times: dict[str, list[float]] = {who: [] for who in steps}
    for run in steps.values():
        run()
    for number in range(rounds):
        for who in list(steps)[:: -1 if number % 2 else 1]:
            began = time.process_time()
            steps[who]()
            times[who].append((time.process_time() - began) / batch)
    found: dict[str, object] = {}
    for who, values in times.items():
        facts: dict[str, object] = {"ms": 1e3 * statistics.median(values)}
        print(f"{who:24} {facts['ms']:7.1f} ms a view")
        for base in DECODERS if who.startswith("latent") else ():
            ratios = [a / b for a, b in zip(values, times[base], strict=True)]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{'':24} x{middle:.3f} ({low:.3f} to {high:.3f}) of {base}")
            facts[base] = [middle, low, high]
        found[who] = facts
    return found


def main() -> None:
    """Measures all variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = surroundings(SEED, given.batch)
    print(facts)
    found = measure(given.rounds, given.batch)
    if given.out is not None:
        given.out.write_text(json.dumps(facts | {"side": SIDE, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
