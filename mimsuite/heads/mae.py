"""MAE's decoder: a small transformer that fills the places of dropped patches (He et al. 2022, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.config import Activation
from mimsuite.encoders.layers import init_xavier
from mimsuite.encoders.positions import resize_positions, sincos_positions
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.encoders.vit_layers import ViTLayer
from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask, fold_patches

# Shapes: B images, a feature map of h * w = N cells with D features, C channels of the target, E the decoder's width.


class MAEDecoder(nn.Module):
    """Predicts the cells of a target from the visible cells of a feature map; names as in Hugging Face's ViTMAE.

    Every hidden cell becomes the mask token; fixed sine-cosine positions are added; the blocks are those of a ViT.

    Args:
        num_features: D.
        stride: `(sh, sw)`, places of the target per cell.
        num_channels: C.
        grid: `(h, w)` of the feature map that it is made for; for others the positions are interpolated.
        class_token: whether the encoder gives one; then it goes along.
        hidden_size: E; a multiple of 4 and of the heads.
        num_hidden_layers: blocks.
        num_attention_heads: heads per block.
        intermediate_size: width of the MLPs.
        layer_norm_eps: of all LayerNorms.
        hidden_act: activation of the MLPs.
        qkv_bias: biases of query, key and value.
        attn_implementation: "auto", "sdpa" or "eager".

    Attributes:
        grid: `(h, w)` of the stored positions.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their inner values.
    """

    decoder_pos_embed: Tensor

    def __init__(
        self,
        num_features: int,
        stride: tuple[int, int],
        num_channels: int,
        *,
        grid: tuple[int, int],
        class_token: bool,
        hidden_size: int = 512,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 16,
        intermediate_size: int = 2048,
        layer_norm_eps: float = 1e-6,
        hidden_act: Activation = "gelu",
        qkv_bias: bool = True,
        attn_implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.grid, self.class_token, self.stride, self.num_channels = grid, class_token, stride, num_channels
        self.gradient_checkpointing = False
        block = ViTConfig(
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            layer_norm_eps=layer_norm_eps,
            hidden_act=hidden_act,
            qkv_bias=qkv_bias,
            attn_implementation=attn_implementation,
        )
        self.decoder_embed = nn.Linear(num_features, hidden_size)
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.register_buffer("decoder_pos_embed", sincos_positions(grid, hidden_size, class_token=class_token))
        self.decoder_layers = nn.ModuleList(ViTLayer(block, 0.0) for _ in range(num_hidden_layers))
        self.decoder_norm = nn.LayerNorm(hidden_size, layer_norm_eps)
        self.decoder_pred = nn.Linear(hidden_size, num_channels * stride[0] * stride[1])
        init_xavier(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, grid: Tensor, cls: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Returns the target `(B, C, h * sh, w * sw)`.

        Args:
            grid: `(B, D, h, w)`; values in hidden cells are ignored.
            cls: `(B, D)`, if the encoder has a class token.
            hidden: `(B, rows, columns)` bool on a grid that divides `(h, w)`; None: all is visible.
        """
        rows, columns = grid.shape[-2:]
        cells = self._cells(self._decode(grid, cls, hidden))
        return fold_patches(cells.transpose(1, 2).reshape(cells.shape[0], -1, rows, columns), self.stride)

    def hidden_only(
        self, grid: Tensor, cls: Tensor | None, hidden: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Returns some cells, `(K, C * sh * sw)`, order channel, row, column; other arguments as for `forward`.

        `where` are image, row and column of each, three `(K,)` int64 tensors.
        """
        image, row, column = where
        return self._cells(self._decode(grid, cls, hidden)[image, row * grid.shape[-1] + column])

    def blocks(self) -> list[nn.Module]:
        """The blocks, in order."""
        return list(self.decoder_layers)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Makes another grid of feature maps the decoder's own: resizes the positions once."""
        self.decoder_pos_embed = self._positions(grid)
        self.grid = grid

    def _decode(self, grid: Tensor, cls: Tensor | None, hidden: Tensor | None) -> Tensor:
        """The cells after the last norm, `(B, N, E)`."""
        if (cls is not None) != self.class_token:
            raise InputError(f"the decoder was made with class_token={self.class_token}; make one for this encoder")
        batch, _, rows, columns = grid.shape
        tokens = self.decoder_embed(grid.flatten(2).transpose(1, 2))
        if hidden is not None:
            cells = as_grid_mask(hidden, batch, (rows, columns)).flatten(1)
            tokens = torch.where(cells.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        if cls is not None:  # by itself: one product of all would round otherwise than the runs that go on
            tokens = torch.cat([self.decoder_embed(cls).unsqueeze(1), tokens], dim=1)
        tokens = tokens + self._positions((rows, columns)).to(tokens.dtype)
        for layer in self.decoder_layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, use_reentrant=False)
            else:
                tokens = layer(tokens)
        normed: Tensor = self.decoder_norm(tokens[:, int(self.class_token) :])
        return normed

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.decoder_pos_embed
        return resize_positions(self.decoder_pos_embed, self.grid, grid, class_token=self.class_token)

    def _cells(self, tokens: Tensor) -> Tensor:
        """Predictions `(..., C * sh * sw)` in the order channel, row, column; the layer's own has the channel last."""
        values: Tensor = self.decoder_pred(tokens)
        split = values.reshape(*values.shape[:-1], *self.stride, self.num_channels)
        return split.movedim(-1, -3).flatten(-3)
