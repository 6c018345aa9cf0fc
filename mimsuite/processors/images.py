"""What image processors take: PIL images, arrays and tensors, brought to `(C, H, W)` arrays."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mimsuite.errors import InputError

Array = np.ndarray[Any, Any]
LAYOUTS = ("channels_first", "channels_last", "none")


class Picture(NamedTuple):
    """An image as it came in.

    Attributes:
        array: `(C, H, W)`, dtype as given.
        layout: how it was laid out, one of `LAYOUTS`.
    """

    array: Array
    layout: str


def read_pictures(images: Any, to_rgb: bool, layout: str | None) -> list[Picture]:
    """Turns one image or several into arrays.

    Args:
        images: a PIL image, array or tensor (3-D or 2-D; 4-D is a batch), or a list or tuple of single ones.
        to_rgb: make every image RGB: PIL images of any mode, one channel repeated, alpha blended on white.
        layout: of arrays and tensors, one of `LAYOUTS`; None: inferred from the shape.

    Raises:
        InputError: nothing, or no images, or a layout that cannot be told.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"input_data_format={layout!r} is not one of {', '.join(LAYOUTS)}")
    if isinstance(images, list | tuple):
        if not images:
            raise InputError("no images: the list is empty; give at least one")
        return [_read(image, to_rgb, layout) for image in images]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        if not len(images):
            raise InputError("no images: the batch is empty; give at least one")
        return [_read(image, to_rgb, layout) for image in images]
    return [_read(images, to_rgb, layout)]


def to_layout(image: Array | torch.Tensor, layout: str) -> Any:
    """Returns a `(C, H, W)` array or tensor in another layout; "none" drops a single channel."""
    if layout == "channels_last":
        return image.permute(1, 2, 0) if isinstance(image, torch.Tensor) else image.transpose(1, 2, 0)
    return image[0] if layout == "none" and len(image) == 1 else image


def _read(image: Any, to_rgb: bool, layout: str | None) -> Picture:
    if isinstance(image, Image.Image):
        array = np.asarray(pil_to_rgb(image) if to_rgb else _plain(image))
        return Picture(array[None], "none") if array.ndim == 2 else Picture(array.transpose(2, 0, 1), "channels_last")
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise InputError(f"{type(image).__name__} is not an image; give PIL images, numpy arrays or torch tensors")
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if not np.issubdtype(image.dtype, np.number) or image.size == 0:
        raise InputError(
            f"an array of {image.dtype} and shape {image.shape} is not an image; expected numbers, not empty"
        )
    if layout == "none" or (layout is None and image.ndim == 2):
        if image.ndim != 2:
            raise InputError(f"input_data_format='none' expects (height, width), got shape {image.shape}")
        found, array = "none", image[None]
    elif image.ndim != 3:
        raise InputError(f"an image has 2 or 3 dimensions, a batch 4; got shape {image.shape}")
    else:
        found = layout or _infer_layout(image, (1, 3, 4) if to_rgb else (1, 3))
        array = image if found == "channels_first" else image.transpose(2, 0, 1)
    return Picture(_array_to_rgb(array) if to_rgb else array, found)


def _infer_layout(image: Array, counts: tuple[int, ...]) -> str:
    first, last = image.shape[0] in counts, image.shape[-1] in counts
    if first and last:
        warnings.warn(
            f"an image of shape {image.shape} could have its channels first or last; taken as "
            f"channels_first (set "
            f"input_data_format)",
            stacklevel=5,
        )
    if not first and not last:
        raise InputError(
            f"Unable to infer channel dimension format of an image of shape {image.shape}; set "
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
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _plain(image: Image.Image) -> Image.Image:
    """Black and white as grey levels; every other mode as it is."""
    return image.convert("L") if image.mode == "1" else image


def _array_to_rgb(image: Array) -> Array:
    if len(image) == 1:
        return np.repeat(image, 3, axis=0)
    if len(image) != 4:
        return image
    whole = np.issubdtype(image.dtype, np.integer)
    if not whole and (image.min() < 0 or image.max() > 1):
        raise InputError(
            f"a float image with alpha has values from {image.min()} to {image.max()}; expected 0 to 1, or use uint8"
        )
    white = 255 if whole else 1.0
    alpha = image[3:] / white
    blend = alpha * image[:3] + (1 - alpha) * white
    return (np.round(blend) if whole else blend).astype(image.dtype)
