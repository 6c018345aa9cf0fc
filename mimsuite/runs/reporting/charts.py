"""The pictures of a report as `data:` addresses, within a budget of bytes."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from mimsuite.pictures.curves import Series, draw_panel, find_panels
from mimsuite.pictures.layout import first_rows

SHEET = re.compile(r"step_(\d+)\.png")
FEWEST = 2  # sheets of a run
STILL = {
    "confusion.png": "confusion: true classes down, predicted ones across",
    "mistakes.png": "worst mistakes",
    "probe.png": "probe: each layer on held-out training images",
}


class Look(NamedTuple):
    """How a picture is shown: at most so many pixels wide, WebP's quality, and of a sheet at most so many rows."""

    width: int
    quality: int
    rows: int | None = None


LOOKS = (Look(1400, 80), Look(1000, 60), Look(700, 50), Look(700, 50, 3), Look(600, 40, 1))


class Sheet(NamedTuple):
    """A picture of a step: its number, and the picture."""

    step: int
    picture: str


def curves_of(runs: Mapping[str, Series], losses: Mapping[str, str]) -> list[tuple[str, str]]:
    """The panels of the curves of runs, each what it shows and an SVG; none where no run has a metric."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "panel.svg"
        for panel in find_panels(runs, losses=losses):
            draw_panel(panel, file)
            made.append((panel.label, address("image/svg+xml", file.read_bytes())))
    return made


def sheets_of(folder: Path, budget: int) -> list[Sheet]:
    """The reconstruction sheets of a run, evenly spaced where all are too many, the first and the last among them.

    Args:
        folder: the run's.
        budget: bytes that all of them together may take.
    """
    found = sheet_files(folder)
    if not found:
        return []
    last = [photo(found[-1][1], look) for look in LOOKS]
    for count in (24, 12, 6, FEWEST):
        chosen = spread(found, count)
        for look, one in zip(LOOKS, last, strict=True):
            if len(one or "") * len(chosen) > budget:
                continue
            made = [Sheet(step, picture) for step, file in chosen if (picture := photo(file, look)) is not None]
            if sum(len(sheet.picture) for sheet in made) <= budget:
                return made
    return []


def sheet_files(folder: Path) -> list[tuple[int, Path]]:
    """The steps and the files of all reconstruction sheets of a run, in order."""
    files = (folder / "pictures").glob("*.png")
    return sorted((int(match[1]), file) for file in files if (match := SHEET.fullmatch(file.name)))


def spread(found: Sequence[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    """At most `count` of some items, evenly spaced, the first and the last among them."""
    if len(found) <= count or count < FEWEST:
        return list(found)
    return [found[round(place * (len(found) - 1) / (count - 1))] for place in range(count)]


def photo(file: Path, look: Look) -> str | None:
    """A picture file as a WebP that is not too wide; None where it cannot be read."""
    out = io.BytesIO()
    try:
        with Image.open(file) as picture:
            picture.load()
            cut = picture if look.rows is None or "rows" not in picture.info else first_rows(picture, look.rows)
            shown = cut.convert("RGB")
            shown.thumbnail((look.width, 20 * look.width))
            shown.save(out, "WEBP", quality=look.quality, method=2)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return address("image/webp", out.getvalue())


def stills_of(folder: Path, budget: int) -> dict[str, str]:
    """The other pictures of a run, by their captions, as far as they fit into `budget` bytes."""
    found: dict[str, str] = {}
    for name, caption in STILL.items():
        if not (folder / name).is_file():
            continue
        made = (photo(folder / name, look) for look in LOOKS)
        picture = next((one for one in made if one is not None and len(one) <= budget), None)
        if picture is not None:
            found[caption] = picture
            budget -= len(picture)
    return found


def address(kind: str, content: bytes) -> str:
    """Content as a `data:` address of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
