"""The steps of an image processor in torch: whole batches, on any device, within a grey level or two of Pillow."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.processors.resize import RESAMPLE_CODES, Extent

TENSOR_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


class Steps(Protocol):
    """The fields of an image processor that are read here, and its geometry."""

    do_resize: bool
    resample: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: float | list[float]
    image_std: float | list[float]

    def geometry(self, height: int, width: int) -> tuple[Extent, Extent | None]:
        """See `ImageProcessor.geometry`."""
        ...


def prepare_tensors(steps: Steps, images: list[Any], device: torch.device | str | int | None) -> list[torch.Tensor]:
    """Prepares `(C, H, W)` images, those of one size together; the order stays.

    Args:
        steps: an image processor.
        images: arrays or tensors.
        device: where; None: where they are.

    Raises:
        InputError: a filter that torch does not have.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    tensors = [_as_tensor(image) for image in images]
    for place, image in enumerate(tensors):
        groups.setdefault((image.shape, image.dtype, image.device), []).append(place)
    done: dict[int, torch.Tensor] = {}
    for places in groups.values():
        alone = len(places) == 1
        batch = tensors[places[0]][None] if alone else torch.stack([tensors[place] for place in places])
        done |= zip(places, _prepare(steps, batch if device is None else batch.to(device)), strict=True)
    return [done[place] for place in range(len(images))]


def _as_tensor(image: Any) -> torch.Tensor:
    """An array as a contiguous tensor; copied where it cannot be shared (Pillow's buffers are read-only)."""
    if isinstance(image, torch.Tensor):
        return image
    shared = image.flags.writeable and all(step > 0 for step in image.strides)
    return torch.from_numpy(image if shared else np.array(image)).contiguous()


def _prepare(steps: Steps, images: torch.Tensor) -> torch.Tensor:
    """A batch `(B, C, H, W)` of one size."""
    extent, crop = steps.geometry(images.shape[2], images.shape[3])
    if steps.do_resize:
        images = resize_tensor(images, extent, steps.resample)
    if crop is not None:
        images = center_crop_tensor(images, crop)
    if not steps.do_normalize:
        return images * steps.rescale_factor if steps.do_rescale else images
    factor = 1 / steps.rescale_factor if steps.do_rescale else 1.0
    mean, std = (
        torch.tensor(v, device=images.device).reshape(-1, 1, 1) * factor for v in (steps.image_mean, steps.image_std)
    )
    return images.float().sub(mean).div_(std)


def resize_tensor(images: torch.Tensor, extent: Extent, resample: int) -> torch.Tensor:
    """Resizes `(B, C, H, W)` with antialiasing; whole numbers stay of their dtype, rounded and clamped.

    On a CPU uint8 is resized as such; other whole numbers, uint8 elsewhere and short floats as float32.

    Raises:
        InputError: a filter that torch does not have.
    """
    if resample not in TENSOR_MODES:
        raise InputError(
            f"resample={resample} ({RESAMPLE_CODES[resample]}) is not in torch; use 0, 2 or 3, or the Pillow form "
            'of the processor (backend="pil")'
        )
    if tuple(images.shape[2:]) == extent:
        return images
    mode, given = TENSOR_MODES[resample], images.dtype
    smooth = mode != "nearest-exact"
    as_it_is = given in (torch.float32, torch.float64) or (given == torch.uint8 and images.device.type == "cpu")
    images = images if as_it_is else images.float()
    resized = F.interpolate(images, size=extent, mode=mode, antialias=smooth, align_corners=False if smooth else None)
    if as_it_is or given.is_floating_point:
        return resized.to(given)
    limits = torch.iinfo(given)
    return resized.round().clamp(limits.min, limits.max).to(given)


def center_crop_tensor(images: torch.Tensor, extent: Extent) -> torch.Tensor:
    """Cuts the centre out of `(B, C, H, W)`; what lies outside is zero, the odd row of it at the bottom or right.

    The Pillow form has the odd row at the top or left; both follow transformers.
    """
    around: list[int] = []
    for have, want in zip(images.shape[-2:], extent, strict=True):
        before = (want - have) // 2 if want > have else -((have - want) // 2)
        around = [before, want - have - before, *around]
    return F.pad(images, around)
