"""Predictors of features: a small transformer on the visible cells, or small convolutions on the grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.layers import init_truncated_normal
from mimsuite.encoders.positions import sincos_positions
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.encoders.vit_layers import ViTLayer
from mimsuite.errors import InputError

# Shapes: B masked images, a feature map of h * w = N cells with D features, E the predictor's width, T targets of an
# image (one, if all that is hidden is to be predicted), K cells of all targets together.

Where = tuple[Tensor, Tensor, Tensor]
Counts = tuple[int | None, int | None]
NORM_EPS = 1e-6


class Predicted(NamedTuple):
    """What a predictor says of the cells of all targets.

    Attributes:
        features: `(K, C)`.
        pixels: `(K, P)`, or None for a predictor of features alone.
        where: image, row and column of each cell, three `(K,)` int64 tensors.
    """

    features: Tensor
    pixels: Tensor | None
    where: Where


class Outputs(nn.Module):
    """The last layers: one for features, perhaps one for pixels."""

    def __init__(self, config: PredictorConfig, pixels: int) -> None:
        super().__init__()
        self.features = nn.Linear(config.hidden_size, config.features)
        self.pixels = nn.Linear(config.hidden_size, pixels) if config.pixels else None

    def forward(self, tokens: Tensor, where: Where) -> Predicted:
        """Predictions of cells `(K, E)` that lie `where`."""
        return Predicted(self.features(tokens), None if self.pixels is None else self.pixels(tokens), where)


class TransformerPredictor(nn.Module):
    """A small ViT. Fixed sine-cosine positions are added; the class token of the encoder is not looked at.

    Where the encoder drops hidden patches, it sees the visible cells and, for each target by itself, a learned token at
    each of the target's cells (I-JEPA, Assran et al. 2023, section 3). Else it sees all cells as they are.

    Args:
        config: sizes.
        num_features: D.
        pixels: P, values of a cell's pixels.
        grid: `(h, w)`.
        fills: whether hidden cells of the map are empty.
    """

    def __init__(
        self, config: PredictorConfig, num_features: int, pixels: int, grid: tuple[int, int], fills: bool
    ) -> None:
        super().__init__()
        width = config.hidden_size
        block = ViTConfig(
            hidden_size=width,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            layer_norm_eps=NORM_EPS,
        )
        self.embed = nn.Linear(num_features, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if fills else None
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(grid, width, class_token=False), persistent=False)
        self.layers = nn.ModuleList(ViTLayer(block, 0.0) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.outputs = Outputs(config, pixels)
        init_truncated_normal(self, 0.02)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, grid: Tensor, hidden: Tensor, targets: Tensor, counts: tuple[int | None, int | None]
    ) -> Predicted:
        """Predicts the cells of all targets, in the order image, target, cell.

        Args:
            grid: `(B, D, h, w)`; if the predictor fills hidden cells, their values are ignored.
            hidden: `(B, h, w)` bool, True = hidden from the encoder.
            targets: `(B, T, h, w)` bool, True = to be predicted.
            counts: hidden cells of each image, and cells of each target; None: they are counted on the device.
        """
        cells = self.embed(grid.flatten(2).transpose(1, 2))
        positions = self.positions.to(cells.dtype)
        if self.mask_token is None:
            tokens = self._run(cells + positions)
            where = cells_of(targets, counts[1])
            found: Predicted = self.outputs(tokens[where[0], where[1] * grid.shape[-1] + where[2]], where)
            return found
        batch, each, _, columns = targets.shape
        seen = first_true(~hidden.flatten(1), None if counts[0] is None else hidden[0].numel() - counts[0])
        wanted = first_true(targets.flatten(0, 1).flatten(1), counts[1])
        visible = take(cells, seen) + take(positions.expand(batch, -1, -1), seen)
        holes = self.mask_token.to(cells.dtype) + take(positions.expand(len(wanted), -1, -1), wanted)
        if each > 1:
            visible = visible.repeat_interleave(each, 0)
        tokens = self._run(torch.cat([visible, holes], 1))[:, seen.shape[1] :].flatten(0, 1)
        image = torch.arange(batch, device=wanted.device).repeat_interleave(each * wanted.shape[1])
        wanted = wanted.flatten()
        made: Predicted = self.outputs(tokens, (image, wanted // columns, wanted % columns))
        return made

    def _run(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def blocks(self) -> list[nn.Module]:
        """The blocks, in order."""
        return list(self.layers)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Makes another grid of feature maps the predictor's own."""
        table = sincos_positions(grid, self.positions.shape[-1], class_token=False)
        self.positions = table.to(self.positions.device)


class ConvolutionalPredictor(nn.Module):
    """Blocks of a depthwise 3x3 and a 1x1 convolution on the grid, with LayerNorm over channels (no BatchNorm).

    Where the encoder leaves hidden cells empty, a learned token is put there (data2vec 2.0's image decoder, Baevski et
    al. 2023, is of such a form).

    Args:
        config: sizes.
        num_features: D.
        pixels: P, values of a cell's pixels.
        fills: whether hidden cells of the map are empty.
    """

    def __init__(self, config: PredictorConfig, num_features: int, pixels: int, fills: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.embed = nn.Conv2d(num_features, width, 1)
        self.mask_token = nn.Parameter(torch.empty(1, width, 1, 1)) if fills else None
        self.layers = nn.ModuleList(ConvolutionalBlock(width) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.outputs = Outputs(config, pixels)
        init_truncated_normal(self, 0.02)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, grid: Tensor, hidden: Tensor, targets: Tensor, counts: tuple[int | None, int | None]
    ) -> Predicted:
        """Predicts the cells of all targets; arguments and order as of `TransformerPredictor.forward`."""
        x = self.embed(grid)
        if self.mask_token is not None:
            x = torch.where(hidden.unsqueeze(1), self.mask_token.to(x.dtype), x)
        for layer in self.layers:
            x = layer(x)
        where = cells_of(targets, counts[1])
        made: Predicted = self.outputs(self.norm(x.permute(0, 2, 3, 1)[where]), where)
        return made

    def blocks(self) -> list[nn.Module]:
        """The blocks, in order."""
        return list(self.layers)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Does nothing: convolutions take any grid."""


class ConvolutionalBlock(nn.Module):
    """A depthwise 3x3 convolution, LayerNorm, GELU and a 1x1 convolution, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """A map `(B, E, h, w)` from one."""
        branch = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        added: Tensor = self.pointwise(F.gelu(branch)).permute(0, 3, 1, 2)
        return x + added


def make_predictor(
    config: PredictorConfig, num_features: int, pixels: int, grid: tuple[int, int] | None, fills: bool
) -> TransformerPredictor | ConvolutionalPredictor:
    """The predictor that a config describes; arguments as of the two classes.

    Raises:
        InputError: a transformer for an encoder that takes any image size, so that no grid is known.
    """
    if config.kind == "conv":
        return ConvolutionalPredictor(config, num_features, pixels, fills)
    if grid is None:
        raise InputError(
            "objective.predictor=transformer has positions for one grid, and this encoder takes images of any size; "
            "use objective.predictor=conv"
        )
    return TransformerPredictor(config, num_features, pixels, grid, fills)


def first_true(flags: Tensor, count: int | None) -> Tensor:
    """Numbers of the True places of each row, in order, `(B, count)` int64.

    Args:
        flags: `(B, N)` bool.
        count: True places of each row; None: they are counted, which waits for the device.

    Raises:
        InputError: the rows have different numbers of them, so that they fit in no tensor.
    """
    if count is None:
        fewest, most = (int(n) for n in flags.sum(1).aminmax())
        if fewest != most:
            raise InputError(
                f"the masks of the batch leave or want {fewest} to {most} cells; where hidden patches are dropped all "
                "need the same number"
            )
        count = most
    return flags.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def take(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Some tokens of each image: `(B, K, E)` of `(B, N, E)` and numbers `(B, K)`."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def cells_of(targets: Tensor, count: int | None) -> Where:
    """Image, row and column of the cells of all targets `(B, T, h, w)`, in the order image, target, cell.

    `count` as of `first_true`, but with None targets may have different numbers of cells.
    """
    batch, each, _, columns = targets.shape
    if count is None:
        image, _, row, column = targets.nonzero(as_tuple=True)
        return image, row, column
    numbers = first_true(targets.flatten(0, 1).flatten(1), count)
    image = torch.arange(batch, device=targets.device).repeat_interleave(each * numbers.shape[1])
    flat = numbers.flatten()
    return image, flat // columns, flat % columns
