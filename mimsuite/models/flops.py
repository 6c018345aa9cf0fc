"""Counts the FLOPs of what runs inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of matrix products and convolutions by torch's formulas, two per multiply-add.

    torch's own `FlopCounterMode` puts hooks on all modules, and a model computes otherwise where there are hooks.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls an operator and counts it."""
        made = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *more: Any, out_val: Any = None) -> int:
    """FLOPs of a convolution's backward pass: those of its forward pass for each gradient that is asked for.

    torch's own formula takes a depthwise convolution for a dense one.
    """
    transposed, (of_input, of_weight, _) = more[4], more[7]
    forward: int = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape), transposed=transposed)
    return forward * (int(of_input) + int(of_weight))


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten.convolution_backward: convolution_backward,
}
