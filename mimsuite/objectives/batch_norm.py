"""BatchNorm whose statistics are those of all processes of a run (`trainer.sync_batchnorm`); torch's own needs GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from mimsuite.errors import InputError


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm of the images of all processes: in training it computes what one process with all of them would.

    Each process computes sums of its own images in float32; one exchange tells all of them, and another one, in the
    backward pass, their gradients. Keys, parameters and evaluation are those of `nn.BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns `(B, C, H, W)` from as much, of its type; processes may have different numbers of images."""
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = x.new_full((1,), x.numel() / self.num_features)
        deviation, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        every = gather_rows(torch.cat([mean, deviation * count, count]))  # (processes, 2 C + 1)
        means, squares, counts = every.split([self.num_features, self.num_features, 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        square = squares.sum(0) + (counts * (means - mean).square()).sum(0)  # Chan et al. 1979: no cancellation
        self._remember(mean.detach(), (square / (total - 1)).detach())
        scale = (square / total + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        normalized: Tensor = x * scale[:, None, None] + shift[:, None, None]
        return normalized.to(input.dtype)

    def summed(self, sums: Tensor) -> Tensor:
        """The sum over all processes of `sums (K,)`; `mimsuite.encoders.sparse.sparse_batch_norm` asks for it."""
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        return sums if alone else gather_rows(sums).sum(0)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        taken = 1 / self.num_batches_tracked.float() if self.momentum is None else mean.new_tensor(self.momentum)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), taken.to(self.running_mean.dtype))
        self.running_var.lerp_(variance.to(self.running_var.dtype), taken.to(self.running_var.dtype))


@torch.library.custom_op("mimsuite::gather_rows", mutates_args=())
def gather_rows(row: Tensor) -> Tensor:
    """The rows `(K,)` of all processes, `(processes, K)`; one operator, so that torch.compile takes it as it is."""
    every = [torch.empty_like(row) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, row.contiguous())
    return torch.stack(every)


@gather_rows.register_fake
def _(row: Tensor) -> Tensor:
    return row.new_empty(distributed.get_world_size(), *row.shape)


def _own_gradient(context: object, gradient: Tensor) -> Tensor:
    own: Tensor = _sum_rows(gradient)
    return own


@torch.library.custom_op("mimsuite::sum_rows", mutates_args=())
def _sum_rows(rows: Tensor) -> Tensor:
    """This process's row of the sum of all processes' rows."""
    total = rows.clone()
    distributed.all_reduce(total)
    return total[distributed.get_rank()].clone()


@_sum_rows.register_fake
def _(rows: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[1:])


gather_rows.register_autograd(_own_gradient)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Makes all BatchNorms of a model synchronized ones, in place.

    Raises:
        InputError: there is none, or one of another kind.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    other = [type(norm).__name__ for norm in norms if type(norm) is not nn.BatchNorm2d]
    if other:
        raise InputError(
            f"trainer.sync_batchnorm=true takes BatchNorm2d only, and the model has {other[0]}; remove the key"
        )
    if not norms:
        raise InputError("trainer.sync_batchnorm=true, but the model has no BatchNorm; remove the key")
    for norm in norms:
        norm.__class__ = SyncedBatchNorm
