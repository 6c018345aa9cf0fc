"""A picture of the worst mistakes: images as the classifier saw them, with the true and the predicted label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mimsuite.errors import InputError
from mimsuite.pictures.layout import draw_footer, fit, footer_height, paste_framed
from mimsuite.pictures.palette import FAINT, INK, PAPER, RIGHT, WRONG, load_font
from mimsuite.pictures.text import cut, keep_ends_within, wrap

COLUMNS = 6

_SIDE, _LINE, _GAP, _MARGIN, _HEAD = 192, 19, 14, 16, 34  # pixels


class Caption(NamedTuple):
    """What stands below an image.

    Attributes:
        true, predicted: a line each, of a text and a number that stands at its right end (perhaps empty).
        file: the path of the image; of a long one both ends.
    """

    true: tuple[str, str]
    predicted: tuple[str, str]
    file: str = ""


def mistakes_sheet(
    images: Sequence[NDArray[np.uint8]], captions: Sequence[Caption], title: str, footer: str = ""
) -> Image.Image:
    """Draws images in rows of `COLUMNS`, under each the truth (green), what was predicted (red), and the file.

    Small images are enlarged by a whole factor, pixel by pixel; large ones are shrunk to 192 pixels.

    Args:
        images: each `(H, W, 3)`, see `mimsuite.pictures.display.to_display`.
        captions: one per image.
        title: a line above.
        footer: what stands below.

    Raises:
        InputError: no images, or another number of captions.
    """
    if not len(images) or len(images) != len(captions):
        raise InputError(f"{len(images)} images with {len(captions)} captions; give images, and a caption for each")
    classes = [text for caption in captions for text, _ in caption[:2]]
    fonts = load_font(18, title), load_font(14, *classes), load_font(12, *(caption.file for caption in captions))
    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    width = max(columns * (_SIDE + _GAP) - _GAP, round(fonts[0].getlength(title)) + 1)
    lines = 3 if any(caption.file for caption in captions) else 2
    step = _SIDE + lines * _LINE + _GAP + 4
    tail = wrap(footer, load_font(13), width)
    height = _MARGIN * 2 + _HEAD + rows * step - _GAP + footer_height(tail)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_footer(sheet, tail)
    draw.text((_MARGIN, _MARGIN - 2), title, INK, fonts[0])
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x = _MARGIN + number % COLUMNS * (_SIDE + _GAP)
        y = _MARGIN + _HEAD + number // COLUMNS * step
        picture = fit(Image.fromarray(image), _SIDE)
        left, top = x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2
        paste_framed(sheet, picture, (left, top))
        for line, ((text, value), ink) in enumerate(zip(caption[:2], (RIGHT, WRONG), strict=True)):
            below = y + _SIDE + 4 + line * _LINE
            room = _SIDE - (round(fonts[1].getlength(value)) + 8 if value else 0)
            draw.text((x, below), cut(("", "-> ")[line] + text, fonts[1], room), ink, fonts[1])
            draw.text((x + _SIDE, below), value, ink, fonts[1], anchor="ra")
        if caption.file:
            text = keep_ends_within(caption.file, fonts[2], _SIDE)
            draw.text((x, y + _SIDE + 4 + 2 * _LINE), text, FAINT, fonts[2])
    return sheet
