"""Which channels of an image are shown as red, green and blue. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mimsuite.data.images.bands import BandError, find_bands
from mimsuite.errors import InputError


def first_channels(count: int) -> list[int]:
    """Which of `count` channels are shown unless the user chooses others."""
    return [0, 1, 2] if count >= 3 else [0, 0, 0]


def read_channels(shown: Any, count: int, bands: Sequence[str] = ()) -> list[int] | str | None:
    """What a user asks to be shown of `count` channels: the numbers of three, "pca", or None for the first three.

    Args:
        shown: three channels by number or name, "pca", or None.
        count: how many there are.
        bands: their names; empty where they have none.

    Raises:
        InputError: something else, or channels that the images do not have.
    """
    if shown is None:
        return None
    if shown == "pca":
        if count < 3:
            raise InputError(
                f"channels_shown=pca takes 3 channels or more, and the images have {count}; remove channels_shown="
            )
        return "pca"
    words = isinstance(shown, list | tuple) and all(isinstance(n, int | str) and not isinstance(n, bool) for n in shown)
    if words and len(shown) == 3 and any(isinstance(n, str) for n in shown):
        try:
            return find_bands(shown, bands, count, "channels_shown")
        except BandError as error:
            raise InputError(str(error)) from error
    if not words or len(shown) != 3 or not all(0 <= n < count for n in shown):
        example = str(first_channels(count)).replace(" ", "")
        named = f", names ({', '.join(bands)})" if bands else ""
        raise InputError(
            f"channels_shown={shown} is not three channel numbers from 0 to {count - 1}; use such as "
            f"channels_shown={example}{named}{', or pca' if count >= 3 else ''}"
        )
    return list(shown)
