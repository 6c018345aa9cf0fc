"""How many FLOPs training on one image takes: counted, in the step that the objective really does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mimsuite.objectives.objective import Objective
from mimsuite.types import Batch

Shape = tuple[int, ...]


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

    Counted are matrix products and convolutions, on torch's meta device: no memory, no arithmetic, and the module stays
    as it is. What a run leaves out is not counted: patches that MAE drops, cells that the head does not predict,
    gradients of frozen layers. What it does twice to save memory counts once.

    Args:
        objective: not attached to a trainer yet.
        batches: as a loader gives them; of the masks only the number of hidden units counts.
    """
    step = TrainingStep(objective)
    total = 0
    for batch in batches:
        stand_ins = {name: on_meta(tensor) for name, tensor in (*step.named_parameters(), *step.named_buffers())}
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: backward}) as counter:
            loss = functional_call(step, stand_ins, (batch_on_meta(batch),))
            if loss.requires_grad:
                loss.backward()
        total += counter.get_total_flops()
    return total / sum(len(batch.images) for batch in batches)


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same kind without memory."""
    return torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)


def batch_on_meta(batch: Batch) -> Batch:
    """A batch of the same shapes without memory."""
    mask, labels = (None if tensor is None else tensor.to("meta") for tensor in (batch.mask, batch.labels))
    return batch._replace(images=batch.images.to("meta"), mask=mask, labels=labels)


def backward(grad: Shape, x: Shape, weight: Shape, *more: Any, out_shape: Any = None) -> int:
    """FLOPs of a convolution's backward pass: those of its forward pass for each gradient that is asked for.

    torch's own formula takes a depthwise convolution for a dense one.
    """
    transposed, (of_input, of_weight, _) = more[4], more[7]
    forward: int = conv_flop_count(list(x), list(weight), list(grad), transposed=transposed)
    return forward * (of_input + of_weight)
