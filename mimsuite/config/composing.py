"""A task's config composed apart from the program that is running, and the keys that it may have."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.folder import conf_dir

NAMED_NODES = ("callbacks", "logger")  # groups whose keys are names that a user may choose; they may be empty

_composing = threading.Lock()  # Hydra knows one config at a time, for all threads


def compose_task(task: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Composes `conf/TASK.yaml`; returns the config, and the choice of each group.

    A Hydra application around it, ours or the caller's, stays as it is.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _composing:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
                cfg = compose(config_name=task, overrides=list(overrides), return_hydra_config=True)
        finally:
            GlobalHydra.instance().hydra = outer
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return own, dict(cfg.hydra.runtime.choices)


def unknown_keys(cfg: DictConfig, task: str, choices: Mapping[str, Any]) -> list[str]:
    """Keys of a composed config that neither the task's own files nor a `_target_` beside them could take.

    They come from recipe files and from `+key=value`. A key in a node with a `_target_` is judged when the object is
    built, by the names that the object takes.

    Args:
        cfg: the config.
        task: its name.
        choices: the choice of each config group in it.
    """
    ours = [f"{group}={name}" for group, name in choices.items() if (conf_dir() / group / f"{name}.yaml").is_file()]
    known = plain(compose_task(task, [choice for choice in ours if not choice.startswith("hydra/")])[0])
    return list(_unknown(plain(cfg), known, ""))


def missing_group(cfg: DictConfig, choices: Mapping[str, Any]) -> str | None:
    """A group of the task that the config has no values of, because they were removed or are null; None for none."""
    needed = [group for group in choices if "/" not in group and group not in (*NAMED_NODES, "experiment")]
    return next((group for group in needed if not isinstance(cfg.get(group), DictConfig)), None)


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            if "_target_" not in given and not (prefix.rstrip(".") in NAMED_NODES and isinstance(value, Mapping)):
                yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            yield from _unknown(value, known[key], f"{prefix}{key}.")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as nested dicts, interpolations as they are written."""
    made = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


def dotted_keys(cfg: DictConfig) -> Iterator[str]:
    """All key names of a config, inner ones with dots."""

    def walk(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, inner in node.items():
                yield f"{prefix}{key}"
                yield from walk(inner, f"{prefix}{key}.")

    return walk(plain(cfg), "")
