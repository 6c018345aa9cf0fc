"""The heads of masked image models: what is asked of one, which one a config names, and where it predicts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mimsuite.encoders.config import ModelConfig
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.heads.filled import FilledHead
from mimsuite.heads.predictor import make_predictor
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.heads.unet import UNetDecoder


class MaskedHead(Protocol):
    """What a masked image model asks of its head, an `nn.Module`.

    `grid (B, D, h, w)` and `cls (B, D)` or None are an encoder's features; `hidden (B, rows, columns)` is the mask,
    bool, True = hidden, on a grid that divides `(h, w)`.
    """

    def __call__(self, grid: Tensor, cls: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Returns the whole target, `(B, C, h * sh, w * sw)`."""
        ...

    def hidden_only(
        self, grid: Tensor, cls: Tensor | None, hidden: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Returns the cells `where` (image, row, column) of it, `(K, C * sh * sw)`, order channel, row, column."""
        ...


Maps = tuple[Tensor, ...] | None


def own_head(config: ModelConfig) -> Callable[[int, tuple[int, int], int], nn.Module]:
    """The head that a config names: a U-Net, or SimMIM's, which fills hidden cells where the encoder leaves holes."""
    sizes = config.decoder_sizes
    if sizes is None:
        return FilledHead if config.is_sparse else SimMIMHead
    return lambda _, __, channels: UNetDecoder(config.scales, channels, fills=config.is_sparse, **sizes)


def own_predictor(config: ModelConfig, num_features: int, values: int) -> nn.Module:
    """What predicts features (`config.mim_predictor`), for the grid of the config's image size where it has one.

    Args:
        config: of the model.
        num_features: the encoder's width.
        values: of a cell of the target.
    """
    assert config.mim_predictor is not None
    wanted, size = PredictorConfig.from_dict(config.mim_predictor), config.fixed_size
    grid = None if size is None else (size[0] // config.stride[0], size[1] // config.stride[1])
    return make_predictor(wanted, num_features, values, grid, fills=config.drops_patches or config.is_sparse)


def blocks_of(*parts: Any) -> list[nn.Module]:
    """The residual blocks of parts that have a method `blocks`; an attribute of that name may be anything."""
    methods = [found for part in parts if inspect.ismethod(found := getattr(part, "blocks", None))]
    return [block for method in methods for block in method()]


def hidden_cells(mask: Tensor, per_image: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns image, row and column of every hidden cell, three `(K,)` int64 tensors.

    Args:
        mask: `(B, h, w)` bool, True = hidden.
        per_image: hidden cells of each image; None: count them, which waits for the device.
    """
    if per_image is None:
        image, row, column = mask.nonzero(as_tuple=True)
        return image, row, column
    batch, _, width = mask.shape
    order = torch.argsort(mask.flatten(1).to(torch.uint8), dim=1, descending=True, stable=True)[:, :per_image]
    image = torch.arange(batch, device=mask.device)[:, None].expand_as(order)
    return image.flatten(), (order // width).flatten(), (order % width).flatten()
