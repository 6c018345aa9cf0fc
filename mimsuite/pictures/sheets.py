"""Sheets to look at: reconstructions, settings of masks side by side, contact sheets. Arrays in, PIL images out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mimsuite.errors import InputError
from mimsuite.pictures.display import to_pixels
from mimsuite.pictures.layout import GAP, MARGIN, Group, draw_footer, fit, footer_height, lay_out, paste_framed
from mimsuite.pictures.palette import FAINT, HEAT, INK, PAPER, SLATE, load_font
from mimsuite.pictures.text import cut, wrap

T = TypeVar("T", bound=np.generic)


def reconstruction_sheet(
    original: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    title: str = "",
    footer: str = "",
    captions: Sequence[str] = (),
    images: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """One row per image: original, masked, prediction, paste (true pixels where visible), error.

    Hidden cells are grey with a light hatch. The error is the mean over channels of |prediction - original|
    in hidden cells, as a fraction of the range that is shown, from black (0) to pale yellow (the largest of the sheet;
    a bar above the column says which); visible cells are slate. Small images are enlarged by a whole factor
    to about 192 pixels, pixel by pixel.

    Args:
        original: `(N, H, W, 3)`, see `to_display`.
        prediction: likewise.
        mask: `(N, gh, gw)` bool, True = hidden, on a grid that divides the image.
        title: a line above, such as the name of the run and the step.
        footer: a line below that says what is shown, such as the kind of target, the mask ratio and unit.
        captions: a line per image, such as its metrics; empty for none.
        images: `(N, h, w, 3)` for a column before the others, where `original` is not the image but something made of
            it, and its column is called "target"; H and W must be the same multiple of h and w.

    Raises:
        InputError: shapes that do not fit.
    """
    _check_sheet(original, prediction, mask, captions, images)
    hidden = to_pixels(mask, original.shape[1:3])
    factor = enlargement(original.shape[1:3])
    error = np.abs(prediction.astype(np.float64) - original).mean(-1) / 255
    top = float(error[hidden].max(initial=0))
    names = column_names(images)
    columns = [
        (names[0], enlarge(original, factor)),
        (names[1], hatched(enlarge(original, factor), enlarge(hidden, factor))),
        ("prediction", enlarge(prediction, factor)),
        ("paste", enlarge(np.where(hidden[..., None], prediction, original), factor)),
        ("error", enlarge(draw_heat(error, top, hidden), factor)),
    ]
    if images is not None:
        columns.insert(0, ("image", enlarge(images, factor * original.shape[1] // images.shape[1])))
    sheet = lay_out([Group("", columns, captions)], title, footer)
    draw_heat_bar(sheet, f"{top:.2f}", bool(title))
    return sheet


class Panel(NamedTuple):
    """What a model makes of the images of a sheet under one setting of the masks.

    Attributes:
        name: of the setting, such as "random 0.6".
        prediction: `(N, H, W, 3)` uint8.
        mask: `(N, gh, gw)` bool, True = hidden, on a grid that divides the image.
        captions: a line per image; empty for none.
    """

    name: str
    prediction: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    captions: Sequence[str]


def settings_sheet(
    original: NDArray[np.uint8],
    panels: Sequence[Panel],
    *,
    title: str = "",
    footer: str = "",
    images: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """One row per image: the original, then masked and paste under every setting, drawn as by `reconstruction_sheet`.

    Args:
        original: `(N, H, W, 3)`, see `to_display`.
        panels: the settings, from left to right.
        title: a line above.
        footer: a line below.
        images: as in `reconstruction_sheet`.

    Raises:
        InputError: shapes that do not fit.
    """
    factor = enlargement(original.shape[1:3])
    large = enlarge(original, factor)
    names = column_names(images)
    first = [(names[0], large)]
    if images is not None:
        first.insert(0, ("image", enlarge(images, factor * original.shape[1] // images.shape[1])))
    groups = [Group("", first, ())]
    for panel in panels:
        _check_sheet(original, panel.prediction, panel.mask, panel.captions, images)
        hidden = to_pixels(panel.mask, original.shape[1:3])
        pair = [
            (names[1], hatched(large, enlarge(hidden, factor))),
            ("paste", enlarge(np.where(hidden[..., None], panel.prediction, original), factor)),
        ]
        groups.append(Group(panel.name, pair, panel.captions))
    return lay_out(groups, title, footer)


def column_names(images: NDArray[np.uint8] | None) -> tuple[str, str]:
    """Names of the columns of originals and of their visible cells, which are the images, or else made of them."""
    return ("original", "masked") if images is None else ("target", "masked target")


def contact_sheet(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    captions: Sequence[str] = (),
    *,
    columns: int = 8,
    side: int = 128,
    title: str = "",
    footer: str = "",
) -> Image.Image:
    """Small pictures in rows, each fitted into a square of `side` pixels (never distorted), captions below.

    Args:
        images: PIL images, or `(H, W)` and `(H, W, 3)` uint8 arrays, of any sizes.
        captions: one per image, cut to the width of its square; empty for none.
        columns: pictures per row.
        side: pixels.
        title: a line above.
        footer: what stands below.

    Raises:
        InputError: no images, or another number of captions.
    """
    if not images or (captions and len(captions) != len(images)):
        raise InputError(f"{len(images)} images with {len(captions)} captions; give images, and a caption for each")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    font, large, line = load_font(12, *captions), load_font(18, title), 18 if captions else 0
    head = 34 if title else 0
    width = 2 * MARGIN + columns * (side + GAP) - GAP
    tail = wrap(footer, load_font(13), width - 2 * MARGIN)
    height = 2 * MARGIN + head + rows * (side + line + GAP) - GAP + footer_height(tail) + (GAP if tail else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_footer(sheet, tail)
    if title:
        draw.text((MARGIN, MARGIN), cut(title, large, width - 2 * MARGIN), INK, large)
    for i, image in enumerate(images):
        picture = fit(image if isinstance(image, Image.Image) else Image.fromarray(image), side)
        x = MARGIN + i % columns * (side + GAP)
        y = MARGIN + head + i // columns * (side + line + GAP)
        paste_framed(sheet, picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        if captions:
            draw.text((x + side // 2, y + side + 3), cut(captions[i], font, side), INK, font, anchor="ma")
    return sheet


def _check_sheet(
    original: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    captions: Sequence[str],
    images: NDArray[np.uint8] | None,
) -> None:
    if original.ndim != 4 or original.shape[-1] != 3 or prediction.shape != original.shape or not len(original):
        raise InputError(
            f"original {original.shape} and prediction {prediction.shape}; expected two equal shapes "
            "(images, rows, columns, 3)"
        )
    (n, height, width), grid = original.shape[:3], mask.shape
    if len(grid) != 3 or grid[0] != n or height % grid[1] or width % grid[2]:
        raise InputError(
            f"mask {grid} does not fit {n} images of {height} x {width} pixels; give one grid per image that divides it"
        )
    if captions and len(captions) != len(original):
        raise InputError(f"{len(captions)} captions for {len(original)} images; give one per image or none")
    if images is not None:
        times = max(1, height // max(1, images.shape[1])) if images.ndim == 4 else 1
        if images.shape[::3] != (n, 3) or (images.shape[1] * times, images.shape[2] * times) != (height, width):
            raise InputError(
                f"images {images.shape} do not fit {n} originals of {height} x {width} pixels; "
                "give one per original, of which both sides are the same multiple"
            )


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor that brings the longer side nearest to 192 pixels, at least 1."""
    return max(1, round(192 / max(size)))


def enlarge(images: NDArray[T], factor: int) -> NDArray[T]:
    """Images with every pixel repeated `factor` times, down and across."""
    return images.repeat(factor, 1).repeat(factor, 2)


def hatched(images: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Images with hidden pixels in mid grey under thin diagonal lines, 12 pixels apart."""
    rows, columns = np.indices(images.shape[1:3])
    hatch = np.where((rows + columns) % 12 < 2, 158, 128).astype(np.uint8)
    return np.where(hidden[..., None], hatch[None, :, :, None], images)


def draw_heat(error: NDArray[np.float64], top: float, hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An error of 0 to `top` as colours `(N, H, W, 3)`; visible pixels in dark slate."""
    place = (error / max(top, 1e-9)).clip(0, 1) * (len(HEAT) - 1)
    colours = np.stack([np.interp(place, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=-1)
    return np.where(hidden[..., None], np.rint(colours), SLATE).astype(np.uint8)


def draw_heat_bar(sheet: Image.Image, top: str, titled: bool) -> None:
    """Draws the scale of the error colours at the right end of the line of column names, below a title if there is."""
    draw, font, y = ImageDraw.Draw(sheet), load_font(12), MARGIN + (30 if titled else 0)
    right = sheet.width - MARGIN
    draw.text((right, y + 2), top, FAINT, font, anchor="ra")
    ramp = np.linspace(0, 1, 48)[None, None]
    bar = draw_heat(ramp.repeat(9, 1), 1.0, np.ones((1, 9, 48), dtype=bool))[0]
    left = right - round(font.getlength(top)) - 4 - 48
    paste_framed(sheet, Image.fromarray(bar), (left, y + 5))
    draw.text((left - 4, y + 2), "0", FAINT, font, anchor="ra")
