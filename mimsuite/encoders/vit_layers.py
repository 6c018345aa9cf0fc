"""The parts of a Vision Transformer, each a module to call: what turns pixels into tokens, blocks, encoder, pooler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.activations import activation_function
from mimsuite.encoders.config import Side, as_pair, as_side
from mimsuite.encoders.layers import (
    Dense,
    Intermediate,
    as_bias,
    attend,
    channels_of,
    check_pixels,
    drop_path,
    drop_path_rates,
    is_plain,
    name_in_files,
)
from mimsuite.encoders.outputs import BaseModelOutput, as_output
from mimsuite.encoders.positions import RelativePositionBias, resize_positions
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask

# Shapes: B images, N = gh * gw patches, D features; T tokens: the class token (if any) first, then R register tokens,
# then the patches.


class QueryKeyValue(nn.Module):
    """Three projections, kept apart in files; plain ones are computed as one product, which is up to twice as fast."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, width, bias)
        self.value = nn.Linear(width, width, bias)

    def forward(self, tokens: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, each `(B, heads, T, D / heads)`."""
        batch, count, width = tokens.shape
        if not self._are_alike():
            query, key, value = (
                part(tokens).view(batch, count, heads, -1).transpose(1, 2)
                for part in (self.query, self.key, self.value)
            )
            return query, key, value
        parts = (self.query, self.key, self.value)
        weight = torch.cat([p.weight for p in parts])
        bias = None if self.query.bias is None else torch.cat([p.bias for p in parts])
        fused = F.linear(tokens, weight, bias).view(batch, count, 3, heads, width // heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _are_alike(self) -> bool:
        """Whether all three are plain and of one kind, so that they may be computed as one product."""
        first = self.query
        return all(
            is_plain(part, nn.Linear)
            and part.weight.dtype == first.weight.dtype
            and (part.bias is None) == (first.bias is None)
            for part in (first, self.key, self.value)
        )


class ViTAttention(nn.Module):
    """Multi-head self-attention and its output projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = config.num_attention_heads
        self.attention = QueryKeyValue(config.hidden_size, config.qkv_bias)
        self.output = Dense(config.hidden_size, config.hidden_size, config.use_attention_output_bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns `(B, T, D)`, and the probabilities `(B, heads, T, T)` or None.

        `attention_mask` is the `bias` of `attend`, `head_mask` the same as there.
        """
        query, key, value = self.attention(hidden_states, self.heads)
        context, weights = attend(
            query,
            key,
            value,
            scale=query.shape[-1] ** -0.5,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            bias=attention_mask,
            head_mask=head_mask,
            implementation=self.config.attn_implementation,
            need_weights=output_attentions,
        )
        return self.output(context.transpose(1, 2).reshape(hidden_states.shape)), weights


class ViTLayer(nn.Module):
    """A pre-norm block: attention, then MLP, each added to its input."""

    def __init__(self, config: ViTConfig, drop_path_rate: float) -> None:
        super().__init__()
        width, hidden, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.drop_path_rate = drop_path_rate
        self.layernorm_before = nn.LayerNorm(width, eps)
        self.attention = ViTAttention(config)
        self.layernorm_after = nn.LayerNorm(width, eps)
        gated = config.use_gated_mlp
        self.intermediate = Intermediate(width, hidden, config.hidden_act, config.use_mlp_bias, gated=gated)
        name_in_files(self, "intermediate.activation", "mlp.activation_fn")  # of activations with parameters
        self.output = Dense(hidden, width, config.use_mlp_bias)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.rel_pos_bias = relative_positions(config) if config.use_relative_position_bias else None
        scaled = config.layer_scale_init_value is not None
        self.gamma_1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.gamma_2 = nn.Parameter(torch.empty(width)) if scaled else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the tokens `(B, T, D)`; with `output_attentions` a pair of them and the attention probabilities.

        Arguments as for `ViTAttention.forward`.
        """
        tokens = hidden_states
        if self.rel_pos_bias is not None:
            own: Tensor = self.rel_pos_bias(tokens.shape[1])
            attention_mask = own if attention_mask is None else own + as_bias(attention_mask, own.dtype)
        attended, weights = self.attention(self.layernorm_before(tokens), attention_mask, head_mask, output_attentions)
        tokens = tokens + self._branch(attended, self.gamma_1)
        tokens = tokens + self._branch(self.output(self.intermediate(self.layernorm_after(tokens))), self.gamma_2)
        return (tokens, weights) if output_attentions else tokens

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        x = self.dropout(x)
        return drop_path(x if gamma is None else x * gamma, self.drop_path_rate, self.training)


class ViTEncoder(nn.Module):
    """The blocks under the name `layer`, and what they share."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        rates = drop_path_rates(config.drop_path_rate, config.num_hidden_layers)
        self.layer = nn.ModuleList(ViTLayer(config, rate) for rate in rates)
        self.rel_pos_bias = relative_positions(config) if config.use_shared_relative_position_bias else None

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        attention_mask: Tensor | None = None,
        recompute: bool = False,
    ) -> Any:
        """Runs the blocks on tokens `(B, T, D)`; gives a `BaseModelOutput`, or a tuple without `return_dict`.

        Arguments as for `VisionTransformer.forward`; `recompute` keeps only the blocks' inputs for the backward pass.
        """
        states: list[Tensor] = []
        weights: list[Any] = []
        blocks = self.depths(hidden_states, head_mask, output_attentions, attention_mask, recompute)
        for tokens, probabilities in blocks:
            if output_hidden_states:
                states.append(tokens)
            weights.append(probabilities)
        out = BaseModelOutput(
            tokens,
            tuple(states) if output_hidden_states else None,
            tuple(weights[1:]) if output_attentions else None,
        )
        return as_output(out, True, return_dict)

    def depths(
        self,
        tokens: Tensor,
        head_mask: Tensor | None = None,
        need_weights: bool = False,
        attention_mask: Tensor | None = None,
        recompute: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The tokens, then those after every block as they are computed, each with its block's probabilities if needed.

        Arguments as for `forward`.
        """
        bias = self._bias(tokens, attention_mask)
        yield tokens, None
        for layer, factors in zip(self.layer, self._head_factors(head_mask), strict=True):
            if recompute and torch.is_grad_enabled():
                out = checkpoint(layer, tokens, bias, factors, need_weights, use_reentrant=False)
            else:
                out = layer(tokens, bias, factors, need_weights)
            tokens, probabilities = out if need_weights else (out, None)
            yield tokens, probabilities

    def _bias(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """What is added to the scores of every block: relative positions, and what hides tokens."""
        count = tokens.shape[1]
        bias: Tensor | None = None if self.rel_pos_bias is None else self.rel_pos_bias(count)
        if attention_mask is None:
            return bias
        if attention_mask.ndim not in (2, 4) or attention_mask.shape[-1] != count:
            raise InputError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; expected ({tokens.shape[0]}, {count}), one "
                "value per token, the class token included"
            )
        mask = attention_mask.bool()[:, None, None] if attention_mask.ndim == 2 else attention_mask
        return mask if bias is None else bias + as_bias(mask, bias.dtype)

    def _head_factors(self, head_mask: Tensor | None) -> list[Tensor | None]:
        """One `(heads,)` tensor or None per block."""
        depth, heads = len(self.layer), self.config.num_attention_heads  # a user may have taken blocks out
        if head_mask is None:
            return [None] * depth
        if tuple(head_mask.shape) not in ((heads,), (depth, heads)):
            raise InputError(f"head_mask has shape {tuple(head_mask.shape)}; expected ({heads},) or ({depth}, {heads})")
        return list(head_mask.expand(depth, heads))


class ViTPooler(Dense):
    """A linear layer and an activation on the first token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config.hidden_size, config.pooler_output_size)
        self.activation = activation_function(config.pooler_act)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns `(B, pooler_output_size)` from normed tokens `(B, T, D)`."""
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTPatchEmbeddings(nn.Module):
    """Cuts images into patches and projects them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_channels, self.patch_size = config.num_channels, as_pair(config.patch_size)
        patch = self.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, patch, patch, bias=config.use_patch_bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns `(B, N, D)` from `(B, C, H, W)`."""
        projected: Tensor = self.projection(pixel_values)
        return projected.flatten(2).transpose(1, 2)

    @property
    def image_size(self) -> tuple[int, int]:
        """The config's, as a pair; may be set, and then it is also the config's."""
        return as_pair(self.config.image_size)

    @image_size.setter
    def image_size(self, size: Side) -> None:
        self.config.image_size = as_side(as_pair(size))

    @property
    def num_patches(self) -> int:
        """Patches of an image of that size."""
        rows, columns = grid_of(self.config.image_size, self.config)
        return rows * columns


class ViTEmbeddings(nn.Module):
    """Patches, mask token, class token, register tokens and positions."""

    def __init__(self, config: ViTConfig, use_mask_token: bool) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        tokens = math.prod(grid_of(config.image_size, config)) + config.use_class_token
        absolute = config.use_absolute_position_embeddings
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_class_token else None
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if use_mask_token else None
        learned = config.position == "learned"  # fixed ones stand in files all the same
        table = torch.empty(1, tokens, width)
        self.position_embeddings = nn.Parameter(table, requires_grad=learned) if absolute else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool | None = False
    ) -> Tensor:
        """Returns `(B, T, D)` from pixels `(B, C, H, W)`; other arguments as for `VisionTransformer.forward`."""
        self._check_pixels(pixel_values, bool(interpolate_pos_encoding))
        grid = grid_of([pixel_values.shape[-2], pixel_values.shape[-1]], self.config)
        tokens: Tensor = self.patch_embeddings(pixel_values)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise InputError("the model has no mask token, so it takes no mask; build it with use_mask_token=True")
            mask = as_grid_mask(bool_masked_pos, tokens.shape[0], grid)
            tokens = torch.where(mask.flatten(1).unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if self.position_embeddings is not None:
            tokens = tokens + self.positions(grid)
        if self.register_tokens is not None:
            first = int(self.config.use_class_token)
            registers = self.register_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :first], registers, tokens[:, first:]], dim=1)
        dropped: Tensor = self.dropout(tokens)
        return dropped

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Returns the position table for a grid, `(1, T, D)`.

        Unchanged for the config's grid, else bicubic, and smoothed if the config says so.
        """
        table = self.position_embeddings
        assert table is not None
        stored = grid_of(self.config.image_size, self.config)
        if grid == stored:
            return table
        return resize_positions(table, stored, grid, self.config.resize_mode, class_token=self.config.use_class_token)

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """The position table for images of `height` and `width` pixels; the tokens `embeddings` are not looked at."""
        return self.positions(grid_of([height, width], self.config))

    @property
    def patch_size(self) -> Side:
        """The config's."""
        return self.config.patch_size

    def _check_pixels(self, pixels: Tensor, interpolate: bool) -> None:
        height, width = as_pair(self.config.image_size)
        check_pixels(pixels, channels_of(self.patch_embeddings.projection, self.config.num_channels))
        given = (pixels.shape[2], pixels.shape[3])
        if given == (height, width):
            return
        if not interpolate:
            raise InputError(
                f"Input image size ({given[0]}*{given[1]}) doesn't match model ({height}*{width}). "
                f"Resize the images or pass interpolate_pos_encoding=True."
            )
        if min(grid_of(list(given), self.config)) < 1:
            raise InputError(
                f"Input image size ({given[0]}*{given[1]}) is smaller than a patch ({self.config.patch_size})"
            )


def relative_positions(config: ViTConfig) -> RelativePositionBias:
    """A table of relative positions for the grid of the config."""
    return RelativePositionBias(grid_of(config.image_size, config), config.num_attention_heads, config.use_class_token)


def grid_of(image_size: Side, config: ViTConfig) -> tuple[int, int]:
    """Rows and columns of whole patches in an image of a side or `[H, W]` pixels."""
    (height, width), (down, across) = as_pair(image_size), as_pair(config.patch_size)
    return height // down, width // across
