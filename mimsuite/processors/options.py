"""What image processors are made with: keyword-only fields, and fields that they do not know, which they keep."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, ClassVar, TypeVar, dataclass_transform

from mimsuite.errors import InputError

Made = TypeVar("Made", bound="type[ProcessorOptions]")

NAMES = ("image_processor_type", "feature_extractor_type", "processor_class")
"""What files say of classes; not kept."""

OF_A_CALL = ("return_tensors", "data_format", "input_data_format", "device")
"""What a call is given; kept in a processor, it is the default of its calls."""

ALSO_TAKEN = (*OF_A_CALL, "default_to_square", "disable_grouping")
"""What a processor is made with beside its fields; the last has no effect."""

UNCHECKED = "_unchecked"  # in an object with fields that were set and are to be checked
NEAR = 0.85  # how like a field the name of a slip is


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
def image_processor(cls: Made) -> Made:
    """Makes a class a keyword-only dataclass whose constructor also takes fields that it does not know."""
    dataclass(kw_only=True)(cls)
    known_only, known = cls.__init__, frozenset(f.name for f in fields(cls))

    @wraps(known_only)
    def take_all(self: ProcessorOptions, **values: Any) -> None:
        if not values.keys() <= known:
            self.keep({name: value for name, value in values.items() if name not in known})
            values = {name: value for name, value in values.items() if name in known}
        known_only(self, **values)

    cls.__init__ = take_all  # type: ignore[method-assign, assignment]
    return cls


class Keywords:
    """Gives a class of processors a type whose annotations are its fields, for programs that ask for their names."""

    def __get__(self, instance: object, owner: Any) -> type:
        return type(f"{owner.__name__}Keywords", (), {"__annotations__": {f.name: f.type for f in fields(owner)}})


@image_processor
class ProcessorOptions:
    """Keeps what it does not know.

    Attributes:
        default_to_square: whether an int as `size` means a square; else it is the shortest edge.
        model_input_names: what a call returns.
        valid_kwargs: a type whose annotations are the fields.
    """

    default_to_square: ClassVar[bool] = True
    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    valid_kwargs = Keywords()

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[UNCHECKED] = True
        super().__setattr__(name, value)

    @property
    def checked(self) -> bool:
        """Whether no field was set since `mark_checked`."""
        return UNCHECKED not in vars(self)

    def mark_checked(self) -> None:
        """Says that all fields have been checked, and brought to their forms."""
        vars(self).pop(UNCHECKED, None)

    def keep(self, values: Mapping[str, Any]) -> None:
        """Sets fields that are not known here; one warning names those that look like slips of known ones.

        Raises:
            InputError: a step that this processor does not have.
        """
        named = type(self).__name__
        missing = sorted(name for name, value in values.items() if name.startswith("do_") and value)
        if missing:
            raise InputError(
                f"{', '.join(missing)}: {named} has no such step; remove it, or check the processor's type"
            )
        known = [f.name for f in fields(self)]
        own = {name: value for name, value in values.items() if name not in NAMES and not hasattr(type(self), name)}
        meant = {name: get_close_matches(name, known, n=1, cutoff=NEAR) for name in own}
        slips = [f"{name} (did you mean {near[0]}?)" for name, near in meant.items() if near]
        if slips:
            warnings.warn(f"{named}: not fields, kept and without effect: {', '.join(slips)}", stacklevel=3)
        square = values.get("default_to_square")
        vars(self).update(own if square is None else own | {"default_to_square": square})

    def kept(self) -> dict[str, Any]:
        """What was kept, or set later."""
        known = {f.name for f in fields(self)}
        return {name: value for name, value in vars(self).items() if name not in known and name != UNCHECKED}
