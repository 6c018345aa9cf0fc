"""Arguments in Hydra's grammar: paths quoted, Hydra's own flags first, Python values as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PATH_KEYS = ("data", "init", "out", "src", "images", "runs", "csv", "map")
LIST_KEYS = ("runs", "data")  # of these: what may also be a list of paths
OVERRIDE = re.compile(r"[~+]|[^-=][^=]*=")


def quote_path(argument: str) -> str:
    """Quotes the value of a path key for Hydra's grammar, so that spaces, `=`, commas and braces need no quotes.

    A list of paths is quoted path by path. Other arguments, and values that are empty, `null`, `???` or quoted already,
    come back as they are.
    """
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+")
    if not equals or bare not in PATH_KEYS or value in ("", "null", "???"):
        return argument
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return argument
    if bare in LIST_KEYS and value[0] == "[" and value[-1] == "]":
        paths = [path.strip() for path in value[1:-1].split(",")]
        if not all(paths) or set(value) & set("'\""):
            return argument
        return f"{key}=[{','.join(map(quote, paths))}]"
    return f"{key}={quote(value)}"


def quote(value: str) -> str:
    r"""A string as a single-quoted Hydra value: `'` and `${` escaped, and backslashes where they would escape."""
    value = value.replace("${", "\\${")
    out = ""
    for i, char in enumerate(value):
        if char == "'":
            slashes = len(out) - len(out.rstrip("\\"))
            out += "\\" * slashes + "\\'"
        else:
            out += char
        if i == len(value) - 1:
            slashes = len(out) - len(out.rstrip("\\"))
            out += "\\" * slashes
    return f"'{out}'"


def flags_first(arguments: list[str]) -> list[str]:
    """Hydra's parser wants its own flags (`--cfg job`) before or after all `key=value`, not between them."""
    overrides = [a for a in arguments if OVERRIDE.match(a)]
    return [a for a in arguments if not OVERRIDE.match(a)] + overrides


def hydra_value(value: Any, *, path: bool = False) -> str:
    """A Python value in Hydra's override grammar; as a `path`, `2024_01_05` is not a number."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(hydra_value(item, path=path) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{hydra_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, (int, float)):
        return repr(value)
    bare = not path and str(value).replace("_", "").isalnum()
    return str(value) if bare else quote(str(value))
