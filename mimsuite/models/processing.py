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
from PIL import Image
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.models.images import LAYOUTS, Array, Picture, read_pictures, to_layout
from mimsuite.models.source import find_folder, read_json

FILE = "preprocessor_config.json"
RESAMPLE_CODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
TENSOR_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
Size = dict[str, int]
Extent = tuple[int, int]


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
        self.size = parse_size(self.size, square=self.int_size_is_square)
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


def parse_size(size: Any, *, square: bool) -> Size:
    """Returns a size as a dict of pixels.

    Args:
        size: an int, `(h, w)`, or a dict with exactly {height, width}, {shortest_edge} or {shortest_edge,
            longest_edge}.
        square: whether an int means a square; else it is the shortest edge.

    Raises:
        InputError: anything else.
    """
    allowed = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    found = size
    if isinstance(size, int) and not isinstance(size, bool):
        found = {"height": size, "width": size} if square else {"shortest_edge": size}
    elif isinstance(size, list | tuple) and len(size) == 2:
        found = {"height": size[0], "width": size[1]}
    whole = isinstance(found, dict) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in found.values()
    )
    if not isinstance(found, dict) or set(found) not in allowed or not whole:
        raise InputError(
            f"size={size!r} is not a size; use pixels as an int, (h, w), {{height, width}}, "
            f"{{shortest_edge}} or "
            f"{{shortest_edge, longest_edge}}"
        )
    return dict(found)


def resized_extent(size: Size, height: int, width: int) -> Extent:
    """Returns the `(h, w)` that an image is resized to.

    With a shortest edge s the short side becomes s and the long one `int(s * long / short)`, at most
    `longest_edge`.
    """
    if "height" in size:
        return size["height"], size["width"]
    short, long = min(height, width), max(height, width)
    new_short = size["shortest_edge"]
    new_long = int(new_short * long / short)
    limit = size.get("longest_edge", new_long)
    if new_long > limit:
        new_short, new_long = max(int(limit * new_short / new_long), 1), limit
    return (new_short, new_long) if height <= width else (new_long, new_short)


def resize_pil(image: Array, extent: Extent, resample: int) -> Array:
    """Resizes `(C, H, W)` with Pillow, each channel for itself; floats are quantised to uint8 on the way.

    Returns:
        uint8; float32 from 0 to 1 if the values were fractions from 0 to 1.

    Raises:
        InputError: values that are neither whole numbers from 0 to 255 nor fractions from 0 to 1.
    """
    fractions = False
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        whole = bool(np.allclose(image, np.trunc(image)))
        fractions = not whole and low >= 0 and high <= 1
        if not fractions and not (whole and low >= 0 and high <= 255):
            raise InputError(
                f"image values from {low:g} to {high:g}: resizing needs whole numbers from 0 to 255 or "
                f"fractions from "
                f"0 to 1; convert to uint8, or use ViTImageProcessorFast"
            )
        scaled = (image.astype(np.float64) * 255).astype(np.float32) if fractions else image
        image = scaled.astype(np.uint8)
    target = (extent[1], extent[0])
    if len(image) == 3:  # one call instead of three
        packed = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        out = np.asarray(packed.resize(target, Image.Resampling(resample))).transpose(2, 0, 1)
    else:
        planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
        out = np.stack([np.asarray(plane.resize(target, Image.Resampling(resample))) for plane in planes])
    return (out.astype(np.float64) / 255).astype(np.float32) if fractions else out


def resize_tensor(images: torch.Tensor, extent: Extent, resample: int) -> torch.Tensor:
    """Resizes `(B, C, H, W)` with antialiasing; whole numbers stay of their dtype, rounded and clamped.

    uint8 is resized as such, other whole numbers as float32.
    """
    if tuple(images.shape[2:]) == extent:
        return images
    mode = TENSOR_MODES[resample]
    smooth = mode != "nearest-exact"
    given = images.dtype
    if given != torch.uint8 and not given.is_floating_point:
        images = images.float()
    resized = F.interpolate(images, size=extent, mode=mode, antialias=smooth, align_corners=False if smooth else None)
    if given == torch.uint8 or given.is_floating_point:
        return resized
    limits = torch.iinfo(given)
    return resized.round().clamp(limits.min, limits.max).to(given)


def center_crop(image: Array, extent: Extent) -> Array:
    """Cuts the centre out of `(..., H, W)`.

    A smaller image is padded with zeros around, so the size is exact.
    """
    height, width = extent
    pads = [max(want - have, 0) for want, have in zip(extent, image.shape[-2:], strict=True)]
    if any(pads):
        around = [(0, 0)] * (image.ndim - 2) + [(p // 2, p - p // 2) for p in pads]
        image = np.pad(image, around)
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


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
