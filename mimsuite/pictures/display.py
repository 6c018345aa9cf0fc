"""How arrays become colours: normalised pixels of any number of channels, and histograms of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.images.value_range import range_words
from mimsuite.errors import InputError
from mimsuite.pictures.components import find_components
from mimsuite.settings.channels import first_channels
from mimsuite.types import DisplayRange

_LEAST = 1e-6  # deviation of a component, as a fraction of the full range, from which it is shown


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
    pixels: NDArray[np.floating],
    mean: Sequence[float],
    std: Sequence[float],
    shown: Shown | None = None,
    display: DisplayRange | None = None,
) -> NDArray[np.uint8]:
    """Undoes the normalisation for the eye.

    Args:
        pixels: `(N, C, H, W)`, normalised by `mean` and `std`.
        mean: C values, as fractions of the full range.
        std: C values, likewise.
        shown: what becomes red, green and blue; None: the first three channels, of one or two the first as grey.
        display: which values of each channel become black and full brightness; None: 0 and the largest. Components
            have a range of their own.

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
        channels = shown_channels(depth, shown)
        fractions = _fractions(pixels, mean, std, channels)
        if display is not None:
            low, high = (np.asarray(values)[channels] for values in (display.low, display.high))
            fractions = (fractions - low) / (high - low)
    levels: NDArray[np.uint8] = np.rint(np.nan_to_num(fractions).clip(0, 1) * 255).astype(np.uint8)
    return levels


def show_pixels(pixels: NDArray[np.integer], maximum: int, display: DisplayRange | None) -> NDArray[np.uint8]:
    """Decoded images `(N, C, H, W)` of the largest value `maximum` for the eye, `(N, H, W, 3)`; see `to_display`."""
    channels = pixels.shape[1]
    return to_display(pixels / maximum, [0.0] * channels, [1.0] * channels, display=display)


def shown_channels(channels: int, shown: Sequence[int] | None) -> list[int]:
    """The channels that become red, green and blue, or of one or two that becomes grey."""
    return list(first_channels(channels) if shown is None else shown)


def channel_words(channels: int, shown: Sequence[int] | None, bands: Sequence[str] = ()) -> str:
    """Which of an image's channels are shown, by their names in `bands` or their numbers.

    Nothing for red, green and blue, or grey, as they are, without names.
    """
    named = bands or [str(number) for number in range(channels)]
    if shown is None and channels == 2:
        return f"channel {named[0]} of 2 as grey"
    if shown is None and (channels == 1 or (channels == 3 and not bands)):
        return ""
    chosen = shown_channels(channels, shown)
    if len(set(chosen)) == 1:
        return f"channel {named[chosen[0]]} of {channels} as grey"
    numbers = ", ".join(named[number] for number in chosen)
    return f"channels {numbers} of {channels} as red, green, blue"


def display_words(
    display: DisplayRange | None,
    channels: Sequence[int],
    maximum: int = 65535,
    value_range: tuple[float, float] | None = None,
) -> str:
    """Which values of the shown channels a picture has as black and as full brightness; nothing where that is plain.

    With `value_range` these are the values of the files that were packed.
    """
    if display is None:
        return ""
    full = all(display.low[c] == 0 and display.high[c] == 1 for c in channels)
    source = "" if full else f" ({display.source})"

    def written(fraction: float) -> str:
        if value_range is None:
            return f"{round(fraction * maximum):,}"
        return f"{value_range[0] + fraction * (value_range[1] - value_range[0]):.4g}"

    ranges = [f"{written(display.low[c])} to {written(display.high[c])}" for c in channels]
    once = ranges[:1] if len(set(ranges)) == 1 else ranges
    whole = f"{maximum:,}" if value_range is None else range_words(*value_range)
    return f"values shown: {' | '.join(once)} of {whole}{source}"


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
    hidden = to_pixels(mask, (pixels.shape[2], pixels.shape[3]))
    values = _fractions(pixels, mean, std, range(pixels.shape[1]))[~hidden]
    if not len(values):
        raise InputError(
            "channels_shown=pca takes its colours from visible pixels, and the masks leave none; hide less, or use "
            "channels_shown=[0,1,2]"
        )
    found = find_components(values, 3)
    weights = found.axes * found.spread(_LEAST)[:, None]
    return Components(weights, 0.5 - weights @ found.mean)


def _fractions(
    pixels: NDArray[np.floating], mean: Sequence[float], std: Sequence[float], channels: Sequence[int]
) -> NDArray[np.float64]:
    """Some channels of normalised pixels, last, as fractions of the full range: `(N, H, W, len(channels))`."""
    chosen = list(channels)
    scale, shift = (np.asarray(v, dtype=np.float64)[chosen] for v in (std, mean))
    fractions: NDArray[np.float64] = np.moveaxis(pixels[:, chosen], 1, -1).astype(np.float64) * scale + shift
    return fractions


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


def to_pixels(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask `(N, gh, gw)` repeated to pixels, `(N, *size)`."""
    return mask.astype(bool).repeat(size[0] // mask.shape[1], 1).repeat(size[1] // mask.shape[2], 2)
