"""What choices of training change in a model, and in none of its files."""

from __future__ import annotations

from typing import Any

from mimsuite.errors import InputError
from mimsuite.objectives.batch_norm import synchronize_batch_norms


def prepare_model(model: Any, *, activations: bool, norms: bool) -> None:
    """Changes a model in place, before anything copies it.

    Args:
        model: one of `mimsuite.models`.
        activations: whether blocks are computed again in the backward pass.
        norms: whether BatchNorms take their statistics from all processes.

    Raises:
        InputError: it cannot have that.
    """
    if activations:
        model.gradient_checkpointing_enable()
        if not model.is_gradient_checkpointing:
            raise InputError(
                "trainer.checkpoint_activations=true, but no part of the model has `gradient_checkpointing`; remove it"
            )
    if norms:
        synchronize_batch_norms(model)
