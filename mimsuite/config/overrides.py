"""Arguments in Hydra's grammar: paths and words quoted, Hydra's own flags first, Python values as text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mimsuite.config.kinds import LISTS, PATHS, key_kinds
from mimsuite.errors import InputError
from mimsuite.words import WEIGHT_NAMES

OVERRIDE = re.compile(r"[~+]|[^-=][^=]*=")
PART = re.compile(r"""(?:^|,)(\s*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=,|$)|(?:\{[^{}]*\}|[^,])*)""")


def task_arguments(arguments: Sequence[str]) -> list[str]:
    """What a user typed, in Hydra's grammar: Hydra's flags first, groups without null, paths and words quoted.

    Raises:
        InputError: a path is given twice, which a shell does to `data=shards/{000..012}.tar` without quotes.
    """
    check_once(arguments)
    ordered, sweep = flags_first(without_null_groups(arguments)), is_sweep(arguments)
    return [quote_path(argument, sweep=sweep) for argument in ordered]


def check_once(arguments: Sequence[str]) -> None:
    """Refuses a second value of a key of paths, of which Hydra would take the last alone."""
    for key, values in given_values(arguments).items():
        if len(values) > 1 and key_kinds().get(key) in PATHS:
            raise InputError(
                f"{key}= is given {len(values):,} times, from {key}={values[0]} to {key}={values[-1]}; give it once, "
                f"and put {{...}} in quotes, or the shell writes it out: {key}='shards/train-{{000..012}}.tar'"
            )


def repeated_keys(arguments: Sequence[str]) -> list[str]:
    """A line for each key with several values, of which the last counts, as where a script adds the user's to its own.

    A shell makes several of `image_size={96,128}` without quotes.
    """
    return [
        f"{key}= is given {len(values):,} times, and the last counts: {key}={values[-1]}"
        for key, values in given_values(arguments).items()
        if len(set(values)) > 1
    ]


def given_values(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the values that a command line gives it, in order; what is removed (`~key`) has none."""
    found: dict[str, list[str]] = {}
    for argument in arguments:
        if OVERRIDE.match(argument) and not argument.startswith("~"):
            key, _, value = argument.partition("=")
            found.setdefault(key.lstrip("+"), []).append(value)
    return found


def without_null_groups(arguments: Sequence[str]) -> list[str]:
    """`logger=null` as `logger=none`, and `experiment=null` left out: Hydra refuses null for a group."""
    return [a if a != "logger=null" else "logger=none" for a in arguments if a != "experiment=null"]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line starts one job for each of several values."""
    return any(argument in ("-m", "--multirun") or "hydra.mode" in argument for argument in arguments)


def quote_path(argument: str, *, sweep: bool = False) -> str:
    """Quotes the value of a key of paths or words for Hydra's grammar, so that it needs no quotes of the user's.

    `[a,b]` is a list where the key takes one, unless a path of that name exists. In a sweep, `a,b` are two values where
    both exist. Other arguments, and values that are empty, `null`, `???` or quoted already, come back as they are.
    """
    key, equals, value = argument.partition("=")
    kind = key_kinds().get(key.lstrip("+"))
    if not equals or kind is None or value in ("", "null", "???") or is_quoted(value):
        return argument
    if kind in LISTS and value[0] == "[" and value[-1] == "]" and not exists(value):
        return f"{key}=[{','.join(map(quote_element, split(value[1:-1])))}]"
    jobs = split(value)
    if sweep and kind in PATHS and len(jobs) > 1 and not exists(value) and all(map(is_there, jobs)):
        return f"{key}={','.join(map(quote_element, jobs))}"
    return f"{key}={quote(value)}"


def split(values: str) -> list[str]:
    """The parts between commas; one within quotes or braces (`{0,1}.tar`) parts nothing."""
    return [part.strip() for part in PART.findall(values)] if values.strip() else []


def quote_element(value: str) -> str:
    """A part of a list, quoted; one that is empty or quoted comes back as it is."""
    return value if not value or is_quoted(value) else quote(value)


def is_quoted(value: str) -> bool:
    """Whether a value stands in quotes of the user's."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def is_there(value: str) -> bool:
    """Whether a path exists, or a value names weights of the hub or of this package."""
    bare = value[1:-1] if is_quoted(value) else value
    return bare.startswith(WEIGHT_NAMES) or exists(bare)


def exists(path: str) -> bool:
    """Whether there is something of this name on this disk."""
    return os.path.lexists(os.path.expanduser(path))


def quote(value: str) -> str:
    r"""A string as a single-quoted Hydra value: `'` and `${` escaped, and backslashes where they would escape.

    `${oc.env:NAME}` stays what it is: the value of a variable.
    """
    value = re.sub(r"\$\{(?!oc\.env:)", r"\\${", value)
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


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Hydra's parser wants its own flags (`--cfg job`) before or after all `key=value`, not between them."""
    overrides = [a for a in arguments if OVERRIDE.match(a)]
    return [a for a in arguments if not OVERRIDE.match(a)] + overrides


def override_of(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar, from a value of Python.

    Raises:
        InputError: a value that no config holds.
    """
    try:
        return f"{key}={hydra_value(plain_value(value), path=key in key_kinds())}"
    except TypeError as error:
        raise InputError(
            f"{key}={value!r} is {error}, which no config holds; give a number, text, a path, or a list of these"
        ) from error


def plain_value(value: Any) -> Any:
    """A value as YAML has it: scalars and arrays of numpy and torch become numbers and lists, paths become text.

    Raises:
        TypeError: a value of another kind; the message names it.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif callable(getattr(value, "tolist", None)):  # of numpy, torch, pandas
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain_value(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [plain_value(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__}")


def hydra_value(value: Any, *, path: bool = False) -> str:
    """A value of `plain_value` in Hydra's override grammar; as a `path` or a word, `2024_01_05` is not a number."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(hydra_value(item, path=path) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{hydra_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, (int, float)):
        return repr(value)
    bare = not path and value.replace("_", "").isalnum()
    return str(value) if bare else quote(value)
