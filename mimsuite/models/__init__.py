"""Models, configurations and image processors.

Everything is imported when first used, so that configs stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mimsuite.models.families import public_homes

_HOME = public_homes()

__all__ = sorted(_HOME)  # noqa: PLE0605 - made from the table of families


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mimsuite.models' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
