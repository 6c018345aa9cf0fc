"""The augmentation of supervised training: a random crop, a flip, and perhaps RandAugment and erasing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from mimsuite.data.augment.crop import RandomResizedCrop, align_box
from mimsuite.data.augment.erasing import RandomErasing
from mimsuite.data.augment.rand_augment import RandAugment
from mimsuite.data.images.decode import Box, Pixels
from mimsuite.errors import InputError

_SETTINGS = ("layers", "magnitude", "magnitude_std", "probability")


class Supervised:
    """A `Transform`: box, resize, flip, RandAugment, erasing, in this order.

    Without the last two, and without `share`, it is `RandomResizedCrop`, to the bit.
    """

    def __init__(
        self,
        size: Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        interpolation: str = "bicubic",
        share: float | None = None,
        rand_augment: Mapping[str, float] | None = None,
        erasing: float = 0.0,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """Takes what is done to a picture.

        Args:
            size: (height, width) of the result, in pixels.
            scale: smallest and largest share of the image's area.
            ratio: smallest and largest width / height, for a square result; in proportion for others.
            flip: probability of mirroring left and right.
            interpolation: "bicubic" or "bilinear"; of RandAugment's geometry too.
            share: in place of `scale` and `ratio`, which are then not used: the sides of the box as a share of the
                image's, at a random place. 0.8 is BiT-HyperRule's "resize to 160 x 160, crop 128 x 128", 480 / 512
                its other one (Kolesnikov et al. 2020, section 3.3); proportions are not kept.
            rand_augment: arguments of `RandAugment`; missing ones take its defaults. None: no RandAugment.
            erasing: probability of `RandomErasing`.
            mean: of the data, per channel, as a fraction of the data type's maximum: fills what RandAugment uncovers.
            std: of the data, likewise.

        Raises:
            InputError: a value is out of range.
        """
        self._crop = RandomResizedCrop(size, scale, ratio, flip, interpolation)
        self.size, self.interpolation = self._crop.size, self._crop.interpolation
        if share is not None and not (isinstance(share, int | float) and 0 < share <= 1):
            raise InputError(
                f"augment.share={share} is not a share within (0, 1]; use 0.8, or null for scale and ratio"
            )
        self._share = share
        self._erase = RandomErasing(erasing, mean, std)
        self._rand_augment = _rand_augment(rand_augment, mean, interpolation)

    def box(self, height: int, width: int, generator: Generator) -> Box:
        """Draws the part of a `height x width` image that is used."""
        if self._share is None:
            return self._crop.box(height, width, generator)
        down, right = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        h, w = max(1, round(height * self._share)), max(1, round(width * self._share))
        return align_box(Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w), self.size)

    def mirrors(self, generator: Generator) -> bool:
        """Draws, after the box, whether the picture is mirrored; of use where nothing follows but the resizing."""
        return self._crop.mirrors(generator)

    def __call__(self, pixels: Pixels, generator: Generator) -> Tensor:
        """Makes of `(h, w, C)` pixels a picture `(C, H, W)`, uint8, or int32 for uint16."""
        picture = self._crop(pixels, generator)
        if self._rand_augment is not None:
            picture = self._rand_augment(picture, generator)
        return self._erase(picture, generator) if self._erase.probability > 0 else picture


def _rand_augment(
    settings: Mapping[str, float] | None, fill: Sequence[float], interpolation: str
) -> RandAugment | None:
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise InputError(f"augment.rand_augment={settings} has no keys; use {{layers:2,magnitude:9}}, or null for none")
    unknown = [str(key) for key in settings if key not in _SETTINGS]
    if unknown:
        raise InputError(f"augment.rand_augment has no key {unknown[0]!r}; it takes {', '.join(_SETTINGS)}")
    return RandAugment(**settings, fill=fill, interpolation=interpolation)  # type: ignore[arg-type]
