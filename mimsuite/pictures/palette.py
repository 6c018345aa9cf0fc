"""The colours and the font of every picture."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Of sheets.
INK: Colour = (20, 20, 20)
FAINT: Colour = (90, 90, 90)
FRAME: Colour = (205, 205, 205)
PAPER: Colour = (255, 255, 255)
SLATE: Colour = (44, 50, 60)  # what an error map does not judge
RIGHT: Colour = (20, 110, 40)
WRONG: Colour = (190, 20, 40)
MARK: Colour = (230, 0, 90)

# Okabe and Ito 2008, "Color Universal Design", told apart with every common colour blindness; without their yellow,
# which is too pale on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
LINES = (BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE)
POINTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)  # without black, which hides what lies below it

GREY = "#606060"  # lines that explain others
GRID = "#b0b0b0"
EMPTY = "#d0d0d0"  # where there is nothing to show

# Black, violet, orange, pale yellow: brightness grows evenly, so that it also reads in grey.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


def load_font(size: int, *texts: str) -> Font:
    """The font of sheets at a size in pixels; of 16 it is as wide as matplotlib's at 10 points.

    Args:
        size: of the letters.
        texts: what is written with it. Pillow's font has ASCII only; of other letters it is matplotlib's.
    """
    return _open_font(size, all(text.isascii() for text in texts))


@functools.cache
def _open_font(size: int, ascii_only: bool) -> Font:
    if ascii_only:
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size - 1)
