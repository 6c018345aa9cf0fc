"""What `resume=true` may change, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import current_config
from mimsuite.errors import InputError

FREE = (
    *("workers", "devices", "logger", "out", "resume", "callbacks.monitor", "save_every"),
    *("online_probe", "callbacks.online_probe"),  # gives figures and changes no weight
)


def continue_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The stored config of the run in `cfg.out`, with those changes from the command line that resuming allows.

    `workers`, `devices`, `save_every`, logging and a larger `steps` may change; anything else that would change the
    result is refused.

    Args:
        cfg: the config composed from this command line.
        overrides: its `key=value` arguments.

    Raises:
        InputError: a changed key that may not change, with both values; fewer steps than before.
    """
    loaded = OmegaConf.load(Path(cfg.out) / "config.yaml")
    assert isinstance(loaded, DictConfig)
    stored = current_config(loaded)
    OmegaConf.set_struct(stored, False)
    for key in cfg.keys() - stored.keys():  # younger than the run, which was what the key's default says
        stored[key] = cfg[key]
    before = first_overrides(cfg)
    for override in overrides:
        if override in before:
            continue
        key = override.partition("=")[0].lstrip("+~")
        old, new = OmegaConf.select(stored, key), OmegaConf.select(cfg, key)
        if key == "steps" and isinstance(new, int) and isinstance(old, int):
            if new < old:
                raise InputError(
                    f"resume=true with steps={new}, but the run was started for {old}; use steps={old} or more"
                )
            stored.steps = new
        elif key.startswith(FREE):
            OmegaConf.update(stored, key, new, force_add=True)
            if key == "devices" and not any(line.startswith("micro_batch=") for line in before):
                stored.micro_batch = "auto"  # it was chosen for another number of processes
        elif old not in (new, "<secret>") and not same_path(key, old, new):
            raise InputError(
                f"resume=true cannot change {key}: the run has {old}, the command line says {new}; leave {key} out, "
                "or start a new run in another out="
            )
    stored.out, stored.resume, stored.overwrite = cfg.out, True, False
    return stored


def first_overrides(cfg: DictConfig) -> list[str]:
    """The `key=value` arguments that the run in `cfg.out` was started with."""
    file = Path(cfg.out) / "overrides.txt"
    return file.read_text().splitlines() if file.exists() else []


def same_path(key: str, old: object, new: object) -> bool:
    """Whether two values of a path key name the same place."""
    return key in ("data", "init") and None not in (old, new) and Path(str(old)).resolve() == Path(str(new)).resolve()
