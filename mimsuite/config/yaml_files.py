"""YAML files of users: read with bounded time and memory, whatever they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite.errors import InputError, reading

_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000


def read_yaml(file: Path, fix: str) -> DictConfig | ListConfig:
    """Reads a file; `fix` is the end of the message where that fails.

    Raises:
        InputError: not readable, not YAML, too long, too deep, or aliases that stand for very many values.
    """
    import yaml

    with reading(str(file), fix):
        content = file.read_bytes()
        if len(content) > _MOST_BYTES:
            raise InputError(f"{file} has {len(content)} bytes; a config has at most {_MOST_BYTES}; {fix}")
        try:
            values = _count(yaml.compose(content.decode(), Loader=yaml.SafeLoader), {})
            if values > _MOST_VALUES:
                raise InputError(
                    f"{file} stands for {values} values by its aliases; at most {_MOST_VALUES} are read; {fix}"
                )
            return OmegaConf.load(file)
        except yaml.MarkedYAMLError as error:  # such as a key that stands twice
            line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise ValueError(f"{line}{error.problem}") from error


def read_plain(file: Path, fix: str) -> dict[str, Any]:
    """The plain values of a config that a run wrote, ten times as fast as `read_yaml`; arguments and errors are its."""
    import yaml

    with reading(str(file), fix):
        content = file.read_bytes()
        if len(content) > _MOST_BYTES:
            raise InputError(f"{file} has {len(content)} bytes; a config has at most {_MOST_BYTES}; {fix}")
        found = yaml.load(content.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(found, dict):
            raise ValueError("it holds no keys")
    return {str(key): value for key, value in found.items()}


def _count(node: object, known: dict[int, int]) -> int:
    """How many values a node of YAML stands for; an alias counts as what it repeats."""
    import yaml

    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError("an alias stands for what it is part of")
        return known[id(node)]
    known[id(node)] = -1
    parts = [p for pair in node.value for p in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]
