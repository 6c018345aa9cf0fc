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
from mimsuite.pictures import hog_glyphs, reconstruction_sheet, to_display
from mimsuite.targets import Target

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
MODES = {
    "raw": "mode raw",
    "predicted_stats": "mode predicted_stats (brightness and contrast of hidden cells from the nearest visible ones)",
    "orientations": "mode orientations (strokes run along edges)",
}


@dataclass(frozen=True)
class Reconstruction:
    """Some images, what was hidden of them, and what a model made of it.

    Attributes:
        original: `(N, H, W, 3)` uint8: the images, or their gradients' orientations if those are predicted.
        prediction: likewise, the whole picture.
        images: `(N, h, w, 3)` uint8, where `original` is not the images; else None.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        unit: side of a mask unit in pixels of the image.
        mode: how the prediction became a picture, one of `MODES`.
        loss: the masked loss over all images.
        psnr: `(N,)`, in dB, over each image's hidden pixels; NaN where nothing is hidden; None for orientations.
    """

    original: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    images: NDArray[np.uint8] | None
    mask: NDArray[np.bool_]
    unit: int
    mode: str
    loss: float
    psnr: NDArray[np.float64] | None

    def sheet(self, title: str) -> Image.Image:
        """One row per image: original, masked, prediction, paste, error."""
        share = f"{self.mask.mean():.0%} hidden in units of {self.unit} px"
        return reconstruction_sheet(
            self.original,
            self.prediction,
            self.mask,
            title=title,
            footer=f"{MODES[self.mode]}, {share}, masked loss {self.loss:.4f}",
            captions=[] if self.psnr is None else [_caption(value) for value in self.psnr],
            images=self.images,
        )


def _caption(psnr: float) -> str:
    return "nothing hidden" if np.isnan(psnr) else f"PSNR {psnr:.1f} dB"


@torch.inference_mode()
def reconstruct(
    predict: Predict, target: Target, cell: tuple[int, int], normalize: Normalize, images: Tensor, mask: Tensor
) -> Reconstruction:
    """Runs a model on masked images.

    The pictures do not depend on hidden pixels, but for the column of originals and what is computed from it.

    Args:
        predict: `(pixels, mask)` to the masked loss and the whole prediction of the target.
        target: what is predicted.
        cell: `(h, w)` pixels of a cell of the feature map.
        normalize: integer images to normalised floats.
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
    """
    pixels = normalize(images)
    loss, prediction = predict(pixels, mask)
    picture = target.picture(prediction, pixels, mask, cell)
    mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
    shown = to_display(pixels.float().cpu().numpy(), mean, std)
    plain, unit = mask.cpu().numpy(), images.shape[-2] // mask.shape[-2]
    if picture is None:
        original, drawn = (hog_glyphs(t.float().cpu().numpy()) for t in (target.dense(pixels, cell), prediction))
        return Reconstruction(original, drawn, shown, plain, unit, target.mode, float(loss), None)
    psnr = hidden_psnr(normalize.undo(picture), normalize.undo(pixels), mask).double().cpu().numpy()
    drawn = to_display(picture.float().cpu().numpy(), mean, std)
    return Reconstruction(shown, drawn, None, plain, unit, target.mode, float(loss), psnr)
