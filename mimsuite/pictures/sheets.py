"""Pictures to look at: reconstruction sheets, contact sheets, animations. Arrays in, PIL images out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mimsuite.errors import InputError

T = TypeVar("T", bound=np.generic)

_INK, _FAINT, _FRAME, _PAPER = (20, 20, 20), (90, 90, 90), (205, 205, 205), (255, 255, 255)
_SLATE = (44, 50, 60)
_GAP, _MARGIN = 6, 16
# Black, violet, orange, pale yellow: brightness grows evenly, so that it also reads in grey.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


@dataclass(frozen=True)
class Components:
    """Three weighted sums over the channels of an image, to be shown as red, green and blue.

    Attributes:
        weights: `(3, C)`, of fractions of the full range.
        shift: `(3,)`, added to the sums.
    """

    weights: NDArray[np.float64]
    shift: NDArray[np.float64]


Shown = Sequence[int] | Components
"""What is shown as red, green and blue: three channel numbers, or sums over channels."""


def to_display(
    pixels: NDArray[np.floating], mean: Sequence[float], std: Sequence[float], shown: Shown | None = None
) -> NDArray[np.uint8]:
    """Undoes the normalisation for the eye.

    Args:
        pixels: `(N, C, H, W)`, normalised by `mean` and `std`.
        mean: C values, as fractions of the full range.
        std: C values, likewise.
        shown: what becomes red, green and blue; None: the first three channels, of one or two the first as grey.

    Returns:
        `(N, H, W, 3)` uint8, clipped.

    Raises:
        InputError: not four dimensions, or another number of statistics than channels.
    """
    if pixels.ndim != 4 or not pixels.shape[1] == len(mean) == len(std):
        raise InputError(
            f"pixels of shape {pixels.shape} with {len(mean)} means and {len(std)} deviations; "
            "expected (images, channels, rows, columns) and one of each per channel"
        )
    depth = pixels.shape[1]
    if isinstance(shown, Components):
        fractions = _fractions(pixels, mean, std, range(depth)) @ shown.weights.T + shown.shift
    else:
        fractions = _fractions(pixels, mean, std, first_channels(depth) if shown is None else shown)
    levels: NDArray[np.uint8] = np.rint(np.nan_to_num(fractions).clip(0, 1) * 255).astype(np.uint8)
    return levels


def first_channels(count: int) -> list[int]:
    """Which of `count` channels are shown unless said otherwise."""
    return [0, 1, 2] if count >= 3 else [0, 0, 0]


def check_channels(shown: Any, count: int) -> None:
    """Checks what a user asks to be shown of `count` channels: three channel numbers, or "pca".

    Raises:
        InputError: neither, or channels that are not there.
    """
    if shown == "pca":
        if count < 3:
            raise InputError(f"channels_shown=pca takes 3 channels or more, and there are {count}; leave it out")
        return
    whole = isinstance(shown, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shown)
    if not whole or len(shown) != 3 or not all(0 <= n < count for n in shown):
        example = str(first_channels(count)).replace(" ", "")
        raise InputError(
            f"channels_shown={shown} is not three channel numbers from 0 to {count - 1}; use such as "
            f"channels_shown={example}{', or pca' if count >= 3 else ''}"
        )


def principal_components(
    pixels: NDArray[np.floating], mean: Sequence[float], std: Sequence[float], mask: NDArray[np.bool_]
) -> Components:
    """The first three principal components over the channels of all visible pixels, in the order of their variance.

    On the display each spans 2.5 deviations to either side of the mean. Its largest weight is positive; without
    variance it is grey.

    Args:
        pixels: `(N, C, H, W)`, C at least 3, normalised by `mean` and `std`; hidden ones influence nothing.
        mean: C values, as fractions of the full range.
        std: C values, likewise.
        mask: `(N, gh, gw)` bool, True = hidden, on a grid that divides the image.

    Raises:
        InputError: nothing is visible.
    """
    hidden = _to_pixels(mask, (pixels.shape[2], pixels.shape[3]))
    values = _fractions(pixels, mean, std, range(pixels.shape[1]))[~hidden]
    if not len(values):
        raise InputError(
            "channels_shown=pca takes its colours from visible pixels, and the masks leave none; hide less, or use "
            "channels_shown=[0,1,2]"
        )
    middle = values.mean(0)
    variance, axes = np.linalg.eigh((values - middle).T @ (values - middle) / len(values))
    deviation, axes = np.sqrt(variance[::-1][:3].clip(0)), axes.T[::-1][:3]
    signs = np.sign(axes[np.arange(3), np.abs(axes).argmax(1)])
    scale = np.where(deviation > 1e-6, signs / (5 * deviation.clip(1e-6)), 0)
    weights: NDArray[np.float64] = axes * scale[:, None]
    return Components(weights, 0.5 - weights @ middle)


def _fractions(
    pixels: NDArray[np.floating], mean: Sequence[float], std: Sequence[float], channels: Sequence[int]
) -> NDArray[np.float64]:
    """Some channels of normalised pixels, last, as fractions of the full range: `(N, H, W, len(channels))`."""
    chosen = list(channels)
    scale, shift = (np.asarray(v, dtype=np.float64)[chosen] for v in (std, mean))
    fractions: NDArray[np.float64] = np.moveaxis(pixels[:, chosen], 1, -1).astype(np.float64) * scale + shift
    return fractions


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
    in hidden cells, as a fraction of the full range, from black (0) to pale yellow (the largest of the sheet;
    a bar above the column says which); visible cells are slate. Small images are enlarged by a whole factor
    to about 192 pixels, pixel by pixel.

    Args:
        original: `(N, H, W, 3)`, see `to_display`.
        prediction: likewise.
        mask: `(N, gh, gw)` bool, True = hidden, on a grid that divides the image.
        title: a line above, such as the name of the run and the step.
        footer: a line below that says what is shown, such as the kind of target, the mask ratio and unit.
        captions: a line per image, such as its figures; empty for none.
        images: `(N, h, w, 3)` for a column before the others, where `original` is not the image but something made of
            it; H and W must be the same multiple of h and w.

    Raises:
        InputError: shapes that do not fit.
    """
    _check_sheet(original, prediction, mask, captions, images)
    hidden = _to_pixels(mask, original.shape[1:3])
    factor = _enlargement(original.shape[1:3])
    error = np.abs(prediction.astype(np.float64) - original).mean(-1) / 255
    top = float(error[hidden].max(initial=0))
    columns = [
        ("original", _enlarge(original, factor)),
        ("masked", _hatched(_enlarge(original, factor), _enlarge(hidden, factor))),
        ("prediction", _enlarge(prediction, factor)),
        ("paste", _enlarge(np.where(hidden[..., None], prediction, original), factor)),
        ("error", _enlarge(_heat(error, top, hidden), factor)),
    ]
    if images is not None:
        columns.insert(0, ("image", _enlarge(images, factor * original.shape[1] // images.shape[1])))
    sheet = _grid([_Group("", columns, captions)], title, footer)
    _heat_bar(sheet, f"{top:.2f}", _MARGIN + (30 if title else 0))
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
    factor = _enlargement(original.shape[1:3])
    large = _enlarge(original, factor)
    first = [("original", large)]
    if images is not None:
        first.insert(0, ("image", _enlarge(images, factor * original.shape[1] // images.shape[1])))
    groups = [_Group("", first, ())]
    for panel in panels:
        _check_sheet(original, panel.prediction, panel.mask, panel.captions, images)
        hidden = _to_pixels(panel.mask, original.shape[1:3])
        pair = [
            ("masked", _hatched(large, _enlarge(hidden, factor))),
            ("paste", _enlarge(np.where(hidden[..., None], panel.prediction, original), factor)),
        ]
        groups.append(_Group(panel.name, pair, panel.captions))
    return _grid(groups, title, footer)


def hog_glyphs(histograms: NDArray[np.floating], side: int = 16) -> NDArray[np.uint8]:
    """Draws histograms of oriented gradients: in every cell nine strokes along the edges, the brighter the stronger.

    Where strokes cross, the brightest is seen.

    Args:
        histograms: `(N, C * 9, h, w)`, order channel, orientation (`masked.targets.hog`); channels are averaged.
        side: pixels of a cell.

    Returns:
        `(N, h * side, w * side, 3)` uint8.
    """
    count, depth, rows, columns = histograms.shape
    strength = np.nan_to_num(histograms.reshape(count, depth // 9, 9, rows, columns).mean(1)).clip(0, 1)
    place = np.arange(side) - (side - 1) / 2
    inside = np.hypot(place[:, None], place) <= side / 2
    drawn = np.zeros((count, rows, side, columns, side))
    for number in range(9):
        angle = np.pi * (number + 0.5) / 9  # of the gradient; a stroke runs across it
        off = np.abs(np.cos(angle) * place + np.sin(angle) * place[:, None])
        stroke = (1.5 - off).clip(0, 1) * inside  # at least one pixel of every angle is at full strength
        drawn = np.maximum(drawn, strength[:, number, :, None, :, None] * stroke[:, None])
    grey: NDArray[np.uint8] = np.rint(drawn * 255).astype(np.uint8).reshape(count, rows * side, columns * side)
    return grey[..., None].repeat(3, -1)


def contact_sheet(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    captions: Sequence[str] = (),
    *,
    columns: int = 8,
    side: int = 128,
    title: str = "",
) -> Image.Image:
    """Small pictures in rows, each fitted into a square of `side` pixels (never distorted), captions below.

    Args:
        images: PIL images, or `(H, W)` and `(H, W, 3)` uint8 arrays, of any sizes.
        captions: one per image, cut to the width of its square; empty for none.
        columns: pictures per row.
        side: pixels.
        title: a line above.

    Raises:
        InputError: no images, or another number of captions.
    """
    if not images or (captions and len(captions) != len(images)):
        raise InputError(f"{len(images)} images with {len(captions)} captions; give images, and a caption for each")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    font, line = _font(12), 18 if captions else 0
    head = 34 if title else 0
    width = 2 * _MARGIN + columns * (side + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + head + rows * (side + line + _GAP) - _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), _cut(title, _font(18), width - 2 * _MARGIN), _INK, _font(18))
    for i, image in enumerate(images):
        picture = _fit(image if isinstance(image, Image.Image) else Image.fromarray(image), side)
        x = _MARGIN + i % columns * (side + _GAP)
        y = _MARGIN + head + i // columns * (side + line + _GAP)
        _place(sheet, picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        if captions:
            draw.text((x + side // 2, y + side + 3), _cut(captions[i], font, side), _INK, font, anchor="ma")
    return sheet


def animation(pictures: Sequence[Path], out: Path, *, seconds: float = 0.6, last: float = 3.0) -> None:
    """Writes pictures as the frames of a GIF that repeats for ever.

    Args:
        pictures: files, in order; smaller ones stand in the upper left corner.
        out: the GIF; its folder must exist.
        seconds: that a frame is shown.
        last: seconds that the last one is.

    Raises:
        InputError: no pictures, or a file that cannot be read.
    """
    if not pictures:
        raise InputError("an animation of no pictures; give at least one")
    frames = []
    for path in pictures:
        try:
            with Image.open(path) as picture:
                frames.append(picture.convert("RGB"))
        except OSError as error:
            raise InputError(f"{path} cannot be read as a picture; remove it ({error})") from error
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    for i, frame in enumerate(frames):
        whole = Image.new("RGB", size, _PAPER)
        whole.paste(frame)
        frames[i] = whole
    milliseconds = [round(1000 * s) for s in [*[seconds] * (len(frames) - 1), last]]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


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


def _to_pixels(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns `mask (N, gh, gw)` repeated to `(N, *size)`."""
    return mask.astype(bool).repeat(size[0] // mask.shape[1], 1).repeat(size[1] // mask.shape[2], 2)


def _enlargement(size: tuple[int, int]) -> int:
    """Returns the whole factor that brings the longer side nearest to 192 pixels, at least 1."""
    return max(1, round(192 / max(size)))


def _enlarge(images: NDArray[T], factor: int) -> NDArray[T]:
    return images.repeat(factor, 1).repeat(factor, 2)


def _hatched(images: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns `images` with hidden pixels in mid grey under thin diagonal lines, 12 pixels apart."""
    rows, columns = np.indices(images.shape[1:3])
    hatch = np.where((rows + columns) % 12 < 2, 158, 128).astype(np.uint8)
    return np.where(hidden[..., None], hatch[None, :, :, None], images)


def _heat(error: NDArray[np.float64], top: float, hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns `error`, 0 to `top`, as colours `(N, H, W, 3)`; visible pixels in dark slate."""
    place = (error / max(top, 1e-9)).clip(0, 1) * (len(_HEAT) - 1)
    colours = np.stack([np.interp(place, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)], axis=-1)
    return np.where(hidden[..., None], np.rint(colours), _SLATE).astype(np.uint8)


class _Group(NamedTuple):
    """Columns `(name, (N, H, W, 3))` under a common name, and a caption per row below them (none if empty)."""

    name: str
    columns: Sequence[tuple[str, NDArray[np.uint8]]]
    captions: Sequence[str]


def _grid(groups: Sequence[_Group], title: str, footer: str) -> Image.Image:
    """Lays out columns of images under their names; groups of them stand a little apart."""
    n, height, width = groups[0].columns[0][1].shape[:3]
    head = 24 if any(group.name for group in groups) else 0
    line = 20 if any(group.captions for group in groups) else 0
    top = _MARGIN + (30 if title else 0) + head
    spans = [len(group.columns) * (width + _GAP) - _GAP for group in groups]
    inner = sum(spans) + 3 * _GAP * (len(groups) - 1)
    tail = _wrap(footer, _font(13), inner)
    size = (inner + 2 * _MARGIN, top + 22 + n * (height + line + _GAP) + 18 * len(tail) + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), _cut(title, _font(18), inner), _INK, _font(18))
    x = _MARGIN
    for group, span in zip(groups, spans, strict=True):
        if group.name:
            draw.text((x, top - head - 2), _cut(group.name, _font(15), span), _INK, _font(15))
            draw.line((x, top - 4, x + span - 1, top - 4), _FRAME)
        for i, (name, column) in enumerate(group.columns):
            left = x + i * (width + _GAP)
            draw.text((left, top), _cut(name, _font(14), width), _INK, _font(14))
            for row, image in enumerate(column):
                _place(sheet, Image.fromarray(image), (left, top + 22 + row * (height + line + _GAP)))
        for row, caption in enumerate(group.captions):
            y = top + 22 + row * (height + line + _GAP) + height + 2
            draw.text((x, y), _cut(caption, _font(13), span), _FAINT, _font(13))
        x += span + 3 * _GAP
    for row, text in enumerate(tail):
        draw.text((_MARGIN, size[1] - _MARGIN - 18 * (len(tail) - row) + 2), text, _FAINT, _font(13))
    return sheet


def _place(sheet: Image.Image, picture: Image.Image, at: tuple[int, int]) -> None:
    """Pastes `picture` with its upper left corner at `at`, framed by a thin line."""
    right, below = at[0] + picture.width, at[1] + picture.height
    ImageDraw.Draw(sheet).rectangle((at[0] - 1, at[1] - 1, right, below), outline=_FRAME)
    sheet.paste(picture, at)


def _heat_bar(sheet: Image.Image, top: str, y: int) -> None:
    """Draws the scale of the error colours at the right end of the line of column names."""
    draw, font = ImageDraw.Draw(sheet), _font(12)
    right = sheet.width - _MARGIN
    draw.text((right, y + 2), top, _FAINT, font, anchor="ra")
    ramp = np.linspace(0, 1, 48)[None, None]
    bar = _heat(ramp.repeat(9, 1), 1.0, np.ones((1, 9, 48), dtype=bool))[0]
    left = right - round(font.getlength(top)) - 4 - 48
    _place(sheet, Image.fromarray(bar), (left, y + 5))
    draw.text((left - 4, y + 2), "0", _FAINT, font, anchor="ra")


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Returns `image` as RGB, at most `side` pixels wide and high: shrunk, or enlarged by a whole factor."""
    image = image.convert("RGB")
    if max(image.size) <= side:
        factor = side // max(image.size)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Returns `text`, or as much of it as fits into `width` pixels, with an ellipsis."""
    text = text.replace("\n", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Returns `text` in lines of at most `width` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
