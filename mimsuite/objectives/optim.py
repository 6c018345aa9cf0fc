"""Parameter groups, the learning-rate schedule, and steps whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError

NEVER_DECAYED = ("cls_token", "register_tokens", "position_embeddings")


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


class WarmupMilestones:
    """Factor on the peak learning rate: linear warm-up, then 1, and times `gamma` from each milestone on.

    Step 0 has the factor `start` (SimMIM's recipe of 800 epochs, Xie et al. 2022, section 4.2).
    """

    def __init__(
        self, *, steps: int, warmup: int, milestones: Sequence[float], start: float = 0.0, gamma: float = 0.1
    ) -> None:
        """Takes the milestones as fractions of the run.

        Raises:
            InputError: a milestone outside (0, 1].
        """
        if not all(0 < m <= 1 for m in milestones):
            raise InputError(f"schedule.milestones={list(milestones)}: fractions of the run in (0, 1], such as [0.875]")
        self.steps, self.warmup, self.start, self.gamma = steps, warmup, start, gamma
        self.marks = [round(m * steps) for m in milestones]

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        return self.gamma ** sum(step >= mark for mark in self.marks)


def poison(loss: Tensor) -> Tensor:
    """Returns the loss; one that is infinite becomes NaN, and so do its gradients, in every process of the run.

    An infinite loss may have finite gradients, and of several processes only one would know.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def clip_or_skip(parameters: Iterable[nn.Parameter], limit: float | None) -> tuple[Tensor, bool]:
    """Clips gradients by their global norm; if that is not finite, removes them, so that the optimizer changes nothing.

    Args:
        parameters: with their gradients, already averaged over processes and micro-batches.
        limit: largest norm; None for no clipping.

    Returns:
        The norm before clipping, and whether the gradients were removed.
    """
    kept = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(kept, float("inf") if limit is None else limit)
    if norm.isfinite():
        return norm, False
    for parameter in kept:
        parameter.grad = None
    return norm, True
