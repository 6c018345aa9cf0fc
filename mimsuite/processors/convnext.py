"""The image processors of CvT's weights, ConvNeXt's: a square, cut out below 384 pixels, squashed from there on."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from mimsuite.errors import InputError
from mimsuite.processors.base import ImageProcessor
from mimsuite.processors.options import image_processor
from mimsuite.processors.resize import EDGE, EDGES, Extent, Forms, Size, resized_extent

SQUASH_FROM = 384  # pixels; the size from which ConvNeXt's evaluation no longer crops


@image_processor
class ConvNextImageProcessor(ImageProcessor):
    """What CvT's checkpoints use: a square of side s, `size={"shortest_edge": s}`; Pillow and numpy.

    Below 384 the short side is resized to `int(s / crop_pct)` and the centre cut out; from 384 on the image is
    squashed. The crop belongs to resizing: without `do_resize` there is none.

    Attributes:
        size: an int is the shortest edge; `longest_edge` has no effect.
        crop_pct: the part of the short side that the crop keeps, above 0 and at most 1.
    """

    default_to_square: ClassVar[bool] = False
    size_forms: ClassVar[Forms] = (EDGE, EDGES)

    size: Size = field(default_factory=lambda: {"shortest_edge": 384})
    resample: int = 3
    crop_pct: float = 224 / 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct={self.crop_pct} is not above 0 and at most 1; 0.875 is usual")
        if self.do_center_crop or self.do_pad:
            raise InputError(f"do_center_crop, do_pad: {type(self).__name__} crops by crop_pct; use ViTImageProcessor")

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """See `ImageProcessor.geometry`."""
        if not self.do_resize:
            return (height, width), None
        side = self.size["shortest_edge"]
        if side >= SQUASH_FROM:
            return (side, side), None
        short = int(side / self.crop_pct)
        return resized_extent({"shortest_edge": short}, height, width), (side, side)


@image_processor
class ConvNextImageProcessorFast(ConvNextImageProcessor):
    """The same in torch, whole batches, within one or two grey levels of the other."""

    backend: ClassVar[str] = "torchvision"


ConvNextImageProcessorPil = ConvNextImageProcessor
