"""The layers of a Vision Transformer: attention, blocks, and what turns pixels into tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.config import Side, as_pair
from mimsuite.encoders.layers import Dense, activation_function, attend, check_pixels, drop_path
from mimsuite.encoders.positions import resize_positions
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError

# Shapes: B images, N = gh * gw patches, D features; T tokens: the class token (if any) first, then R register tokens,
# then the patches.


class QueryKeyValue(nn.Module):
    """Three projections, kept apart in files and computed as one product, which is up to twice as fast."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, width, bias)
        self.value = nn.Linear(width, width, bias)

    def forward(self, tokens: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, each `(B, heads, T, D / heads)`."""
        parts = (self.query, self.key, self.value)
        weight = torch.cat([p.weight for p in parts])
        bias = None if self.query.bias is None else torch.cat([p.bias for p in parts])
        batch, count, width = tokens.shape
        fused = F.linear(tokens, weight, bias).view(batch, count, 3, heads, width // heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


class ViTAttention(nn.Module):
    """Multi-head self-attention and its output projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = config.num_attention_heads
        self.attention = QueryKeyValue(config.hidden_size, config.qkv_bias)
        self.output = Dense(config.hidden_size, config.hidden_size, config.use_attention_output_bias)

    def forward(
        self, tokens: Tensor, bias: Tensor | None, head_mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns `(B, T, D)`, and the probabilities `(B, heads, T, T)` or None.

        Arguments as for `attend`.
        """
        query, key, value = self.attention(tokens, self.heads)
        context, weights = attend(
            query,
            key,
            value,
            scale=query.shape[-1] ** -0.5,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            bias=bias,
            head_mask=head_mask,
            implementation=self.config.attn_implementation,
            need_weights=need_weights,
        )
        return self.output(context.transpose(1, 2).reshape(tokens.shape)), weights


class ViTLayer(nn.Module):
    """A pre-norm block: attention, then MLP, each added to its input."""

    def __init__(self, config: ViTConfig, drop_path_rate: float) -> None:
        super().__init__()
        width, hidden, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.drop_path_rate = drop_path_rate
        self.layernorm_before = nn.LayerNorm(width, eps)
        self.attention = ViTAttention(config)
        self.layernorm_after = nn.LayerNorm(width, eps)
        self.intermediate = Dense(width, hidden, config.use_mlp_bias)
        self.activation = activation_function(config.hidden_act)
        self.output = Dense(hidden, width, config.use_mlp_bias)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        scaled = config.layer_scale_init_value is not None
        self.gamma_1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.gamma_2 = nn.Parameter(torch.empty(width)) if scaled else None

    def forward(
        self, tokens: Tensor, bias: Tensor | None, head_mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the tokens `(B, T, D)` and the attention probabilities or None."""
        attended, weights = self.attention(self.layernorm_before(tokens), bias, head_mask, need_weights)
        tokens = tokens + self._branch(attended, self.gamma_1)
        expanded = self.activation(self.intermediate(self.layernorm_after(tokens)))
        return tokens + self._branch(self.output(expanded), self.gamma_2), weights

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        x = self.dropout(x)
        return drop_path(x if gamma is None else x * gamma, self.drop_path_rate, self.training)


class ViTEmbeddings(nn.Module):
    """Patches, mask token, class token, register tokens and positions."""

    def __init__(self, config: ViTConfig, use_mask_token: bool) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, as_pair(config.patch_size)
        tokens = math.prod(grid_of(config.image_size, config)) + config.use_class_token
        absolute = config.use_absolute_position_embeddings
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_class_token else None
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if use_mask_token else None
        learned = config.position == "learned"  # fixed ones stand in files all the same
        table = torch.empty(1, tokens, width)
        self.position_embeddings = nn.Parameter(table, requires_grad=learned) if absolute else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        projection = nn.Conv2d(config.num_channels, width, patch, patch, bias=config.use_patch_bias)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixels: Tensor, mask: Tensor | None, interpolate: bool) -> Tensor:
        """Returns `(B, T, D)` from `pixels (B, C, H, W)` and `mask (B, gh, gw)` bool, True = hidden."""
        self._check_pixels(pixels, interpolate)
        projected = self.patch_embeddings["projection"](pixels)
        tokens = projected.flatten(2).transpose(1, 2)
        if mask is not None:
            if self.mask_token is None:
                raise InputError("the model has no mask token, so it takes no mask; build it with use_mask_token=True")
            tokens = torch.where(mask.flatten(1).unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if self.position_embeddings is not None:
            tokens = tokens + self.positions((projected.shape[-2], projected.shape[-1]))
        if self.register_tokens is not None:
            first = int(self.config.use_class_token)
            registers = self.register_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :first], registers, tokens[:, first:]], dim=1)
        dropped: Tensor = self.dropout(tokens)
        return dropped

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Returns the position table for a grid, `(1, T, D)`.

        Unchanged for the config's grid, else bicubic.
        """
        table = self.position_embeddings
        assert table is not None
        stored = grid_of(self.config.image_size, self.config)
        if grid == stored:
            return table
        return resize_positions(table, stored, grid, class_token=self.config.use_class_token)

    def _check_pixels(self, pixels: Tensor, interpolate: bool) -> None:
        channels, (height, width) = self.config.num_channels, as_pair(self.config.image_size)
        check_pixels(pixels, channels)
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


def grid_of(image_size: Side, config: ViTConfig) -> tuple[int, int]:
    """Rows and columns of whole patches in an image of a side or `[H, W]` pixels."""
    (height, width), (down, across) = as_pair(image_size), as_pair(config.patch_size)
    return height // down, width // across
