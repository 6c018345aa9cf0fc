"""Which keys hold paths or a user's own words: declared once, at the start of a key's comment in the YAML files.

`#: path; ...` is a path or an address, `#: paths; ...` one or a list of them, `#: text; ...` and `#: texts; ...` any
words, such as the name of a column.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mimsuite.config.folder import conf_dir

PATHS = ("path", "paths")
LISTS = ("paths", "texts")

KIND = re.compile(r"^(path|paths|text|texts); ")
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<rest>.*)$")
_PACKAGE = re.compile(r"^# @package (\S+)")


@functools.cache
def key_kinds() -> dict[str, str]:
    """Key, with dots (`data`, `logger.wandb.project`) -> `path`, `paths`, `text` or `texts`."""
    conf = conf_dir()
    return {key: kind for file in sorted(conf.rglob("*.yaml")) for key, kind in declared_kinds(file, conf)}


def path_keys() -> list[str]:
    """The keys whose values are paths."""
    return [key for key, kind in key_kinds().items() if kind in PATHS]


def declared_kinds(file: Path, conf: Path) -> Iterator[tuple[str, str]]:
    """What one YAML file below `conf` declares."""
    lines = file.read_text(encoding="utf-8").splitlines()
    parents: list[tuple[int, str]] = []
    for line in lines:
        if not (match := _LINE.match(line)):
            continue
        indent = len(match["indent"])
        parents = [*(parent for parent in parents if parent[0] < indent), (indent, match["key"])]
        if found := KIND.match(line.partition("#: ")[2]):
            yield package_of(file, lines, conf) + ".".join(key for _, key in parents), found[1]


def package_of(file: Path, lines: Sequence[str], conf: Path) -> str:
    """What stands before the keys of a file, such as `mask.` for `mask/random.yaml`."""
    given = _PACKAGE.match(lines[0])
    name = given[1] if given else file.parent.relative_to(conf).as_posix().replace("/", ".")
    return "" if name in ("_global_", ".", "") else f"{name}."
