"""The images of a picture: read from a file, a folder or a data set, and decoded at the size of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mimsuite.data.folders import images_of
from mimsuite.data.images.decode import DecodeError
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.words import Alpha

if TYPE_CHECKING:
    from torch import Tensor


class NamedBytes(NamedTuple):
    """An encoded image and its name, by which its masks are drawn.

    Attributes:
        name: of the file, or the key.
        data: the encoded image.
        alpha: what becomes of transparency; None where only the model's channels tell.
        bands: names of the channels; None where only the file tells.
        value_range: the values that became 0 and the maximum when it was packed; None: values are as stored.
    """

    name: str
    data: bytes
    alpha: Alpha | None = None
    bands: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None


def find_images(images: str | None, count: int, alpha: Alpha | None = None) -> list[NamedBytes]:
    """The first `count` encoded images, by name: of a file, a folder, or a data set's validation part.

    Args:
        images: the place; None for the embedded set.
        count: images, at most.
        alpha: what becomes of transparency, where no index says it.

    Raises:
        InputError: no images there.
    """
    path = Path(images) if images is not None else None
    if path is not None and path.is_file() and path.suffix.lower() != ".tar":
        return [NamedBytes(path.name, path.read_bytes(), alpha)]
    found = None if images is None else images_of(images, "images")
    if path is not None and found is not None:
        return [NamedBytes(name, (path / name).read_bytes(), alpha) for name in found.images[:count]]
    from mimsuite.data.checks.inspect import raw_samples

    try:
        index = open_data(images, alpha or "white")
    except InputError as error:
        raise InputError(str(error).replace("data=", "images=", 1)) from error
    about = index.alpha, index.bands or (), index.value_range
    return [NamedBytes(s.key, s.data, *about) for s in raw_samples(index, index.select("curve"), count)]


def decode_image(image: NamedBytes, size: tuple[int, int], channels: int, dtype: str) -> Tensor:
    """Decodes an image and takes the largest central part with the right proportions.

    Args:
        image: the image.
        size: `(H, W)` pixels.
        channels: C.
        dtype: "uint8" or "uint16".

    Returns:
        `(C, H, W)` uint8, or int32 for "uint16".

    Raises:
        InputError: the image cannot be decoded, or has channels that the model does not take.
    """
    import torch

    from mimsuite.data.augment.crop import CenterCrop
    from mimsuite.data.images.decode import conform, open_image

    crop, generator = CenterCrop(size), torch.Generator()
    try:
        opened = open_image(image.data, image.alpha or ("channel" if channels in (2, 4) else "white"))
        if opened.channels != channels and not {opened.channels, channels} <= {1, 3}:
            raise InputError(
                f"image {image.name} has {opened.channels} channels, and the model takes {channels}; give images with "
                "as many, in the same order"
            )
        pixels = opened.pixels(crop.box(opened.height, opened.width, generator), size)
        return crop(conform(pixels, channels, dtype), generator)
    except DecodeError as error:
        raise InputError(f"image {image.name} cannot be decoded: {error}; fix or remove it") from error
