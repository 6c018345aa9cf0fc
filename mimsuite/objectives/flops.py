"""How many FLOPs training on one image takes: counted, in the step that the objective really does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental import _config as meta

from mimsuite.models.flops import FlopCounter
from mimsuite.objectives.objective import Objective
from mimsuite.types import Batch


class TrainingStep(nn.Module):
    """An objective's loss as the forward pass of a module, so that other tensors can stand in for its own."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar."""
        return cast(Tensor, self.objective.training_step(batch, 0))


def training_flops(objective: Objective, batches: Sequence[Batch]) -> float:
    """FLOPs of forward and backward pass for one image, two per multiply-add; the mean over the batches.

    They are counted on torch's meta device: no memory, no arithmetic, and the module stays as it is. What a run leaves
    out is not counted: patches that MAE drops, cells that the head does not predict, gradients of frozen layers. Where
    units are smaller than cells, the predicted ones depend on where a mask lies: then all cells count as predicted.
    Nor is what `trainer.checkpoint_activations` computes a second time, which is no progress (MFU of Chowdhery et al.
    2022, appendix B).

    Args:
        objective: neither attached to a trainer nor compiled yet.
        batches: as a loader gives them; of the masks only the number of hidden units counts.
    """
    step = TrainingStep(objective)
    counter = FlopCounter()
    for batch in batches:
        stand_ins = {name: on_meta(tensor) for name, tensor in (*step.named_parameters(), *step.named_buffers())}
        with without_recomputing(step), counter, meta.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
            loss = functional_call(step, stand_ins, (batch_on_meta(batch),))
            if loss.requires_grad:
                loss.backward()
    return counter.total / sum(len(batch.images) for batch in batches)


@contextmanager
def without_recomputing(module: nn.Module) -> Iterator[None]:
    """Where blocks keep their inner values for the backward pass."""
    parts: list[Any] = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    for part in parts:
        part.gradient_checkpointing = False
    try:
        yield
    finally:
        for part in parts:
            part.gradient_checkpointing = True


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same kind without memory; bfloat16 as float32, for there is no autocast that mixes the two."""
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return torch.empty_like(tensor, device="meta", dtype=dtype).requires_grad_(tensor.requires_grad)


def batch_on_meta(batch: Batch) -> Batch:
    """A batch of the same shapes without memory."""
    parts = (batch.mask, batch.labels, batch.targets)
    mask, labels, targets = (None if tensor is None else tensor.to("meta") for tensor in parts)
    return batch._replace(images=batch.images.to("meta"), mask=mask, labels=labels, targets=targets)
