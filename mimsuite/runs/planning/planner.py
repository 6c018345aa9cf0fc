"""The plan of a run: candidates timed in turn, one of them chosen, and its length."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.checks.sample import SampleFacts
from mimsuite.data.folders import count_of
from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.runs.objects import Compute
from mimsuite.runs.planning.duration import Duration, duration_of, least_of, most_steps, steps_within
from mimsuite.runs.planning.recipes import Facts, Recipe, index_without_hours, recipes_for
from mimsuite.settings.budget import DEFAULT_EPOCHS, DEFAULT_STEPS
from mimsuite.settings.pretrain import PretrainSettings

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective
    from mimsuite.runs.planning.timing import Timing

log = logging.getLogger("mimsuite")

WHOLE = 50.0  # seconds that all timing may take
SECONDS = 6.0  # that the steps of a candidate are timed
LEAST_LEFT = 12.0  # seconds without which no further candidate is timed
LONGEST = 1600  # epochs of the longest published schedule (He et al. 2022)

Reader = Callable[[Mapping[str, Any]], PretrainSettings]
Maker = Callable[[PretrainSettings, Compute], "tuple[Objective, ImageData]"]


@dataclass(frozen=True)
class Candidate:
    """A recipe, with what was measured of it.

    Attributes:
        recipe: the recipe.
        settings: of its run of the default length.
        timing: what was measured; None where there was no time left.
        full: how long `DEFAULT_EPOCHS` epochs take, in seconds; None where it was not timed.
    """

    recipe: Recipe
    settings: PretrainSettings
    timing: Timing | None
    full: float | None


@dataclass(frozen=True)
class Plan:
    """What is recommended.

    Attributes:
        index: the data.
        sample: what some of its pictures are like.
        candidates: what was looked at, the largest first.
        chosen: which of them.
        length: the keys of the length, such as `{"epochs": 100}`; empty where the user has fixed it.
        why_length: why.
        settings: of the run that is recommended.
        duration: of that run.
        imports: seconds of importing torch and Lightning.
        spent: seconds that looking and timing took.
    """

    index: DataIndex
    sample: SampleFacts
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    length: Mapping[str, Any]
    why_length: str
    settings: PretrainSettings
    duration: Duration
    imports: float
    spent: float

    @property
    def timing(self) -> Timing:
        """Of the chosen candidate."""
        assert self.chosen.timing is not None
        return self.chosen.timing


def plan_run(
    facts: Facts,
    index: DataIndex,
    look: Callable[[], SampleFacts],
    hours: float | None,
    imports: float,
    read: Reader,
    make: Maker,
) -> Plan:
    """Times the recipes that come into question, and chooses.

    Args:
        facts: what a recipe is chosen by.
        index: the data.
        look: finds what some of its pictures are like, once all settings are known to fit.
        hours: that the run may take; None: any.
        imports: seconds of importing torch and Lightning.
        read: settings of `pretrain` with some more keys than the user has fixed.
        make: the Lightning module and the loaders.

    Raises:
        InputError: a key that the user has fixed does not fit; `hours` is too short for anything.
        RunError: the device is out of memory; data that do not arrive.
    """
    began = time.monotonic()
    recipes = recipes_for(facts)
    own_length = bool({"epochs", "steps", "experiment"} & facts.given)
    wanted = index_without_hours(recipes, facts)
    settings_of = [read(recipe.keys) for recipe in recipes]
    if hours is not None and hours * 3600 < (least := least_of(imports)):
        raise InputError(
            f"hours={hours:g} is too short: a run of no steps takes about {least / 3600:.2g} hours here, to start and "
            "to end; give more hours"
        )
    sample, looked = look(), time.monotonic()
    found: dict[int, Candidate] = {}
    for place in sorted(range(len(recipes)), key=lambda place: abs(place - wanted)):
        left = WHOLE - (time.monotonic() - looked)
        timed = place == wanted or left > LEAST_LEFT
        found[place] = time_candidate(recipes[place], settings_of[place], imports, make, own_length, timed)
        if hours is not None and timed and place == len(recipes) - 1:
            length_within(found[place], imports, hours)  # where the smallest does not fit, no other one does
    candidates = tuple(found[place] for place in range(len(recipes)))
    chosen = candidates[wanted]
    if hours is None:
        length, why = {} if own_length else default_length(chosen.settings), "as given"
        if length:
            why = f"the shortest published schedule has {DEFAULT_EPOCHS} (Xie et al. 2022), others 300 to {LONGEST:,}"
            why += "" if "epochs" in length else f"; {next(iter(length))} as by default, for so many images"
    else:
        chosen = largest_within(candidates, hours * 3600)
        length, why = length_within(chosen, imports, hours)
    settings = read({**chosen.recipe.keys, **length})
    assert chosen.timing is not None
    duration = duration_of(chosen.timing, settings, imports)
    spent = time.monotonic() - began
    return Plan(index, sample, candidates, chosen, length, why, settings, duration, imports, spent)


def time_candidate(
    recipe: Recipe, settings: PretrainSettings, imports: float, make: Maker, own_length: bool, timed: bool
) -> Candidate:
    """Times a recipe, if `timed`; `own_length`: whether the user has said how long the run is."""
    from mimsuite.runs.planning.timing import time_run

    if not timed:
        return Candidate(recipe, settings, None, None)
    log.info("timing    %s ...", recipe.name)
    timing = time_run(settings, make, SECONDS)
    steps = None if own_length else DEFAULT_EPOCHS * settings.budget.per_epoch
    return Candidate(recipe, settings, timing, duration_of(timing, settings, imports, steps).total)


def default_length(settings: PretrainSettings) -> dict[str, Any]:
    """`DEFAULT_EPOCHS` epochs, within the steps that `pretrain` takes by default."""
    steps = DEFAULT_EPOCHS * settings.budget.per_epoch
    low, high = DEFAULT_STEPS
    return {"epochs": DEFAULT_EPOCHS} if low <= steps <= high else {"steps": min(max(steps, low), high)}


def largest_within(candidates: tuple[Candidate, ...], seconds: float) -> Candidate:
    """The largest candidate that gets the shortest published schedule done; else the smallest that was timed."""
    timed = [candidate for candidate in candidates if candidate.full is not None]
    return next((candidate for candidate in timed if (candidate.full or 0.0) <= seconds), timed[-1])


def length_within(chosen: Candidate, imports: float, hours: float) -> tuple[dict[str, Any], str]:
    """The keys of the longest run that fits, and why so long.

    Raises:
        InputError: not one step fits.
    """
    assert chosen.timing is not None
    budget = chosen.settings.budget
    steps = steps_within(chosen.timing, chosen.settings, imports, hours * 3600)
    if steps < 1:
        least = duration_of(chosen.timing, chosen.settings, imports, 1).total / 3600
        raise InputError(
            f"hours={hours:g} is too short: start, validation and one step of {chosen.recipe.name} take about "
            f"{least:.2g} hours here; give more hours, or a smaller model= or image_size="
        )
    allowed = count_of(int(hours) if hours == int(hours) else hours, "hour")
    most = most_steps(budget.per_epoch, LONGEST)
    if steps > most:
        epochs = round(most / budget.per_epoch)
        return {"epochs": epochs}, (
            f"less than fits into {allowed}: the longest published schedule is of {LONGEST:,} (He et al. 2022)"
        )
    share = steps / budget.per_epoch
    for least, unit in ((100, 10.0), (10, 1.0), (1, 0.1)):
        if share >= least:
            rounded = round(int(share / unit + 1e-9) * unit, 1)
            return {"epochs": int(rounded) if rounded.is_integer() else rounded}, f"what fits into {allowed} here"
    return {"steps": steps}, f"what fits into {allowed} here: less than one epoch"


def free_folder(name: str) -> str:
    """A run folder that does not exist yet."""
    number, place = 1, f"runs/{name}"
    while Path(place).exists():
        number += 1
        place = f"runs/{name}-{number}"
    return place
