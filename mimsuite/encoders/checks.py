"""Checks of a configuration's fields, with one-line errors that name field, value and what is allowed."""

from __future__ import annotations

from typing import Any

from mimsuite.errors import InputError
from mimsuite.words import ACTIVATION_NAMES

LARGEST = 2**20  # of any whole number in a config; no network is as wide, as deep or as finely cut


class Checks:
    """Each looks at the attribute of a name. A value that is not allowed is an InputError, a wrong type a TypeError."""

    def _check_int(self, name: str, low: int, high: int = LARGEST) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}")
        if value < low:
            raise InputError(f"{name}={value} must be at least {low}")
        if value > high:
            raise InputError(f"{name}={value} must be at most {high}")

    def _check_float(self, name: str, low: float, high: float = float("inf"), *, above: bool = False) -> None:
        """`above`: `low` itself is not allowed."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}")
        if not low <= value <= high or (above and value == low):
            raise InputError(
                f"{name}={value} must be {'above' if above else 'at least'} {low}"
                + (f" and at most {high}" * (high < float("inf")))
            )

    def _check_bool(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise TypeError(f"{name}={getattr(self, name)!r} must be true or false")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise InputError(f"{name}={value!r} is not one of {', '.join(allowed)}")

    def _check_activation(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str):
            self._check_choice(name, ACTIVATION_NAMES)
        elif not callable(value):
            raise TypeError(f"{name}={value!r} must be a name or a function; names: {', '.join(ACTIVATION_NAMES)}")

    def _check_each(self, name: str, count: int | None = None) -> list[Any]:
        """A list, of `count` entries where that is given; a tuple becomes a list. Returns the entries."""
        value = getattr(self, name)
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name}={value!r} must be a list, got {type(value).__name__}")
        if not value or count not in (None, len(value)):
            raise InputError(f"{name}={list(value)} has {len(value)} entries; expected {count or 'at least 1'}")
        vars(self)[name] = list(value)
        return list(value)

    def _check_ints(self, name: str, low: int, count: int | None = None) -> None:
        """A list of integers of at least `low`."""
        for value in self._check_each(name, count):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}={getattr(self, name)!r} must hold integers, got {type(value).__name__}")
            if value < low:
                raise InputError(f"{name}={getattr(self, name)} must hold integers of at least {low}")

    def _check_floats(self, name: str, low: float, high: float, count: int, *, above: bool = False) -> None:
        """A list of numbers; `above`: `low` itself is not allowed."""
        for value in self._check_each(name, count):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}={getattr(self, name)!r} must hold numbers, got {type(value).__name__}")
            if not low <= value <= high or (above and value == low):
                limits = f"{'above' if above else 'at least'} {low}" + f" and at most {high}" * (high < float("inf"))
                raise InputError(f"{name}={getattr(self, name)} must hold numbers {limits}")

    def _check_bools(self, name: str, count: int) -> None:
        """A list of true or false."""
        if not all(isinstance(value, bool) for value in self._check_each(name, count)):
            raise TypeError(f"{name}={getattr(self, name)!r} must hold true or false")

    def _check_side(self, name: str) -> None:
        """One positive integer, or a pair of them, which becomes a list."""
        value = getattr(self, name)
        sides = list(value) if isinstance(value, list | tuple) else [value]
        for side in sides:
            if isinstance(side, bool) or not isinstance(side, int):
                raise TypeError(f"{name}={value!r} must be an integer or a pair (height, width) of them")
        if len(sides) > 2 or (isinstance(value, list | tuple) and len(sides) != 2) or min(sides) < 1:
            raise InputError(f"{name}={value!r} must be a positive integer or a pair (height, width) of them")
        if isinstance(value, tuple):
            vars(self)[name] = sides
