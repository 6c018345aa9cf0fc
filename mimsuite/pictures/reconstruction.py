"""From masked images to a picture of what a model makes of them; one function serves training, task and notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mimsuite.data.folders import count_of
from mimsuite.masked.losses import masked_error
from mimsuite.masked.modes import choose_mode
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.targets import Target
from mimsuite.metrics.psnr import hidden_psnr
from mimsuite.pictures.display import (
    Components,
    Shown,
    channel_words,
    display_words,
    hog_glyphs,
    shown_channels,
    to_display,
)
from mimsuite.pictures.sheets import Panel, reconstruction_sheet, settings_sheet
from mimsuite.settings.losses import LOSS_WORDS

Predict = Callable[[Tensor, Tensor, str], tuple[Tensor, Tensor]]
WORDS = {
    ("pixels", "raw"): "pixels as they are predicted",
    ("norm_pixels", "predicted_stats"): "mode predicted_stats (hidden cells have the brightness and contrast of the "
    "nearest visible ones, visible cells their own)",
    (
        "norm_pixels",
        "oracle_stats",
    ): "mode oracle_stats (every cell has its own brightness and contrast, also where it is "
    "hidden: a part of the answer)",
    ("norm_pixels", "raw"): "mode raw (cells of mean 0 and deviation 1 as they are predicted, shown with the data's "
    "statistics)",
    ("hog", "orientations"): "orientations of gradients (strokes run along edges)",
}
PASTE = "paste: the prediction in hidden cells only"
ERROR = "error: of what is shown, where 1 is from black to full brightness"


@dataclass(frozen=True)
class Reconstruction:
    """Some images, what was hidden of them, and what a model made of it.

    Attributes:
        original: `(N, H, W, 3)` uint8: the images, or what is predicted of them where that is shown itself: the
            orientations of their gradients, or their normalised cells in the mode "raw".
        prediction: likewise, the whole picture.
        images: `(N, h, w, 3)` uint8, where `original` is not the images; else None.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        unit: side of a mask unit in pixels of the image.
        target: name of what is predicted.
        mode: how the prediction became a picture, one of the target's `mimsuite.masked.modes.MODES`.
        colours: which channels and which of their values are shown, in words; empty where that is plain.
        loss: the masked loss over all images.
        error: what it is a mean of, one of `mimsuite.words.LOSSES`.
        losses: `(N,)`, that of each image alone; 0 where nothing is hidden.
        psnr: `(N,)`, in dB, over each image's hidden pixels; NaN where nothing is hidden; None where
            `original` is not the images.
    """

    original: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    images: NDArray[np.uint8] | None
    mask: NDArray[np.bool_]
    unit: int
    target: str
    mode: str
    colours: str
    loss: float
    error: str
    losses: NDArray[np.float64]
    psnr: NDArray[np.float64] | None

    def sheet(self, title: str) -> Image.Image:
        """One row per image: original, masked, prediction, paste, error."""
        share = f"{self.mask.mean():.0%} hidden in units of {self.unit} px"
        loss = f"masked loss ({LOSS_WORDS[self.error]}) {self.loss:.4f} over {count_of(len(self.mask), 'image')}"
        return reconstruction_sheet(
            self.original,
            self.prediction,
            self.mask,
            title=title,
            footer=f"{self.how()}; {share}; {loss}; {PASTE}; {ERROR}",
            captions=self.captions(),
            images=self.images,
        )

    def how(self) -> str:
        """How the prediction became a picture, in words."""
        return "; ".join(filter(None, (WORDS[self.target, self.mode], self.colours)))

    def of_all(self) -> dict[str, float]:
        """Masked loss over all images and, of pixels, mean PSNR in dB."""
        found = {"masked_loss": self.loss}
        return found if self.psnr is None else found | {"psnr": float(self.psnr.mean())}

    def of_images(self) -> dict[str, NDArray[np.float64]]:
        """Masked loss and PSNR of each image, `(N,)`; NaN where there is none."""
        psnr = np.full(len(self.losses), np.nan) if self.psnr is None else self.psnr
        return {"masked_loss": self.losses, "psnr": psnr}

    def captions(self) -> list[str]:
        """Masked loss and PSNR of each image, in words."""
        texts = [f"masked loss {loss:.4f}" for loss in self.losses]
        if self.psnr is not None:
            texts = [f"{text}, PSNR {value:.1f} dB" for text, value in zip(texts, self.psnr, strict=True)]
        return [text if hidden.any() else "nothing hidden" for text, hidden in zip(texts, self.mask, strict=True)]


def colour_words(channels: int, shown: Shown | None, normalize: Normalize | None = None) -> str:
    """What of an image's channels is shown, in words; nothing for red, green and blue, or grey, as they are."""
    if isinstance(shown, Components):
        return f"first three principal components of the {channels} channels of visible pixels as red, green, blue"
    if normalize is None:
        return channel_words(channels, shown)
    values = display_words(normalize.display, shown_channels(channels, shown), normalize.maximum, normalize.value_range)
    return ", ".join(filter(None, (channel_words(channels, shown, normalize.bands), values)))


def judged_words(channels: int) -> str:
    """That loss and PSNR are of more channels than a picture shows, where that is so."""
    return f"loss and PSNR over all {channels} channels" if channels > 3 or channels == 2 else ""


def compare(settings: Mapping[str, Reconstruction], title: str) -> Image.Image:
    """One sheet of the same images under several settings of the masks, each by its name.

    One row per image: original, then masked and paste for every setting, with masked loss and PSNR below.
    """
    first = next(iter(settings.values()))
    panels = [
        Panel(name, found.prediction, found.mask, [text.removeprefix("masked ") for text in found.captions()])
        for name, found in settings.items()
    ]
    below = f"masked loss ({LOSS_WORDS[first.error]})" + (
        "" if first.psnr is None else " and PSNR of the hidden pixels"
    )
    footer = f"{first.how()}; units of {first.unit} px; below each pair its {below}; {PASTE}"
    return settings_sheet(first.original, panels, title=title, footer=footer, images=first.images)


@torch.inference_mode()
def reconstruct(
    predict: Predict,
    target: Target,
    cell: tuple[int, int],
    normalize: Normalize,
    images: Tensor,
    mask: Tensor,
    *,
    mode: str = "auto",
    loss: str = "l1",
    shown: Shown | None = None,
) -> Reconstruction:
    """Runs a model on masked images.

    But in the mode "oracle_stats" the pictures do not depend on hidden pixels, except for the column of originals and
    what is computed from it.

    Args:
        predict: `(pixels, mask, loss)` to the masked loss and the whole prediction of the target.
        target: what is predicted.
        cell: `(h, w)` pixels of a cell of the feature map.
        normalize: integer images to normalised floats.
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        mode: how the prediction becomes a picture, one of the target's modes; "auto": the first.
        loss: the error, one of `mimsuite.words.LOSSES`.
        shown: which channels are shown, see `mimsuite.pictures.display.to_display`.

    Raises:
        InputError: a mode that the target does not have.
    """
    mode = choose_mode(target.name, mode)
    pixels = normalize(images)
    value, prediction = predict(pixels, mask, loss)
    wanted = target.dense(pixels, cell)
    each = [slice(i, i + 1) for i in range(len(mask))]
    losses = [float(masked_error(prediction[i], wanted[i], mask[i], loss)) for i in each]
    picture = target.picture(prediction, pixels, mask, cell, mode)

    def display(values: Tensor) -> NDArray[np.uint8]:
        mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
        return to_display(values.float().cpu().numpy(), mean, std, shown, normalize.display)

    whole, psnr = display(pixels), None
    if picture is None:
        original, drawn = (hog_glyphs(t.float().cpu().numpy()) for t in (wanted, prediction))
    elif target.name != "pixels" and mode == "raw":
        original, drawn = display(wanted), display(picture)
    else:
        original, drawn = whole, display(picture)
        values = hidden_psnr(normalize.undo(picture), normalize.undo(pixels), mask, normalize.peak)
        psnr = values.double().cpu().numpy()
    return Reconstruction(
        original=original,
        prediction=drawn,
        images=None if original is whole else whole,
        mask=mask.cpu().numpy(),
        unit=images.shape[-2] // mask.shape[-2],
        target=target.name,
        mode=mode,
        colours="; ".join(
            filter(None, (colour_words(images.shape[1], shown, normalize), judged_words(images.shape[1])))
        ),
        loss=float(value),
        error=loss,
        losses=np.array(losses),
        psnr=psnr,
    )
