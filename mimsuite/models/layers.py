"""Layers that the families share: activations, drop path, attention and the draw of fresh weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.models.config import Activation

TensorFunction = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)` (Hendrycks & Gimpel 2016), the GELU of the original CvT."""
    return x * torch.sigmoid(1.702 * x)


_gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, TensorFunction] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: Activation) -> TensorFunction:
    """Returns the activation of a name, or the function itself.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(name, str):
        return name
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Zeroes `branch (B, ...)` for a `rate` share of the samples and scales the rest by `1 / (1 - rate)`.

    Stochastic depth (Huang et al. 2016), on the residual branch only.
    """
    if rate == 0.0 or not training:
        return branch
    ones = branch.new_ones(branch.shape[0], *[1] * (branch.ndim - 1))
    return branch * F.dropout(ones, rate)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Returns a rate per block, from 0 linearly to `rate`."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def use_plain_attention(implementation: str, device: str, dtype: torch.dtype, gradient: bool) -> bool:
    """Whether to compute attention as matmul, softmax, matmul instead of by torch's fused function.

    "auto" is a table, not a measurement at start, so that a run repeats: on a CPU in bfloat16 with gradients
    the plain form is 2 to 7 times faster, elsewhere the fused one is as fast or faster.
    """
    if implementation == "auto":
        return device == "cpu" and dtype == torch.bfloat16 and gradient
    return implementation == "eager"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    dropout: float,
    bias: Tensor | None,
    head_mask: Tensor | None,
    implementation: str,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention per head: `softmax(query key^T * scale + bias) value`.

    Args:
        query: `(B, heads, N, d)`.
        key: `(B, heads, M, d)`.
        value: `(B, heads, M, d)`.
        scale: factor on the scores.
        dropout: on the probabilities; 0 in eval mode.
        bias: `(heads, N, M)`, added to the scores.
        head_mask: `(heads,)`, a factor on the probabilities of each head.
        implementation: "auto", "sdpa" or "eager".
        need_weights: also return the probabilities, after dropout and head mask, under any implementation.

    Returns:
        `(B, heads, N, d)`, and `(B, heads, N, M)` or None.
    """
    gradient = torch.is_grad_enabled() and query.requires_grad
    if need_weights or use_plain_attention(implementation, query.device.type, query.dtype, gradient):
        scores = (query * scale) @ key.transpose(-2, -1)
        scores = scores if bias is None else scores + bias.to(scores.dtype)
        weights = F.dropout(scores.softmax(-1), dropout)
        if head_mask is not None:
            weights = weights * head_mask.to(weights.dtype)[:, None, None]
        return weights @ value, weights if need_weights else None
    mask = None if bias is None else bias.to(query.dtype)[None]
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    # A factor per head on the probabilities is the same factor on the head's result.
    return context if head_mask is None else context * head_mask.to(context.dtype)[:, None, None], None


def init_truncated_normal(module: nn.Module, std: float) -> None:
    """Draws Linear and Conv2d weights of a module tree: normals of `std`, cut at -2 and 2; biases 0.

    LayerNorms become 1 and 0. Uses torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
