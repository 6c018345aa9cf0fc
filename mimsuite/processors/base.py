"""What every image processor does: from pictures to `pixel_values`, as Hugging Face prepares them."""

from __future__ import annotations

import math
import warnings
from dataclasses import field, fields
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mimsuite.errors import InputError
from mimsuite.processors.feature import BatchFeature
from mimsuite.processors.files import ProcessorFiles
from mimsuite.processors.images import LAYOUTS, Array, Picture, is_uint8, read_pictures, to_layout
from mimsuite.processors.options import OF_A_CALL, image_processor
from mimsuite.processors.resize import (
    ANY_FORM,
    SQUASH,
    Extent,
    Forms,
    Size,
    center_crop,
    pad_images,
    parse_resample,
    parse_size,
    resize_pil,
    resized_extent,
)
from mimsuite.processors.tensors import prepare_tensors

STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")
ON_OR_OFF = (True, False, None)


@image_processor
class ImageProcessor(ProcessorFiles):
    """Convert, resize, (crop), rescale, normalise, (pad); a class overrides `geometry` for the sizes, or `fit`.

    Attributes:
        backend: "pil" for Pillow and numpy; "torchvision" for torch, under transformers' name.
        do_resize: resize to `size`.
        size: `{height, width}`, `{shortest_edge}`, `{shortest_edge, longest_edge}` or `{max_height, max_width}`,
            pixels; an int or `(h, w)`.
        resample: Pillow's code or name, 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
        do_center_crop: crop the centre to `crop_size`, also without resizing.
        crop_size: `{height, width}`, pixels; an int (a square) or `(h, w)`. Smaller images are padded with zeros.
        do_rescale: multiply by `rescale_factor`.
        rescale_factor: 1/255 for values from 0 to 255.
        do_normalize: `(x - image_mean) / image_std`, per channel.
        image_mean: one number, or one per channel.
        image_std: one number, or one per channel.
        do_convert_rgb: make every image RGB first; None: no.
        do_pad: fill up with zeros at the bottom and right.
        pad_size: what to fill up to, as `crop_size`; None: the largest of the images.

    Raises:
        InputError: a value that is not allowed.
    """

    size_forms: ClassVar[Forms] = ANY_FORM
    needs_crop_size: ClassVar[bool] = True
    backend: ClassVar[str] = "pil"

    do_resize: bool = True
    size: Size = field(default_factory=lambda: {"height": 224, "width": 224})
    resample: int = 2
    do_center_crop: bool | None = None
    crop_size: Size | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    image_std: float | list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    do_convert_rgb: bool | None = None
    do_pad: bool | None = None
    pad_size: Size | None = None

    def __post_init__(self) -> None:
        for step in STEPS:
            if getattr(self, step) not in ON_OR_OFF:
                raise InputError(f"{step}={getattr(self, step)!r} is not one of True, False, None")
        if self.do_resize or self.size is not None:
            self.size = parse_size(self.size, square=self.default_to_square, forms=self.size_forms)
        if self.do_resize or self.resample is not None:
            self.resample = parse_resample(self.resample)
        for name, wanted in (("crop_size", self.do_center_crop and self.needs_crop_size), ("pad_size", False)):
            given = getattr(self, name)
            if wanted or given is not None:
                setattr(self, name, parse_size(given, square=True, forms=(SQUASH,), name=name))
        if self.do_rescale or self.rescale_factor is not None:
            self.rescale_factor = parse_numbers("rescale_factor", self.rescale_factor, several=False)
        for name in ("image_mean", "image_std"):
            if self.do_normalize or getattr(self, name) is not None:
                setattr(self, name, parse_numbers(name, getattr(self, name)))
        for name, divides in (("image_std", self.do_normalize), ("rescale_factor", self.do_rescale)):
            if divides and 0 in np.atleast_1d(getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)} divides by zero; give positive numbers")
        self.mark_checked()

    def read(self, image: Any) -> Any:
        """Reads an image as a `Picture`, or leaves it to `read_pictures`, which reads as Hugging Face does."""
        return image

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """Returns the `(h, w)` to resize an image to, and the `(h, w)` to crop its centre to, or None."""
        crop = self.crop_size if self.do_center_crop else None
        extent = resized_extent(self.size, height, width) if self.do_resize else (height, width)
        return extent, None if crop is None else (crop["height"], crop["width"])

    def fit(self, image: Array) -> Array:
        """Brings one `(C, H, W)` image to its size."""
        extent, crop = self.geometry(*image.shape[1:])
        if self.do_resize:
            image = resize_pil(image, extent, self.resample)
        return image if crop is None else center_crop(image, crop)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """Same as `preprocess`."""
        mine = {name: vars(self)[name] for name in OF_A_CALL if vars(self).get(name) is not None}
        return self.preprocess(images, **(mine | options))

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: str | None = None,
        data_format: str | None = "channels_first",
        input_data_format: str | None = None,
        device: torch.device | str | int | None = None,
        disable_grouping: bool | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Prepares images, by Pillow and numpy or, in the classes called Fast, by torch.

        Args:
            images: a PIL image, the name of a file, an array or tensor, values 0 to 255, or a list of them, sizes may
                differ, or a list of such lists.
            return_tensors: None: a list of arrays (Fast: of tensors); "pt" or "np": one tensor or array `(B, C, H, W)`.
            data_format: "channels_first", "channels_last", or None for the layout of each image.
            input_data_format: layout of arrays: "channels_first", "channels_last" or "none" (2-D); None:
                inferred.
            device: where torch prepares the images; None: where they are. Without effect for Pillow.
            disable_grouping: of transformers; without effect.
            options: fields of the processor, for this call only; None switches a step (`do_...`) off, and leaves any
                other field as it is.

        Returns:
            `pixel_values`, float32 if rescaled or normalised.

        Raises:
            InputError: no images, an unknown option, channels that do not fit the mean, sizes that cannot be
                stacked.
        """
        _check_formats(return_tensors, data_format)
        chosen = self.with_options(options)
        in_torch = self.backend != "pil"
        rgb = bool(chosen.do_convert_rgb)
        pictures = read_pictures(images, rgb, input_data_format, keep_tensors=in_torch, before=chosen.read)
        chosen.check_pictures(pictures)
        if in_torch:
            ready: list[Any] = prepare_tensors(chosen, [p.array for p in pictures], device)
        else:
            ready = [chosen._slow(p.array) for p in pictures]
        if chosen.do_pad:
            ready = pad_images(ready, chosen.pad_size)
        laid = [
            to_layout(a, p.layout if data_format is None else data_format) for a, p in zip(ready, pictures, strict=True)
        ]
        return BatchFeature({"pixel_values": laid}, return_tensors)

    def with_options(self, options: dict[str, Any]) -> Self:
        """A copy with other fields for one call; None switches a step off and leaves any other field as it is."""
        if not options and self.checked:
            return self
        unknown = [name for name in options if name not in self.__dataclass_fields__ and name != "default_to_square"]
        if unknown:
            known = ", ".join(f.name for f in fields(self))
            raise InputError(f"{type(self).__name__} has no option {unknown[0]!r}; options: {known}")
        chosen = object.__new__(type(self))
        vars(chosen).update(vars(self))
        vars(chosen).update({k: v for k, v in options.items() if v is not None or k.startswith("do_")})
        chosen.__post_init__()
        return chosen

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


def parse_numbers(name: str, value: Any, *, several: bool = True) -> Any:
    """Returns one number as it is, or, where `several` are allowed, a list of floats.

    Raises:
        InputError: anything else.
    """
    found = value if several and isinstance(value, list | tuple | np.ndarray) else [value]
    numbers = [isinstance(one, Real) and not isinstance(one, bool) and math.isfinite(one) for one in found]
    if not numbers or not all(numbers):
        raise InputError(f"{name}={value!r} is not a number{' or one per channel' if several else ''}")
    return value if found is not value else [float(one) for one in found]


def _check_formats(return_tensors: str | None, data_format: str | None) -> None:
    if return_tensors in ("tf", "jax"):
        raise InputError(f"return_tensors={return_tensors!r} needs a framework that is not used here; use 'pt' or 'np'")
    if return_tensors not in (None, "pt", "np"):
        raise InputError(f"return_tensors={return_tensors!r} is not one of 'pt', 'np', None")
    if data_format is not None and data_format not in LAYOUTS[:2]:
        raise InputError(f"data_format={data_format!r} is not one of {', '.join(LAYOUTS[:2])}, None")


def _looks_rescaled(image: Any) -> bool:
    if is_uint8(image):
        return False
    if isinstance(image, torch.Tensor) and not image.is_floating_point():
        image = image.long()  # torch has no minimum of its uint16
    return bool(image.min() >= 0) and bool(image.max() <= 1)
