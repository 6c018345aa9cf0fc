"""The convolutional vision transformer, CvT (Wu et al. 2021), with the parameter names of Hugging Face's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    activation_function,
    attend,
    check_config,
    check_pixels,
    drop_path,
    drop_path_rates,
    given_pixels,
    hide_pixels,
    init_truncated_normal,
    of_layers,
    place_mask_token,
)
from mimsuite.encoders.outputs import BaseModelOutputWithCLSToken, as_output
from mimsuite.errors import InputError
from mimsuite.masked.losses import widen
from mimsuite.types import FeatureMap

# Shapes: B images, (h, w) cells of a stage's map, T = h * w tokens, one more with class token, E its width.


class _DepthwiseNorm(nn.Module):
    """A depthwise convolution and BatchNorm."""

    def __init__(self, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel, stride, padding, groups=width, bias=False)
        self.normalization = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, E, h', w')` from `(B, E, h, w)`."""
        out: Tensor = self.normalization(self.convolution(x) if x.device.type != "cpu" else self._widened(x))
        return out

    def _widened(self, x: Tensor) -> Tensor:
        """The convolution in float32: a CPU has no fast backward pass for strided depthwise ones in half types."""
        given = self.convolution
        with torch.autocast("cpu", enabled=False):
            out = F.conv2d(widen(x), widen(given.weight), None, given.stride, given.padding, 1, given.groups)
        return out.to(given.weight.dtype)


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

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens `(B, h' * w', E)` from a map `(B, E, h, w)`."""
        mapped: Tensor = self.convolution_projection(x)
        return mapped.flatten(2).transpose(1, 2)


class CvtAttention(nn.Module):
    """Attention whose queries, keys and values are projected by convolutions on the map."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        width, method, kernel = config.embed_dim[stage], config.qkv_projection_method[stage], config.kernel_qkv[stage]
        of_query = "linear" if method == "avg" else method
        query = CvtProjection(of_query, width, kernel, config.stride_q[stage], config.padding_q[stage])
        key, value = (
            CvtProjection(method, width, kernel, config.stride_kv[stage], config.padding_kv[stage]) for _ in "kv"
        )
        bias = config.qkv_bias[stage]
        self.heads = config.num_heads[stage]
        self.rate = config.attention_drop_rate[stage]
        self.implementation = config.attn_implementation
        self.attention = nn.ModuleDict(
            {
                "convolution_projection_query": query,
                "convolution_projection_key": key,
                "convolution_projection_value": value,
                "projection_query": nn.Linear(width, width, bias),
                "projection_key": nn.Linear(width, width, bias),
                "projection_value": nn.Linear(width, width, bias),
            }
        )
        self.output = Dense(width, width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns `(B, T, E)` from `tokens (B, T, E)`, the class token first if there is one."""
        first = tokens.shape[1] - grid[0] * grid[1]
        mapped = _as_map(tokens[:, first:], grid)
        context, _ = attend(
            *(self._heads(name, tokens[:, :first], mapped) for name in ("query", "key", "value")),
            scale=tokens.shape[-1] ** -0.5,  # of the whole width, not of a head's, as the paper's code has it
            dropout=self.rate if self.training else 0.0,
            bias=None,
            head_mask=None,
            implementation=self.implementation,
            need_weights=False,
        )
        out: Tensor = self.output(context.transpose(1, 2).reshape(tokens.shape))
        return out

    def _heads(self, name: str, cls_token: Tensor, mapped: Tensor) -> Tensor:
        """Query, key or value `(B, heads, tokens, E / heads)`."""
        projected = self.attention[f"convolution_projection_{name}"](mapped)
        if cls_token.shape[1]:
            projected = torch.cat([cls_token.to(projected.dtype), projected], dim=1)
        out: Tensor = self.attention[f"projection_{name}"](projected)
        return out.view(*out.shape[:2], self.heads, -1).transpose(1, 2)


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
        self.intermediate = Dense(width, hidden)
        self.activation = activation_function(config.hidden_act)
        self.output = Dense(hidden, width)
        self.dropout = nn.Dropout(config.drop_rate[stage])

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns the tokens `(B, T, E)`."""
        tokens = tokens + self._branch(self.attention(self.layernorm_before(tokens), grid))
        expanded = self.activation(self.intermediate(self.layernorm_after(tokens)))
        return tokens + self._branch(self.output(expanded))

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
        return _norm_map(self.normalization, self.projection(x))


class CvtStage(nn.Module):
    """An embedding that makes the map smaller, then blocks on its cells and on the class token."""

    def __init__(self, config: CvtConfig, stage: int) -> None:
        super().__init__()
        width, depth = config.embed_dim[stage], config.depth[stage]
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.cls_token[stage] else None
        self.embedding = nn.ModuleDict({"convolution_embeddings": _ConvEmbedding(config, stage)})
        self.dropout = nn.Dropout(config.drop_rate[stage])
        rates = drop_path_rates(config.drop_path_rate[stage], depth)
        self.layers = nn.ModuleList(CvtLayer(config, stage, rate) for rate in rates)

    def embed(self, x: Tensor) -> Tensor:
        """Returns the map `(B, E, h, w)` of the embedding alone."""
        out: Tensor = self.embedding["convolution_embeddings"](x)
        return out

    def forward(self, embedded: Tensor, recompute: bool) -> tuple[Tensor, Tensor | None]:
        """Returns the map `(B, E, h, w)` and the class token `(B, 1, E)` or None.

        `recompute`: keep only the blocks' inputs for the backward pass.
        """
        grid = (embedded.shape[-2], embedded.shape[-1])
        tokens = self.dropout(embedded).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for layer in self.layers:
            tokens = _recomputed(layer, tokens, grid) if recompute else layer(tokens, grid)
        first = int(self.cls_token is not None)
        mapped = _as_map(tokens[:, first:], grid)
        return mapped, tokens[:, :first] if first else None


class ConvolutionalTransformer(nn.Module):
    """The network; fulfils `mimsuite.types.Encoder`. Takes any image size; has no position embeddings.

    BatchNorm in the attention's projections keeps running statistics: in pretraining they are those of masked
    images, whole images move them when the network is trained on in train mode.

    Args:
        config: sizes and switches.
        add_final_norm: adds the LayerNorm on the last map that `forward_features` ends with; models with a head
            have it, and their files keep it beside the encoder, as `layernorm`.
        use_mask_token: adds the token that takes the place of hidden cells of the first map, in files `mask_token`.

    Attributes:
        num_features: width of the last stage.
        stride: `(s, s)` pixels, the product of `patch_stride`.
        mask_stride: `(m, m)` pixels, the first of `patch_stride`.
        num_layers: stages.
        num_blocks: blocks of all stages.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their inner values.
    """

    def __init__(self, config: CvtConfig, add_final_norm: bool = False, use_mask_token: bool = False) -> None:
        super().__init__()
        check_config(config, CvtConfig)
        self.config = config
        self.num_features = config.embed_dim[-1]
        self.stride, self.mask_stride = config.stride, config.mask_stride
        self.num_layers, self.num_blocks = len(config.depth), sum(config.depth)
        self.gradient_checkpointing = False
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(CvtStage(config, i) for i in range(len(config.depth)))})
        self.layernorm = nn.LayerNorm(self.num_features) if add_final_norm else None
        self.mask_token = nn.Parameter(torch.empty(1, config.embed_dim[0], 1, 1)) if use_mask_token else None
        init_weights(self)

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features come after the final LayerNorm.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole multiples of
                `mask_stride`. Hidden pixels are set to 0, the data's mean, before the first convolution, which
                overlaps them; so they influence nothing, not even as NaN.

        Raises:
            InputError: other channels, an image that the strides make smaller than a cell, a mask that fits no
                cells, or a network without mask token or final norm.
        """
        return self.features_and_states(pixels, mask, False)[0]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Features of stages, numbered from 1, of whole images.

        The last stage's are those of `forward_features`, after the final LayerNorm; those of an earlier one are its
        output (`hidden_states[layer - 1]`), with a class token where the stage has one.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            layers: numbers of stages; the deepest is the last that runs.

        Raises:
            InputError: no such stage, or as `forward_features`.
        """
        found = of_layers(self._stage_by_stage(pixels, None), layers, self.num_layers)
        return tuple(self._features(*found[n], final=n == self.num_layers) for n in layers)

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of all stages."""
        mapped, cls_token, states = self.encode(pixels, mask, need_states)
        return self._features(mapped, cls_token, final=True), states

    def _features(self, mapped: Tensor, cls_token: Tensor | None, *, final: bool) -> FeatureMap:
        """What a stage put out as features; of the last one normed."""
        if final:
            if self.layernorm is None:
                raise InputError(
                    "CvtModel has no final norm, so it gives no features; build it with add_final_norm=True"
                )
            mapped = _norm_map(self.layernorm, mapped)
            cls_token = None if cls_token is None else self.layernorm(cls_token)
        return FeatureMap(mapped, None if cls_token is None else cls_token[:, 0])

    def encode(
        self, pixels: Tensor, mask: Tensor | None = None, need_states: bool = False
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...] | None]:
        """Returns the last map `(B, D, h, w)`, the class token `(B, 1, D)` or None, and if needed all stages' maps.

        All are before the final LayerNorm; arguments and errors as for `forward_features`.
        """
        states = []
        for last in self._stage_by_stage(pixels, mask):
            if need_states:
                states.append(last[0])
        return *last, tuple(states) if need_states else None

    def _stage_by_stage(self, pixels: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The map `(B, E, h, w)` and the class token `(B, 1, E)` or None after every stage."""
        check_pixels(pixels, self.config.num_channels)
        x = pixels.to(next(self.parameters()).dtype)
        cells = None
        if mask is not None:
            x, cells = hide_pixels(x, mask, self.mask_stride)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for number, stage in enumerate(self._stages()):
            _check_map(x, self.config, number)
            x = stage.embed(x)
            if number == 0 and cells is not None:
                x = place_mask_token(x, cells, self.mask_token)
            _check_keys(x, self.config, number)
            x, cls_token = stage(x, recompute)
            yield x, cls_token

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Runs the network; None for a switch means the config's value.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats, cast to the parameters' dtype.
            output_hidden_states: also return the map after every stage.
            return_dict: False: a tuple instead of `BaseModelOutputWithCLSToken`.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        pixels = given_pixels(pixel_values)
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        out = BaseModelOutputWithCLSToken(*self.encode(pixels, None, need_states))
        return as_output(out, self.config.return_dict, return_dict)

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Does nothing: no weight of CvT depends on the image size."""

    def depth_of(self, name: str) -> int:
        """Depth of a parameter: 0 first embedding, i block i from 1 through all stages, then the final norm.

        The embedding and the class token of a later stage have the depth of the last block before them, as what
        leads from stage to stage of a Swin has in SimMIM's published code.

        Raises:
            InputError: no such parameter.
        """
        if name == "mask_token":
            return 0
        if name.startswith("layernorm."):
            return self.num_blocks + 1
        part = re.match(r"encoder\.stages\.(\d+)\.(?:(?:embedding\.|cls_token$)|layers\.(\d+)\.)", name)
        depths = self.config.depth
        if part and (stage := int(part[1])) < len(depths) and (part[2] is None or int(part[2]) < depths[stage]):
            return sum(depths[:stage]) + (0 if part[2] is None else int(part[2]) + 1)
        raise InputError(f"{name} is not a parameter of a CvT encoder; use a name of its named_parameters()")

    def _stages(self) -> Iterator[CvtStage]:
        yield from self.encoder["stages"]  # type: ignore[misc]


@torch.no_grad()
def init_weights(model: ConvolutionalTransformer) -> None:
    """Draws all parameters anew from torch's global generator: truncated normals; norms 1 and 0."""
    std = model.config.initializer_range
    init_truncated_normal(model, std)
    for stage in model._stages():
        if stage.cls_token is not None:
            nn.init.trunc_normal_(stage.cls_token, std=std)
    if model.mask_token is not None:
        nn.init.trunc_normal_(model.mask_token, std=0.02)


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `(B, h * w, E)` as a map `(B, E, h, w)`."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def _norm_map(norm: nn.LayerNorm, x: Tensor) -> Tensor:
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


def _recomputed(layer: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """A block whose inner values are computed anew for the backward pass."""
    out: Tensor
    if torch.compiler.is_compiling():  # writes running statistics once, however often it computes
        out = checkpoint(layer, tokens, grid, use_reentrant=False)
    else:
        out = checkpoint(layer, tokens, grid, use_reentrant=False, context_fn=partial(_twice, layer))
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
