"""From stored integers to normalised floats and back, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimsuite.types import DisplayRange
from mimsuite.words import Alpha


class Normalize(nn.Module):
    """`(x / maximum - mean) / std` per channel.

    Args:
        mean: per channel, as a fraction of the data type's maximum.
        std: per channel, likewise; of a channel that is constant over the data, whose deviation is 0, it is taken as 1.
        maximum: 255 for uint8 data, 65535 for uint16.
        display: what pictures show as black and as full brightness, and what the PSNR is relative to; None: all values.
        alpha: what became of transparency when the images were read; it is kept with the weights.
        bands: names of the channels; empty where they have none. They are kept, too.
        value_range: the values of the files that are 0 and `maximum`; None where they are as stored. It is kept, too.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        maximum: int = 255,
        display: DisplayRange | None = None,
        alpha: Alpha = "white",
        bands: Sequence[str] = (),
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.maximum, self.display, self.alpha = maximum, display, alpha
        self.bands, self.value_range = tuple(bands), value_range
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer(
            "std", torch.tensor([deviation or 1.0 for deviation in std]).view(1, -1, 1, 1), persistent=False
        )
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Integer images `(B, C, H, W)` to float32 of about zero mean and unit deviation."""
        return images.float().div_(self.maximum).sub_(self.mean).div_(self.std)  # in place: a third of the time

    def undo(self, pixels: Tensor) -> Tensor:
        """Normalised `(B, C, H, W)` back to fractions of the maximum, not clipped."""
        return pixels * self.std + self.mean

    @property
    def peak(self) -> Tensor | None:
        """What the PSNR takes for the largest value, per channel as a fraction of the maximum, `(1, C, 1, 1)`.

        None where that is the maximum itself.
        """
        if self.display is None:
            return None
        low, high = self.mean.new_tensor(self.display[:2])
        peak: Tensor = (high - low).view_as(self.mean)
        return peak
