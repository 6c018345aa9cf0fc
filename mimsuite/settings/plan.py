"""What `plan` reads: its own few keys, and which keys of `pretrain` the user has fixed. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.kinds import key_kinds
from mimsuite.config.overrides import override_of
from mimsuite.errors import InputError
from mimsuite.settings.outputs import check_file, check_outside
from mimsuite.settings.read import as_plain, read, read_data, read_flag, read_positive, read_text

OWN = ("out", "hours", "overwrite")  # keys that `pretrain` has not, or with another meaning


@dataclass(frozen=True)
class PlanSettings:
    """What is planned.

    Attributes:
        data: its address, or several; None for the embedded data.
        out: a JSON file to write, or None.
        hours: that the run may take; None: decided by the data alone.
        fixed: the user's `key=value` arguments for `pretrain`, in Hydra's grammar, paths as the task reads them.
        typed: the same as one types them in a shell, where paths and words need no quotes for Hydra.
        given: their keys.
    """

    data: str | tuple[str, ...] | None
    out: Path | None
    hours: float | None
    fixed: tuple[str, ...]
    typed: tuple[str, ...]
    given: frozenset[str]

    def choice(self, group: str) -> str:
        """The user's choice of a config group; "" where it is open."""
        found = [override.partition("=")[2] for override in self.fixed if override.startswith(f"{group}=")]
        return found[-1] if found else ""


def read_plan(cfg: DictConfig, overrides: Sequence[str]) -> PlanSettings:
    """Reads the keys that are not those of `pretrain`.

    Args:
        cfg: the composed config.
        overrides: the `key=value` arguments.

    Raises:
        InputError: `out` is not a .json file, or exists; a length beside `hours`; an argument that removes a key.
    """
    out, overwrite = read_text(cfg, "out"), read_flag(cfg, "overwrite")
    file = None if out is None else check_file("out", out, (".json",), overwrite=overwrite)
    data = read_data(cfg)
    if out is not None:
        check_outside(out, data)
    hours = None if read(cfg, "hours") is None else read_positive(cfg, "hours")
    kinds, fixed, typed, given = key_kinds(), list[str](), list[str](), set[str]()
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in OWN:
            continue
        given.add(key)
        value = as_plain(OmegaConf.select(cfg, key)) if key in kinds and override.startswith(key) else None
        fixed.append(override if value is None else override_of(key, value))
        typed.append(override if value is None else f"{key}={as_typed(value)}")
    length = next((key for key in ("epochs", "steps") if key in given and read(cfg, key) is not None), None)
    if hours is not None and length is not None:
        raise InputError(
            f"hours={hours:g} and {length}={read(cfg, length)} both say how long the run is; give one of them"
        )
    return PlanSettings(data, file, hours, tuple(fixed), tuple(typed), frozenset(given))


def as_typed(value: object) -> str:
    """A path, a word or a list of them as the command takes it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
