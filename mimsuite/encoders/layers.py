"""What the families share: plain modules, drop path, attention, fresh weights, hiding before a first convolution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from mimsuite.encoders.activations import activation_function
from mimsuite.encoders.config import Activation, ModelConfig
from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask, expand_mask

State = TypeVar("State")

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether something else happens at a call of the module: a hook, or another `forward` put in its place."""
    of_all = bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
    return of_all or "forward" in vars(module) or any(getattr(module, name) for name in HOOKS)


def is_plain(module: nn.Module, kind: type[nn.Linear] | type[nn.Conv2d]) -> bool:
    """Whether a call of the module is just the product with its weights, so that it may be computed another way.

    It is not where the module was replaced (by an adapter, a quantised layer), parametrized or hooked.
    """
    return type(module) is kind and type(module.weight) in (nn.Parameter, Tensor) and not is_hooked(module)


class Dense(nn.Module):
    """A linear layer under the name `dense`, as the transformers' files have it."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(..., outputs)` from `(..., inputs)`."""
        out: Tensor = self.dense(x)
        return out


class Intermediate(Dense):
    """The first half of an MLP: a linear layer and the activation.

    Args:
        inputs: width of the tokens.
        outputs: of what comes out.
        activation: of the MLP.
        bias: of the linear layer.
        gated: the layer is twice as wide, and the activation of its first half multiplies the other (Shazeer 2020).
    """

    def __init__(
        self, inputs: int, outputs: int, activation: Activation, bias: bool = True, *, gated: bool = False
    ) -> None:
        super().__init__(inputs, outputs * 2 if gated else outputs, bias)
        self.activation, self.gated = activation_function(activation), gated

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(..., outputs)` from `(..., inputs)`."""
        if not self.gated:
            return self.activation(self.dense(x))
        gate, values = self.dense(x).chunk(2, dim=-1)
        gated: Tensor = self.activation(gate) * values
        return gated


def name_in_files(module: nn.Module, part: str, name: str) -> None:
    """Gives the tensors of a part of a module other keys in state dicts, and so in files."""
    module.register_state_dict_post_hook(partial(_rename, part, name))  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(partial(_rename, name, part))  # type: ignore[no-untyped-call]


def _rename(before: str, after: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{before}.")]:
        state[f"{prefix}{after}.{key.removeprefix(f'{prefix}{before}.')}"] = state.pop(key)


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
        bias: `(heads, N, M)` or `(B or 1, heads or 1, N or 1, M)`, added to the scores; of bool, False hides a key.
        head_mask: `(heads,)`, a factor on the probabilities of each head.
        implementation: "auto", "sdpa" or "eager".
        need_weights: also return the probabilities, after dropout and head mask, under any implementation.

    Returns:
        `(B, heads, N, d)`, and `(B, heads, N, M)` or None.
    """
    gradient = torch.is_grad_enabled() and query.requires_grad
    bias = None if bias is None else as_bias(bias, query.dtype)
    if need_weights or use_plain_attention(implementation, query.device.type, query.dtype, gradient):
        scores = (query * scale) @ key.transpose(-2, -1)
        scores = scores if bias is None else scores + bias
        weights = F.dropout(scores.softmax(-1), dropout)
        if head_mask is not None:
            weights = weights * head_mask.to(weights.dtype)[:, None, None]
        return weights @ value, weights if need_weights else None
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)
    # A factor per head on the probabilities is the same factor on the head's result.
    return context if head_mask is None else context * head_mask.to(context.dtype)[:, None, None], None


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores in four dimensions: 0, or the lowest number where a bool `mask` is False."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return mask.to(dtype) if mask.ndim == 4 else mask.to(dtype)[None]


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


def init_xavier(module: nn.Module) -> None:
    """Draws Linear and Conv2d weights from Xavier's uniform distribution, a convolution's as one matrix; biases 0.

    MAE's published code does so for encoder and decoder. Uses torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def check_config(config: ModelConfig, expected: type[ModelConfig]) -> None:
    """Checks that a network gets its own family's configuration, and one whose values fit together.

    Raises:
        TypeError: another family's.
        InputError: values that do not fit.
    """
    if not isinstance(config, expected):
        library = type(config).__module__.partition(".")[0]
        raise TypeError(
            f"this network takes a {expected.__name__}, got {type(config).__name__} of {library}; use its own config"
        )
    config.check_fit()


def of_layers(states: Iterable[State], layers: Sequence[int], count: int) -> dict[int, State]:
    """Takes the states of `layers`, numbered from 1, and nothing from `states` past the deepest of them.

    Args:
        states: what the layers put out, in their order; computed as it is taken.
        layers: their numbers.
        count: the number of layers there are.

    Raises:
        InputError: no layer, or one that there is not.
    """
    if not layers or not all(1 <= layer <= count for layer in layers):
        raise InputError(f"layers={list(layers)} are not some of the encoder's layers 1 to {count}; use these numbers")
    found, deepest = {}, max(layers)
    for number, state in enumerate(states, start=1):
        if number in layers:
            found[number] = state
        if number == deepest:
            break
    return found


def given_pixels(pixel_values: Tensor | None) -> Tensor:
    """Returns the pixels, which are optional in the signature.

    Raises:
        InputError: there are none.
    """
    if pixel_values is None:
        raise InputError("You have to specify pixel_values")
    return pixel_values


def check_pixels(pixels: Tensor, channels: int) -> None:
    """Checks that images are `(B, channels, H, W)`.

    Raises:
        InputError: they are not.
    """
    if pixels.ndim != 4:
        raise InputError(f"pixel_values have shape {tuple(pixels.shape)}; expected (batch, channels, height, width)")
    if pixels.shape[1] != channels:
        raise InputError(f"pixel_values have {pixels.shape[1]} channels; the model expects num_channels={channels}")


def channels_of(convolution: nn.Module, default: int) -> int:
    """Channels that a network's first convolution takes, which a user may have replaced; `default` if it is silent."""
    return int(getattr(convolution, "in_channels", default))


def hide_pixels(pixels: Tensor, mask: Tensor, cell: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sets hidden pixels to 0, the mean of normalised data, for networks whose first convolution overlaps cells.

    Args:
        pixels: `(B, C, H, W)`.
        mask: `(B, rows, columns)` bool, True = hidden.
        cell: `(h, w)` pixels of the first map's cells, of which `mask`'s must be whole multiples.

    Returns:
        The pixels, and the mask on the first map, `(B, H / h, W / w)`.

    Raises:
        InputError: a mask that fits no such cells, or another batch.
    """
    height, width = pixels.shape[-2:]
    if height % cell[0] or width % cell[1]:
        raise InputError(f"image {height}x{width} with a mask is not a multiple of {cell[0]}x{cell[1]} pixels; crop it")
    cells = as_grid_mask(mask, pixels.shape[0], (height // cell[0], width // cell[1]))
    return pixels.masked_fill(expand_mask(cells, (height, width)).unsqueeze(1), 0), cells


def place_mask_token(stem: Tensor, cells: Tensor, token: Tensor | None) -> Tensor:
    """Replaces the hidden cells of the first map by a token.

    Args:
        stem: `(B, E, h, w)`.
        cells: `(B, h, w)` bool, True = hidden.
        token: `(1, E, 1, 1)`.

    Raises:
        InputError: no token, or a map that does not tile the image.
    """
    return torch.where(cells.unsqueeze(1), _fitting(token, stem, cells, "the first map").to(stem.dtype), stem)


def add_mask_token(x: Tensor, cells: Tensor, token: Tensor | None) -> Tensor:
    """Adds a token to the hidden cells of a map between two stages (A2MIM, Li et al. 2023, section 4.2).

    Arguments and errors as of `place_mask_token`.
    """
    return x + _fitting(token, x, cells, "the map that the token is added to").to(x.dtype) * cells.unsqueeze(1)


def _fitting(token: Tensor | None, x: Tensor, cells: Tensor, where: str) -> Tensor:
    """The token, if there is one and the cells are those of the map."""
    if token is None:
        raise InputError("the model has no mask token, so it takes no mask; build it with use_mask_token=True")
    if x.shape[-2:] != cells.shape[-2:]:
        raise InputError(
            f"{where} is {x.shape[-2]}x{x.shape[-1]} but the mask {cells.shape[-2]}x{cells.shape[-1]}; "
            "masks need a padding that keeps whole cells (CvT: patch_padding, BiT: global_padding)"
        )
    return token
