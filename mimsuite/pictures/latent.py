"""What a model that predicts features makes of masked images: features as colours, and where they are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mimsuite.masked.latent import PredictedFeatures, cell_cosine
from mimsuite.pictures.components import find_components
from mimsuite.pictures.display import Shown, to_display, to_pixels
from mimsuite.pictures.features import cells_of, colours_along
from mimsuite.pictures.layout import Group, lay_out
from mimsuite.pictures.reconstruction import colour_words
from mimsuite.pictures.sheets import draw_heat, draw_heat_bar, enlarge, enlargement, hatched

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
        seen = ~to_pixels(self.hidden, size)
        heat = draw_heat(spread(self.cosine, size).clip(0, 1), 1.0, ~seen)
        columns = [
            ("image", large),
            ("masked", hatched(large, to_pixels(self.mask, size))),
            ("teacher", spread(self.teacher, size)),
            ("predicted", hatched(spread(self.predicted, size), seen)),
            ("cosine", heat),
        ]
        share = f"{self.mask.mean():.0%} hidden in units of {self.unit} px"
        footer = (
            f"features as colours: the first three principal components of the teacher's{self._colours()}; {share}, "
            f"latent loss {self.loss:.4f}, mean cosine {np.nanmean(self.cosines):.3f}"
        )
        sheet = lay_out([Group("", columns, self.captions())], title, footer)
        draw_heat_bar(sheet, "1", bool(title))
        return sheet

    def _colours(self) -> str:
        return f"; images: {self.colours}" if self.colours else ""

    def captions(self) -> list[str]:
        """The mean cosine of each image, in words."""
        return ["nothing hidden" if np.isnan(value) else f"mean cosine {value:.3f}" for value in self.cosines]


def picture_features(found: PredictedFeatures, shown: Shown | None = None) -> FeaturePicture:
    """Predicted features as a picture.

    Args:
        found: the prediction; of several layers side by side the last one is drawn.
        shown: which channels of the images are shown, see `mimsuite.pictures.display.to_display`.
    """
    target, predicted = found.target[:, -found.width :], found.predicted[:, -found.width :]
    hidden = found.hidden.cpu().numpy()
    components = find_components(cells_of(target), 3)
    teacher = colours_along(target, components)
    guessed = np.where(hidden[..., None], colours_along(predicted, components), teacher)
    cosine = cell_cosine(predicted, target).double().cpu().numpy()
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
