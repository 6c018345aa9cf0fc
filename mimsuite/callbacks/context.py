"""What a run tells its callbacks and loggers about itself, and how the nodes of a config become such objects."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback
from omegaconf import DictConfig

from mimsuite.config.instantiate import check_call, current_name, instantiate, is_ours, judge, resolve
from mimsuite.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Facts of a training run for its callbacks and loggers.

    A class whose constructor has a parameter annotated `RunContext` gets it, whatever the parameter and the node in
    the config are called. This holds for classes of a user, too.

    Attributes:
        folder: the run folder.
        pictures: the folder in it for pictures; it may not exist yet.
        config: the run's config as plain values, without secrets.
        batch: images per optimizer step, over all processes.
        steps: optimizer steps of the whole run.
        image_size: `(H, W)` in pixels.
        samples: training images.
        leads: whether this process is the one that writes files.
        started: when the command was given (seconds since the epoch), or None for a run from Python.
        imports: seconds that importing torch, lightning and wandb took.
        online_probe: whether the run measures its features while it trains.
        keeps_best: whether it keeps the weights of the best of these measurements.
        save_weights: writes a model to the run's `weights/`, or another folder that is named, as a Hugging Face folder.
        most_images: images a second that all devices could train at their peak; None where it is not known.
    """

    folder: Path
    pictures: Path
    config: Mapping[str, Any]
    batch: int
    steps: int
    image_size: tuple[int, int]
    samples: int
    leads: bool
    started: float | None
    imports: float
    online_probe: bool
    save_weights: Callable[..., None]
    most_images: float | None = None
    keeps_best: bool = False


def make_callbacks(nodes: DictConfig, context: RunContext, trusted: Collection[str]) -> list[Callback]:
    """The callbacks of a run, in the order of their nodes.

    Args:
        nodes: the config's `callbacks`, every value of it resolved.
        context: facts of the run.
        trusted: further targets that may be called.

    Raises:
        InputError: a node without a target, a target that is not allowed, or one that is not a callback.
    """
    return make_parts("callbacks", nodes, Callback, context, trusted)


def make_parts(group: str, nodes: DictConfig, base: type, context: RunContext, trusted: Collection[str]) -> list[Any]:
    """Builds every node of a group; a class that wants a `RunContext` gets it.

    A class may have a method `is_wanted(context)`, which needs no instance. Where it returns False, nothing is built.

    Args:
        group: name of the config's key, for errors.
        nodes: configs with `_target_`, by name.
        base: the class that all objects must belong to.
        context: facts of the run.
        trusted: further targets that may be called.

    Raises:
        InputError: a node without a target, a target that is not allowed, or one that gives something else.
    """
    parts: list[Any] = []
    for key, node, target, filled in judged_parts(group, nodes, context, trusted):
        if not is_wanted(target, context):
            continue
        part = instantiate(node, trusted, **filled)
        if not isinstance(part, base):
            raise of_another_kind(key, node._target_, base)
        parts.append(part)
    return parts


def check_parts(group: str, nodes: DictConfig, base: type, context: RunContext, trusted: Collection[str]) -> None:
    """Refuses what `make_parts` would refuse, and touches no folder; arguments as there.

    Callbacks of ours are made once, for what their constructors say of the values. Those of a user, and loggers, may
    write when they are made, so only their arguments are judged.

    Raises:
        InputError: as `make_parts`.
    """
    for key, node, target, filled in judged_parts(group, nodes, context, trusted):
        wanted = is_wanted(target, context)
        if is_ours(target) and issubclass(base, Callback) and wanted:
            instantiate(node, trusted, **filled)
        check_call(node, trusted, **filled)
        if isinstance(target, type) and not issubclass(target, base):
            raise of_another_kind(key, node._target_, base)


def judged_parts(
    group: str, nodes: DictConfig, context: RunContext, trusted: Collection[str]
) -> Iterator[tuple[str, DictConfig, Any, dict[str, RunContext]]]:
    """Key, node, target and the arguments to fill in, of each node; arguments as of `make_parts`."""
    for name, node in nodes.items():
        key = f"{group}.{name!s}"
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise InputError(f"{key}={node} has no _target_; to remove it, use ~{key}")
        target = find_target(str(node._target_), trusted)
        yield key, node, target, dict.fromkeys(parameters_of_type(target, RunContext), context)


def is_wanted(target: Any, context: RunContext) -> bool:
    """Whether the run wants an object of a class; most say nothing about it, and are wanted."""
    return bool(getattr(target, "is_wanted", lambda _: True)(context))


def of_another_kind(key: str, given: str, base: type) -> InputError:
    """The error about a node that gives no object of the kind that the group holds."""
    wanted = f"{base.__module__}.{base.__qualname__}"
    return InputError(f"{key}: {given} is not a {wanted}; use a subclass of it")


def find_target(name: str, trusted: Collection[str]) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        InputError: it is not allowed or does not exist.
    """
    name = current_name(name)
    judge(name, trusted)
    return resolve(name)


def parameters_of_type(target: Any, base: type) -> list[str]:
    """Names of the parameters of a class or function that are annotated with a type, or with it and others (`|`)."""
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except NameError:  # a name that is imported for type checkers only
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return []
    return [name for name, parameter in parameters.items() if _means(parameter.annotation, base)]


def _means(annotation: Any, base: type) -> bool:
    if isinstance(annotation, str):
        return base.__name__ in re.findall(r"\w+", annotation)
    return annotation is base or base in typing.get_args(annotation)
