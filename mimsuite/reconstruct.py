"""From masked images to a picture of what a model makes of them; one function serves training, task and notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mimsuite.metrics import hidden_psnr
from mimsuite.normalize import Normalize
from mimsuite.pictures import reconstruction_sheet, to_display

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Reconstruction:
    """Some images, what was hidden of them, and what a model made of it.

    Attributes:
        original: `(N, H, W, 3)` uint8.
        prediction: likewise, the whole picture.
        mask: `(N, h, w)` bool, True = hidden, one cell per mask unit.
        loss: the masked loss over all images.
        psnr: `(N,)`, in dB, over each image's hidden pixels.
    """

    original: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    loss: float
    psnr: NDArray[np.float64]

    def sheet(self, title: str) -> Image.Image:
        """One row per image: original, masked, prediction, paste, error.

        The mode is `raw`: the prediction is de-normalised with the data's statistics, nothing else.
        """
        unit = self.original.shape[1] // self.mask.shape[1]
        return reconstruction_sheet(
            self.original,
            self.prediction,
            self.mask,
            title=title,
            footer=f"mode raw, {self.mask.mean():.0%} hidden in units of {unit} px, masked loss {self.loss:.4f}",
            captions=[f"PSNR {value:.1f} dB" for value in self.psnr],
        )


@torch.inference_mode()
def reconstruct(predict: Predict, normalize: Normalize, images: Tensor, mask: Tensor) -> Reconstruction:
    """Runs a model on masked images.

    Args:
        predict: `(pixels, mask)` to the masked loss and the whole prediction, normalised, `(N, C, H, W)`.
        normalize: integer images to normalised floats.
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, h, w)` bool, True = hidden, one cell per mask unit.
    """
    pixels = normalize(images)
    loss, prediction = predict(pixels, mask)
    psnr = hidden_psnr(normalize.undo(prediction), normalize.undo(pixels), mask)
    mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
    original, shown = (to_display(x.float().cpu().numpy(), mean, std) for x in (pixels, prediction))
    return Reconstruction(original, shown, mask.cpu().numpy(), float(loss), psnr.double().cpu().numpy())
