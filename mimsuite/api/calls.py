"""How a Python function becomes a task: its config is composed, objects are put aside, and the task runs here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any


def call(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Composes `conf/TASK.yaml` with the given values and runs the task in this process.

    Args:
        task: its name.
        values: by key, those with dots below `overrides`; None leaves a key at its default, and an inner one null.

    Raises:
        InputError: a key or value that the config does not take.
    """
    result: dict[str, Any] = compose_and("run", task, values)
    return result


def compose_and(function: str, task: str, values: Mapping[str, Any]) -> Any:
    """Composes `conf/TASK.yaml` and calls a function of the task's module with the config, and with objects if given.

    Raises:
        InputError: a key or value that the config does not take.
    """
    from mimsuite.app import call_task
    from mimsuite.settings.objects import split_objects

    flat = {key: value for key, value in values.items() if key != "overrides"} | dict(values.get("overrides", {}))
    plain, objects = split_objects(task, flat)
    run = getattr(importlib.import_module(f"mimsuite.tasks.{task}"), function)
    return call_task(task, functools.partial(run, objects=objects) if objects.given else run, plain)
