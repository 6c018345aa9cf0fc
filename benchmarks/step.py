"""Time of a training step, ours beside transformers', interleaved in one process.

python benchmarks/step.py [CASE ...] [--blocks N] [--steps N] [--threads N] [--device cpu] [--compiled]
                          [--before TREE] [--out FILE.json]

A case is one of CASES or MAE_CASES; without any, all run that this device is fast at. A step is forward, loss, backward
and AdamW, with 60 % of the units hidden (SimMIM). transformers has no masked models of CvT and BiT: its networks get
what ours do around them (hidden pixels 0, a mask token after the first convolution, a 1x1 convolution to pixels). All
start from the same weights, and nothing is timed before the losses of the first steps agree. MAE cases: our MAE step
(75 % dropped) beside our SimMIM step of the same encoder, and transformers' MAE step. --before names a checkout of this
repository at another commit, whose step is timed beside; its losses must be the same bits.

A block is --steps steps; in every round each variant runs one block, every second round in reverse order. Times are of
the processor (`time.process_time`) over the number of threads, so that waiting for other processes does not count;
what they do to caches and memory does. Printed are medians, and ratios as the median over the rounds with the smallest
and the largest; then where our own step's time goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from torch import Tensor, nn
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    import transformers

from mimsuite import models
from mimsuite.models.flops import FlopCounter

Values = dict[str, Any]
Loss = Callable[[], Tensor]
Step = Callable[[], float]

SEED, AGREEING = 0, 20
TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
PATCH4 = {"num_hidden_layers": 6, "image_size": 32, "patch_size": 4, "encoder_stride": 4}
DEC1 = {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 8,
    "decoder_intermediate_size": 2048,
}
DEC8 = DEC1 | {"decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16}
CVT = {"drop_path_rate": [0.0, 0.0, 0.0], "encoder_stride": 16}
BIT = {"encoder_stride": 32}


@dataclass(frozen=True)
class Case:
    """A model at a size and precision; `target` is the ratio that we want of our images per second."""

    family: str
    fields: Values
    image_size: int
    batch: int
    precision: str
    target: float


CASES = {
    "vit_tiny_fp32": Case("ViT", TINY, 224, 8, "fp32", 1.05),
    "vit_small_fp32": Case("ViT", SMALL, 224, 4, "fp32", 1.05),
    "cvt_13_fp32": Case("Cvt", CVT, 224, 4, "fp32", 1.15),
    "bit_50_fp32": Case("Bit", BIT, 224, 4, "fp32", 1.1),
    "vit_tiny_bf16": Case("ViT", TINY, 224, 32, "bf16", 1.5),
    "vit_32px_patch4_bf16": Case("ViT", TINY | PATCH4, 32, 64, "bf16", 2.0),
    "cvt_13_bf16": Case("Cvt", CVT, 224, 8, "bf16", 1.4),
    "bit_50_bf16": Case("Bit", BIT, 224, 8, "bf16", 1.0),
}
MAE_CASES = {  # the target is that of MAE over SimMIM
    "mae_vit_small_dec1": Case("ViT", SMALL | DEC1, 224, 4, "fp32", 2.2),
    "mae_vit_tiny_dec1": Case("ViT", TINY | DEC1, 224, 16, "fp32", 1.0),
    "mae_vit_base_dec8": Case("ViT", DEC8, 224, 4, "fp32", 1.4),
}


class TheirMasked(nn.Module):
    """transformers' CvT or BiT as a SimMIM model, with the weights of ours."""

    def __init__(self, case: Case, ours: nn.Module, folder: str) -> None:
        super().__init__()
        self.body = getattr(transformers, f"{case.family}Model").from_pretrained(folder)
        body = ours.encoder
        self.mask_token = nn.Parameter(body.mask_token.detach().clone())
        self.norm = nn.LayerNorm(body.num_features) if case.family == "Cvt" else None
        self.decoder = nn.Conv2d(body.num_features, 3 * ours.head_stride[0] ** 2, 1)
        self.decoder.load_state_dict(ours.decoder[0].state_dict())
        self.stride, self.cells = ours.head_stride[0], torch.empty(0)
        first = self.body.encoder.stages[0].embedding if case.family == "Cvt" else self.body.embedder
        first.register_forward_hook(lambda _, __, out: torch.where(self.cells[:, None], self.mask_token, out))

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """The masked L1 of `(B, C, H, W)`, `hidden (B, H / 4, W / 4)` bool."""
        self.cells = hidden
        mask = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        out = self.body(pixels.masked_fill(mask, 0)).last_hidden_state
        if self.norm is not None:
            out = self.norm(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        error = F.l1_loss(F.pixel_shuffle(self.decoder(out).float(), self.stride), pixels, reduction="none")
        return (error * mask).sum() / (mask.sum() + 1e-5) / 3


def data(case: Case, ratio: float, device: str) -> tuple[Tensor, Tensor]:
    """Pixels, and a mask `(B, h, w)` with the same count in every image: of patches (ViT) or of 32 pixels."""
    generator = torch.Generator().manual_seed(SEED)
    side = case.image_size // (case.fields.get("patch_size", 16) if case.family == "ViT" else 32)
    order = torch.rand(case.batch, side * side, generator=generator).argsort(1)
    mask = (order < side * side - int(side * side * (1 - ratio))).view(-1, side, side)
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, generator=generator)
    return pixels.to(device), mask.to(device)


def our_model(package: Any, case: Case, device: str, **changes: object) -> Any:
    """A model of ours (or of another commit of ours), the same for the same case."""
    torch.manual_seed(SEED)
    config = getattr(package, f"{case.family}Config")(**case.fields, **changes)
    return getattr(package, f"{case.family}ForMaskedImageModeling")(config).to(device).train()


def our_loss(model: Any, pixels: Tensor, mask: Tensor, loss: str = "l1") -> Loss:
    """The masked loss, as training computes it."""
    hidden = int(mask[0].sum())
    return lambda: model.masked_loss(pixels, mask, hidden, loss)


def their_loss(case: Case, ours: Any, pixels: Tensor, mask: Tensor) -> tuple[nn.Module, Loss]:
    """transformers' model with the weights of ours, and its loss."""
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        if case.family == "ViT":
            vit = transformers.ViTForMaskedImageModeling.from_pretrained(folder).to(pixels.device).train()
            flat = mask.flatten(1)
            return vit, lambda: vit(pixels, bool_masked_pos=flat).loss
        model = TheirMasked(case, ours, folder).to(pixels.device).train()
    cells = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return model, lambda: model(pixels, cells)


def step(model: nn.Module, loss_of: Loss, case: Case, device: str) -> Step:
    """Forward under autocast, backward, AdamW; gives the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def simmim_steps(case: Case, device: str, compiled: bool, before: Any) -> dict[str, Step]:
    """The variants of a case, transformers' first."""
    pixels, mask = data(case, 0.6, device)
    ours = our_model(models, case, device)
    them, loss_of_them = their_loss(case, ours, pixels, mask)
    steps = {
        "transformers": step(them, loss_of_them, case, device),
        "ours": step(ours, our_loss(ours, pixels, mask), case, device),
    }
    if before is not None:
        old = our_model(before, case, device)
        steps["before"] = step(old, our_loss(old, pixels, mask), case, device)
    if compiled:
        again = our_model(models, case, device)
        steps["ours, compiled"] = step(again, torch.compile(our_loss(again, pixels, mask)), case, device)
    return steps


def mae_steps(case: Case, device: str, before: Any) -> dict[str, Step]:
    """Our SimMIM step, our MAE step and transformers' MAE step of one encoder."""
    encoder = {k: v for k, v in case.fields.items() if not k.startswith("decoder_")}
    plain = dataclasses.replace(case, fields=encoder)
    pixels, mask = data(plain, 0.6, device)
    simmim = our_model(models, plain, device)
    steps = {"ours, SimMIM": step(simmim, our_loss(simmim, pixels, mask), case, device)}
    pixels, mask = data(case, 0.75, device)
    changes = {"mask_mode": "drop", "mim_target": "norm_pixels", "position": "sincos2d"}
    mae = our_model(models, case, device, **changes)
    steps["ours"] = step(mae, our_loss(mae, pixels, mask, "mse"), case, device)
    theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**case.fields, norm_pix_loss=True))
    theirs, noise = theirs.to(device).train(), mask.flatten(1).float()
    steps["transformers"] = step(theirs, lambda: theirs(pixels, noise=noise).loss, case, device)
    if before is not None:
        old = our_model(before, case, device, **changes)
        steps["before"] = step(old, our_loss(old, pixels, mask, "mse"), case, device)
    return steps


def package_at(tree: Path) -> ModuleType:
    """`mimsuite.models` of another checkout, beside our own."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "mimsuite"}
    sys.path.insert(0, str(tree))
    try:
        found = importlib.import_module("mimsuite.models")
    finally:
        sys.path.remove(str(tree))
        for name in [name for name in sys.modules if name.split(".")[0] == "mimsuite"]:
            del sys.modules[name]
        sys.modules.update(ours)
    if not Path(str(found.__file__)).is_relative_to(tree):
        raise SystemExit(f"{tree} holds no mimsuite; give a checkout of this repository")
    return found


def check_losses(name: str, steps: dict[str, Step], precision: str) -> list[float]:
    """Losses of the first steps, which must agree between ours and the others; before a time counts."""
    of_others = name not in MAE_CASES  # in these transformers has weights of its own
    lengths = {who: AGREEING if of_others and who != "before" else min(AGREEING, 5) for who in steps}
    losses = {who: [run() for _ in range(lengths[who])] for who, run in steps.items()}
    first, later = (1e-6, 1e-3) if precision == "fp32" else (2e-2, 2e-2)  # rounding grows from step to step
    for who, found in losses.items():
        if who == "ours, SimMIM" or (who == "transformers" and not of_others):
            continue
        apart = [abs(a - b) / abs(b) for a, b in zip(found, losses["ours"], strict=False)]
        worst = max(apart)
        if (who == "before" and worst) or apart[0] > first or worst > later:
            raise SystemExit(f"{name}: losses of {who} and ours differ by {worst:.1e}: {found} and {losses['ours']}")
        if who != "ours":
            print(f"{name:22} {len(found)} losses of {who} and ours differ by at most {worst:.1e}", flush=True)
    return losses["ours"]


def times_of(steps: dict[str, Step], blocks: int, length: int, device: str) -> dict[str, list[float]]:
    """Seconds of one step, from each block."""
    times: dict[str, list[float]] = {who: [] for who in steps}
    clock = time.perf_counter if device == "cuda" else time.process_time
    for number in range(blocks):
        for who in list(steps)[:: -1 if number % 2 else 1]:
            began = clock()
            for _ in range(length):
                steps[who]()
            seconds = (clock() - began) / length
            times[who].append(seconds if device == "cuda" else seconds / torch.get_num_threads())
    return times


def ratios(times: dict[str, list[float]], over: str) -> dict[str, tuple[float, float, float]]:
    """Median, smallest and largest over the rounds, of the time of `over` to that of every other."""
    found = {}
    for who, values in times.items():
        each = [a / b for a, b in zip(times[over], values, strict=True)]
        found[who] = (statistics.median(each), min(each), max(each))
    return found


def measure(name: str, case: Case, given: argparse.Namespace, before: Any) -> Values:
    """Measures and prints one case."""
    is_mae = name in MAE_CASES
    if is_mae:
        steps = mae_steps(case, given.device, before)
    else:
        steps = simmim_steps(case, given.device, given.compiled, before)
    losses = check_losses(name, steps, case.precision)
    times = times_of(steps, given.blocks, given.steps, given.device)
    over = "ours, SimMIM" if is_mae else "transformers"
    of_all = ratios(times, over)
    for who, (middle, low, high) in of_all.items():
        median = statistics.median(times[who])
        speed = f"{1e3 * median:9.1f} ms {case.batch / median:7.2f} img/s"
        print(f"{name:22} {who:16} {speed}  x{middle:.3f} ({low:.3f} to {high:.3f}) of {over}", flush=True)
    best = max(of_all[who][0] for who in of_all if who.startswith("ours") and who != over)
    print(f"{name:22} target x{case.target:.2f}: {'reached' if best >= case.target else 'MISSED'}")
    result: Values = {
        "batch": case.batch,
        "precision": case.precision,
        "target": case.target,
        "seconds": times,
        "ratio": of_all,
        "losses": losses,
    }
    if is_mae:
        result["flops"] = flops_of(case, given.device)
        share = result["flops"][over] / result["flops"]["ours"]
        print(f"{name:22} FLOPs: MAE needs 1 / {share:.2f} of {over}", flush=True)
    if before is not None:
        result["before"] = ratios(times, "before")["ours"]
        middle, low, high = result["before"]
        print(f"{name:22} ours            x{middle:.3f} ({low:.3f} to {high:.3f}) of before", flush=True)
    return result | {"operators": profile(name, steps)}


def flops_of(case: Case, device: str) -> dict[str, float]:
    """FLOPs of a MAE case's steps for one image; with plain attention, for fused attention would not be counted."""
    plain = dataclasses.replace(case, batch=1, fields=case.fields | {"attn_implementation": "eager"})
    flops = {}
    for who, run in mae_steps(plain, device, None).items():
        with FlopCounter() as counter:
            run()
        flops[who] = float(counter.total)
    return flops


def profile(name: str, steps: dict[str, Step], rows: int = 12) -> dict[str, dict[str, float]]:
    """Milliseconds in the operators that take most of one eager step, of ours and of transformers'."""
    found = {}
    for who in ("ours", "transformers"):
        with torch.profiler.profile() as prof:
            steps[who]()
        events = sorted(prof.key_averages(), key=lambda e: -e.self_cpu_time_total)[:rows]
        found[who] = {e.key: round(e.self_cpu_time_total / 1e3, 1) for e in events}
        print(
            f"{name:22} {who}: " + ", ".join(f"{key} {value:.0f} ms" for key, value in found[who].items()), flush=True
        )
    return found


def machine() -> Values:
    """What the figures were measured on."""
    cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    model = re.search(r"Model name:\s*(.*)", cpu)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the cases of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES, *MAE_CASES], help=", ".join([*CASES, *MAE_CASES]))
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--before", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    before = None if given.before is None else package_at(given.before.resolve())
    facts = machine() | {"date": datetime.now().isoformat(timespec="minutes"), "threads": given.threads, "seed": SEED}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    fast = given.device != "cpu" or facts["amx"]
    results: Values = {}
    for name, case in (CASES | MAE_CASES).items():
        if name not in given.cases if given.cases else case.precision == "bf16" and not fast:
            if not given.cases:
                print(f"{name:22} skipped: bfloat16 is slow on a CPU without AMX (name the case to measure it)")
            continue
        results[name] = measure(name, case, given, before)
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            words = [Path(word).name for word in arguments or sys.argv[1:]]  # local paths are cut
            command = " ".join(["python benchmarks/step.py", *words])
            given.out.write_text(json.dumps(facts | {"command": command, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
