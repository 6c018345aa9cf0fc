"""A picture of the worst mistakes: images as the classifier saw them, with the truth and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mimsuite.data.tar import printable
from mimsuite.errors import InputError

COLUMNS = 6

_SIDE, _LINE, _GAP, _MARGIN, _HEAD = 192, 19, 14, 16, 34  # pixels
_INK, _TRUE, _WRONG, _FRAME, _PAPER = (20, 20, 20), (20, 110, 40), (190, 20, 40), (205, 205, 205), (255, 255, 255)


class Caption(NamedTuple):
    """The two lines below an image, each a text and a number that stands at its right end (perhaps empty)."""

    true: tuple[str, str]
    predicted: tuple[str, str]


def mistakes_sheet(images: Sequence[NDArray[np.uint8]], said: Sequence[Caption], title: str) -> Image.Image:
    """Draws images in rows of `COLUMNS`, under each the truth (green) and below what was predicted (red).

    Small images are enlarged by a whole factor, pixel by pixel; large ones are shrunk to 192 pixels.

    Args:
        images: each `(H, W, 3)`, see `mimsuite.pictures.sheets.to_display`.
        said: of each image.
        title: a line above.

    Raises:
        InputError: no images, or another number of texts.
    """
    if not len(images) or len(images) != len(said):
        raise InputError(f"{len(images)} images with texts for {len(said)}; give images, and the texts of each")
    fonts = ImageFont.load_default(18), ImageFont.load_default(14)
    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    width = max(columns * (_SIDE + _GAP) - _GAP, round(fonts[0].getlength(title)) + 1)
    step = _SIDE + 2 * _LINE + _GAP + 4
    sheet = Image.new("RGB", (width + 2 * _MARGIN, _MARGIN * 2 + _HEAD + rows * step - _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 2), title, _INK, fonts[0])
    for number, (image, texts) in enumerate(zip(images, said, strict=True)):
        x = _MARGIN + number % COLUMNS * (_SIDE + _GAP)
        y = _MARGIN + _HEAD + number // COLUMNS * step
        picture = fitted(Image.fromarray(image))
        left, top = x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2
        draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=_FRAME)
        sheet.paste(picture, (left, top))
        for line, ((text, value), ink) in enumerate(zip(texts, (_TRUE, _WRONG), strict=True)):
            below = y + _SIDE + 4 + line * _LINE
            room = _SIDE - (round(fonts[1].getlength(value)) + 8 if value else 0)
            draw.text((x, below), shortened(("", "-> ")[line] + text, room, fonts[1]), ink, fonts[1])
            draw.text((x + _SIDE, below), value, ink, fonts[1], anchor="ra")
    return sheet


def fitted(image: Image.Image) -> Image.Image:
    """The image, at most `_SIDE` pixels wide and high."""
    factor = max(1, _SIDE // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text` on one line, of which as much as fits into `width` pixels, with an ellipsis."""
    text = " ".join(printable(text).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
