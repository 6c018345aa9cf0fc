"""The image processors of ViT: Pillow and numpy, the same in torch, and an old name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from mimsuite.errors import InputError
from mimsuite.processors.base import BatchFeature, ImageProcessor, stack_images
from mimsuite.processors.images import read_pictures
from mimsuite.processors.resize import RESAMPLE_CODES, TENSOR_MODES, center_crop, resize_tensor


@dataclass(kw_only=True)
class ViTImageProcessor(ImageProcessor):
    """Squashes to `size` (or keeps the ratio with `shortest_edge`), scales to -1 to 1; Pillow and numpy."""


@dataclass(kw_only=True)
class ViTImageProcessorFast(ViTImageProcessor):
    """The same in torch.

    Antialiased resizing in whole batches, within one or two grey levels of the other.
    """

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: str | None = "pt",
        data_format: str | None = "channels_first",
        input_data_format: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Prepares images with torch; arguments as for `ImageProcessor.preprocess`.

        `data_format` is channels_first and `return_tensors` "pt" (or None: a list of tensors).
        """
        if data_format != "channels_first":
            raise InputError(f"data_format={data_format!r}: {type(self).__name__} writes channels_first only")
        if return_tensors not in ("pt", None):
            raise InputError(f"return_tensors={return_tensors!r}: {type(self).__name__} gives 'pt' only")
        chosen = self.with_options(options)
        if chosen.do_resize and chosen.resample not in TENSOR_MODES:
            raise InputError(
                f"resample={chosen.resample} ({RESAMPLE_CODES[chosen.resample]}) is not in torch; use 0, 2, 3 or "
                "ViTImageProcessor"
            )
        pictures = read_pictures(images, bool(chosen.do_convert_rgb), input_data_format)
        chosen.check_pictures(pictures)
        arrays = [p.array for p in pictures]
        if len({(a.shape, a.dtype) for a in arrays}) == 1:
            tensors = list(chosen._fast(torch.from_numpy(np.stack(arrays))))
        else:
            tensors = [chosen._fast(torch.from_numpy(np.ascontiguousarray(a))[None])[0] for a in arrays]
        return BatchFeature({"pixel_values": stack_images(tensors, return_tensors)})

    def _fast(self, images: torch.Tensor) -> torch.Tensor:
        """A batch `(B, C, H, W)` of one size."""
        extent, crop = self.geometry(images.shape[2], images.shape[3])
        if self.do_resize:
            images = resize_tensor(images, extent, self.resample)
        if crop is not None:
            images = torch.from_numpy(center_crop(images.numpy(), crop))
        if not self.do_normalize:
            return images * self.rescale_factor if self.do_rescale else images
        factor = 1 / self.rescale_factor if self.do_rescale else 1.0
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) * factor for v in (self.image_mean, self.image_std))
        return (images.float() - mean) / std


@dataclass(kw_only=True)
class ViTFeatureExtractor(ViTImageProcessor):
    """Old name of `ViTImageProcessor`."""

    def __post_init__(self) -> None:
        warnings.warn("ViTFeatureExtractor is the old name of ViTImageProcessor", FutureWarning, stacklevel=3)
        super().__post_init__()

    def with_options(self, options: dict[str, Any]) -> Any:
        """A `ViTImageProcessor`, so that a call does not warn again."""
        return ViTImageProcessor(**{f.name: getattr(self, f.name) for f in fields(self)}).with_options(options)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `ViTImageProcessor` writes."""
        return super().to_dict() | {"image_processor_type": "ViTImageProcessor"}
