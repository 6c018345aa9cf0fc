"""Whether a config is that of weights, found out before memory is taken for a model of its sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mimsuite.errors import InputError
from mimsuite.weights.tensors import Tensors

M = TypeVar("M", bound=nn.Module)

FRESH_TENSORS, FRESH_VALUES = 2_000, 2_000_000_000
"""Most parameters beside those of the files, and most values of them: decoders and classifiers are smaller by far."""


def make_for(state: Tensors, source: str, make: Callable[[], M], check: Callable[[M], object]) -> M:
    """Makes a model for weights; first without memory (on the meta device), where `check` may refuse it.

    A class from outside may do what is impossible without memory, such as reading a value of a tensor; its model is
    checked only when it is made.

    Args:
        state: the tensors of the files, of which only the shapes are looked at.
        source: what errors call them.
        make: makes the model; it is called twice.
        check: looks at the names and shapes of the model, and raises an InputError where they are not right.

    Raises:
        InputError: far more or larger parameters than the files have.
    """
    try:
        with torch.device("meta"), _at_most(len(state) + FRESH_TENSORS, source, len(state)):
            trial = make()
    except (NotImplementedError, RuntimeError):  # of the meta device; any other comes again in the next line
        model = make()
        check(model)
        return model
    check(trial)
    held = sum(math.prod(shape) for shape in state.shapes.values())
    asked = sum(parameter.numel() for parameter in trial.parameters())
    if asked > held + FRESH_VALUES:
        raise InputError(
            f"{source}: config.json describes a model of {asked:,} parameters, but the files hold {held:,}; "
            "restore the config.json of these weights"
        )
    return make()


@contextmanager
def _at_most(count: int, source: str, held: int) -> Iterator[None]:
    """Refuses a model while it is made: its layers alone, without their values, may fill the memory."""
    made = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise InputError(
                f"{source}: config.json describes a model of more than {count:,} tensors, but the files hold {held:,}; "
                "restore the config.json of these weights"
            )

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
