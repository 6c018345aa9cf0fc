"""The image processors of BiT: resize the short side, crop the centre; Pillow and numpy, and the same in torch."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from mimsuite.processors.base import ImageProcessor
from mimsuite.processors.options import image_processor
from mimsuite.processors.resize import Size

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@image_processor
class BitImageProcessor(ImageProcessor):
    """Resizes the short side, crops the centre, normalises with CLIP's statistics; Pillow and numpy.

    Attributes:
        size: an int is the shortest edge.
    """

    default_to_square: ClassVar[bool] = False

    size: Size = field(default_factory=lambda: {"shortest_edge": 224})
    resample: int = 3
    do_center_crop: bool | None = True
    crop_size: Size | None = field(default_factory=lambda: {"height": 224, "width": 224})
    image_mean: float | list[float] = field(default_factory=lambda: list(CLIP_MEAN))
    image_std: float | list[float] = field(default_factory=lambda: list(CLIP_STD))
    do_convert_rgb: bool | None = True


@image_processor
class BitImageProcessorFast(BitImageProcessor):
    """The same in torch, whole batches, within one or two grey levels of the other."""

    backend: ClassVar[str] = "torchvision"


BitImageProcessorPil = BitImageProcessor
