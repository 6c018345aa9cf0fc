"""The image processor of evaluation, for any size and 16 bits: the largest central part, cut out and then resized."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.images.decode import Encoded, conform, open_image
from mimsuite.data.images.picture import of_pillow
from mimsuite.errors import InputError, reading
from mimsuite.processors.base import ImageProcessor
from mimsuite.processors.images import Array, Picture, check_file
from mimsuite.processors.options import image_processor
from mimsuite.processors.resize import RESAMPLE_CODES, SQUASH, Forms, Size
from mimsuite.words import INTERPOLATIONS, Alpha

THEIRS = "PerceiverImageProcessor"  # in transformers: cuts out the square of the short side, then resizes it
_TOPS = {"uint8": 255, "uint16": 65535}


@image_processor
class CenterCropImageProcessor(ImageProcessor):
    """Does what `mimsuite evaluate` does, bit for bit: `size` is what comes out, no image is squashed or padded.

    Files and PIL images are brought to the channels of `image_mean` and the depth of `rescale_factor`, 8 or 16 bits, as
    images are to those of a data set; of arrays and tensors these are the caller's. Of JPEGs of which the part is at
    least twice as large as `size` it differs by a few grey levels: evaluation decodes them at 1/2, 1/4 or 1/8 of their
    size first.

    For squares of 8-bit images of 1 or 3 channels transformers has a class that does the same, and files name it:
    `PerceiverImageProcessor`, with `crop_size` equal to `size`. It has none that cuts out a part of other proportions,
    or that resizes 16-bit images or other channels, or that drops transparency (`alpha` in the file); then files name
    this class, which transformers refuses.

    Attributes:
        size: `{height, width}` pixels of the result.
        resample: 2 bilinear or 3 bicubic.
        do_center_crop: True.
        crop_size: None, or the same as `size`.
    """

    size_forms: ClassVar[Forms] = (SQUASH,)
    needs_crop_size: ClassVar[bool] = False

    resample: int = 3
    do_center_crop: bool | None = True
    crop_size: Size | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if RESAMPLE_CODES[self.resample] not in INTERPOLATIONS:
            raise InputError(f"resample={self.resample}: {type(self).__name__} takes 2 (bilinear) and 3 (bicubic)")
        if not self.do_center_crop or self.crop_size not in (None, self.size):
            raise InputError(
                f"do_center_crop={self.do_center_crop}, crop_size={self.crop_size}: {type(self).__name__} cuts out the "
                "largest part of the proportions of size; use ViTImageProcessor or BitImageProcessor for others"
            )

    def fit(self, image: Array) -> Array:
        """Cuts out and resizes one `(C, H, W)` image; whole numbers stay whole."""
        if not self.do_resize:
            return image
        crop = CenterCrop((self.size["height"], self.size["width"]), RESAMPLE_CODES[self.resample])
        height, width = image.shape[1:]
        box = crop.box(height, width, torch.Generator())
        part = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        values = np.array(as_stored(part).transpose(1, 2, 0))  # a copy: Pillow's buffers are read-only
        return crop(values, torch.Generator()).numpy()

    def read(self, image: Any) -> Any:
        """Reads a file or a PIL image as evaluation reads it; of arrays that become RGB it drops alpha if asked to.

        Raises:
            InputError: an address, no such file, no image, or channels that cannot be brought to those of `image_mean`.
        """
        if isinstance(image, str | os.PathLike):
            name = check_file(image)
            with reading(name, "give an image that evaluation reads (docs/images.md)"):
                return self._picture(open_image(Path(name).read_bytes(), self.transparency))
        if isinstance(image, Image.Image):
            opened = of_pillow(image, self.transparency)
            with reading(f"an image of mode {image.mode}", "give an image with the channels of image_mean"):
                return image if opened is None else self._picture(opened)
        alpha_drops = self.transparency == "drop" and self.do_convert_rgb and getattr(image, "ndim", 0) == 3
        if alpha_drops and 4 in (image.shape[0], image.shape[-1]):
            return image[:3] if image.shape[0] == 4 else image[..., :3]
        return image

    def _picture(self, image: Encoded) -> Picture:
        """The pixels of an image, as those of a data set of these channels and this depth."""
        pixels = image.pixels()
        statistics = self.do_normalize and np.ndim(self.image_mean)
        channels = 3 if self.do_convert_rgb else np.size(self.image_mean) if statistics else pixels.shape[2]
        dtype = next((name for name, top in _TOPS.items() if _is_scale(self.rescale_factor, top)), str(pixels.dtype))
        array = conform(pixels, channels, dtype).transpose(2, 0, 1)
        return Picture(array, "none" if channels == 1 else "channels_last")

    @property
    def transparency(self) -> Alpha:
        """As `alpha` in the file says, which is not there where transparency is laid on white."""
        found: Alpha = self.kept().get("alpha", "white")
        return found

    @property
    def in_transformers(self) -> bool:
        """Whether transformers has a class that does the same; it takes a fourth channel for alpha when it resizes."""
        square = self.size["height"] == self.size["width"]
        plain = self.rescale_factor == 1 / 255 and self.transparency == "white"
        return square and plain and np.size(self.image_mean) in (1, 3)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `preprocessor_config.json` holds."""
        name = {"image_processor_type": THEIRS} if self.in_transformers else {}
        return super().to_dict() | {"crop_size": dict(self.size)} | name


def _is_scale(factor: float | None, top: int) -> bool:
    return factor is not None and math.isclose(factor * top, 1.0, rel_tol=1e-6)


def as_stored(image: Array) -> Array:
    """An image in a type that data sets have, uint8 or uint16; fractions become float32.

    Raises:
        InputError: whole numbers that are neither.
    """
    if image.dtype in (np.uint8, np.uint16):
        return image
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32)
    if image.min() < 0 or image.max() > 65535:
        raise InputError(f"image values from {image.min()} to {image.max()}; give uint8, uint16 or fractions")
    return image.astype(np.uint16)
