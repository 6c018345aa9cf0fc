"""How fast is a training step, and a training run, beside what a user would write without us?

python benchmarks/gpu/speed.py [CASE ...] [--dry] [--again]

Cases: see `CASES`. Blocks of steps are timed in turn, each variant in every round; printed are medians, and of ratios
the median with the smallest and the largest. A step is forward, loss, backward and fused AdamW under autocast. Before a
time counts, the first 20 losses of all variants, from the same weights on the same batch, must agree.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import math
import statistics
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import transformers
from attention import attention
from common import Place, Results, free_memory, read_place, synchronize
from lightning import Callback
from PIL import Image
from timing import ROUNDS, Facts, Step, in_turns, ratios, seconds_of, spread

import mimsuite
from mimsuite import models
from mimsuite.models.flops import FlopCounter
from mimsuite.objectives import compiling

STEPS = 10  # of a block
COMPARED = 20  # steps whose losses must agree
# Largest relative difference of two losses. Where one library rounds to bfloat16 and the other does not, AdamW makes of
# it 1.6e-3 in 20 steps (width 384, 8 images, on a CPU); in float32 it is 2e-7 there.
AGREE = 5e-3
PEAK = 989e12  # multiply-adds x 2 a second: dense bfloat16 of H100 and H200 (SXM), by the datasheet
VITS = {  # width, blocks, heads
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "dry": (32, 2, 2),
}


# --- one training step ------------------------------------------------------------------------------------------------


def vit_fields(size: str, image: int, patch: int) -> dict[str, Any]:
    """What configs of both libraries take."""
    width, blocks, heads = VITS[size]
    sizes = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads}
    sizes |= {"intermediate_size": 4 * width, "image_size": image, "patch_size": patch, "encoder_stride": patch}
    return sizes | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def inputs(place: Place, batch: int, image: int, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels, and a mask `(B, h, w)` that hides 60 % of the patches of every image."""
    generator = torch.Generator().manual_seed(0)
    side = image // patch
    order = torch.rand(batch, side * side, generator=generator).argsort(1)
    mask = (order < round(0.6 * side * side)).view(-1, side, side)
    return torch.randn(batch, 3, image, image, generator=generator).to(place.device), mask.to(place.device)


def training_step(place: Place, model: torch.nn.Module, loss_of: Step) -> Step:
    """Forward, backward, AdamW; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(place.device, torch.bfloat16, enabled=not place.dry):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def our_step(place: Place, weights: str, data: tuple[torch.Tensor, torch.Tensor], *, compiled: bool) -> Step:
    """Ours, as a run computes it; compiled as with `trainer.compile=true`."""
    pixels, mask = data
    hidden = int(mask[0].sum())
    model = models.ViTForMaskedImageModeling.from_pretrained(weights).to(place.device).train()
    blocks = compiling.CompiledBlocks(model.blocks(), len(pixels)) if compiled else None

    def loss_of() -> torch.Tensor:
        with contextlib.nullcontext() if blocks is None else blocks.phase(len(pixels)):
            return model.masked_loss(pixels, mask, hidden)

    return training_step(place, model, loss_of)


def their_step(place: Place, weights: str, data: tuple[torch.Tensor, torch.Tensor], *, compiled: bool) -> Step:
    """transformers', with its fused attention; compiled as a whole."""
    pixels, mask = data
    flat = mask.flatten(1)
    model = transformers.ViTForMaskedImageModeling.from_pretrained(weights, attn_implementation="sdpa")
    model = model.to(place.device).train()
    called = torch.compile(model, backend=compiling.BACKEND) if compiled else model

    def loss_of() -> torch.Tensor:
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            return called(pixels, bool_masked_pos=flat).loss

    return training_step(place, model, loss_of)


def forward_flops(fields: dict[str, Any], data: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Of our forward pass, for one image, two per multiply-add; on the meta device."""
    pixels, mask = (tensor[:1].to("meta") for tensor in data)
    with torch.device("meta"):
        model = models.ViTForMaskedImageModeling(models.ViTConfig(**fields, attn_implementation="eager"))
    with FlopCounter() as counter, torch.no_grad():
        model.masked_loss(pixels, mask, int(data[1][0].sum()))
    return int(counter.total)


# --- timing -----------------------------------------------------------------------------------------------------------


def compare_losses(steps: dict[str, Step], count: int) -> Facts:
    """The first losses of every variant.

    Raises:
        AssertionError: they differ from those of the first one.
    """
    losses = {name: [float(step()) for _ in range(count)] for name, step in steps.items()}
    first = next(iter(losses.values()))
    off = {
        name: max(abs(a - b) / abs(b) for a, b in zip(values, first, strict=True)) for name, values in losses.items()
    }
    assert max(off.values()) < AGREE, f"the losses do not agree: {losses}"
    return {"losses": losses, "largest_difference": off}


def profile_of(step: Step, rows: int = 12) -> list[str]:
    """The kernels that take most of a step, with their shares."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        synchronize()
    name = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events) or 1
    return [f"{getattr(event, name) / total:.1%} {event.key[:100]} x{event.count}" for event in events[:rows]]


# --- cases ------------------------------------------------------------------------------------------------------------


def simmim(place: Place, size: str, batch: int, *, theirs: bool) -> Facts:
    """SimMIM of a ViT at 224 px: ours and transformers', eager and compiled."""
    size, batch, image, patch = ("dry", 4, 32, 8) if place.dry else (size, batch, 224, 16)
    fields, data = vit_fields(size, image, patch), inputs(place, batch, image, patch)
    with compiler(place), tempfile.TemporaryDirectory() as weights:
        torch.manual_seed(0)
        models.ViTForMaskedImageModeling(models.ViTConfig(**fields)).save_pretrained(weights)
        makers = {"transformers": their_step} if theirs else {}
        steps = {
            f"{who}{', compiled' * compiled}": make(place, weights, data, compiled=compiled)
            for who, make in (makers | {"ours": our_step}).items()
            for compiled in (False, True)
        }
        agreed = compare_losses(steps, 3 if place.dry else COMPARED)
        rounds, block = (2, 2) if place.dry else (ROUNDS, STEPS)
        times = in_turns({name: functools.partial(seconds_of, step, block) for name, step in steps.items()}, rounds)
        best = min((name for name in steps if name.startswith("ours")), key=lambda name: statistics.median(times[name]))
        profile = profile_of(steps[best])
    per_step = 3 * forward_flops(fields, data) * batch
    facts: Facts = {"batch": batch, "losses": agreed, "profile of": best, "profile": profile, "variants": {}}
    for name, values in times.items():
        median = statistics.median(values)
        facts["variants"][name] = {"seconds": spread(values), "img_per_s": round(batch / median, 1)}
        facts["variants"][name]["mfu"] = round(per_step / median / PEAK, 4)
    facts["ratios"] = {f"{name} / {best}": ratios(times[name], times[best]) for name in times if name != best}
    return facts | {"tflop_per_step": per_step / 1e12, "matmul_tflop_per_s": matmul_speed(place)}


@contextlib.contextmanager
def compiler(place: Place) -> Iterator[None]:
    """What compiled blocks need around them, as in a run; a dry run traces without generating code."""
    backend = mock.patch.object(compiling, "BACKEND", "eager" if place.dry else compiling.BACKEND)
    with backend, compiling.CompiledBlocks([], 0).run():
        yield


def matmul_speed(place: Place) -> float:
    """TFLOP/s of a large product of random bfloat16 matrices: what the card reaches."""
    side = 64 if place.dry else 8192
    one, other = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    times = [seconds_of(lambda: one @ other, 10) for _ in range(5)]
    return round(2 * side**3 / statistics.median(times) / 1e12, 1)


class Clock(Callback):
    """Time of the steps of a run after its first ones."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.seconds = first, last, math.nan

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.first:
            synchronize()
            self.seconds = -time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.last:
            synchronize()
            self.seconds = (self.seconds + time.perf_counter()) / (self.last - self.first)


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


def run_seconds(place: Place, values: dict[str, Any], first: int, batch: Any = None) -> float:
    """Seconds of a step of a training run after its `first` steps; with `batch`, that one is repeated."""
    clock = Clock(first, values["steps"])
    patched: Any = contextlib.nullcontext()
    if batch is not None:
        loader = Repeated(batch, values["steps"])
        patched = mock.patch("mimsuite.data.datamodule.ImageData.train_dataloader", return_value=loader)
    with patched:
        out = place.work / "speed" / "run"
        mimsuite.pretrain(out=out, overwrite=True, logger="null", callbacks=[clock], **values)
    free_memory()
    return clock.seconds


def run_values(place: Place, steps: int, **changes: Any) -> dict[str, Any]:
    """Keys of a run without validation or checkpoints in between."""
    values: dict[str, Any] = {"steps": steps, "val_every": steps, "save_every": steps, "loader.val_limit": 16}
    values |= {"precision": "32-true" if place.dry else "bf16-mixed", **changes}
    return values | ({"workers": 0} if place.dry else {})


def first_batch(values: dict[str, Any]) -> Any:
    """Of a run, on the host: in page-locked memory where there is a GPU."""
    _, data, _ = mimsuite.build("pretrain", **values)
    return next(iter(data.train_dataloader()))


def loop(place: Place) -> Facts:
    """A run of vit_nano, with all its callbacks, against a bare loop over the same step."""
    steps, first, rounds = (6, 2, 2) if place.dry else (400, 100, 7)
    values = run_values(place, steps, model="vit_nano", batch=8 if place.dry else 64, image_size=64)
    batch = first_batch(values | {"workers": 0})
    bare = bare_step(place, values, batch)
    times = in_turns(
        {
            "bare loop": lambda: seconds_of(bare, steps - first),
            "run": lambda: run_seconds(place, values, first, batch),
        },
        rounds,
    )
    over = [1e3 * (a - b) for a, b in zip(times["run"], times["bare loop"], strict=True)]
    return {"milliseconds_more": spread(over)} | {name: spread(values) for name, values in times.items()}


def bare_step(place: Place, values: dict[str, Any], batch: Any) -> Step:
    """The step of a run without a Trainer: normalise, loss, backward, clip, optimizer, schedule."""
    module, _, _ = mimsuite.build("pretrain", **values)
    module = module.to(place.device).train()
    images, mask = batch.images.to(place.device), batch.mask.to(place.device)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    parameters = list(module.model.parameters())

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(place.device, torch.bfloat16, enabled=not place.dry):
            loss = module.model.masked_loss(module.normalize(images), mask, batch.hidden, module.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, module.clip)
        optimizer.step()
        schedule.step()
        return loss.detach()

    return run


def shards(place: Place, device: str) -> Facts:
    """Training of ViT-S from shards of 400 x 350 JPEGs at 224 px against training on one batch that is kept.

    Args:
        place: see `Place`.
        device: which crops, `augment.device`.
    """
    steps, first, rounds = (4, 1, 2) if place.dry else (110, 50, 7)
    folder, size = make_shards(place.work / ("pictures-dry" if place.dry else "pictures"), 32 if place.dry else 8192)
    values = run_values(place, steps, data=str(folder), model="vit_nano" if place.dry else "vit_small")
    values |= {"batch": 8, "image_size": 32} if place.dry else {"batch": 256, "image_size": 224, "workers": 15}
    values["augment.device"] = device
    batch = first_batch(values)
    times = in_turns(
        {
            "shards": lambda: run_seconds(place, values, first),
            "one batch": lambda: run_seconds(place, values, first, batch),
        },
        rounds,
    )
    speeds = {name: round(values["batch"] / statistics.median(found)) for name, found in times.items()}
    return {
        "speed from shards / of one batch": ratios(times["one batch"], times["shards"]),
        "img_per_s": speeds,
        "seconds": {name: spread(found) for name, found in times.items()},
        "bytes_per_image": size,
    }


def make_shards(folder: Path, count: int) -> tuple[Path, int]:
    """Shards of JPEGs of 400 x 350 pixels and about 47 kB; returns their folder and the mean size in bytes."""
    marker = folder / "classes.txt"
    per_shard = min(512, count)
    if not marker.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(str(folder), first, per_shard) for first in range(0, count, per_shard)]
        if len(jobs) == 1:
            write_shard(jobs[0])
        else:
            with ProcessPoolExecutor() as pool:
                list(pool.map(write_shard, jobs))
        marker.write_text("picture\n")
    return folder, sum(file.stat().st_size for file in folder.glob("*.tar")) // count


def write_shard(job: tuple[str, int, int]) -> None:
    """One shard: a smooth picture with noise, of the size that photographs have."""
    folder, first, count = job
    with tarfile.open(f"{folder}/train-{first:06d}.tar", "w") as archive:
        for number in range(first, first + count):
            stream = io.BytesIO()
            picture(number).save(stream, "JPEG", quality=90)
            for ending, content in (("jpg", stream.getvalue()), ("cls", b"0")):
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def picture(number: int) -> Image.Image:
    """A picture of its own for each number."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (14, 16, 3), dtype=np.uint8)).resize((400, 350), 3)
    noise = random.normal(0, NOISE, (350, 400, 1))
    return Image.fromarray(np.clip(np.asarray(coarse, dtype=np.float32) + noise, 0, 255).astype(np.uint8))


NOISE = 5.5  # grey levels; with it a JPEG of quality 90 has about 47 kB
CASES: dict[str, Callable[[Place], Facts]] = {
    "simmim_vit_base_256": lambda place: simmim(place, "base", 256, theirs=True),
    "simmim_vit_large_128": lambda place: simmim(place, "large", 128, theirs=False),
    "attention": attention,
    "loop_vit_nano": loop,
    "shards_vit_small": lambda place: shards(place, "cpu"),
    "shards_vit_small_crops_on_device": lambda place: shards(place, "gpu"),
}


def run(place: Place, names: Sequence[str] = ()) -> Facts:
    """Measures the cases that are not there yet; returns all by name."""
    results = Results("speed", place)
    for name in names or CASES:
        if "failed" not in results.found.get(name, {"failed": ""}) or place.left < 0:
            continue
        free_memory()
        try:
            facts = CASES[name](place)
        except Exception as error:  # the other cases are to be measured, whatever failed
            facts = {"failed": f"{type(error).__name__}: {error}"[:4000], "traceback": traceback.format_exc()[-4000:]}
        results.put(name, facts)
        shown = {key: value for key, value in facts.items() if key not in ("losses", "traceback")}
        print(f"SPEED {name} {shown}", flush=True)
    missing = [name for name in CASES if name not in results.found]
    failed = [name for name, facts in results.found.items() if "failed" in facts]
    results.write("failed" if failed else "unfinished" if missing else "done", missing=missing)
    print(f"SPEED failed: {failed}, not measured: {missing}", flush=True)
    return results.found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES])
    at, given = read_place(parser)
    sys.exit(any("failed" in facts for facts in run(at, given.cases).values()))
