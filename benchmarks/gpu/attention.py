"""Attention of training shapes, forward and backward in bfloat16, by each of torch's ways and by plain products.

A table of what is fastest where is to be made of this (`mimsuite.encoders.layers.use_plain_attention`).
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from common import Place
from timing import ROUNDS, Facts, in_turns, ratios, seconds_of, spread
from torch.nn.attention import SDPBackend, sdpa_kernel

from mimsuite.encoders.layers import attend

SHAPES = {  # images, heads, queries, keys, width of a head
    "ViT-B, 224 px": (256, 12, 197, 197, 64),
    "ViT-B, 224 px, a quarter of the patches": (256, 12, 50, 50, 64),
    "MAE's decoder, 224 px": (256, 16, 197, 197, 32),
    "ViT-L, 224 px": (128, 16, 197, 197, 64),
    "ViT-H, 224 px": (64, 16, 257, 257, 80),
    "ViT-S/8, 128 px": (256, 6, 257, 257, 64),
    "CvT-13, stage 1": (64, 1, 3136, 784, 64),
    "CvT-13, stage 2": (64, 3, 784, 196, 64),
    "CvT-13, stage 3": (64, 6, 197, 50, 64),
}
DRY_SHAPES = {"dry": (2, 2, 9, 9, 8), "dry, fewer keys": (2, 2, 9, 4, 8)}
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
STEPS = 20  # of a block
AGREE = 2e-2  # largest relative difference to float32; rounding to bfloat16 makes about 4e-3


def attention(place: Place) -> Facts:
    """Of each shape, seconds by each way, and torch's own choice in relation to the fastest."""
    return {name: attention_of(place, *shape) for name, shape in (DRY_SHAPES if place.dry else SHAPES).items()}


def attention_of(place: Place, batch: int, heads: int, queries: int, keys: int, width: int) -> Facts:
    """Of one shape."""
    parts = projected(place, batch, heads, queries, keys, width)
    gradient = torch.randn(batch, queries, heads * width, device=place.device, dtype=torch.bfloat16)
    ways = {"torch's choice": functools.partial(attended, parts, gradient, None, "sdpa")}
    ways |= {name: functools.partial(attended, parts, gradient, way, "sdpa") for name, way in BACKENDS.items()}
    ways["plain"] = functools.partial(attended, parts, gradient, None, "eager")
    exact = attended([part.detach().float().requires_grad_() for part in parts], gradient.float(), None, "eager")
    facts: Facts = {}
    for name in list(ways):
        try:
            off = float((ways[name]().float() - exact).norm() / exact.norm())
            assert off < AGREE, f"its result is off by {off:.1e}"
        except (RuntimeError, AssertionError) as error:  # no kernel for this card or shape
            facts[name] = {"unavailable": str(error).splitlines()[0][:300]}
            del ways[name]
    rounds, block = (2, 2) if place.dry else (ROUNDS, STEPS)
    times = in_turns({name: functools.partial(seconds_of, way, block) for name, way in ways.items()}, rounds)
    fastest = min(times, key=lambda name: statistics.median(times[name]))
    facts |= {name: {"seconds": spread(values)} for name, values in times.items()}
    return facts | {"fastest": fastest, "torch's choice / fastest": ratios(times["torch's choice"], times[fastest])}


def projected(place: Place, batch: int, heads: int, queries: int, keys: int, width: int) -> list[torch.Tensor]:
    """Query, key and value, `(B, tokens, heads, width)`: as many of each are views of one product, as in our ViT."""
    torch.manual_seed(0)
    if queries == keys:
        whole = torch.randn(batch, queries, 3, heads, width, device=place.device, dtype=torch.bfloat16)
        parts = whole.unbind(2)
    else:
        counts = (queries, keys, keys)
        parts = tuple(
            torch.randn(batch, count, heads, width, device=place.device, dtype=torch.bfloat16) for count in counts
        )
    return [part.detach().requires_grad_() for part in parts]


def attended(
    parts: list[torch.Tensor], gradient: torch.Tensor, backend: SDPBackend | None, implementation: str
) -> torch.Tensor:
    """Forward and backward; returns the result, `(B, queries, heads * width)`."""
    for part in parts:
        part.grad = None
    query, key, value = (part.transpose(1, 2) for part in parts)
    with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        context, _ = attend(
            *(query, key, value),
            scale=query.shape[-1] ** -0.5,
            dropout=0.0,
            bias=None,
            head_mask=None,
            implementation=implementation,
            need_weights=False,
        )
        out = context.transpose(1, 2).reshape(gradient.shape)
        out.backward(gradient)
    return out.detach()
