"""Single values read from a composed config and checked; an error names the key, the value, what is allowed and a fix.

A key of a group is given with dots (`mask.unit`). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite.errors import InputError

Word = TypeVar("Word", bound=str)

LARGEST = 2**63 - 1  # whole number that tensors and arrays hold
LONGEST_SIDE = 65_536  # pixels


def read(cfg: DictConfig, key: str) -> Any:
    """A value as Python has it: lists and dicts without OmegaConf's wrappers.

    Raises:
        MissingMandatoryValue: the key must be given and is not (an error of OmegaConf).
    """
    return as_plain(OmegaConf.select(cfg, key, throw_on_missing=True))


def as_plain(value: Any) -> Any:
    """A config value without OmegaConf's wrappers."""
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, (ListConfig, DictConfig)) else value


def read_text(cfg: DictConfig, key: str) -> str | None:
    """A word, a path or an address; None for null. Numbers become text: a folder may be called `2024`."""
    value = read(cfg, key)
    return None if value is None else str(value)


def read_data(cfg: DictConfig, key: str = "data") -> str | tuple[str, ...] | None:
    """An address of data, several of them, or None for null.

    Raises:
        InputError: an empty list.
    """
    value = read(cfg, key)
    if not isinstance(value, list):
        return None if value is None else str(value)
    if not value or None in value:
        raise InputError(f"{key}={value} names no data; use {key}=FOLDER, or {key}=[FOLDER,FOLDER]")
    return tuple(map(str, value)) if len(value) > 1 else str(value[0])


def read_choice(cfg: DictConfig, key: str, allowed: Sequence[Word]) -> Word:
    """The value of a key of text, such as `precision` or `objective.loss`, if it is one of `allowed`."""
    value = _shown(read(cfg, key))
    for word in allowed:
        if value == word:
            return word
    raise InputError(f"{key}={value} is unknown; {key} takes {', '.join(allowed)}")


def read_choices(cfg: DictConfig, key: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """A word or a list of words of `allowed`, each once."""
    value = read(cfg, key)
    given = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    if not given or set(given) - set(allowed):
        raise InputError(f"{key}={value} is unknown; {key} takes {', '.join(allowed)}, or a list of them")
    return tuple(dict.fromkeys(given))


def read_flag(cfg: DictConfig, key: str) -> bool:
    """A true-or-false key's value."""
    value = read(cfg, key)
    if not isinstance(value, bool):
        raise InputError(f"{key}={_shown(value)} is not true or false; use {key}=true or {key}=false")
    return value


def read_int(cfg: DictConfig, key: str, *, auto: int | None = None, least: int = 1) -> int:
    """A whole number of at least `least`; `auto` stands for the given value where one is given."""
    value = read(cfg, key)
    if value == "auto" and auto is not None:
        return auto
    if not is_int(value) or not least <= value <= LARGEST:
        upper = f" and at most {LARGEST:,}" if is_int(value) and value > LARGEST else ""
        raise InputError(f"{key}={_shown(value)} is not a whole number of at least {least}{upper}{_or_auto(auto)}")
    return int(value)


def read_positive(cfg: DictConfig, key: str, *, auto: float | None = None) -> float:
    """A finite number above 0; `auto` stands for the given value where one is given."""
    value = read(cfg, key)
    if value == "auto" and auto is not None:
        return auto
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(f"{key}={_shown(value)} is not a number above 0{_or_auto(auto)}")
    return float(value)


def read_number(cfg: DictConfig, key: str, *, below: float = math.inf, use: str) -> float:
    """A number from 0 to below `below`; `use` is the end of the error text, such as "0.1, or 0 for none"."""
    value = read(cfg, key)
    if not is_number(value) or not 0 <= value < below:
        upper = "" if below == math.inf else f" to below {below:g}"
        raise InputError(f"{key}={_shown(value)} is not a number from 0{upper}; use {use}")
    return float(value)


def read_size(value: Any, key: str = "image_size") -> tuple[int, int]:
    """`image_size=96` or `[96,160]` as `(H, W)`; takes the value itself."""
    sides = list(value) if isinstance(value, (list, tuple, ListConfig)) else [value, value]
    if len(sides) != 2 or not all(is_int(side) and 0 < side <= LONGEST_SIDE for side in sides):
        raise InputError(f"{key}={_shown(value)} is not a size; use a side in pixels (96) or [height,width] ([96,160])")
    return sides[0], sides[1]


def format_size(size: tuple[int, int]) -> str:
    """A size as a user writes it: `96` or `[96,160]`."""
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def is_int(value: Any) -> bool:
    """Whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can be; true and false are not."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023
    return whole or isinstance(value, float)


def _shown(value: Any) -> str:
    """A value as the user writes it."""
    return "null" if value is None else str(value)


def _or_auto(auto: object) -> str:
    """The end of an error text: whether `auto` would do."""
    return "; give one" if auto is None else "; give one, or auto"
