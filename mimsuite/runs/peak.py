"""How many operations a second a device could do at best: of known GPUs by their data sheets, else by measuring."""

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from mimsuite.models.device import Device

if TYPE_CHECKING:
    import torch

DTYPES = {
    "32-true": "float32",
    "bf16-mixed": "bfloat16",
    "16-mixed": "float16",
    "bf16-true": "bfloat16",
    "64-true": "float64",
}

# TFLOP/s without sparsity: bfloat16 and float16 with sums in float32, float32 without TF32; 0 for what a GPU has not.
# From NVIDIA's data sheets, but for RTX 3090 and 4090, which are from its white papers on GA102 and Ada; where they
# give a number with sparsity, half of it. The first row whose words are all in the name of a GPU counts.
KNOWN: tuple[tuple[str, float, float, float], ...] = (
    ("B200", 2250, 2250, 75),
    ("GH200", 989, 989, 67),
    ("H200 NVL", 835, 835, 60),
    ("H200", 989, 989, 67),
    ("H100 NVL", 835, 835, 60),
    ("H100 PCIe", 756, 756, 51),
    ("H100", 989, 989, 67),
    ("A100", 312, 312, 19.5),
    ("A30", 165, 165, 10.3),
    ("A40", 149.7, 149.7, 37.4),
    ("A10", 125, 125, 31.2),
    ("L40S", 362, 362, 91.6),
    ("L40", 181, 181, 90.5),
    ("L4", 121, 121, 30.3),
    ("RTX A6000", 154.8, 154.8, 38.7),
    ("RTX 6000 Ada", 364.2, 364.2, 91.1),
    ("RTX 4090", 165.2, 165.2, 82.6),
    ("RTX 3090", 71, 71, 35.6),
    ("V100 PCIE", 0, 112, 14),
    ("V100 SXM2", 0, 125, 15.7),
    ("T4", 0, 65, 8.1),
)
OTHERS = {"D", "Ti", "Laptop", "Max", "Q", "MIG"}  # words of GPUs that are slower or faster than those of the table

MEASURED_SIDE = {"cpu": 1024}  # of the matrices; a GPU is busy with larger ones only
MEASURED_SECONDS = 0.1


class Peak(NamedTuple):
    """What a device could do at best.

    Attributes:
        flops: FLOPs a second, two per multiply-add.
        source: where the number is from, in words.
    """

    flops: float
    source: str


def find_peak(on: Device, precision: str) -> Peak:
    """What this device could do in the numbers of a precision, one of `mimsuite.words.PRECISIONS`."""
    dtype = DTYPES[precision]
    known = known_flops(on.name, dtype) if on.accelerator == "gpu" and not in_tf32(dtype) else None
    if known is not None:
        return Peak(known, f"the peak of {on.name} in {dtype}")
    return Peak(measured_flops(on.accelerator, dtype), f"a {dtype} matrix product measured here")


def known_flops(name: str, dtype: str) -> float | None:
    """FLOPs a second by the table; None where it does not have the GPU, or the GPU not the type of numbers."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    for row, *values in KNOWN:
        if set(row.split()) <= words and not words & OTHERS:
            return dict(zip(("bfloat16", "float16", "float32"), values, strict=True)).get(dtype, 0) * 1e12 or None
    return None


def in_tf32(dtype: str) -> bool:
    """Whether matrix products of float32 take the shorter TF32 here, because a user has asked for it."""
    import torch

    return dtype == "float32" and torch.get_float32_matmul_precision() != "highest"


@functools.cache
def measured_flops(accelerator: str, dtype: str) -> float:
    """FLOPs a second of the fastest of some products of square matrices; measured once in a process."""
    import torch

    place = torch.device("cuda" if accelerator == "gpu" else accelerator)
    side = MEASURED_SIDE.get(place.type, 4096)
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device=place)
    torch.mm(matrix, matrix)
    wait_for_device(place)
    best, end = float("inf"), time.perf_counter() + MEASURED_SECONDS
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        wait_for_device(place)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def wait_for_device(place: torch.device) -> None:
    """Waits until a device has done what it was given."""
    import torch

    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()
