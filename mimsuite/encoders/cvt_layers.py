"""The parts of a CvT, each a module to call: projections, attention, blocks, embeddings, stages, encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.cvt_config import CvtConfig
from mimsuite.encoders.layers import (
    Dense,
    Intermediate,
    add_mask_token,
    attend,
    drop_path,
    drop_path_rates,
    place_mask_token,
)
from mimsuite.encoders.outputs import BaseModelOutputWithCLSToken, as_output
from mimsuite.encoders.sparse import Visible, VisibleMaps, VisibleTokens, sparse_batch_norm, visible_of, zero_hidden
from mimsuite.errors import InputError
from mimsuite.masked.losses import widen

# Shapes: B images, (h, w) cells of a stage's map, T = h * w tokens, one more with class token, E its width.


class DepthwiseConv2d(nn.Conv2d):
    """A convolution that a CPU computes in float32: it has no fast backward pass for strided depthwise half types."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, E, h', w')` from `(B, E, h, w)`."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else widen(self.bias)
            out = F.conv2d(widen(x), widen(self.weight), bias, self.stride, self.padding, self.dilation, self.groups)
        return out.to(self.weight.dtype)


class _DepthwiseNorm(nn.Module):
    """A depthwise convolution and BatchNorm."""

    def __init__(self, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.convolution = DepthwiseConv2d(width, width, kernel, stride, padding, groups=width, bias=False)
        self.normalization = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        """Returns `(B, E, h', w')` from `(B, E, h, w)`; with `visible`, statistics are of these positions alone."""
        mapped: Tensor = self.convolution(x)
        if visible is not None:
            return sparse_batch_norm(self.normalization, zero_hidden(mapped, visible), visible)
        out: Tensor = self.normalization(mapped)
        return out


class CvtProjection(nn.Module):
    """What comes before the linear projection of query, key or value, by `qkv_projection_method`."""

    def __init__(self, method: str, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.convolution_projection: nn.Module
        if method == "dw_bn":
            self.convolution_projection = _DepthwiseNorm(width, kernel, stride, padding)
        elif method == "avg":
            self.convolution_projection = nn.AvgPool2d(kernel, stride, padding, ceil_mode=True)
        else:
            self.convolution_projection = nn.Identity()

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        """Returns tokens `(B, h' * w', E)` from a map `(B, E, h, w)`; `visible` is of the map that comes out."""
        project = self.convolution_projection
        mapped: Tensor = project(x, visible) if isinstance(project, _DepthwiseNorm) else project(x)
        return mapped.flatten(2).transpose(1, 2)


class CvtSelfAttention(nn.Module):
    """Attention whose queries, keys and values are projected by convolutions on the map."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        width, method, kernel = config.embed_dim[stage], config.qkv_projection_method[stage], config.kernel_qkv[stage]
        of_query = "linear" if method == "avg" else method
        stride, padding, bias = config.stride_kv[stage], config.padding_kv[stage], config.qkv_bias[stage]
        self.heads = config.num_heads[stage]
        self.rate = config.attention_drop_rate[stage]
        self.config = config
        self.convolution_projection_query = CvtProjection(
            of_query, width, kernel, config.stride_q[stage], config.padding_q[stage]
        )
        self.convolution_projection_key = CvtProjection(method, width, kernel, stride, padding)
        self.convolution_projection_value = CvtProjection(method, width, kernel, stride, padding)
        self.projection_query = nn.Linear(width, width, bias)
        self.projection_key = nn.Linear(width, width, bias)
        self.projection_value = nn.Linear(width, width, bias)

    def forward(self, hidden_state: Tensor, height: int, width: int, seen: VisibleTokens | None = None) -> Tensor:
        """Returns `(B, T, E)` from tokens `(B, T, E)` of a map `(height, width)`, a class token first.

        With `seen`, no token depends on hidden ones.
        """
        first = hidden_state.shape[1] - height * width
        cls_token, mapped = hidden_state[:, :first], as_map(hidden_state[:, first:], (height, width))
        if seen is not None:
            mapped = zero_hidden(mapped, seen.map)
        keys = None if seen is None else seen.keys
        query = self.convolution_projection_query(mapped, None if seen is None else seen.map)
        key = self.convolution_projection_key(mapped, keys)
        value = self.convolution_projection_value(mapped, keys)
        context, _ = attend(
            self._heads(self.projection_query, cls_token, query),
            self._heads(self.projection_key, cls_token, key),
            self._heads(self.projection_value, cls_token, value),
            scale=hidden_state.shape[-1] ** -0.5,  # of the whole width, not of a head's, as the paper's code has it
            dropout=self.rate if self.training else 0.0,
            bias=None if seen is None else seen.attended,
            head_mask=None,
            implementation=self.config.attn_implementation,
            need_weights=False,
        )
        return context.transpose(1, 2).reshape(hidden_state.shape)

    def _heads(self, project: nn.Module, cls_token: Tensor, tokens: Tensor) -> Tensor:
        """Query, key or value `(B, heads, tokens, E / heads)`."""
        if cls_token.shape[1]:
            tokens = torch.cat([cls_token.to(tokens.dtype), tokens], dim=1)
        out: Tensor = project(tokens)
        return out.view(*out.shape[:2], self.heads, -1).transpose(1, 2)


class CvtAttention(nn.Module):
    """The attention and its output projection."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        self.attention = CvtSelfAttention(config, stage)
        self.output = Dense(config.embed_dim[stage], config.embed_dim[stage])

    def forward(self, hidden_state: Tensor, height: int, width: int, seen: VisibleTokens | None = None) -> Tensor:
        """Returns `(B, T, E)` from tokens `(B, T, E)` of a map `(height, width)`, a class token first."""
        out: Tensor = self.output(self.attention(hidden_state, *given(height, width, seen)))
        return out


class CvtLayer(nn.Module):
    """A pre-norm block: attention, then MLP, each added to its input."""

    def __init__(self, config: CvtConfig, stage: int, drop_path_rate: float) -> None:
        super().__init__()
        width = config.embed_dim[stage]
        hidden = int(width * config.mlp_ratio[stage])
        self.drop_path_rate = drop_path_rate
        self.layernorm_before = nn.LayerNorm(width)
        self.attention = CvtAttention(config, stage)
        self.layernorm_after = nn.LayerNorm(width)
        self.intermediate = Intermediate(width, hidden, config.hidden_act)
        self.output = Dense(hidden, width)
        self.dropout = nn.Dropout(config.drop_rate[stage])

    def forward(self, hidden_state: Tensor, height: int, width: int, seen: VisibleTokens | None = None) -> Tensor:
        """Returns `(B, T, E)` from tokens `(B, T, E)` of a map `(height, width)`, a class token first."""
        attended = self.attention(self.layernorm_before(hidden_state), *given(height, width, seen))
        tokens = hidden_state + self._branch(attended)
        return tokens + self._branch(self.output(self.intermediate(self.layernorm_after(tokens))))

    def _branch(self, x: Tensor) -> Tensor:
        return drop_path(self.dropout(x), self.drop_path_rate, self.training)


class _ConvEmbedding(nn.Module):
    """An overlapping convolution and a LayerNorm over the channels."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        inputs = config.embed_dim[stage - 1] if stage else config.num_channels
        width, kernel = config.embed_dim[stage], config.patch_sizes[stage]
        self.projection = nn.Conv2d(inputs, width, kernel, config.patch_stride[stage], config.patch_padding[stage])
        self.normalization = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map `(B, E, h, w)`."""
        return norm_map(self.normalization, self.projection(x))


class CvtEmbeddings(nn.Module):
    """The convolution, the mask token in hidden cells, and dropout."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        self.convolution_embeddings = _ConvEmbedding(config, stage)
        self.dropout = nn.Dropout(config.drop_rate[stage])

    def forward(
        self,
        pixel_values: Tensor,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        maps: VisibleMaps | None = None,
    ) -> Tensor:
        """Returns the map `(B, E, h, w)`; where `hidden (B, h, w)` is True, cells hold `mask_token (1, E, 1, 1)`.

        With `maps`, hidden positions are zero.
        """
        x = self.convolution_embeddings(pixel_values)
        if maps is not None:
            x = zero_hidden(x, maps.at((x.shape[-2], x.shape[-1])))
        dropped: Tensor = self.dropout(x if hidden is None else place_mask_token(x, hidden, mask_token))
        return dropped


class CvtStage(nn.Module):
    """An embedding that makes the map smaller, then blocks on its cells and on the class token."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        self.config, self.stage = config, stage
        width, depth = config.embed_dim[stage], config.depth[stage]
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.cls_token[stage] else None
        self.embedding = CvtEmbeddings(config, stage)
        rates = drop_path_rates(config.drop_path_rate[stage], depth)
        self.layers = nn.ModuleList(CvtLayer(config, stage, rate) for rate in rates)

    def forward(
        self,
        hidden_state: Tensor,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        recompute: bool = False,
        maps: VisibleMaps | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the map `(B, E, h, w)` and the class token `(B, 1, E)` or None.

        Args:
            hidden_state: the map of the stage before, or the pixels.
            hidden: see `CvtEmbeddings.forward`.
            mask_token: likewise.
            recompute: keep only the blocks' inputs for the backward pass.
            maps: the visible positions where hidden ones are zero, in the map that is given and that is returned.
        """
        _check_map(hidden_state, self.config, self.stage)
        embedded = self.embedding(hidden_state, hidden, mask_token, *([] if maps is None else [maps]))
        _check_keys(embedded, self.config, self.stage)
        height, width = embedded.shape[-2:]
        tokens = embedded.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
        first, visible = int(self.cls_token is not None), None if maps is None else maps.at((height, width))
        seen = None if visible is None else visible_tokens(self.config, self.stage, visible, first)
        for layer in self.layers:
            sizes = given(height, width, seen)
            tokens = _recomputed(layer, tokens, *sizes) if recompute else layer(tokens, *sizes)
        mapped = as_map(tokens[:, first:], (height, width))
        return mapped if visible is None else zero_hidden(mapped, visible), tokens[:, :first] if first else None


class CvtEncoder(nn.Module):
    """The stages."""

    def __init__(self, config: CvtConfig) -> None:
        super().__init__()
        self.mask_layer = config.mask_layer
        self.stages = nn.ModuleList(CvtStage(config, i) for i in range(len(config.depth)))

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        recompute: bool = False,
        maps: VisibleMaps | None = None,
    ) -> Any:
        """Runs the stages; gives a `BaseModelOutputWithCLSToken`, or a tuple without `return_dict`.

        `hidden` and `mask_token` are of the first stage, see `CvtStage.forward`, or of the map after the stage
        `mask_layer`, to which the token is added; `maps` are of all.
        """
        states = []
        for last in self.maps(pixel_values, hidden, mask_token, recompute, maps):
            if output_hidden_states:
                states.append(last[0])
        return as_output(
            BaseModelOutputWithCLSToken(*last, tuple(states) if output_hidden_states else None), True, return_dict
        )

    def maps(
        self,
        x: Tensor,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        recompute: bool = False,
        maps: VisibleMaps | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The map `(B, E, h, w)` and the class token `(B, 1, E)` or None after every stage, as they are computed."""
        nothing = (None, None)
        placed = (hidden, mask_token) if self.mask_layer is None else nothing
        for number, stage in enumerate(self.stages, start=1):
            x, cls_token = stage(x, *(placed if number == 1 else nothing), recompute and torch.is_grad_enabled(), maps)
            if hidden is not None and number == self.mask_layer:
                x = add_mask_token(x, hidden, mask_token)
            yield x, cls_token


def visible_tokens(config: CvtConfig, stage: int, visible: Visible, first: int) -> VisibleTokens:
    """What of a stage's map its attention may look at; `first` class tokens are always seen."""
    method, keys = config.qkv_projection_method[stage], visible
    if method != "linear":
        window = config.kernel_qkv[stage], config.stride_kv[stage], config.padding_kv[stage]
        keys = visible_of(F.max_pool2d((~visible.hidden).float(), *window, ceil_mode=method == "avg") == 0)
    return VisibleTokens(visible, keys, F.pad(~keys.hidden.flatten(2).unsqueeze(1), (first, 0), value=True))


def given(height: int, width: int, seen: VisibleTokens | None) -> tuple[Any, ...]:
    """The further arguments of a block: what others put in its place need not know of `seen` where there is none."""
    return (height, width) if seen is None else (height, width, seen)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `(B, h * w, E)` as a map `(B, E, h, w)`."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def norm_map(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm over the channels of a map `(B, E, h, w)`."""
    out: Tensor = norm(x.permute(0, 2, 3, 1))
    return out.permute(0, 3, 1, 2)


def _check_map(x: Tensor, config: CvtConfig, stage: int) -> None:
    """Whether a stage's embedding has at least one cell to give."""
    least = config.patch_sizes[stage] - 2 * config.patch_padding[stage]
    _check_sides(x, least, f"stage {stage}")


def _check_keys(x: Tensor, config: CvtConfig, stage: int) -> None:
    """Whether its attention has at least one key."""
    if config.qkv_projection_method[stage] != "linear":
        _check_sides(x, config.kernel_qkv[stage] - 2 * config.padding_kv[stage], f"the attention of stage {stage}")


def _check_sides(x: Tensor, least: int, where: str) -> None:
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise InputError(
            f"{where} gets a map of {height}x{width}, but its convolution needs {least}x{least}; use larger images"
        )


def _recomputed(layer: nn.Module, tokens: Tensor, *sizes: Any) -> Tensor:
    """A block whose inner values are computed anew for the backward pass."""
    out: Tensor
    if torch.compiler.is_compiling():  # writes running statistics once, however often it computes
        out = checkpoint(layer, tokens, *sizes, use_reentrant=False)
    else:
        out = checkpoint(layer, tokens, *sizes, use_reentrant=False, context_fn=partial(_twice, layer))
    return out


def _twice(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a block's forward pass and of its repetition, which must not count batches a second time."""
    return nullcontext(), _untracked(layer)


@contextmanager
def _untracked(layer: nn.Module) -> Iterator[None]:
    """BatchNorms in train mode write to copies of their running statistics, so that these stay as they are."""
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    kept = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
