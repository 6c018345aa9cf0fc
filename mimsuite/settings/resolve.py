"""The one place where values are written into a config: `auto` becomes what was decided, in a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf


def with_values(cfg: DictConfig, values: Mapping[str, Any], removed: Sequence[str] = ()) -> DictConfig:
    """A copy of a config in which some keys have other values.

    Args:
        cfg: stays as it is.
        values: by key, inner ones with dots (`mask.unit`).
        removed: keys that the copy does not have.
    """
    made = copy.deepcopy(cfg)
    OmegaConf.set_struct(made, False)
    for key, value in values.items():
        OmegaConf.update(made, key, value, merge=False, force_add=True)
    for key in removed:
        group, _, name = key.rpartition(".")
        parent = OmegaConf.select(made, group) if group else made
        if isinstance(parent, DictConfig):
            parent.pop(name, None)
    return made


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """What `config.yaml` holds of a config: plain values, without interpolations."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
