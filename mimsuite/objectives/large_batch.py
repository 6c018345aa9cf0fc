"""Optimizers for large batches, whose steps are as long as each tensor allows: LAMB and LARS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.objectives.spreading import global_norms, part_of

# Both change nothing in a step whose `found_inf`, a float scalar on the device, is 1; torch's fused optimizers have the
# same attribute.
#
# Biases and norms, tensors of one dimension, take plain steps in both: their norms say nothing about a layer. So does
# a tensor of zeros, whose norm would keep it there.


class LAMB(torch.optim.Optimizer):
    """Adam with decoupled weight decay, each tensor's update made as long as the tensor times the learning rate.

    You et al. 2020, algorithm 2, with the identity for phi and both moments corrected for their start at 0. Tensors
    of one dimension are not adapted, as in the authors' code.

    Args:
        params: parameters or optimizer groups.
        lr: learning rate: length of a step relative to the tensor's norm.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: part of the update, before its length is set.

    Raises:
        InputError: betas outside [0, 1).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas={list(betas)} are not two numbers in [0, 1); use [0.9,0.999]")
        self._step_supports_amp_scaling = True  # torch's word for taking `found_inf`
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step; returns what `closure` does, which computes the gradients first."""
        loss = _evaluated(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    goes_on, own = _goes_on(self, p), part_of(p)
                    update = self._adam(p, group["betas"], group["eps"], goes_on)
                    update.add_(own, alpha=group["weight_decay"])
                    if p.ndim > 1:
                        weight, length = global_norms(p, own, update)
                        update.mul_(_ratio(weight, length))
                    own.add_(update.where(goes_on, 0), alpha=-group["lr"])
        return loss

    def _adam(self, p: Tensor, betas: tuple[float, float], eps: float, goes_on: Tensor) -> Tensor:
        """Moves the moments and returns Adam's direction, in a new tensor: of spread weights, this process's part."""
        assert p.grad is not None
        (beta1, beta2), state = betas, self.state[p]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        grad, kind = part_of(p.grad).where(goes_on, 0), torch.float32 if p.device.type == "mps" else torch.float64
        step = torch.as_tensor(state["step"], dtype=kind, device=p.device) + goes_on
        mean = part_of(state["exp_avg"]).lerp_(grad, _number(1 - beta1, p).where(goes_on, 0))
        square = part_of(state["exp_avg_sq"]).mul_(_number(beta2, p).where(goes_on, 1))
        square.addcmul_(grad, grad, value=1 - beta2)
        corrected, root = ((1 - beta**step).to(p.dtype) for beta in betas)
        state["step"] = step
        found: Tensor = mean / corrected / (square / root).sqrt_().add_(eps)
        return found


class LARS(torch.optim.Optimizer):
    """SGD with momentum, each tensor's gradient made as long as the tensor times the trust coefficient.

    You et al. 2017, algorithm 1; as there, the momentum sums steps, not gradients, so that a learning rate counts for
    the step that it was set for. Tensors of one dimension are not adapted.

    Args:
        params: parameters or optimizer groups.
        lr: learning rate.
        momentum: share of the last step in the next.
        weight_decay: part of the gradient, also where that is not adapted.
        trust: length of an adapted gradient relative to the tensor's norm.

    Raises:
        InputError: a momentum outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        if not 0 <= momentum < 1:
            raise InputError(f"momentum={momentum} is not in [0, 1); use 0.9")
        self._step_supports_amp_scaling = True
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step; returns what `closure` does, which computes the gradients first."""
        loss = _evaluated(closure)
        for group in self.param_groups:
            decay = group["weight_decay"]
            for p in group["params"]:
                if p.grad is not None:
                    goes_on, own, grad = _goes_on(self, p), part_of(p), part_of(p.grad)
                    update = grad.add(own, alpha=decay)
                    if p.ndim > 1:
                        weight, gradient = global_norms(p, own, grad)
                        update.mul_(_ratio(weight, gradient + decay * weight, group["trust"]))
                    state = self.state[p]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    step = part_of(state["momentum_buffer"]).mul_(_number(group["momentum"], p).where(goes_on, 1))
                    own.sub_(step.add_(update.where(goes_on, 0), alpha=group["lr"]).where(goes_on, 0))
        return loss


def _goes_on(optimizer: torch.optim.Optimizer, p: Tensor) -> Tensor:
    """Whether the step changes anything, a bool scalar on the device of a parameter."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return torch.ones((), dtype=torch.bool, device=p.device) if found is None else found.to(p.device) == 0


def _number(value: float, p: Tensor) -> Tensor:
    return torch.full((), value, dtype=p.dtype, device=p.device)


def _evaluated(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _ratio(weight: Tensor, update: Tensor, trust: float = 1.0) -> Tensor:
    """`trust * weight / update`, two norms, without a word from the device; 1 where either is 0."""
    return torch.where((weight > 0) & (update > 0), trust * weight / update, 1.0)
