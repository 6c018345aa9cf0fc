"""Lets objects of ours answer `isinstance` with a class of other software, in programs that use it."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any


def seen_as(own: type, module: str, name: str) -> type:
    """What `__class__` gives for objects of `own`: it, or beside the other software a subclass of it and of its class.

    Args:
        own: the class.
        module: of the other software. It is not imported: where nobody has, `own` is the answer.
        name: of its class there.
    """
    theirs = getattr(sys.modules.get(module), name, None)
    return own if theirs is None or issubclass(own, theirs) else _joined(own, theirs)


class _Seen:
    """The first base of what `_joined` makes."""

    def __init_subclass__(cls) -> None:
        """Leaves out what transformers does with a new class: it is none of theirs."""


@functools.cache
def _joined(own: type, theirs: type) -> type:
    """A subclass of both, under the name of `own`; calling it makes an object of `own`."""

    def fill(names: dict[str, Any]) -> None:
        names |= {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
        names["__new__"] = lambda _, *args, **options: own(*args, **options)

    return types.new_class(own.__name__, (_Seen, own, theirs), exec_body=fill)
