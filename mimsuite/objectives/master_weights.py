"""Weights in bfloat16 for forward and backward pass; the optimizer changes their float32 originals."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mimsuite.objectives.skipping import running_statistics

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class RoundedCopy(nn.Module):
    """A copy of a model with parameters in bfloat16, which is trained in the model's place.

    The model keeps the float32 weights (Micikevicius et al. 2018, section 3.1): the optimizer, averaged weights,
    validation and all files see them and nothing else. The copy has no part in state dicts, because it is the model,
    rounded. Norms stay in float32, in which autocast computes them.

    Args:
        model: in float32; its parameters need no gradient afterwards. The copy's do instead.

    Attributes:
        module: the copy.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        model.requires_grad_(False)
        for part in self.module.modules():
            for parameter in () if isinstance(part, NORMS) else part.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
        pairs = list(zip(model.parameters(), self.module.parameters(), strict=True))
        self._all, self._trained = pairs, [(master, own) for master, own in pairs if own.requires_grad]
        self._both = (model, self.module)  # in a tuple, or the model would be a part of its copy
        self._statistics = self._find_statistics()
        self.register_load_state_dict_pre_hook(_keep_own)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def load(self) -> None:
        """Takes everything from the model, such as what a checkpoint has brought; call it before the first step."""
        self._statistics = self._find_statistics()  # a module that is moved to a device gets other buffers there
        for theirs, own in (*self._all, *self._statistics):
            own.copy_(theirs)

    @torch.no_grad()
    def give_gradients(self) -> None:
        """Adds the copy's gradients to the model's, in float32, and removes them."""
        for master, own in self._trained:
            if own.grad is not None:
                master.grad = own.grad.float() if master.grad is None else master.grad.add_(own.grad)
                own.grad = None

    @torch.no_grad()
    def follow(self) -> None:
        """Rounds the weights anew after a step, gives the model the running statistics, and removes its gradients."""
        masters, own = zip(*self._trained, strict=True)
        torch._foreach_copy_(own, masters)
        for theirs, statistics in self._statistics:
            theirs.copy_(statistics)
        for master in masters:
            master.grad = None

    def _find_statistics(self) -> list[tuple[Tensor, Tensor]]:
        model, own = map(running_statistics, self._both)
        return list(zip(model, own, strict=True))

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Nothing."""
        return {} if destination is None else destination


def _keep_own(copy_: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before a state dict is loaded: the copy misses nothing in it."""
    state.update(nn.Module.state_dict(copy_, prefix=prefix))
