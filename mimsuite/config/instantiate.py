"""The one place where `_target_` is obeyed: only targets on a written list are called, judged before any call."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.errors import InputError, cause_of

ALLOWED = frozenset(
    {
        "torch.optim.adamw.AdamW",
        "torch.optim.sgd.SGD",
        "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
        "lightning.pytorch.trainer.trainer.Trainer",
    }
)
ROOTS = ("mimsuite", "torch", "lightning", "torchmetrics")
ROOMS = ("callbacks", "data.augment", "encoders", "heads", "masked", "models", "objectives", "runs.loggers")
"""Where the classes lie that configs name; no other class of ours is built, for some would write or remove files."""
MADE_BY_RUNS = frozenset({"mimsuite.callbacks.checkpoints.Checkpoints", "mimsuite.runs.loggers.files.FileLogger"})
"""Classes in `ROOMS` that no config names: they write and remove files in the folder that they are given."""

MOVED = {
    "mimsuite.data.augment.CenterCrop": "mimsuite.data.augment.crop.CenterCrop",
    "mimsuite.data.augment.RandomResizedCrop": "mimsuite.data.augment.crop.RandomResizedCrop",
    "mimsuite.data.supervised.Supervised": "mimsuite.data.augment.supervised.Supervised",
    "mimsuite.loggers.WandbLogger": "mimsuite.runs.loggers.wandb.WandbLogger",
    "mimsuite.runs.loggers.WandbLogger": "mimsuite.runs.loggers.wandb.WandbLogger",
    "mimsuite.masking.BlockMask": "mimsuite.masked.samplers.BlockMask",
    "mimsuite.masking.GridMask": "mimsuite.masked.samplers.GridMask",
    "mimsuite.masking.InverseBlockMask": "mimsuite.masked.samplers.InverseBlockMask",
    "mimsuite.masking.NoMask": "mimsuite.masked.samplers.NoMask",
    "mimsuite.masking.RandomMask": "mimsuite.masked.samplers.RandomMask",
    "mimsuite.objectives.optim.WarmupCosine": "mimsuite.objectives.schedules.WarmupCosine",
    "mimsuite.objectives.optim.WarmupLinear": "mimsuite.objectives.schedules.WarmupLinear",
    "mimsuite.objectives.optim.WarmupMilestones": "mimsuite.objectives.schedules.WarmupMilestones",
    "mimsuite.objectives.optim.WarmupSteps": "mimsuite.objectives.schedules.WarmupSteps",
}
"""Targets in the `config.yaml` of runs of 0.1.0 -> where they are now."""


def instantiate(node: DictConfig, trusted: Collection[str] = (), /, **extra: Any) -> Any:
    """Builds what a config node describes, after every `_target_` in it has been judged.

    Args:
        node: a config with `_target_`.
        trusted: further targets that may be called, by their own module and name.
        extra: keyword arguments that the caller fills in; they win over the node's.

    Raises:
        InputError: a target that is not allowed, does not exist, or does not take its arguments.
    """
    values = judged_values(node, trusted)
    from hydra.errors import HydraException
    from hydra.utils import instantiate as build

    try:
        made = build(
            {k: v for k, v in values.items() if k not in extra}, _convert_="all", _partial_=True
        )  # inner nodes are built; `extra` stays out of Hydra's hands
    except HydraException as error:
        raise InputError(f"{node._target_}: {cause_of(innermost(error))}; check the keys of this group") from error
    if values.get("_partial_"):
        return functools.partial(made, **extra)
    bind(node, made.func, made.args, made.keywords | extra)
    try:
        return made(**extra)
    except InputError:
        raise
    except Exception as error:  # a constructor judges its values in whatever way it likes
        fix = "" if isinstance(error, ValueError) else "; check the keys of this group"
        raise InputError(f"{node._target_}: {cause_of(error)}{fix}") from error


def check_call(node: DictConfig, trusted: Collection[str] = (), /, **extra: Any) -> None:
    """Refuses what `instantiate` would refuse before it calls anything; calls nothing. Arguments as there.

    Raises:
        InputError: a target that is not allowed, does not exist, or does not take these arguments.
    """
    values = judged_values(node, trusted)
    if not values.get("_partial_"):
        given = {k: v for k, v in values.items() if not k.startswith("_")}
        bind(node, resolve(current_name(str(node._target_))), values.get("_args_", []), given | extra)


def instantiate_for_run(node: DictConfig, trusted: Collection[str] = (), /, **extra: Any) -> Any:
    """As `instantiate`, for a node in which everything is decided: what a run fills in may not stand there otherwise.

    Raises:
        InputError: also a value of a user that would have no effect.
    """
    for key in [key for key in extra if key in node and node[key] != extra[key]]:
        raise InputError(f"{key_of(node, key)}={node[key]} would have no effect: the run sets it; remove it")
    return instantiate(node, trusted, **extra)


def judged_values(node: DictConfig, trusted: Collection[str]) -> dict[str, Any]:
    """The plain values of a node, every `_target_` in it judged.

    Raises:
        InputError: a target that is not allowed, an interpolation that would be resolved unjudged.
    """
    values = rename_moved(OmegaConf.to_container(node, resolve=True))
    assert isinstance(values, dict)
    for target in find_targets(values):
        judge(target, trusted)
    if (text := find_interpolation(values)) is not None:
        raise InputError(f"{node._target_}: {text!r} would be resolved a second time, unjudged; write it without ${{")
    return values


def bind(node: DictConfig, target: Any, args: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Refuses arguments that a target does not take.

    Raises:
        InputError: one that is missing or unknown, with the names there are.
    """
    try:
        signature = inspect.signature(target)
    except ValueError:  # built in, without a signature
        return
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        unknown = [key for key in given if key not in signature.parameters]
        if not unknown:
            raise InputError(f"{node._target_}: {error}; check the keys of this group") from error
        known = ", ".join(name for name in signature.parameters if name in node) or "no keys"
        guess = get_close_matches(unknown[0], signature.parameters, n=1)
        hint = f"did you mean {key_of(node, guess[0])}? " if guess else ""
        raise InputError(f"unknown key {key_of(node, unknown[0])!r}; {hint}{node._target_} takes {known}") from error


def key_of(node: DictConfig, key: str) -> str:
    """A key of a group as the user writes it, such as `mask.ratio`."""
    return str(node._get_full_key(key))


def innermost(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def rename_moved(value: Any) -> Any:
    """A nested container in which every `_target_` that has moved has its new name."""
    if isinstance(value, dict):
        renamed = {key: rename_moved(inner) for key, inner in value.items()}
        if "_target_" in renamed:
            renamed["_target_"] = current_name(str(renamed["_target_"]))
        return renamed
    return [rename_moved(inner) for inner in value] if isinstance(value, list) else value


def current_name(target: str) -> str:
    """The name of today of a target that may have moved."""
    return MOVED.get(target, target)


def current_config(stored: DictConfig) -> DictConfig:
    """The config of an earlier run, with targets by their names of today."""
    made = OmegaConf.create(rename_moved(OmegaConf.to_container(stored, resolve=False)))
    assert isinstance(made, DictConfig)
    return made


def find_targets(value: Any) -> Iterator[str]:
    """Every `_target_` in a nested container."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from find_targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_targets(inner)


def find_interpolation(value: Any) -> str | None:
    """A string in a nested container that still holds an interpolation, which could become a `_target_`, or None."""
    if isinstance(value, str):
        return value if "${" in value else None
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((text for part in parts if (text := find_interpolation(part)) is not None), None)


def judge(target: str, trusted: Collection[str]) -> None:
    """Refuses a target unless the object it resolves to is a class of ours for configs, or on the list; calls nothing.

    Judged is the object, by the module that defines it, not the name by which it was found. Functions of ours are
    refused: `api.call`, for one, would take `trusted_targets` from its caller. So are the classes outside `ROOMS`:
    some claim and clear run folders.

    Raises:
        InputError: the target is not allowed or does not exist.
    """
    if target not in trusted and is_foreign(target):
        raise refusal([target], trusted)
    found = resolve(target)
    if target not in trusted and not is_ours(found) and defined_name(found) not in ALLOWED:
        raise refusal([target], trusted)


def judge_names(cfg: DictConfig, trusted: Collection[str]) -> None:
    """Refuses all targets of a config that `judge` would refuse for their names alone; imports nothing.

    So a run is refused before anything heavy is imported and before it writes, in one line that names them all.

    Raises:
        InputError: such targets.
    """
    named = dict.fromkeys(find_targets(rename_moved(OmegaConf.to_container(cfg, resolve=True))))
    if refused := [target for target in named if target not in trusted and is_foreign(target)]:
        raise refusal(refused, trusted)


def is_foreign(target: str) -> bool:
    """Whether the name of a target says that it belongs to none of the packages that have allowed ones."""
    return target.partition(".")[0] not in ROOTS


def refusal(refused: Sequence[str], trusted: Collection[str]) -> InputError:
    """The error about targets that are not allowed, with the value of `trusted_targets` that would allow them."""
    more = f", nor {', '.join(refused[1:])}" if len(refused) > 1 else ""
    return InputError(
        f"_target_={refused[0]} is not allowed{more}; allowed are mimsuite's classes for configs ({', '.join(ROOMS)}) "
        f"and {', '.join(sorted(ALLOWED))}; if you trust {'them' if more else 'it'}, use "
        f"trusted_targets=[{','.join((*trusted, *refused))}] on the command line"
    )


def defined_name(found: Any) -> str:
    """The module and name that an object itself says it has."""
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


def is_ours(found: Any) -> bool:
    """Whether an object is a class for configs: one of `ROOMS` defines it, and it is not in `MADE_BY_RUNS`."""
    module = f"{getattr(found, '__module__', '')}."
    of_a_room = isinstance(found, type) and any(module.startswith(f"mimsuite.{room}.") for room in ROOMS)
    return of_a_room and defined_name(found) not in MADE_BY_RUNS


def resolve(target: str) -> Any:
    """The object that a dotted name means.

    Raises:
        InputError: there is no such object.
    """
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        if found is not None:
            return found
    own = (
        ""
        if parts[0] in ROOTS
        else (
            "; modules of the working folder are not imported: install yours, or name its folder with PYTHONPATH=FOLDER"
        )
    )
    raise InputError(f"_target_={target} does not exist; check its spelling{own}")


def trusted_targets(cfg: DictConfig, overrides: Sequence[str]) -> tuple[str, ...]:
    """The targets that the user vouches for on the command line.

    Raises:
        InputError: `trusted_targets` was set by a config file.
    """
    value = as_list(cfg.trusted_targets)
    given = any(override.lstrip("+").startswith("trusted_targets=") for override in overrides)
    if value and not given:
        raise InputError(f"trusted_targets={value} stands in a config file; give it on the command line")
    return tuple(value)


def as_list(value: Any) -> list[str]:
    """One name, several, or none (null)."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
    return [str(name) for name in several]
