"""Copies batches to a CUDA device on a stream of their own, while the step before computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mimsuite.types import Batch


class CopyStream:
    """A stream for copies from page-locked memory.

    The host gives the work of a step to the device and goes on before it is done. A copy on the stream of the step
    would begin when that is done; here it begins at once, so nothing has to be asked for ahead of time. As the host is
    a few steps ahead at most, a few batches lie on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, copy: Callable[[], Batch]) -> Batch:
        """Gives the batch that `copy` makes; what the device computes after this waits for it, the host does not."""
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            batch = copy()
        computing.wait_stream(self._stream)
        for value in batch:
            if isinstance(value, Tensor):
                value.record_stream(computing)  # or its memory would be given away while a step still reads it
        return batch
