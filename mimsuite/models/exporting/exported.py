"""What is exported: a model or its encoder, as a function of tensors with named inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.models.composed import ForImageClassification, ForMaskedImageModeling
from mimsuite.models.load import config_of, load_encoder, load_model
from mimsuite.models.pretrained import Pretrained
from mimsuite.types import Encoder
from mimsuite.weights.init import Weights

PIXELS, MASK = "pixel_values", "mask"


class Features(nn.Module):
    """An encoder's feature map: `grid (B, D, h, w)`, and `cls (B, D)` where there is a class token."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Takes normalised floats, `(B, C, H, W)`."""
        found = cast(Encoder, self.encoder).forward_features(pixel_values)
        return (found.grid,) if found.cls is None else (found.grid, found.cls)


class Logits(nn.Module):
    """A classifier's logits `(B, num_labels)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """Takes normalised floats, `(B, C, H, W)`."""
        return (self.model(pixel_values).logits,)


class Reconstruction(nn.Module):
    """The dense prediction of a masked image model, `(B, C, H, W)` where it predicts pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Takes normalised floats, `(B, C, H, W)`, and bools on the encoder's mask grid, True = hidden."""
        return (self.model(pixel_values, mask).reconstruction,)


@dataclass(frozen=True)
class Exported:
    """A model to write, in evaluation mode and float32.

    Attributes:
        model: what files hold: a bare encoder or a model with a head.
        graph: the same as a function that takes tensors and gives a tuple of them.
        inputs: their names; `MASK` is `(B, rows, columns)` bool, True = hidden.
        outputs: names.
        image_size: `(H, W)` pixels.
        any_size: whether the graph may take images of other sizes.
    """

    model: Pretrained
    graph: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    image_size: tuple[int, int]
    any_size: bool

    def example(self, batch: int, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Random inputs, always the same for a batch and `size = (H, W)`: normals, and half of a mask's cells."""
        height, width = size or self.image_size
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randn(batch, self.model.config.num_channels, height, width, generator=draws)
        if MASK not in self.inputs:
            return (pixels,)
        down, across = self.model.network().mask_stride
        cells = (height // down) * (width // across)
        order = torch.rand(batch, cells, generator=draws).argsort(1)
        return pixels, (order < cells // 2).view(batch, height // down, width // across)


def load_exported(weights: Weights, part: str, image_size: tuple[int, int]) -> Exported:
    """Loads what is exported.

    Args:
        weights: the model's.
        part: `encoder` or `all`.
        image_size: `(H, W)` pixels, which become the model's own where it has a size.

    Raises:
        InputError: weights that do not fit their config, without the head that `all` asks for, or a size that the
            model cannot take.
    """
    if part == "encoder":
        encoder = cast(Any, load_encoder(weights, config_of(weights), image_size))
        encoder.config = encoder.config.without_masking()
        outputs = ("grid", "cls") if encoder.config.has_class_token else ("grid",)
        return Exported(encoder, Features(encoder), (PIXELS,), outputs, image_size, encoder.config.fixed_size is None)
    model = load_model(weights).requires_grad_(False).eval()
    model.network().set_image_size(image_size)
    any_size = model.config.fixed_size is None
    if isinstance(model, ForImageClassification):
        return Exported(model, Logits(model), (PIXELS,), ("logits",), image_size, any_size)
    if isinstance(model, ForMaskedImageModeling):
        return Exported(model, Reconstruction(model), (PIXELS, MASK), ("reconstruction",), image_size, False)
    raise InputError(f"part=all: init={weights.init} is an encoder without a head; use part=encoder")
