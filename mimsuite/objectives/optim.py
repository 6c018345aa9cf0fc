"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

NEVER_DECAYED = ("cls_token", "position_embeddings")


def param_groups(model: nn.Module, *, weight_decay: float, decay_mask_token: bool) -> list[dict[str, Any]]:
    """Splits parameters into one group with weight decay and one without.

    Not decayed: 1-D tensors (biases, norms), class tokens, position embeddings, and the mask token unless
    `decay_mask_token` (SimMIM's ViT decays its mask token, its Swin does not).

    Returns:
        Two optimizer groups; each trainable parameter is in exactly one of them. Besides `params` and `weight_decay`
        a group carries `names`, the parameters' names in the same order.
    """
    spared = NEVER_DECAYED if decay_mask_token else (*NEVER_DECAYED, "mask_token")
    groups: dict[bool, list[tuple[str, nn.Parameter]]] = {True: [], False: []}
    for name, parameter in trainable(model):
        decayed = parameter.ndim > 1 and name.rpartition(".")[2] not in spared
        groups[decayed].append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for decayed, members in groups.items()
    ]


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that get gradients."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class WarmupCosine:
    """Factor on the peak learning rate: linear warm-up, then half a cosine, per optimizer step.

    Step 0 has the factor `start`, step `warmup` the factor 1, the last step the factor `end`
    (Loshchilov and Hutter 2017, without restarts).
    """

    def __init__(self, *, steps: int, warmup: int, start: float = 0.0, end: float = 0.0) -> None:
        self.steps, self.warmup, self.start, self.end = steps, warmup, start, end

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        span = max(1, self.steps - 1 - self.warmup)
        progress = min(1.0, (step - self.warmup) / span)
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress))
