"""Which channels of an image are shown as red, green and blue. Imports no torch."""

from __future__ import annotations

from typing import Any

from mimsuite.errors import InputError


def first_channels(count: int) -> list[int]:
    """Which of `count` channels are shown unless the user chooses others."""
    return [0, 1, 2] if count >= 3 else [0, 0, 0]


def check_channels(shown: Any, count: int) -> None:
    """Checks what a user asks to be shown of `count` channels: three channel numbers, or "pca".

    Raises:
        InputError: neither, or channels that the images do not have.
    """
    if shown == "pca":
        if count < 3:
            raise InputError(
                f"channels_shown=pca takes 3 channels or more, and the images have {count}; remove channels_shown="
            )
        return
    whole = isinstance(shown, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shown)
    if not whole or len(shown) != 3 or not all(0 <= n < count for n in shown):
        example = str(first_channels(count)).replace(" ", "")
        raise InputError(
            f"channels_shown={shown} is not three channel numbers from 0 to {count - 1}; use such as "
            f"channels_shown={example}{', or pca' if count >= 3 else ''}"
        )
