"""What the label of a sample is: `KEY.cls` (integer text) or `KEY.json` (`{"label": ...}`)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.tar import to_text
from mimsuite.errors import InputError

#: One class, several classes (multi-label), or a number (regression).
Label = int | tuple[int, ...] | float


TABLE_ENDINGS = (".csv", ".tsv")  # of files that hold labels


@dataclass(frozen=True)
class GivenLabels:
    """Labels that come from a table and not from the shards.

    Attributes:
        keys: hashed keys of the labelled samples, uint64, ascending.
        labels: theirs.
        mark: changes when a label changes.
    """

    keys: NDArray[np.uint64]
    labels: tuple[Label, ...]
    mark: str

    def find(self, key: int) -> Label | None:
        """The label of a sample by its hashed key; None where it has none."""
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        return self.labels[place] if place < len(self.keys) and int(self.keys[place]) == key else None


def parse_label(payload: bytes, ending: str, key: str, num_classes: int | None) -> Label:
    """Reads a label.

    Args:
        payload: the member's bytes.
        ending: "cls" or "json".
        key: the sample's key, for errors.
        num_classes: classes must lie in `[0, num_classes)`; None allows any class from 0 on.

    Raises:
        InputError: not a label, or a class out of range.
    """
    key = to_text(key)
    if ending == "cls":
        text = payload.strip()
        if not re.fullmatch(rb"[+-]?\d{1,18}", text):
            raise InputError(f"label of {key} is {_show(payload)}, not an integer; fix {key}.cls")
        return _class(int(text), key, num_classes)
    try:
        value = json.loads(payload)["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f'{key}.json is {_show(payload)}, not {{"label": ...}}; fix it') from None
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _class(value, key, num_classes)
    if isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return tuple(_class(v, key, num_classes) for v in value)
    raise InputError(f"label of {key} is {value!r}; an integer, a list of integers or a decimal number is allowed")


def classes_of(label: Label | None) -> tuple[int, ...]:
    """The classes that a label counts for; none for regression."""
    if isinstance(label, tuple):
        return label
    return (label,) if isinstance(label, int) else ()


def _class(value: int, key: str, num_classes: int | None) -> int:
    if value < 0 or (num_classes is not None and value >= num_classes):
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1} (the data set's classes)"
        raise InputError(f"label of {key} is {value}; allowed is {allowed}; fix the label or classes.txt")
    return value


def _show(payload: bytes) -> str:
    return repr(payload[:40].decode("utf-8", "replace"))
