"""What every image processor does: from pictures to `pixel_values`, as Hugging Face prepares them."""

from __future__ import annotations

import json
import warnings
from collections import UserDict
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError, reading
from mimsuite.processors.images import LAYOUTS, Array, Picture, read_pictures, to_layout
from mimsuite.processors.resize import (
    EDGE,
    EDGES,
    RESAMPLE_CODES,
    SQUASH,
    Extent,
    Forms,
    Size,
    center_crop,
    parse_size,
    resize_pil,
    resized_extent,
)
from mimsuite.weights.source import find_folder, read_json

FILE = "preprocessor_config.json"


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
    """Convert, resize, (crop), rescale, normalise; a class overrides `geometry` for the sizes, or `fit`.

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

    def fit(self, image: Array) -> Array:
        """Brings one `(C, H, W)` image to its size."""
        extent, crop = self.geometry(*image.shape[1:])
        if self.do_resize:
            image = resize_pil(image, extent, self.resample)
        return image if crop is None else center_crop(image, crop)

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
        chosen = self.with_options(options)
        pictures = read_pictures(images, bool(chosen.do_convert_rgb), input_data_format)
        chosen.check_pictures(pictures)
        arrays = [
            to_layout(chosen._slow(p.array), data_format if data_format is not None else p.layout) for p in pictures
        ]
        return BatchFeature({"pixel_values": stack_images(arrays, return_tensors)})

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
        content = read_json(find_folder(source) / FILE)
        with reading(f"{source}: {FILE}", "restore the file"):
            return cls.from_dict(content, **overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `preprocessor_config.json` into `folder`, made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        write_text(Path(folder) / FILE, text)

    def with_options(self, options: dict[str, Any]) -> Self:
        """A copy with other fields for one call; None leaves a field as it is."""
        _check_known(type(self), options)
        return replace(self, **{k: v for k, v in options.items() if v is not None})

    def check_pictures(self, pictures: list[Picture]) -> None:
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
        image = self.fit(image)
        if self.do_rescale:
            image = (image.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.image_mean, self.image_std))
            image = (image.astype(np.float32) - mean) / std
        return image


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


def stack_images(images: list[Any], return_tensors: str | None) -> Any:
    """The images as they are, or as one tensor ("pt") or array ("np")."""
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
