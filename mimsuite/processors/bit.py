"""The image processor of BiT: resize the short side, crop the centre."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mimsuite.processors.base import ImageProcessor
from mimsuite.processors.resize import SQUASH, Extent, Size, parse_size, resized_extent

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(kw_only=True)
class BitImageProcessor(ImageProcessor):
    """Resizes the short side, crops the centre, normalises with CLIP's statistics; Pillow and numpy.

    Attributes:
        size: an int is the shortest edge.
        do_center_crop: crop the centre to `crop_size`, also without resizing.
        crop_size: `{height, width}`, pixels; an int (a square) or `(h, w)`. Smaller images are padded with zeros.
    """

    int_size_is_square: ClassVar[bool] = False

    size: Size = field(default_factory=lambda: {"shortest_edge": 224})
    resample: int = 3
    do_center_crop: bool = True
    crop_size: Size = field(default_factory=lambda: {"height": 224, "width": 224})
    image_mean: float | list[float] = field(default_factory=lambda: list(CLIP_MEAN))
    image_std: float | list[float] = field(default_factory=lambda: list(CLIP_STD))
    do_convert_rgb: bool | None = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.crop_size = parse_size(self.crop_size, square=True, forms=(SQUASH,), name="crop_size")

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """See `ImageProcessor.geometry`."""
        crop = (self.crop_size["height"], self.crop_size["width"])
        return resized_extent(self.size, height, width), crop if self.do_center_crop else None
