"""What `plan` reads: its own few keys, and which keys of `pretrain` the user has fixed. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.kinds import key_kinds
from mimsuite.config.overrides import override_of
from mimsuite.errors import InputError
from mimsuite.settings.budget import check_pace
from mimsuite.settings.outputs import check_file, check_outside
from mimsuite.settings.read import (
    as_plain,
    is_int,
    read,
    read_choice,
    read_data,
    read_flag,
    read_positive,
    read_size,
    read_text,
)
from mimsuite.settings.training import prefer_given
from mimsuite.words import ACCELERATORS

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
        accelerator: Lightning's name, or "auto".
        family: "vit", "cvt", "bit" or "external", where the user has fixed the model; else "".
        width: of its encoder, at most; 0 where it says none.
        patch: of that model, or that the user has fixed; else 0.
        image_side: shorter side of the image size that the user has fixed; 0 for none.
    """

    data: str | tuple[str, ...] | None
    out: Path | None
    hours: float | None
    fixed: tuple[str, ...]
    typed: tuple[str, ...]
    given: frozenset[str]
    accelerator: str
    family: str
    width: int
    patch: int
    image_side: int

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
    check_pace(prefer_given(cfg, overrides))
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
    fixed_model = bool({"model", "experiment"} & given)
    patch, size = OmegaConf.select(cfg, "model.patch_size", default=0), read(cfg, "image_size")
    return PlanSettings(
        *(data, file, hours, tuple(fixed), tuple(typed), frozenset(given)),
        accelerator=read_choice(cfg, "trainer.accelerator", ACCELERATORS),
        family=family_of(cfg) if fixed_model else "",
        width=width_of(cfg),
        patch=patch if is_int(patch) and (fixed_model or "model.patch_size" in given) else 0,
        image_side=0 if size == "auto" or "image_size" not in given else min(read_size(size)),
    )


def family_of(cfg: DictConfig) -> str:
    """The family of the config's model; "external" for one of another library or of the user's."""
    target = str(OmegaConf.select(cfg, "model._target_", default=""))
    return {"ViTConfig": "vit", "CvtConfig": "cvt", "BitConfig": "bit"}.get(target.rpartition(".")[2], "external")


def width_of(cfg: DictConfig) -> int:
    """The largest width of the config's model; 0 where it says none."""
    values = [OmegaConf.select(cfg, f"model.{key}") for key in ("hidden_size", "hidden_sizes", "embed_dim")]
    flat = [width for value in values for width in (as_plain(value) if OmegaConf.is_list(value) else [value])]
    return max((width for width in flat if is_int(width)), default=0)


def as_typed(value: object) -> str:
    """A path, a word or a list of them as the command takes it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
