"""Time of a training step, ours beside transformers', interleaved in one process on two threads.

python benchmarks/step.py [CASE ...] [--rounds N] [--device cpu]

A case is one of those in CASES or MAE_CASES; without any, all run that this device is fast at. A step is forward, loss,
backward, and AdamW. ViT: SimMIM, 60 % of the patches hidden; CvT and BiT: classification, because transformers has no
masked models of them. Printed are medians over the rounds, images per second, and the ratio to transformers; then where
our own step's time goes. MAE cases: our MAE step (75 % dropped) beside our SimMIM step of the same encoder and
transformers' MAE step; the time ratio of the first two should be at most that of their FLOPs, divided by 0.8.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

os.environ["HF_HUB_OFFLINE"] = "1"
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    import transformers

from mimsuite import models
from mimsuite.models.flops import FlopCounter

TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
Step = Callable[[], None]
THEIRS = "transformers' MAE"


@dataclass(frozen=True)
class Case:
    """A model at a size and precision.

    `target` is the ratio to transformers that we want, judged where the device is fast at bfloat16.
    """

    family: str
    fields: dict[str, object]
    image_size: int
    batch: int
    precision: str
    target: float


CASES = {
    "vit_tiny_224_bf16": Case("ViT", TINY | {"image_size": 224}, 224, 32, "bf16", 1.5),
    "vit_32px_patch4_bf16": Case(
        "ViT",
        TINY | {"num_hidden_layers": 6, "image_size": 32, "patch_size": 4, "encoder_stride": 4},
        32,
        64,
        "bf16",
        2.0,
    ),
    "vit_tiny_224_fp32": Case("ViT", TINY | {"image_size": 224}, 224, 32, "fp32", 0.95),
    "cvt_13_bf16": Case("Cvt", {}, 224, 8, "bf16", 1.3),
    "cvt_13_fp32": Case("Cvt", {}, 224, 8, "fp32", 1.0),
    "bit_50_bf16": Case("Bit", {}, 224, 8, "bf16", 1.0),
    "bit_50_fp32": Case("Bit", {}, 224, 8, "fp32", 1.0),
}


DEC1 = {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 8,
    "decoder_intermediate_size": 2048,
}
DEC8 = DEC1 | {"decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16}
MAE_CASES = {
    "mae_vit_tiny_dec1": Case("ViT", TINY | DEC1, 224, 32, "fp32", 0.8),
    "mae_vit_base_dec8": Case("ViT", DEC8, 224, 8, "fp32", 0.8),
}


def our_step(case: Case, device: str, compiled: bool) -> Step:
    """A training step of our model."""
    config = getattr(models, f"{case.family}Config")(**case.fields)
    name = "ForMaskedImageModeling" if case.family == "ViT" else "ForImageClassification"
    model = getattr(models, case.family + name)(config).to(device).train()
    pixels, mask, labels = data(case, device)
    if case.family == "ViT":
        hidden = int(mask[0].sum())

        def loss_of() -> torch.Tensor:
            return model.masked_loss(pixels, mask, hidden)
    else:

        def loss_of() -> torch.Tensor:
            return model(pixels, labels=labels).loss

    return step(model, torch.compile(loss_of) if compiled else loss_of, case, device)


def their_step(case: Case, device: str) -> Step:
    """The same step of transformers' model, eager, with its default attention."""
    config = getattr(transformers, f"{case.family}Config")(**case.fields)
    name = "ForMaskedImageModeling" if case.family == "ViT" else "ForImageClassification"
    model = getattr(transformers, case.family + name)(config).to(device).train()
    pixels, mask, labels = data(case, device)
    if case.family == "ViT":
        return step(model, lambda: model(pixels, bool_masked_pos=mask.flatten(1)).loss, case, device)
    return step(model, lambda: model(pixels, labels=labels).loss, case, device)


def data(case: Case, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, a mask with the same count in every image, and labels."""
    generator = torch.Generator().manual_seed(0)
    side = case.image_size // int(case.fields.get("patch_size", 16))
    order = torch.rand(case.batch, side * side, generator=generator).argsort(1)
    mask = (order < round(0.6 * side * side)).view(-1, side, side)
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, generator=generator)
    labels = torch.randint(0, 2, (case.batch,), generator=generator)
    return pixels.to(device), mask.to(device), labels.to(device)


def step(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], case: Case, device: str) -> Step:
    """Forward under autocast, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def mae_steps(case: Case, device: str) -> dict[str, Step]:
    """Our SimMIM step, our MAE step and transformers' MAE step of one encoder."""
    pixels, _, _ = data(case, device)
    side = case.image_size // 16
    noise = torch.rand(case.batch, side * side, device=device)
    visible = int(side * side * 0.25)
    mask = (noise.argsort(1).argsort(1) >= visible).view(-1, side, side)
    plain = {k: v for k, v in case.fields.items() if not k.startswith("decoder_")}
    changes = {"mask_mode": "drop", "mim_target": "norm_pixels", "position": "sincos2d"}
    mae = models.ViTForMaskedImageModeling(models.ViTConfig(**case.fields, **changes)).to(device).train()
    theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**case.fields, norm_pix_loss=True))
    theirs = theirs.to(device).train()
    hidden = side * side - visible
    return {
        "SimMIM": our_step(Case("ViT", plain, *dataclasses.astuple(case)[2:]), device, compiled=False),
        "MAE": step(mae, lambda: mae.masked_loss(pixels, mask, hidden, "mse"), case, device),
        THEIRS: step(theirs, lambda: theirs(pixels, noise=noise).loss, case, device),
    }


def measure_mae(name: str, case: Case, device: str, rounds: int) -> None:
    """Prints one MAE case: times and FLOPs of the steps, and the ratios of both."""
    flops: dict[str, float] = {}  # of one image; fused attention would not be counted
    plain = dataclasses.replace(case, batch=1, fields=case.fields | {"attn_implementation": "eager"})
    for who, run in mae_steps(plain, device).items():
        with FlopCounter() as counter:
            run()
        flops[who] = float(counter.total)
    steps = mae_steps(case, device)
    for run in (*steps.values(), *steps.values()):
        run()
    medians = medians_of(steps, rounds)
    for who, median in medians.items():
        speed = f"{1e3 * median:9.1f} ms {case.batch / median:8.1f} img/s"
        print(f"{name:22} {who:18} {speed} {flops[who] / 1e9:9.2f} GFLOP per image", flush=True)
    time_ratio, flop_ratio = (both["MAE"] / both["SimMIM"] for both in (medians, flops))
    verdict = "reached" if time_ratio <= flop_ratio / case.target else "MISSED"
    print(
        f"{name:22} MAE / SimMIM: time {time_ratio:.2f}, FLOPs {flop_ratio:.2f}, allowed "
        f"{flop_ratio / case.target:.2f}: {verdict}; transformers' MAE / ours: "
        f"x{medians[THEIRS] / medians['MAE']:.2f}\n",
        flush=True,
    )


def medians_of(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each step, taken in turn in every round."""
    times: dict[str, list[float]] = {who: [] for who in steps}
    for _ in range(rounds):
        for who, run in steps.items():
            times[who].append(seconds(run))
    return {who: statistics.median(values) for who, values in times.items()}


def seconds(run: Step) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(name: str, case: Case, device: str, rounds: int, judge: bool) -> None:
    """Prints one case: transformers, ours, ours compiled, in turn in every round."""
    steps = {
        "transformers": their_step(case, device),
        "ours": our_step(case, device, compiled=False),
        "ours, compiled": our_step(case, device, compiled=True),
    }
    for run in steps.values():
        run()
        run()
    medians = medians_of(steps, rounds)
    for who, median in medians.items():
        ratio = medians["transformers"] / median
        print(f"{name:22} {who:16} {1e3 * median:9.1f} ms {case.batch / median:8.1f} img/s  x{ratio:.2f}", flush=True)
    best = medians["transformers"] / min(medians["ours"], medians["ours, compiled"])
    verdict = ("reached" if best >= case.target else "MISSED") if judge else "not judged: no AMX"
    print(f"{name:22} target x{case.target:.2f}: {verdict}")
    profile(name, steps["ours"])


def profile(name: str, run: Step, rows: int = 6) -> None:
    """Prints the operators that take most of our eager step."""
    with torch.profiler.profile() as prof:
        run()
    events = sorted(prof.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    shares = ", ".join(f"{e.key} {e.self_cpu_time_total / total:.0%}" for e in events[:rows])
    print(f"{name:22} time in: {shares}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES, *MAE_CASES], help=", ".join([*CASES, *MAE_CASES]))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    amx = arguments.device != "cpu" or torch.cpu._is_amx_tile_supported()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, device {arguments.device}, AMX {amx}")
    for name in arguments.cases or [*CASES, *MAE_CASES]:
        if name in MAE_CASES:
            measure_mae(name, MAE_CASES[name], arguments.device, arguments.rounds)
            continue
        judge = amx or CASES[name].precision == "fp32"
        if judge or arguments.cases:
            measure(name, CASES[name], arguments.device, arguments.rounds, judge)
        else:
            print(
                f"{name:22} skipped: bfloat16 is slow on a CPU without AMX (name the case to measure it all the same)"
            )


if __name__ == "__main__":
    main()
