"""The image processors of ViT: Pillow and numpy, the same in torch, and an old name."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any, ClassVar

from mimsuite.processors.base import ImageProcessor
from mimsuite.processors.options import image_processor


@image_processor
class ViTImageProcessor(ImageProcessor):
    """Squashes to `size` (or keeps the ratio with `shortest_edge`), scales to -1 to 1; Pillow and numpy."""


@image_processor
class ViTImageProcessorFast(ViTImageProcessor):
    """The same in torch.

    Antialiased resizing in whole batches, within one or two grey levels of the other.
    """

    backend: ClassVar[str] = "torchvision"


@image_processor
class ViTFeatureExtractor(ViTImageProcessor):
    """Old name of `ViTImageProcessor`."""

    def __post_init__(self) -> None:
        warnings.warn("ViTFeatureExtractor is the old name of ViTImageProcessor", FutureWarning, stacklevel=4)
        super().__post_init__()

    def with_options(self, options: dict[str, Any]) -> Any:
        """A `ViTImageProcessor`, so that a call does not warn again."""
        return ViTImageProcessor(**{f.name: getattr(self, f.name) for f in fields(self)}).with_options(options)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `ViTImageProcessor` writes."""
        return super().to_dict() | {"image_processor_type": "ViTImageProcessor"}


ViTImageProcessorPil = ViTImageProcessor
