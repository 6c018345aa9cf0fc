"""Images whose channel counts or bands do not go together: found in their headers, counted, and listed."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from mimsuite.data.folders import count_of, list_names
from mimsuite.data.images.bands import BandError
from mimsuite.data.images.decode import DecodeError
from mimsuite.data.images.encode import Content, read_part
from mimsuite.data.images.reading import Reading
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

_LISTED = 20  # images of each count but the most frequent one


def goes_with(channels: int, wanted: int | None) -> bool:
    """Whether an image with `channels` may be in a set of `wanted` channels (None: any); grey becomes colour."""
    return wanted is None or channels == wanted or (channels == 1 and wanted == 3)


def mixed_channels(pictures: Sequence[SourceImage], reading: Reading) -> InputError:
    """Lists all images with another count than most, in the log; the error gives the counts and the ways out."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    top = os.path.commonpath([picture.path.parent for picture in pictures])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for picture, channels in zip(pictures, pool.map(partial(_channels, reading=reading), pictures), strict=True):
            if channels:
                found[channels].append(picture.key if picture.at else os.path.relpath(picture.path, top))
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    most, few = ordered[0], sorted(name for _, names in ordered[1:] for name in names)
    for channels, names in ordered[1:]:
        kind = count_of(channels, "channel")
        for name in sorted(names)[:_LISTED]:
            log.warning("%s: %s", kind, to_text(name))
        if len(names) > _LISTED:
            log.warning("%s: %d more", kind, len(names) - _LISTED)
    counts = ", ".join(
        f"{channels} in {count_of(len(names), 'image')}"
        + ("" if channels == most[0] else f" ({list_names(sorted(names))})")
        for channels, names in ordered
    )
    return InputError(
        f"images have different channel counts: {counts}; use channels={most[0]} to leave out "
        f"{count_of(len(few), 'image')}, or exclude={to_text(few[0])}, or pack each kind separately; nothing was kept"
    )


def _channels(picture: SourceImage, reading: Reading) -> int:
    """The channels by the header; 0 for what cannot be read."""
    try:
        return reading.recognise(read_part(picture.path, picture.at)).channels
    except (OSError, DecodeError):
        return 0


class BandsOfSet(NamedTuple):
    """The names of the bands of a set, and the file that they are from; empty where they have no names."""

    names: tuple[str, ...] = ()
    file: str = ""


def find_bands_of_set(pictures: Sequence[SourceImage], reading: Reading, channels: int | None) -> BandsOfSet:
    """The bands of the first image that can be read, and has `channels` channels where these are asked for.

    Raises:
        InputError: it has not the bands that were asked for.
    """
    for picture in pictures:
        try:
            opened = reading.recognise(read_part(picture.path, picture.at))
        except BandError as error:
            raise lacks_bands(picture, error) from error
        except (OSError, DecodeError):
            continue
        if goes_with(opened.channels, channels):
            return BandsOfSet(opened.names, picture.file)
    return BandsOfSet()


def lacks_bands(picture: SourceImage, error: BandError) -> InputError:
    """The error for an image without the bands that were asked for."""
    return InputError(f"{error} (in {to_text(picture.file)}); nothing was kept")


def check_bands(picture: SourceImage, content: Content, bands: BandsOfSet) -> None:
    """Refuses an image whose bands have other names than those of its set.

    Raises:
        InputError: they have.
    """
    if content.bands == bands.names:
        return
    own, others = (", ".join(names) or "no names" for names in (content.bands, bands.names))
    raise InputError(
        f"images have different bands: {others} in {to_text(bands.file)}, {own} in {to_text(picture.file)}; use "
        "bands=[...] to take the same ones of each by name, band_names=[...] to name them, or band_names=none; nothing "
        "was kept"
    )
