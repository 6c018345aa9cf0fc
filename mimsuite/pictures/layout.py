"""Where things stand on a sheet: columns of images under their names, each image in a thin frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mimsuite.pictures.palette import FAINT, FRAME, INK, PAPER, load_font
from mimsuite.pictures.text import cut, wrap

GAP, MARGIN = 6, 16  # pixels


class Group(NamedTuple):
    """Columns `(name, (N, H, W, 3))` under a common name, and a caption per row below them (none if empty)."""

    name: str
    columns: Sequence[tuple[str, NDArray[np.uint8]]]
    captions: Sequence[str]


class Rows(NamedTuple):
    """Where the rows of a sheet stand: `top` of the first, `height` of each with the gap below it, in pixels."""

    top: int
    height: int
    number: int


def lay_out(groups: Sequence[Group], title: str, footer: str) -> Image.Image:
    """Lays out columns of images under their names; groups of them stand a little apart.

    The sheet's `info["rows"]` holds its `Rows`, as text.
    """
    n, height, width = groups[0].columns[0][1].shape[:3]
    head = 24 if any(group.name for group in groups) else 0
    line = 20 if any(group.captions for group in groups) else 0
    top = MARGIN + (30 if title else 0) + head
    spans = [len(group.columns) * (width + GAP) - GAP for group in groups]
    inner = sum(spans) + 3 * GAP * (len(groups) - 1)
    tail = wrap(footer, load_font(13), inner)
    size = (inner + 2 * MARGIN, top + 22 + n * (height + line + GAP) + footer_height(tail) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    rows = Rows(top + 22, height + line + GAP, n)
    sheet.info["rows"] = " ".join(map(str, rows))
    draw, large = ImageDraw.Draw(sheet), load_font(18, title)
    draw.text((MARGIN, MARGIN - 4), cut(title, large, inner), INK, large)
    x = MARGIN
    for group, span in zip(groups, spans, strict=True):
        if group.name:
            draw.text((x, top - head - 2), cut(group.name, load_font(15), span), INK, load_font(15))
            draw.line((x, top - 4, x + span - 1, top - 4), FRAME)
        for i, (name, column) in enumerate(group.columns):
            left = x + i * (width + GAP)
            draw.text((left, top), cut(name, load_font(14), width), INK, load_font(14))
            for row, image in enumerate(column):
                paste_framed(sheet, Image.fromarray(image), (left, rows.top + row * rows.height))
        for row, caption in enumerate(group.captions):
            y = rows.top + row * rows.height + height + 2
            small = load_font(13, caption)
            draw.text((x, y), cut(caption, small, span), FAINT, small)
        x += span + 3 * GAP
    draw_footer(sheet, tail)
    return sheet


def first_rows(sheet: Image.Image, count: int) -> Image.Image:
    """A sheet of `lay_out` with its first rows alone, between the same title and footer.

    Raises:
        ValueError: the sheet does not say where its rows are.
    """
    try:
        rows = Rows(*map(int, sheet.info["rows"].split()))
    except (KeyError, TypeError, ValueError):
        raise ValueError("it does not say where its rows are") from None
    cut_off = max(0, rows.number - count) * rows.height
    below = rows.top + rows.number * rows.height
    found = Image.new("RGB", (sheet.width, sheet.height - cut_off), PAPER)
    found.paste(sheet.crop((0, 0, sheet.width, below - cut_off)))
    found.paste(sheet.crop((0, below, sheet.width, sheet.height)), (0, below - cut_off))
    return found


def footer_height(lines: Sequence[str]) -> int:
    """Pixels that lines at the bottom of a sheet take."""
    return 18 * len(lines)


def draw_footer(sheet: Image.Image, lines: Sequence[str]) -> None:
    """Writes lines at the bottom of a sheet."""
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(lines):
        place = (MARGIN, sheet.height - MARGIN - footer_height(lines[row:]) + 2)
        draw.text(place, text, FAINT, load_font(13))


def paste_framed(sheet: Image.Image, picture: Image.Image, at: tuple[int, int]) -> None:
    """Pastes a picture with its upper left corner at `at`, in a thin frame."""
    right, below = at[0] + picture.width, at[1] + picture.height
    ImageDraw.Draw(sheet).rectangle((at[0] - 1, at[1] - 1, right, below), outline=FRAME)
    sheet.paste(picture, at)


def fit(image: Image.Image, side: int) -> Image.Image:
    """An image as RGB, at most `side` pixels wide and high: shrunk, or enlarged by a whole factor."""
    image = image.convert("RGB")
    if max(image.size) <= side:
        factor = side // max(image.size)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
