"""Weights that are spread over the processes of a run (FSDP2): what each has, and how all of them are had again.

A part of a tensor is that of one process: rows of its first dimension. A tensor that is not spread is its own part.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mimsuite.models.parts import blocks_of

T = TypeVar("T")

ELEMENTWISE = (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad),
    *(torch.optim.Adadelta, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam),
)
"""Optimizers that compute every number of a tensor by itself, so that a process needs no other's part."""


class SpreadModel:
    """Spreads a module over processes (FSDP2, as Zhao et al. 2023), and keeps whole copies of some of its models.

    Each process has a part of every parameter, its gradient and its moments. A training step gathers the parameters of
    one block after the other, and the rest once. What validates, draws and saves takes the whole copy instead: it
    needs no other process, so that one may draw alone, and validate a batch more.

    Args:
        module: whose parameters are spread; `training_step` is what runs them.
        models: the parts of it that are evaluated.
        apart: parts of it that are gathered by themselves, or by no training step.
        mesh: the processes, in one dimension.

    Attributes:
        wholes: the copies, in evaluation mode; their tensors have values from `gather` to `release`.
    """

    def __init__(
        self, module: LightningModule, models: Sequence[nn.Module], apart: Sequence[nn.Module], mesh: DeviceMesh
    ) -> None:
        self._models = models
        self.wholes = [copy.deepcopy(model).requires_grad_(False).eval().to("meta") for model in models]
        for part in (*dict.fromkeys(blocks_of(*module.modules())), *apart, module):
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(module, "training_step")

    @torch.inference_mode(False)
    @torch.no_grad()
    def gather(self) -> None:
        """Gives the copies the models' parameters and buffers; all processes call it at once."""
        for copied, model in zip(self.wholes, self._models, strict=True):
            copied.to_empty(device=next(model.parameters()).device)
            for own, spread in zip(tensors_of(copied), tensors_of(model), strict=True):
                own.copy_(whole(spread))

    def release(self) -> None:
        """Takes the copies' memory back."""
        for copied in self.wholes:
            copied.to("meta")


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those that several modules share several times."""
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    return [*parameters, *(b for _, b in model.named_buffers(remove_duplicate=False))]


def part_of(tensor: Tensor) -> Tensor:
    """The part of this process, which shares the tensor's memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which call it at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_as(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor, spread as another one is; itself, where that is not spread."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )  # each process has the whole of it already


def gathered(state: T, *, keep: bool) -> T:
    """A state of plain values and tensors with whole tensors on the CPU; all processes call it at once.

    Args:
        state: dictionaries and lists, at any depth.
        keep: whether this process needs the tensors; another gets None in their place.
    """
    if isinstance(state, Tensor):
        found = whole(state.detach())
        return found.cpu() if keep else None  # type: ignore[return-value]
    if isinstance(state, Mapping):
        return {key: gathered(value, keep=keep) for key, value in state.items()}  # type: ignore[return-value]
    if isinstance(state, list):
        return [gathered(value, keep=keep) for value in state]  # type: ignore[return-value]
    return state


@contextmanager
def on_parts(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Where an optimizer of `ELEMENTWISE` has this process's parts in place of spread tensors: all of its kernels run.

    torch's fused SGD, for one, refuses spread tensors.
    """
    groups, state = optimizer.param_groups, optimizer.state
    given = [group["params"] for group in groups]
    parts = {p: _part_with_gradient(p) for parameters in given for p in parameters}
    optimizer.state = defaultdict(dict, {parts[p]: _each(values, part_of) for p, values in state.items()})
    try:
        for group, parameters in zip(groups, given, strict=True):
            group["params"] = [parts[p] for p in parameters]
        yield
    finally:
        for group, parameters in zip(groups, given, strict=True):
            group["params"] = parameters
        stepped, optimizer.state = optimizer.state, state
        for p, part in parts.items():
            if part in stepped:
                state[p] = _each(stepped[part], partial(_joined, like=p, part=part))


def _each(values: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _part_with_gradient(parameter: Tensor) -> nn.Parameter:
    part = nn.Parameter(part_of(parameter.detach()), requires_grad=parameter.requires_grad)
    part.grad = None if parameter.grad is None else part_of(parameter.grad)
    return part


def _joined(value: Tensor, *, like: Tensor, part: Tensor) -> Tensor:
    """A tensor of an optimizer's state as the parts of all processes, if it is one of the parameter's size."""
    if not isinstance(like, DTensor) or value.shape != part.shape:
        return value
    return DTensor.from_local(
        value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def global_norms(like: Tensor, *parts: Tensor) -> list[Tensor]:
    """Euclidean norms of whole tensors, of which parts are given; scalars, equal in all processes.

    Args:
        like: a tensor that is spread as they are.
        parts: those of this process.
    """
    norms = [part.norm() for part in parts]
    if not isinstance(like, DTensor):
        return norms
    return list(summed(torch.stack(norms).double().square(), like).sqrt().to(norms[0].dtype))


def summed(value: Tensor, like: DTensor) -> Tensor:
    """The sum of a value over the processes that a tensor is spread over."""
    torch.distributed.all_reduce(value, group=like.device_mesh.get_group())
    return value
