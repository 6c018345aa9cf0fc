"""How images become a file: a PNG, or an animation; the folder is made, and the file is replaced in one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mimsuite.data.storage import replacing
from mimsuite.errors import InputError
from mimsuite.pictures.layout import first_rows
from mimsuite.pictures.palette import PAPER

MOST = 1200  # pixels of the longer side of an animation


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG, with what `info` says about the rows of a sheet."""
    about = PngInfo()
    if "rows" in image.info:
        about.add_text("rows", image.info["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        image.save(part, format="png", pnginfo=about)


def save_animation(
    pictures: Sequence[Path], path: Path, *, rows: int | None = None, seconds: float = 0.6, last: float = 3.0
) -> None:
    """Writes pictures as the frames of a GIF that repeats for ever.

    Args:
        pictures: files, in order; smaller ones stand in the upper left corner, and all are shrunk to `MOST` pixels.
        path: the GIF.
        rows: of each picture, at most; None for all.
        seconds: that a frame is shown.
        last: seconds that the last frame is shown.

    Raises:
        InputError: no pictures, or a file that cannot be read.
    """
    if not pictures:
        raise InputError("an animation of no pictures; give at least one")
    frames = [_read_frame(picture, rows) for picture in pictures]
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    scale = min(1.0, MOST / max(size))
    for i, frame in enumerate(frames):
        whole = Image.new("RGB", size, PAPER)
        whole.paste(frame)
        smaller = (round(size[0] * scale), round(size[1] * scale))
        frames[i] = whole if scale == 1 else whole.resize(smaller, Image.Resampling.LANCZOS)
    milliseconds = [round(1000 * s) for s in [*[seconds] * (len(frames) - 1), last]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        frames[0].save(part, format="gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def _read_frame(path: Path, rows: int | None) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB") if rows is None else first_rows(picture, rows)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a picture; remove it ({error})") from error
    except ValueError as error:
        raise InputError(f"{path} is of an earlier version: {error}; remove count=") from error
