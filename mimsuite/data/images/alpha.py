"""What becomes of transparency: laid on white, dropped, or kept as the last channel."""

from __future__ import annotations

import numpy as np

from mimsuite.data.images.pixels import Pixels, Remark
from mimsuite.words import Alpha

_ORDINALS = {2: "second", 4: "fourth"}


def settle(pixels: Pixels, alpha: Alpha, *, premultiplied: bool = False) -> Pixels:
    """Deals with an alpha channel.

    Args:
        pixels: `(H, W, C + 1)`, alpha last.
        alpha: "white": colours are mixed with white; "drop": alpha is removed; "channel": it stays.
        premultiplied: whether the stored colours are multiplied by alpha; "drop" and "channel" divide by it.

    Returns:
        `(H, W, C)`, or for "channel" `(H, W, C + 1)`.
    """
    top = np.uint64(np.iinfo(pixels.dtype).max)
    colour, cover = pixels[..., :-1].astype(np.uint64), pixels[..., -1:].astype(np.uint64)
    if alpha == "white":
        if premultiplied:
            mixed = np.minimum(colour + (top - cover), top)
        else:
            mixed = (colour * cover + top * (top - cover) + top // np.uint64(2)) // top
        return mixed.astype(pixels.dtype)
    if premultiplied:
        whole = np.maximum(cover, np.uint64(1))
        colour = np.minimum((colour * top + whole // np.uint64(2)) // whole, top)
    if alpha == "drop":
        return colour.astype(pixels.dtype)
    return np.concatenate([colour, cover], axis=-1).astype(pixels.dtype)


def remark_on(alpha: Alpha, channels: int, *, declared: bool = True) -> Remark:
    """Says what was done with an alpha channel that makes an image one of `channels`."""
    what = "transparency is" if channels not in _ORDINALS else f"the {_ORDINALS[channels]} channel is alpha and is"
    if not declared:
        what = f"the {_ORDINALS[channels]} channel, of which the file says nothing, is taken as alpha and is"
    done = {"white": "laid on white", "drop": "dropped", "channel": "kept as a channel"}[alpha]
    return Remark("alpha", f"{what} {done} (`mimsuite pack alpha=white|drop|channel`)")
