"""What `resume=true` may change, and what it refuses."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.composing import NAMED_NODES
from mimsuite.config.instantiate import current_config
from mimsuite.config.kinds import path_keys
from mimsuite.config.yaml_files import read_yaml
from mimsuite.data.fingerprint import DATA, Fingerprint, difference
from mimsuite.errors import InputError, reading
from mimsuite.settings.online_probe import KEEPER
from mimsuite.settings.read import is_int
from mimsuite.settings.resolve import with_values
from mimsuite.words import WEIGHT_NAMES

log = logging.getLogger("mimsuite")

FREE = (
    *(
        "workers",
        "devices",
        "trainer.num_nodes",
        "loader.patience",
        "trainer.strategy",
        "trainer.checkpoint_activations",
        "loader.timeout",
        "loader.cache",
        "logger",
        "out",
        "resume",
        "callbacks.monitor",
        "save_every",
    ),
    *("online_probe", "callbacks.online_probe"),  # gives metrics and changes no weight
    "trusted_targets",  # allows, and changes nothing
)

KEYS_OF_TASK = {"pretrain": {"mask", "micro_batch"}, "finetune": {"label_fraction"}}  # which no other config has

PROCESSES = ("devices", "trainer.num_nodes")  # change how many images each process takes


def continue_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The stored config of the run in `cfg.out`, with those changes from the command line that resuming allows.

    `workers`, `devices`, `trainer.num_nodes`, `trainer.strategy`, `trainer.checkpoint_activations`, `save_every`,
    logging, a larger `steps` and the place of the same data may change; anything else that would change the result is
    refused.

    Args:
        cfg: the config composed from this command line.
        overrides: its `key=value` arguments.

    Raises:
        InputError: a changed key that may not change, with both values; fewer steps than before; a run of another task.
    """
    stored, before = stored_config(cfg), first_overrides(cfg.out)
    check_task(stored, cfg)
    stored = with_values(stored, younger_keys(stored, cfg))
    changes: dict[str, Any] = {}
    removed: list[str] = []
    for override in overrides:
        key = key_of(override)
        if override in before and not may_have_changed(key, before):
            continue
        if key == "experiment":
            raise InputError(
                f"resume=true cannot add {override}: the run was started "
                f"{'with another' if any(key_of(line) == key for line in before) else 'without one'}; remove it, or "
                "start a new run in another out="
            )
        changes |= allowed_change(key, OmegaConf.select(stored, key), OmegaConf.select(cfg, key), before)
        removed += [key] if override.startswith("~") and key in changes else []
    if changes.get("online_probe") is False and OmegaConf.select(stored, KEEPER) is not None:
        changes[f"{KEEPER}.keep"] = False  # nothing selects from here on; what is kept stays
    return with_values(stored, changes | {"out": cfg.out, "resume": True, "overwrite": False}, removed)


def check_task(stored: DictConfig, cfg: DictConfig) -> None:
    """Refuses to go on with a run of another task: its config would be filled up with keys of this one.

    Raises:
        InputError: it is one.
    """
    began, task = (
        next((name for name, keys in KEYS_OF_TASK.items() if keys <= set(config)), None) for config in (stored, cfg)
    )
    if began != task:
        raise InputError(
            f"resume=true: out={cfg.out} is {f'a run of `mimsuite {began}`' if began else 'no run that trains'}, and "
            f"`mimsuite {task}` goes on with its own runs; to start from its weights, use init={cfg.out} and another "
            "out="
        )


def may_have_changed(key: str, before: Sequence[str]) -> bool:
    """Whether the run may have another value by now than a line of `before` says: after it went on with another.

    So may `data`: a relative path may mean another place by now.
    """
    if key == "epochs":
        return any(key_of(line) == "steps" for line in before)
    return key in ("data", "steps") or key.startswith(FREE)


def key_of(override: str) -> str:
    """The key of a `key=value` argument, also of one that adds or removes."""
    return override.partition("=")[0].lstrip("+~")


def joined_overrides(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The arguments of a run that goes on: each once, those of today last, so that the last of a key is in force."""
    now = [line for line in now if line != "resume=true"]
    return [line for line in before if line not in now] + list(dict.fromkeys(now))


def younger_keys(stored: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    """Keys that an earlier version had not, with their values of today: at the top and in groups of plain values.

    A group that is a part to build is left as it is: its class knows what a key that is absent means. Loggers and
    callbacks are no younger than any run: without them it was begun with `~logger`, say.
    """
    found: dict[str, Any] = {}
    for key in map(str, cfg):
        if key not in stored:
            found |= {} if key in NAMED_NODES else {key: cfg[key]}
        elif OmegaConf.is_dict(cfg[key]) and OmegaConf.is_dict(stored[key]) and "_target_" not in cfg[key]:
            plain = {inner: cfg[key][inner] for inner in cfg[key].keys() - stored[key].keys()}
            found |= {f"{key}.{inner}": value for inner, value in plain.items() if not OmegaConf.is_config(value)}
    return found


def stored_config(cfg: DictConfig) -> DictConfig:
    """The config of the run in `cfg.out`, with targets by their names of today."""
    file = Path(cfg.out) / "config.yaml"
    loaded = read_yaml(file, "restore it, or start again with overwrite=true")
    if not isinstance(loaded, DictConfig) or not loaded:
        raise InputError(f"{file} is not a run's config; restore it, or start again with overwrite=true")
    stored = current_config(loaded)
    waited = OmegaConf.select(stored, "loader.timeout")
    if waited is None or "patience" in stored.loader:
        return stored
    return with_values(stored, {"loader.patience": waited}, ["loader.timeout"])  # what it was called before


def allowed_change(key: str, old: Any, new: Any, before: Sequence[str]) -> dict[str, Any]:
    """What becomes of a key that the command line of a resumed run gives.

    Args:
        key: with dots.
        old: its value in the run.
        new: its value on the command line.
        before: the `key=value` arguments that the run was started with.

    Raises:
        InputError: it may not change.
    """
    if key == "steps" and new is not None and isinstance(old, int):
        if not is_int(new):
            raise InputError(f"steps={new} is not a whole number of at least {old}; give one")
        if new < old:
            raise InputError(
                f"resume=true with steps={new}, but the run was started for {old}; use steps={old} or more"
            )
        return {"steps": new}
    if key == "epochs" and new is not None:
        raise InputError(f"resume=true cannot change epochs={new}; to train longer, give a larger steps=")
    if key == "data" and None not in (old, new):
        return {} if same_path(old, new) else {"data": new}  # `check_data` judges whether it is the same
    if key.startswith(FREE):
        chosen_before = any(line.startswith("micro_batch=") for line in before)
        others = key in PROCESSES and old != new
        for_other_devices = {"micro_batch": "auto"} if others and not chosen_before else {}
        return {key: new} | for_other_devices
    if key == f"{KEEPER}.keep" and new is False:
        return {key: False}
    if key == "init" and old is not None and new is not None and moved(str(old)):
        return {}  # the run's own weights are further on
    if old not in (new, "<secret>") and not (key in path_keys() and same_path(old, new)):
        raise InputError(
            f"resume=true cannot change {key}: the run has {old}, the command line has {new}; remove {key}=, "
            "or start a new run in another out="
        )
    return {}


def moved(init: str) -> bool:
    """Whether the weights that a run began with are no longer where they were."""
    return not init.startswith(WEIGHT_NAMES) and not os.path.exists(init)


def first_overrides(out: str | Path) -> list[str]:
    """The `key=value` arguments that the run in `out` has had, the last of a key is in force; none without a list."""
    file = Path(out) / "overrides.txt"
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []


def same_path(old: object, new: object) -> bool:
    """Whether two values of a path key name the same place."""
    return None not in (old, new) and real_path(old) == real_path(new)


def check_data(out: str, now: Fingerprint) -> None:
    """Refuses other data than the run in `out` began with; a run of an earlier version has not written down which.

    Raises:
        InputError: they differ, and in what.
    """
    file = Path(out) / DATA
    if not file.is_file():
        log.warning("an earlier version began this run: whether the data are the same as then is not checked")
        return
    with reading(str(file), "remove it to go on without checking the data"):
        before = json.loads(file.read_text())
        found = difference(before, now)
    if found is not None:
        raise InputError(
            f"resume=true with other data than the run began with: {found}; "
            "give data= with the same shards, or start a new run in another out="
        )


def real_path(value: object) -> str:
    """A path without links, `~` and `..`, or a list of them; two remote addresses stay equal or different."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(map(real_path, value))
    return os.path.realpath(os.path.expanduser(str(value)))
