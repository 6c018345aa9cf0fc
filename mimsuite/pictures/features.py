"""Pictures of what an encoder makes of images: where its patches look, and its features as colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask
from mimsuite.models import ViTForMaskedImageModeling
from mimsuite.pictures.components import PrincipalComponents, find_components
from mimsuite.pictures.palette import INK, MARK, PAPER, Colour, load_font

_GAP, _MARGIN, _LINE = 4, 8, 18  # pixels
_LEAST = 1e-9  # deviation of a component from which it is shown


@torch.inference_mode()
def attention_maps(
    model: ViTForMaskedImageModeling, pixels: Tensor, query: tuple[int, int] | None, mask: Tensor | None = None
) -> Tensor:
    """How much one token of each image takes from every patch, in each layer and head.

    The probabilities of a token sum to 1 over all tokens; what goes to the class token and to registers is not shown.

    Args:
        model: a ViT; CvT and BiT have no attention between patches of a fixed grid.
        pixels: `(B, C, H, W)` normalised floats.
        query: `(row, column)` of the patch that looks; None for the class token.
        mask: `(B, rows, columns)` bool, True = hidden, on a grid of whole patches; None hides nothing.

    Returns:
        `(B, layers, heads, gh, gw)` floats from 0 to 1.

    Raises:
        InputError: not a ViT, a query outside of the grid, or a mask for a model that leaves hidden patches out (MAE).
    """
    if not isinstance(model, ViTForMaskedImageModeling):
        raise InputError(f"{type(model).__name__} has no attention maps; use a ViTForMaskedImageModeling")
    config, encoder = model.vit.config, model.vit
    grid = pixels.shape[-2] // encoder.stride[0], pixels.shape[-1] // encoder.stride[1]
    if mask is not None and config.drops_patches:
        raise InputError("this model leaves hidden patches out, so they look nowhere; pass mask=None")
    if query is None and not config.use_class_token:
        raise InputError("query=None means the class token, and this model has none; give (row, column) of a patch")
    if query is not None and not (0 <= query[0] < grid[0] and 0 <= query[1] < grid[1]):
        raise InputError(f"query={query} is not on the grid of {grid[0]} x {grid[1]} patches; rows and columns from 0")
    hidden = None if mask is None else as_grid_mask(mask, len(pixels), grid)
    weights: Tensor = torch.stack(encoder(pixels, hidden, output_attentions=True).attentions, dim=1)
    token = 0 if query is None else encoder.extra + query[0] * grid[1] + query[1]
    return weights[:, :, :, token, encoder.extra :].reshape(*weights.shape[:3], *grid)


def principal_colours(grid: Tensor) -> NDArray[np.uint8]:
    """The first three principal components of features as red, green and blue.

    They are taken over all cells of all images, so that one colour means the same everywhere. Each spans 2.5 standard
    deviations to either side of the mean; its largest weight is positive. Only differences between colours mean
    something, and other encoders have other colours.

    Args:
        grid: `(N, D, h, w)` float, D at least 3, such as `encoder.forward_features(pixels).grid`.

    Returns:
        `(N, h, w, 3)`.

    Raises:
        InputError: another shape.
    """
    if grid.ndim != 4 or grid.shape[1] < 3:
        raise InputError(f"features of shape {tuple(grid.shape)}; expected (images, 3 or more, rows, columns)")
    return colours_along(grid, find_components(cells_of(grid), 3))


def cells_of(grid: Tensor) -> NDArray[np.float64]:
    """The cells of maps `(N, D, h, w)` as `(N * h * w, D)`."""
    cells: NDArray[np.float64] = grid.detach().movedim(1, -1).flatten(0, 2).cpu().double().numpy()
    return cells


def colours_along(grid: Tensor, found: PrincipalComponents) -> NDArray[np.uint8]:
    """Features `(N, D, h, w)` as colours `(N, h, w, 3)`, along three components that may be those of other features."""
    count, _, height, width = grid.shape
    values = (cells_of(grid) - found.mean) @ found.axes.T * found.spread(_LEAST) + 0.5
    colours: NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return colours.reshape(count, height, width, 3)


def spotlight(images: NDArray[np.uint8], maps: Tensor, darkest: float = 0.12) -> NDArray[np.uint8]:
    """Images that are bright where a map is large: `darkest` of their brightness at 0, all of it at the map's maximum.

    Args:
        images: `(N, H, W, 3)`.
        maps: `(N, gh, gw)`, not negative, on a grid that divides the images.
        darkest: share of the brightness that stays at 0.

    Raises:
        InputError: maps that do not fit.
    """
    if len(maps) != len(images) or images.shape[1] % maps.shape[1] or images.shape[2] % maps.shape[2]:
        raise InputError(f"maps {tuple(maps.shape)} do not fit images {images.shape}; give one grid per image")
    light = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).float().cpu().numpy()
    light = light.repeat(images.shape[1] // maps.shape[1], 1).repeat(images.shape[2] // maps.shape[2], 2)
    return np.rint(images * (darkest + (1 - darkest) * light[..., None])).astype(np.uint8)


def add_frame(
    images: NDArray[np.uint8], cell: tuple[int, int], grid: tuple[int, int], colour: Colour = MARK
) -> NDArray[np.uint8]:
    """Images with a frame, one pixel wide, around the cell `(row, column)` of a grid `(rows, columns)`."""
    height, width = images.shape[1] // grid[0], images.shape[2] // grid[1]
    rows = slice(cell[0] * height, (cell[0] + 1) * height)
    columns = slice(cell[1] * width, (cell[1] + 1) * width)
    marked = images.copy()
    inner = marked[:, rows, columns]  # a view
    inner[:, [0, -1]] = colour
    inner[:, :, [0, -1]] = colour
    return marked


def picture_rows(rows: Mapping[str, Sequence[NDArray[np.uint8]] | NDArray[np.uint8]], side: int = 84) -> Image.Image:
    """Rows of pictures, each with its name at the left; what stands below each other belongs together.

    Args:
        rows: pictures `(h, w, 3)` by the row's name, in every row the same number.
        side: longer side of each picture on the sheet, in pixels; it is scaled pixel by pixel.

    Raises:
        InputError: no pictures, or rows of different lengths.
    """
    counts = {name: len(pictures) for name, pictures in rows.items()}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        raise InputError(f"rows of {counts} pictures; give the same number in each, at least one")
    font = load_font(14)
    label = max(round(font.getlength(line)) for name in rows for line in name.splitlines() or [""]) + 12
    step, count = side + _GAP, next(iter(counts.values()))
    size = (_MARGIN * 2 + label + count * step - _GAP, _MARGIN * 2 + len(rows) * step - _GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, pictures) in enumerate(rows.items()):
        top = _MARGIN + row * step
        lines = name.splitlines()
        for number, line in enumerate(lines):
            y = top + side / 2 + (number - len(lines) / 2) * _LINE
            draw.text((_MARGIN + label - 10, y), line, INK, font, anchor="ra")
        for column, picture in enumerate(pictures):
            image = Image.fromarray(picture)
            scale = side / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)
            sheet.paste(image, (_MARGIN + label + column * step, top))
    return sheet


def picture_map(
    images: NDArray[np.uint8], places: NDArray[np.floating], side: int = 26, size: tuple[int, int] = (1000, 640)
) -> Image.Image:
    """Small pictures at their places on a sheet; the two axes are stretched to fill it.

    What is almost white in a picture (235 and more) is transparent, so that those below it show.

    Args:
        images: `(N, h, w, 3)`.
        places: `(N, 2)`, from left to right and from top to bottom.
        side: longer side of a picture, in pixels.
        size: `(width, height)` of the sheet in pixels.

    Raises:
        InputError: another number of places than of pictures, or none.
    """
    if not len(images) or places.shape != (len(images), 2):
        raise InputError(f"{len(images)} pictures at places of shape {places.shape}; give one (x, y) per picture")
    sheet = Image.new("RGB", size, PAPER)
    low, high = places.min(0), places.max(0)
    room = np.array(size) - side - 2 * _MARGIN
    corners = _MARGIN + np.rint((places - low) / np.maximum(high - low, 1e-12) * room).astype(int)
    for array, (left, top) in zip(images, corners.tolist(), strict=True):
        picture = Image.fromarray(array)
        picture.thumbnail((side, side))
        ink = Image.fromarray((np.asarray(picture).min(-1) < 235).astype(np.uint8) * 255)
        sheet.paste(picture, (left, top), ink)
    return sheet


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file, such as `ipywidgets.Image` shows."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
