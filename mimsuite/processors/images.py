"""What image processors take: PIL images, files, arrays and tensors, brought to `(C, H, W)`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from mimsuite.errors import InputError, reading

Array = np.ndarray[Any, Any]
LAYOUTS = ("channels_first", "channels_last", "none")
KINDS = "PIL images, numpy arrays, torch tensors, names of files, or lists of these"


class Picture(NamedTuple):
    """An image as it came in.

    Attributes:
        array: `(C, H, W)`, dtype as given; a tensor where tensors are kept.
        layout: how it was laid out, one of `LAYOUTS`.
    """

    array: Any
    layout: str


def read_pictures(
    images: Any,
    to_rgb: bool,
    layout: str | None,
    keep_tensors: bool = False,
    before: Callable[[Any], Any] = lambda image: image,
) -> list[Picture]:
    """Turns one image or several into arrays.

    Args:
        images: a PIL image, the name of a file, an array or tensor (3-D or 2-D; 4-D is a batch), or a list or tuple of
            such, also of lists.
        to_rgb: make every image RGB: PIL images of any mode, one channel repeated, alpha blended on white.
        layout: of arrays and tensors, one of `LAYOUTS`; None: inferred from the shape.
        keep_tensors: leave tensors tensors, on their device.
        before: is given each image first; what it reads itself it returns as a `Picture`, anything else as it came.

    Raises:
        InputError: nothing, or no images, a file that cannot be read, or a layout that cannot be told.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"input_data_format={layout!r} is not one of {', '.join(LAYOUTS)}")
    found = _flat(images)
    if not found:
        raise InputError("no images: the list or batch is empty; give at least one")
    return [_read(before(image), to_rgb, layout, keep_tensors) for image in found]


def _flat(images: Any) -> list[Any]:
    """Single images, in order."""
    if isinstance(images, list | tuple):
        return [one for image in images for one in _flat(image)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [images]


def check_file(path: str | os.PathLike[str]) -> str:
    """The name of an image file.

    Raises:
        InputError: an address, or no such file.
    """
    name = os.fspath(path)
    if name.startswith(("http://", "https://")):
        raise InputError(
            f"{name} is not downloaded; fetch it first, as in "
            "PIL.Image.open(urllib.request.urlopen(url)), and give the image"
        )
    if not os.path.isfile(name):
        raise InputError(f"{name[:200]!r} is not an image file; give {KINDS}")
    return name


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image file, upright and in RGB, as Hugging Face reads it: transparency is dropped.

    Raises:
        InputError: an address, no such file, or no image.
    """
    name = check_file(path)
    with reading(name, "give an image that Pillow opens"), Image.open(name) as image:
        upright = ImageOps.exif_transpose(image)
        return pil_to_rgb(upright) if upright.mode.startswith("I;16") else upright.convert("RGB")


def is_uint8(image: Any) -> bool:
    """Whether an array or tensor holds uint8."""
    return bool(image.dtype == (torch.uint8 if isinstance(image, torch.Tensor) else np.uint8))


def to_layout(image: Any, layout: str) -> Any:
    """Returns a `(C, H, W)` array or tensor in another layout; "none" drops a single channel."""
    if layout == "channels_last":
        return image.permute(1, 2, 0) if isinstance(image, torch.Tensor) else image.transpose(1, 2, 0)
    return image[0] if layout == "none" and len(image) == 1 else image


def _read(image: Any, to_rgb: bool, layout: str | None, keep_tensors: bool) -> Picture:
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        image = open_file(image)
    if isinstance(image, Image.Image):
        array = np.asarray(pil_to_rgb(image) if to_rgb else _plain(image))
        return Picture(array[None], "none") if array.ndim == 2 else Picture(array.transpose(2, 0, 1), "channels_last")
    if isinstance(image, torch.Tensor) and not keep_tensors:
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise InputError(f"{type(image).__name__} is not an image; give {KINDS}")
    if image.dtype in (bool, torch.bool):
        image = image * np.uint8(255) if isinstance(image, np.ndarray) else image.byte() * 255
    real = not image.is_complex() if isinstance(image, torch.Tensor) else image.dtype.kind in "uif"
    if not real or 0 in image.shape:
        raise InputError(
            f"an array of {image.dtype} and shape {tuple(image.shape)} is not an image; expected numbers, not empty"
        )
    if layout == "none" or (layout is None and image.ndim == 2):
        if image.ndim != 2:
            raise InputError(f"input_data_format='none' expects (height, width), got shape {tuple(image.shape)}")
        found, array = "none", image[None]
    elif image.ndim != 3:
        raise InputError(f"an image has 2 or 3 dimensions, a batch 4; got shape {tuple(image.shape)}")
    else:
        found = layout or _infer_layout(tuple(image.shape), (1, 3, 4) if to_rgb else (1, 3))
        array = image if found == "channels_first" else _channels_to_front(image)
    return Picture(_array_to_rgb(array) if to_rgb else array, found)


def _channels_to_front(image: Any) -> Any:
    return image.permute(2, 0, 1) if isinstance(image, torch.Tensor) else image.transpose(2, 0, 1)


def _infer_layout(shape: tuple[int, ...], counts: tuple[int, ...]) -> str:
    first, last = shape[0] in counts, shape[-1] in counts
    if first and last:
        warnings.warn(
            f"an image of shape {shape} could have its channels first or last; taken as "
            f"channels_first (set "
            f"input_data_format)",
            stacklevel=5,
        )
    if not first and not last:
        raise InputError(
            f"Unable to infer channel dimension format of an image of shape {shape}; set "
            f"input_data_format to "
            f"channels_first or channels_last"
        )
    return "channels_first" if first else "channels_last"


def pil_to_rgb(image: Image.Image) -> Image.Image:
    """Returns an RGB image of any PIL mode; transparency is blended on white.

    16-bit grey loses its low byte, as an 8-bit copy of the file would; Pillow itself would clip it at 255.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "La":  # Pillow converts premultiplied grey only to plain grey with alpha
        image = image.convert("LA")
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether a PIL image says how transparent its pixels are."""
    return bool({"A", "a"} & set(image.getbands())) or image.info.get("transparency") is not None


def _plain(image: Image.Image) -> Image.Image:
    """Black and white as grey levels; every other mode as it is."""
    return image.convert("L") if image.mode == "1" else image


def _array_to_rgb(image: Any) -> Any:
    """Three channels of an array or tensor of one, or of four with alpha; others as they are."""
    if len(image) == 1:
        return image[[0, 0, 0]]
    if len(image) != 4:
        return image
    tensor = isinstance(image, torch.Tensor)
    whole = not image.is_floating_point() if tensor else np.issubdtype(image.dtype, np.integer)
    values = image.long() if tensor and whole else image  # torch has no minimum of its uint16
    low, high = values.min(), values.max()
    white = 1.0 if not whole else 65535 if high > 255 and image.dtype in (np.uint16, torch.uint16) else 255
    if low < 0 or high > white:
        kind, range_ = ("whole", "0 to 255, or to 65535 as uint16") if whole else ("float", "0 to 1, or use uint8")
        raise InputError(f"a {kind} image with alpha has values from {low} to {high}; expected {range_}")
    alpha = values[3:] / white
    blend = alpha * values[:3] + (1 - alpha) * white
    blend = blend.round() if whole else blend
    return blend.to(image.dtype) if tensor else blend.astype(image.dtype)
