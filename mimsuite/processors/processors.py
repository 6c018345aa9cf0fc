"""Image processors: from pictures to `pixel_values`, as Hugging Face prepares them, without torchvision."""

from __future__ import annotations

import json
import warnings
from collections import UserDict
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mimsuite.errors import InputError
from mimsuite.processors.images import LAYOUTS, Array, Picture, read_pictures, to_layout
from mimsuite.processors.resize import (
    EDGE,
    EDGES,
    RESAMPLE_CODES,
    SQUASH,
    TENSOR_MODES,
    Extent,
    Forms,
    Size,
    center_crop,
    parse_size,
    resize_pil,
    resize_tensor,
    resized_extent,
)
from mimsuite.weights.source import find_folder, read_json

FILE = "preprocessor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SQUASH_FROM = 384  # pixels; the size from which ConvNeXt's evaluation no longer crops


class BatchFeature(UserDict[str, Any]):
    """What a processor returns: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def to(self, target: torch.device | torch.dtype | str) -> BatchFeature:
        """Returns the same with tensors on another device, or of another dtype."""
        return BatchFeature({k: v.to(target) if isinstance(v, torch.Tensor) else v for k, v in self.items()})


@dataclass(kw_only=True)
class ImageProcessor:
    """Convert, resize, (crop), rescale, normalise; a family says to which size in `geometry`.

    Attributes:
        do_resize: resize to `size`.
        size: `{height, width}`, `{shortest_edge}` or `{shortest_edge, longest_edge}`, pixels; an int or `(h,
            w)`.
        resample: Pillow's code, 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
        do_rescale: multiply by `rescale_factor`.
        rescale_factor: 1/255 for values from 0 to 255.
        do_normalize: `(x - image_mean) / image_std`, per channel.
        image_mean: one number, or one per channel.
        image_std: one number, or one per channel.
        do_convert_rgb: make every image RGB first; None: no.

    Raises:
        InputError: a value that is not allowed.
    """

    int_size_is_square: ClassVar[bool] = True
    size_forms: ClassVar[Forms] = (SQUASH, EDGE, EDGES)

    do_resize: bool = True
    size: Size = field(default_factory=lambda: {"height": 224, "width": 224})
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    image_std: float | list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    do_convert_rgb: bool | None = None

    def __post_init__(self) -> None:
        self.size = parse_size(self.size, square=self.int_size_is_square, forms=self.size_forms)
        self.resample = int(self.resample)
        if self.resample not in RESAMPLE_CODES:
            codes = ", ".join(f"{k} {v}" for k, v in RESAMPLE_CODES.items())
            raise InputError(f"resample={self.resample} is not one of {codes}")
        for name in ("image_mean", "image_std"):
            if isinstance(getattr(self, name), list | tuple):
                setattr(self, name, [float(v) for v in getattr(self, name)])
        if self.do_normalize and 0 in np.atleast_1d(self.image_std):
            raise InputError(f"image_std={self.image_std} divides by zero; give positive numbers")

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """Returns the `(h, w)` to resize an image to, and the `(h, w)` to crop its centre to, or None."""
        return resized_extent(self.size, height, width), None

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """Same as `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: str | None = None,
        data_format: str | None = "channels_first",
        input_data_format: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Prepares images with Pillow and numpy.

        Args:
            images: a PIL image, array or tensor, values 0 to 255, or a list of them, sizes may differ.
            return_tensors: None: a list of arrays; "pt" or "np": one tensor or array `(B, C, H, W)`.
            data_format: "channels_first", "channels_last", or None for the layout of each image.
            input_data_format: layout of arrays: "channels_first", "channels_last" or "none" (2-D); None:
                inferred.
            options: fields of the processor, for this call only.

        Returns:
            `pixel_values`, float32 if rescaled or normalised.

        Raises:
            InputError: no images, an unknown option, channels that do not fit the mean, sizes that cannot be
                stacked.
        """
        _check_formats(return_tensors, data_format)
        chosen = self._with(options)
        pictures = read_pictures(images, bool(chosen.do_convert_rgb), input_data_format)
        chosen._check(pictures)
        arrays = [
            to_layout(chosen._slow(p.array), data_format if data_format is not None else p.layout) for p in pictures
        ]
        return BatchFeature({"pixel_values": _stack(arrays, return_tensors)})

    def to_dict(self) -> dict[str, Any]:
        """Returns what `preprocessor_config.json` holds."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"image_processor_type": type(self).__name__}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **overrides: Any) -> Self:
        """Makes a processor from the content of a file; `overrides` are fields that win.

        Raises:
            InputError: an unknown override, or a step of the file that this processor does not have.
        """
        known = {f.name for f in fields(cls)}
        _check_known(cls, overrides)
        missing = sorted(k for k, v in data.items() if k.startswith("do_") and v and k not in known)
        if missing:
            raise InputError(f"{FILE} asks for {', '.join(missing)}, which {cls.__name__} does not do; check its type")
        values = {k: v for k, v in data.items() if k in known and (v is not None or k == "do_convert_rgb")}
        return cls(**(values | overrides))

    @classmethod
    def from_pretrained(cls, source: str | Path, **overrides: Any) -> Self:
        """Reads `preprocessor_config.json` of a folder or of `hf:ORG/NAME`.

        `overrides` are fields that win.
        """
        return cls.from_dict(read_json(find_folder(source) / FILE), **overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `preprocessor_config.json` into `folder`, made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def _with(self, options: dict[str, Any]) -> Self:
        _check_known(type(self), options)
        return replace(self, **{k: v for k, v in options.items() if v is not None})

    def _check(self, pictures: list[Picture]) -> None:
        """Channels against the statistics, and one warning for values that look rescaled already."""
        if self.do_normalize:
            for name in ("image_mean", "image_std"):
                given = np.size(getattr(self, name))
                for array, _ in pictures:
                    if np.ndim(getattr(self, name)) and given != len(array):
                        raise InputError(
                            f"an image has {len(array)} channels but {name} has {given} values; set "
                            f"do_convert_rgb=True"
                            f" for RGB, or give {name} of {len(array)} values"
                        )
        if self.do_rescale and any(_looks_rescaled(p.array) for p in pictures):
            warnings.warn("values lie between 0 and 1 already; pass do_rescale=False", stacklevel=4)

    def _slow(self, image: Array) -> Array:
        """One `(C, H, W)` image through Pillow and numpy."""
        extent, crop = self.geometry(*image.shape[1:])
        if self.do_resize:
            image = resize_pil(image, extent, self.resample)
        if crop is not None:
            image = center_crop(image, crop)
        if self.do_rescale:
            image = (image.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.image_mean, self.image_std))
            image = (image.astype(np.float32) - mean) / std
        return image


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
        chosen = self._with(options)
        if chosen.do_resize and chosen.resample not in TENSOR_MODES:
            raise InputError(
                f"resample={chosen.resample} ({RESAMPLE_CODES[chosen.resample]}) is not in torch; use 0, "
                f"2, 3 or "
                f"ViTImageProcessor"
            )
        pictures = read_pictures(images, bool(chosen.do_convert_rgb), input_data_format)
        chosen._check(pictures)
        arrays = [p.array for p in pictures]
        if len({(a.shape, a.dtype) for a in arrays}) == 1:
            tensors = list(chosen._fast(torch.from_numpy(np.stack(arrays))))
        else:
            tensors = [chosen._fast(torch.from_numpy(np.ascontiguousarray(a))[None])[0] for a in arrays]
        return BatchFeature({"pixel_values": _stack(tensors, return_tensors)})

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

    def _with(self, options: dict[str, Any]) -> Any:  # so that a call does not warn again
        return ViTImageProcessor(**{f.name: getattr(self, f.name) for f in fields(self)})._with(options)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `ViTImageProcessor` writes."""
        return super().to_dict() | {"image_processor_type": "ViTImageProcessor"}


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


@dataclass(kw_only=True)
class ConvNextImageProcessor(ImageProcessor):
    """What CvT's checkpoints use: a square of side s, `size={"shortest_edge": s}`; Pillow and numpy.

    Below 384 the short side is resized to `int(s / crop_pct)` and the centre cut out; from 384 on the image is
    squashed. The crop belongs to resizing: without `do_resize` there is none.

    Attributes:
        size: an int is the shortest edge; `longest_edge` has no effect.
        crop_pct: the part of the short side that the crop keeps, above 0 and at most 1.
    """

    int_size_is_square: ClassVar[bool] = False
    size_forms: ClassVar[Forms] = (EDGE, EDGES)

    size: Size = field(default_factory=lambda: {"shortest_edge": 384})
    resample: int = 3
    crop_pct: float = 224 / 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct={self.crop_pct} is not above 0 and at most 1; 0.875 is usual")

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """See `ImageProcessor.geometry`."""
        side = self.size["shortest_edge"]
        if not self.do_resize or side >= SQUASH_FROM:
            return (side, side), None
        short = int(side / self.crop_pct)
        return resized_extent({"shortest_edge": short}, height, width), (side, side)


def _check_known(cls: type[ImageProcessor], options: dict[str, Any]) -> None:
    known = [f.name for f in fields(cls)]
    for name in options:
        if name not in known:
            raise InputError(f"{cls.__name__} has no option {name!r}; options: {', '.join(known)}")


def _check_formats(return_tensors: str | None, data_format: str | None) -> None:
    if return_tensors in ("tf", "jax"):
        raise InputError(f"return_tensors={return_tensors!r} needs a framework that is not used here; use 'pt' or 'np'")
    if return_tensors not in (None, "pt", "np"):
        raise InputError(f"return_tensors={return_tensors!r} is not one of 'pt', 'np', None")
    if data_format is not None and data_format not in LAYOUTS[:2]:
        raise InputError(f"data_format={data_format!r} is not one of {', '.join(LAYOUTS[:2])}, None")


def _looks_rescaled(image: Array) -> bool:
    return image.dtype != np.uint8 and bool(image.min() >= 0) and bool(image.max() <= 1)


def _stack(images: list[Any], return_tensors: str | None) -> Any:
    if return_tensors is None:
        return images
    shapes = {tuple(i.shape) for i in images}
    if len(shapes) > 1:
        raise InputError(
            f"images of shapes {sorted(shapes)} cannot be stacked; resize to one size or return_tensors=None"
        )
    if isinstance(images[0], torch.Tensor):
        return torch.stack(images)
    stacked = np.stack(images)
    return torch.from_numpy(stacked) if return_tensors == "pt" else stacked
