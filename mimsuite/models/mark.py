"""Marks of weights: whether an encoder is still the one that something else was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hashlib import _Hash

OTHERS = ("mask_token", "position", "pos_embed")
"""Parts of names of what a mark leaves out: what may be drawn anew, and what is resized with the images."""


def mark_of(encoder: nn.Module) -> str:
    """32 hex digits that change with any weight that an encoder has learned, whatever the size of its images."""
    learned = {n: t for n, t in encoder.state_dict().items() if not any(part in n for part in OTHERS)}
    return hash_of_tensors(learned).hexdigest()[:32]


def hash_of_tensors(weights: Mapping[str, Tensor]) -> _Hash:
    """The SHA-256 of names, shapes, types and values of tensors, to which more can be added."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found
