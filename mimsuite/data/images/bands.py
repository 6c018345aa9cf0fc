"""The names of an image's bands, from the metadata of a TIFF, and which bands a user means by names or numbers."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from mimsuite.data.images import tiff
from mimsuite.data.images.pixels import DecodeError, decoding

_DESCRIPTION, _GDAL = 270, 42112
_FILE = re.compile(r"[/\\:]|\.\w{2,4}$")  # ImageJ labels slices with the names of their files, too
_LONGEST = 64  # letters of a name


class BandError(DecodeError):
    """The image has not the bands that were asked for."""


def band_names_of(data: bytes, channels: int) -> tuple[str, ...]:
    """The names of the `channels` bands of an encoded image; empty where not all are named, or two have one name.

    They come from GDAL's metadata (`DESCRIPTION` of each sample), OME's (`Name` of each channel) or ImageJ's (labels
    of the slices, if these are no names of files). Damaged names do no harm.
    """
    if not data.startswith(tiff.MAGICS):
        return ()
    import tifffile

    found = list[str]()
    with contextlib.suppress(DecodeError), decoding("TIFF"), tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        if _GDAL in tags:
            found = _of_gdal(str(tags[_GDAL].value))
        elif file.is_ome:
            found = _of_ome(str(tags[_DESCRIPTION].value))
        elif file.is_imagej:
            found = _of_imagej(file.imagej_metadata or {}, channels)
    names = tuple(" ".join(name.split()) for name in found)
    return names if len(names) == channels and are_names(names) else ()


def are_names(names: Sequence[str]) -> bool:
    """Whether these can name bands: each is printable, not too long, and stands once."""
    return len(set(names)) == len(names) and all(0 < len(n) <= _LONGEST and n.isprintable() for n in names)


def _of_gdal(text: str) -> list[str]:
    items = ElementTree.fromstring(text.rstrip("\0")).iter("Item")
    found = {int(i.get("sample", 0)): i.text or "" for i in items if i.get("role") == "description"}
    return [found[number] for number in sorted(found)] if sorted(found) == list(range(len(found))) else []


def _of_ome(text: str) -> list[str]:
    pixels = next(ElementTree.fromstring(text).iterfind(".//{*}Pixels"), None)
    return [] if pixels is None else [channel.get("Name", "") for channel in pixels.iterfind("{*}Channel")]


def _of_imagej(metadata: dict[str, Any], channels: int) -> list[str]:
    labels = [str(label) for label in metadata.get("Labels", ())][:channels]  # channels vary before planes
    return [] if any(_FILE.search(label) for label in labels) else labels


def find_bands(wanted: Sequence[str | int], names: Sequence[str], channels: int, key: str = "bands") -> list[int]:
    """The numbers, from 0, of the bands that a user asks for by name or number.

    Raises:
        BandError: there is no such band.
    """
    return [_find_band(band, names, channels, key) for band in wanted]


def _find_band(band: str | int, names: Sequence[str], channels: int, key: str) -> int:
    if isinstance(band, str) and band in names:
        return list(names).index(band)
    if str(band).isdecimal() and int(band) < channels:
        return int(band)
    near = next((name for name in names if name.casefold() == str(band).casefold()), None)
    hint = f" (did you mean {near}?)" if near else ""
    numbers = f"0 to {channels - 1}" if channels > 1 else "0"
    there = f"there are {', '.join(names)}, or {numbers}" if names else f"they have no names; use {numbers}"
    raise BandError(f"{key}: there is no band {band}{hint}; {there}")
