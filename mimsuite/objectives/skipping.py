"""Optimizer steps that change nothing, because loss or gradient is not finite: decided on the device.

Asking the device for the answer in every step would keep it waiting for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimsuite.words import SKIPPED_IN_A_ROW


class StepGuard:
    """Keeps a step that is not finite from changing anything: weights, moments, their count, running statistics.

    Optimizers that can take a flag on the device (`found_inf`, which torch's fused ones and ours know) change nothing
    where it is 1. From others the gradients are taken away, for which the host has to wait for the device. From the
    third such step in a row on nothing changes any more, so that the weights stay those from before, however late the
    host finds out.

    Args:
        module: whose BatchNorms' statistics are kept.

    Attributes:
        skipped: whether the last step changed nothing; bool, a scalar on the device. None before the first step.
    """

    def __init__(self, module: nn.Module) -> None:
        self.skipped: Tensor | None = None
        self._row: Tensor | None = None
        self._statistics = RunningStatistics(module)

    def begin(self) -> None:
        """Call it before the first forward pass of a step."""
        self._statistics.remember()

    def decide(
        self, norm: Tensor, optimizer: torch.optim.Optimizer, *, asks: bool = False, counts: bool = True
    ) -> None:
        """Decides whether the optimizer's next step changes anything.

        Args:
            norm: of its gradients, a scalar.
            optimizer: which takes the step.
            asks: wait for the device although the optimizer could take a flag.
            counts: whether a step without update counts towards the three in a row.
        """
        if self._row is None:
            self._row = torch.zeros((), dtype=torch.int32, device=norm.device)
        goes_on = (0 * norm == 0) & (self._row < SKIPPED_IN_A_ROW)  # as `isfinite`, in half as many operators
        if counts:
            self._row = torch.where(goes_on, 0, self._row + 1)
        self.skipped = goes_on.logical_not()
        if takes_flag(optimizer) and not asks:
            optimizer.found_inf = self.skipped.float()  # type: ignore[attr-defined]
        elif self.skipped:
            remove_gradients(optimizer)

    def finish(self) -> Tensor:
        """Gives the running statistics back, if the step was skipped; call it after the optimizer's step.

        Returns `skipped`.
        """
        assert self.skipped is not None
        self._statistics.restore(self.skipped)
        return self.skipped


class RunningStatistics:
    """A copy of the running statistics of a module's BatchNorms, which change in forward passes."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = running_statistics(module)
        self._values = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def remember(self) -> None:
        """Copies them."""
        for value, buffer in zip(self._values, self._buffers, strict=True):
            value.copy_(buffer)

    @torch.no_grad()
    def restore(self, wanted: Tensor | None = None) -> None:
        """Gives them back; with `wanted`, a bool scalar on their device, only where it is True."""
        for value, buffer in zip(self._values, self._buffers, strict=True):
            buffer.copy_(value if wanted is None else torch.where(wanted, value, buffer))


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Those of all BatchNorms, and the number of batches that each has seen."""
    norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return [buffer for norm in norms for buffer in norm.buffers()]


def takes_flag(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer changes nothing where its `found_inf` is 1.

    torch's SGD does not in its first step: it would keep a momentum that was never written.
    """
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.state:
        return False
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def remove_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Removes all gradients, without which an optimizer changes nothing."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
