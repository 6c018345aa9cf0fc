"""What a processor returns: a dict whose entries are attributes too, and that moves to a device."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mimsuite.errors import InputError


class BatchFeature(UserDict[str, Any]):
    """What a processor returns: a dict whose entries are attributes too.

    Args:
        data: the entries.
        tensor_type: "pt" or "np" makes one tensor or array of every list of images; None leaves them.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: str | None = None) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def convert_to_tensors(self, tensor_type: str | None = None) -> BatchFeature:
        """Makes one tensor ("pt") or array ("np") of every list of images, in place; None changes nothing."""
        for name, value in self.data.items():
            if isinstance(value, list) and value and isinstance(value[0], np.ndarray | torch.Tensor):
                self.data[name] = stack_images(value, tensor_type)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Moves and casts in place, with the arguments of `torch.Tensor.to`; returns itself.

        Only tensors of floats are cast; others, as labels are, only change the device.
        """
        device = kwargs.get("device")
        if args and not isinstance(args[0], torch.dtype):
            if not isinstance(args[0], str | int | torch.device):
                raise InputError(f".to({args[0]!r}): give a device, a dtype, or a device and a dtype")
            device = args[0]

        def move(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(move(one) for one in value)
            if not isinstance(value, torch.Tensor):
                return value
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            return value if device is None else value.to(device, non_blocking=kwargs.get("non_blocking", False))

        self.data = {name: move(value) for name, value in self.data.items()}
        return self


def stack_images(images: list[Any], return_tensors: str | None) -> Any:
    """The images as they are, or as one tensor ("pt") or array ("np").

    Raises:
        InputError: they have several shapes.
    """
    if return_tensors is None:
        return images
    shapes = {tuple(i.shape) for i in images}
    if len(shapes) > 1:
        raise InputError(
            f"images of shapes {sorted(shapes)} cannot be stacked; resize to one size or return_tensors=None"
        )
    if isinstance(images[0], torch.Tensor):
        together = torch.stack(images)
        return together if return_tensors == "pt" else together.detach().cpu().numpy()
    stacked = np.stack(images)
    return torch.from_numpy(stacked) if return_tensors == "pt" else stacked
