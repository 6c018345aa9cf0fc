"""What a model that predicts features makes of masked images: features as colours, and where they are right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mimsuite.masked.latent import PredictedFeatures, cell_cosine
from mimsuite.objectives.taught import TaughtModel
from mimsuite.pictures.components import find_components
from mimsuite.pictures.display import Shown, to_display, to_pixels
from mimsuite.pictures.features import cells_of, colours_along
from mimsuite.pictures.layout import Group, lay_out
from mimsuite.pictures.reconstruction import colour_words
from mimsuite.pictures.sheets import draw_heat, draw_heat_bar, enlarge, enlargement, hatched
from mimsuite.types import Batch

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class FeaturePicture:
    """Some images, what was hidden of them, and the features that were predicted there.

    Attributes:
        images: `(N, H, W, 3)` uint8.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        unit: side of a mask unit in pixels.
        hidden: `(N, h, w)` bool, the cells that are predicted.
        teacher: `(N, h, w, 3)` uint8, the teacher's features as colours.
        predicted: likewise, of hidden cells; of others the teacher's.
        cosine: `(N, h, w)`, between the two.
        colours: which channels of the images are shown, in words; empty where that is plain.
        loss: the latent loss over all images.
        cosines: `(N,)`, the mean over each image's hidden cells; NaN where nothing is hidden.
    """

    images: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    unit: int
    hidden: NDArray[np.bool_]
    teacher: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    cosine: NDArray[np.float64]
    colours: str
    loss: float
    cosines: NDArray[np.float64]

    def sheet(self, title: str) -> Image.Image:
        """One row per image: image, masked, the teacher's features, the predicted ones, their cosine in hidden cells.

        Features are shown by the first three principal components of all of the teacher's on the sheet. The cosine goes
        from black (0 and less) to pale yellow (1); visible cells are slate.
        """
        factor = enlargement(self.images.shape[1:3])
        size = (self.images.shape[1] * factor, self.images.shape[2] * factor)
        large = enlarge(self.images, factor)
        masked, predicted, cosine = self._of_masks(large, size)
        columns = [("image", large), masked, ("teacher", spread(self.teacher, size)), predicted, cosine]
        share = f"{self.mask.mean():.0%} hidden in units of {self.unit} px"
        footer = f"{self.how()}; {share}, latent loss {self.loss:.4f}, mean cosine {self.mean_cosine:.3f}"
        sheet = lay_out([Group("", columns, self.captions())], title, footer)
        draw_heat_bar(sheet, "1", bool(title))
        return sheet

    def _of_masks(self, large: NDArray[np.uint8], size: tuple[int, int]) -> list[tuple[str, NDArray[np.uint8]]]:
        """The columns that depend on the masks: masked, predicted, cosine."""
        seen = ~to_pixels(self.hidden, size)
        return [
            ("masked", hatched(large, to_pixels(self.mask, size))),
            ("predicted", hatched(spread(self.predicted, size), seen)),
            ("cosine", draw_heat(spread(self.cosine, size).clip(0, 1), 1.0, ~seen)),
        ]

    @property
    def mean_cosine(self) -> float:
        """The mean of `cosines`; NaN where nothing is hidden in any image."""
        known = self.cosines[~np.isnan(self.cosines)]
        return float(known.mean()) if len(known) else math.nan

    def how(self) -> str:
        """What the colours are, in words."""
        images = f"; images: {self.colours}" if self.colours else ""
        return f"features as colours: the first three principal components of the teacher's{images}"

    def of_all(self) -> dict[str, float]:
        """The latent loss over all images, and the mean cosine."""
        return {"latent_loss": self.loss, "cosine": self.mean_cosine}

    def of_images(self) -> dict[str, NDArray[np.float64]]:
        """The cosine of each image, `(N,)`; NaN where nothing is hidden."""
        return {"cosine": self.cosines}

    def captions(self) -> list[str]:
        """The mean cosine of each image, in words."""
        return ["nothing hidden" if np.isnan(value) else f"mean cosine {value:.3f}" for value in self.cosines]


def compare_features(settings: Mapping[str, FeaturePicture], title: str) -> Image.Image:
    """One sheet of the same images under several settings of the masks, each by its name.

    One row per image: image and the teacher's features, then masked, predicted and cosine for every setting.
    """
    first = next(iter(settings.values()))
    factor = enlargement(first.images.shape[1:3])
    size = (first.images.shape[1] * factor, first.images.shape[2] * factor)
    large = enlarge(first.images, factor)
    groups = [Group("", [("image", large), ("teacher", spread(first.teacher, size))], ())]
    for name, found in settings.items():
        groups.append(Group(name, found._of_masks(large, size), found.captions()))
    sheet = lay_out(groups, title, f"{first.how()}, units of {first.unit} px")
    draw_heat_bar(sheet, "1", bool(title))
    return sheet


def predict_each(taught: TaughtModel, images: Tensor, mask: Tensor, targets: Tensor | None) -> PredictedFeatures:
    """Predicts images one by one, so that each mask may hide another number of units.

    Args:
        taught: the model and its teacher.
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, rows, columns)` bool, True = hidden.
        targets: `(N, T, rows, columns)` bool, True = to be predicted; None: all that is hidden.

    Returns:
        What was predicted of all; the loss is the mean over all predicted cells, and 0 where nothing is hidden.
    """
    wanted = mask[:, None] if targets is None else targets
    found, ids = [], torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        for i in range(len(images)):
            own = None if targets is None else targets[i : i + 1]
            found.append(taught.predict(Batch(images[i : i + 1], ids, mask[i : i + 1], None, [], targets=own)))
    shares = (wanted.flatten(1).sum(1) / wanted.sum().clamp(min=1)).tolist()
    losses = [share * float(each.loss) for share, each in zip(shares, found, strict=True) if share]
    return replace(
        found[0],
        images=images,
        mask=mask,
        hidden=torch.cat([each.hidden for each in found]),
        predicted=torch.cat([each.predicted for each in found]),
        target=torch.cat([each.target for each in found]),
        loss=torch.tensor(sum(losses, 0.0)),
    )


def picture_features(found: PredictedFeatures, shown: Shown | None = None) -> FeaturePicture:
    """Predicted features as a picture.

    Args:
        found: the prediction; of several layers side by side the last one gives the colours, and all the cosine.
        shown: which channels of the images are shown, see `mimsuite.pictures.display.to_display`.
    """
    target, predicted = found.target[:, -found.width :], found.predicted[:, -found.width :]
    hidden = found.hidden.cpu().numpy()
    components = find_components(cells_of(target), 3)
    teacher = colours_along(target, components)
    guessed = np.where(hidden[..., None], colours_along(predicted, components), teacher)
    cosine = cell_cosine(found.predicted, found.target).double().cpu().numpy()
    sums, counts = np.where(hidden, cosine, 0).sum((1, 2)), hidden.sum((1, 2))
    mean, std = (values.flatten().tolist() for values in (found.normalize.mean, found.normalize.std))
    pixels: Tensor = found.normalize(found.images)
    return FeaturePicture(
        images=to_display(pixels.float().cpu().numpy(), mean, std, shown, found.normalize.display),
        mask=found.mask.cpu().numpy(),
        unit=found.images.shape[-2] // found.mask.shape[-2],
        hidden=hidden,
        teacher=teacher,
        predicted=guessed,
        cosine=cosine,
        colours=colour_words(found.images.shape[1], shown, found.normalize),
        loss=float(found.loss),
        cosines=np.where(counts > 0, sums / np.maximum(counts, 1), np.nan),
    )


def spread(values: NDArray[T], size: tuple[int, int]) -> NDArray[T]:
    """Cells `(N, h, w, ...)` repeated over `(H, W)` pixels, of which each takes the cell that it lies in."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, values.shape[1:3], strict=True))
    return values[:, rows][:, :, columns]
