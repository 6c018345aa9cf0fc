"""The config of the pretraining run that `init=` names. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from mimsuite.config.instantiate import current_config
from mimsuite.config.yaml_files import read_yaml
from mimsuite.errors import InputError
from mimsuite.settings.outputs import holds_run
from mimsuite.words import LOSSES


def pretraining_config(init: str) -> DictConfig | None:
    """The config of the pretraining run that `init` names; None where it names weights alone.

    Raises:
        InputError: a config that cannot be read.
    """
    if not holds_run(init):
        return None
    file = Path(init) / "config.yaml"
    stored = read_yaml(file, f"fix it, or use init={Path(init) / 'weights'}")
    if not isinstance(stored, DictConfig) or not {"mask", "objective", "micro_batch", "loader"} <= set(stored):
        return None
    return current_config(stored)


def loss_of(stored: DictConfig | None, init: str) -> str:
    """The error of a pretraining run, by its name; l1 where there are weights alone.

    Args:
        stored: its config, see `pretraining_config`.
        init: what names it.

    Raises:
        InputError: an unknown name.
    """
    loss = "l1" if stored is None else str(stored.objective.get("loss"))
    if loss not in LOSSES:
        raise InputError(f"the config of init={init} has objective.loss={loss}; known are {', '.join(LOSSES)}")
    return loss
