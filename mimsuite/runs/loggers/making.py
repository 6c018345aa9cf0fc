"""From the config's `logger` to loggers."""

from __future__ import annotations

from collections.abc import Collection

from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig

from mimsuite.callbacks.context import RunContext, make_parts


def make_loggers(nodes: DictConfig, context: RunContext, trusted: Collection[str]) -> list[Logger]:
    """The loggers that the config names, in the process that leads; none in the others.

    Args:
        nodes: the config's `logger`.
        context: facts of the run.
        trusted: further targets that may be called.

    Raises:
        InputError: a node without a target, a target that is not allowed, or one that is not a logger.
    """
    return make_parts("logger", nodes, Logger, context, trusted) if context.leads else []
