"""`mimsuite plan`: what to run on some data, how long it takes on this machine, and what to expect."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.config.composing import compose_task
from mimsuite.config.overrides import override_of
from mimsuite.data.checks.sample import look_at_sample
from mimsuite.data.index import DataIndex
from mimsuite.data.open import EMBEDDED, open_data
from mimsuite.data.storage import write_json
from mimsuite.models.device import find_device
from mimsuite.runs.console import log_to_console
from mimsuite.runs.life import heavy_imports, one_at_a_time
from mimsuite.runs.planning.duration import IMPORTS
from mimsuite.runs.planning.outcome import outcome_of
from mimsuite.runs.planning.page import lines_of
from mimsuite.runs.planning.planner import Plan, plan_run
from mimsuite.runs.planning.recipes import Facts
from mimsuite.settings.outputs import writing
from mimsuite.settings.places import with_places
from mimsuite.settings.plan import PlanSettings, read_plan
from mimsuite.settings.pretrain import PretrainSettings, read_pretrain
from mimsuite.tasks.pretrain import make_objects

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Plans, prints it, and returns it; writes nothing but `out`. What it does meanwhile is told on stderr."""
    log_to_console()
    settings = read_plan(cfg, overrides)
    folders = config_folders()
    with contextlib.redirect_stdout(sys.stderr), one_at_a_time():
        plan = make_plan(settings, folders)
    outcome = outcome_of(plan, name_of(settings), settings.typed, folders)
    for line in lines_of(outcome):
        log.info("%s", line)
    if settings.out is not None:
        with writing("out", settings.out):
            write_json(settings.out, outcome)
        log.info("written   %s", settings.out)
    return outcome


def make_plan(settings: PlanSettings, folders: Sequence[str]) -> Plan:
    """Looks at the data and times what comes into question."""
    index = open_data(settings.data)
    train = index.records(index.select("train"))
    log.info("looking   at some of %s training images of %s ...", f"{len(train):,}", name_of(settings))
    with heavy_imports({}) as spent:
        facts = facts_of(settings, index, len(train))

        def read_settings(keys: Mapping[str, Any]) -> PretrainSettings:
            return read_run(settings, keys, folders)

        look = partial(look_at_sample, index, train)
        return plan_run(facts, index, look, settings.hours, max(spent, IMPORTS), read_settings, make_objects)


def facts_of(settings: PlanSettings, index: DataIndex, images: int) -> Facts:
    """What a recipe is chosen by; `images`: for training."""
    return Facts(
        images=images,
        side=min(index.image_size),
        gpu=find_device(settings.accelerator).accelerator != "cpu",
        given=settings.given,
        family=settings.family,
        width=settings.width,
        objective=settings.choice("objective"),
        image_side=settings.image_side,
        patch=settings.patch,
    )


def read_run(settings: PlanSettings, keys: Mapping[str, Any], folders: Sequence[str]) -> PretrainSettings:
    """Settings of `pretrain` with the user's keys and some more, as its command reads them.

    Raises:
        InputError: a value that `pretrain` would refuse.
    """
    changes = [override_of(key, value) for key, value in keys.items()]
    overrides = [*changes, *settings.fixed, override_of("out", os.devnull)]
    overrides += [override_of("data", str(EMBEDDED))] if settings.data is None else []  # that was said once already
    paths = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []
    cfg, choices = compose_task("pretrain", [*overrides, *paths])
    app.check_keys(cfg, "pretrain", choices, overrides)
    return read_pretrain(with_places(cfg, "pretrain"), overrides, leads=False)


def config_folders() -> list[str]:
    """Config folders that the user's command line names."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def name_of(settings: PlanSettings) -> str:
    """What the data are called: the last part of their address."""
    first = settings.data if isinstance(settings.data, str) else (settings.data or ("emoji-64",))[0]
    return Path(first.rstrip("/")).name or "data"


if __name__ == "__main__":
    app.main("plan", run)
