"""Which images a task uses, and at which size: what `image_size=` and `split=` mean."""

from __future__ import annotations

from typing import Any, Literal

from mimsuite.data.index import EVERY_SPLIT, DataIndex, Selection
from mimsuite.errors import InputError
from mimsuite.settings.geometry import FALLBACK_SIZE
from mimsuite.settings.read import read_size

Size = tuple[int, int]


def read_image_size(value: Any, native: Size | None) -> Size:
    """One size as `(H, W)` pixels: a side or `[height,width]`.

    Args:
        value: what the user gave; "auto": the weights' own.
        native: size of the weights; None where they take any.

    Raises:
        InputError: not a size.
    """
    return native or (FALLBACK_SIZE, FALLBACK_SIZE) if value == "auto" else read_size(value)


def read_image_sizes(value: Any, native: Size | None) -> tuple[Size, ...]:
    """One size or several: a side, `[height,width]`, or a list of three sides or more, or of lists.

    Arguments as of `read_image_size`.

    Raises:
        InputError: not sizes, or one twice.
    """
    several = isinstance(value, list) and (len(value) > 2 or any(isinstance(v, list) for v in value))
    found = tuple(read_size(v) for v in value) if several else (read_image_size(value, native),)
    if len(set(found)) < len(found):
        raise InputError(f"image_size={value} names a size twice; use different ones, such as image_size=[224,288,384]")
    return found


def choose_split(
    index: DataIndex, value: str, *, otherwise: Literal["held_out", "train"] = "held_out", whole: bool = False
) -> Selection:
    """The images of the split that is asked for; of "auto" those of `test`, else of `val`.

    Args:
        index: the data.
        value: name of a split, or "auto".
        otherwise: what "auto" does where the data has neither: take the part of `train` that training holds out, by a
            hash of the keys, or take all of `train`.
        whole: whether "all" is allowed, for all splits together.

    Raises:
        InputError: the data has no such split.
    """
    if value == "auto" and not {"test", "val"} & set(index.splits):
        if otherwise == "held_out":
            return index.select("curve")
        value = "train"
    if value == "auto":
        return index.select("test")
    if value == EVERY_SPLIT and not whole:
        raise InputError(f"split=all is for embed and predict; name one of {', '.join(index.splits)}")
    index.num_samples(value)
    return Selection(value)
