"""Parameter groups, the learning-rate schedule, and steps whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError

if TYPE_CHECKING:
    from mimsuite.models.composed import ForImageClassification

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
        groups[_is_decayed(name, parameter, spared)].append((name, parameter))
    return [_group(members, weight_decay if decayed else 0.0) for decayed, members in groups.items()]


def layer_groups(
    model: ForImageClassification, *, weight_decay: float, lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Splits parameters by their learning rate, which falls from the head to the embeddings, and by weight decay.

    A parameter learns at `lr * layer_decay ** (num_blocks + 1 - depth)` (`depth_in`), as in the fine-tuning of BEiT
    (Bao et al. 2022), MAE (He et al. 2022, appendix A.1) and SimMIM (Xie et al. 2022, section 4.1). Not decayed:
    1-D tensors (biases, norms), class tokens and position embeddings, as in `param_groups`.

    Args:
        model: frozen parameters (`requires_grad=False`) are in no group.
        weight_decay: of the groups that have one.
        lr: peak learning rate of the head and of what follows the blocks.
        layer_decay: factor from one depth to the one before, in (0, 1]; 1: all learn at `lr`.

    Returns:
        Optimizer groups, the head's first, none of them empty; each trainable parameter is in exactly one. A group
        carries `params`, `names` (as in `model.named_parameters()`), `weight_decay`, `lr` and `lr_scale`, the factor
        on `lr` that it holds already.

    Raises:
        InputError: a `layer_decay` outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay={layer_decay} is not in (0, 1]; use 0.65, or 1 for one learning rate")
    deepest = model.encoder.num_blocks + 1
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in trainable(model):
        scale = layer_decay ** (deepest - depth_in(model, name))
        groups.setdefault((scale, _is_decayed(name, parameter, NEVER_DECAYED)), []).append((name, parameter))
    return [
        _group(groups[scale, decayed], weight_decay if decayed else 0.0) | {"lr": lr * scale, "lr_scale": scale}
        for scale, decayed in sorted(groups, reverse=True)
    ]


def depth_in(model: ForImageClassification, name: str) -> int:
    """Depth of a parameter, by its name in the model: the encoder's `depth_of`; the head has that of a final norm.

    Raises:
        InputError: the encoder has no such parameter.
    """
    prefix = model.base_prefix + "."
    if name.startswith(prefix):
        return model.encoder.depth_of(name.removeprefix(prefix))
    return model.encoder.num_blocks + 1


def _is_decayed(name: str, parameter: nn.Parameter, spared: tuple[str, ...]) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in spared


def _group(members: list[tuple[str, nn.Parameter]], weight_decay: float) -> dict[str, Any]:
    names, parameters = [name for name, _ in members], [parameter for _, parameter in members]
    return {"params": parameters, "names": names, "weight_decay": weight_decay}


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that get gradients."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class WarmupCosine:
    """Factor on the peak learning rate: linear warm-up, then half a cosine, per optimizer step.

    Step 0 has the factor `start`, step `warmup` the factor 1, the last step the factor `end`
    (Loshchilov and Hutter 2017, without restarts). With a cooldown all its steps have the factor `end`, and so has
    the one before it.
    """

    def __init__(self, *, steps: int, warmup: int, start: float = 0.0, end: float = 0.0, cooldown: float = 0) -> None:
        """Takes the cooldown in steps, or as a fraction of the run below 1.

        Raises:
            InputError: a cooldown that is neither.
        """
        number = isinstance(cooldown, (int, float)) and not isinstance(cooldown, bool)
        if not number or cooldown < 0 or (isinstance(cooldown, float) and cooldown >= 1):
            raise InputError(
                f"schedule.cooldown={cooldown} is no whole number of steps and no fraction of the run; use steps "
                "(500) or a fraction below 1 (0.05)"
            )
        self.falling = steps - (cooldown if isinstance(cooldown, int) else round(cooldown * steps))
        self.warmup, self.start, self.end = warmup, start, end

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        progress = _progress(step, self.warmup, self.falling - 1)
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupLinear:
    """Factor on the peak learning rate: linear warm-up, then linear decay (Dosovitskiy et al. 2021, section 4.1).

    Step 0 has the factor `start`, step `warmup` the factor 1, the last step the factor `end`.
    """

    def __init__(self, *, steps: int, warmup: int, start: float = 0.0, end: float = 0.0) -> None:
        self.steps, self.warmup, self.start, self.end = steps, warmup, start, end

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        return 1 + (self.end - 1) * _progress(step, self.warmup, self.steps - 1)


def _progress(step: int, first: int, last: int) -> float:
    """How much of the way from `first` to `last` is behind a step, 0 to 1."""
    return min(1.0, (step - first) / max(1, last - first))


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


class WarmupSteps:
    """Factor on the peak learning rate: linear warm-up from 0, then 1, and a tenth after each mark.

    At `steps`, `warmup` and `milestones` of `mimsuite.settings.hyperrule` this is BiT-HyperRule (Kolesnikov et al.
    2020, section 3.3, and the published code): the step of a mark still has the rate of those before it.
    """

    def __init__(self, *, steps: int, warmup: int, marks: Sequence[float]) -> None:
        """Takes the marks as fractions of the run, so that they move with its length.

        Raises:
            InputError: a mark outside (0, 1], or no list of them.
        """
        if isinstance(marks, str) or not all(0 < m <= 1 for m in marks):
            raise InputError(f"schedule.marks={marks}: give fractions of the run in (0, 1], such as [0.3,0.6,0.9]")
        self.warmup, self.marks = warmup, [round(m * steps) for m in marks]

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return step / self.warmup
        return 10.0 ** -sum(mark < step for mark in self.marks)


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
