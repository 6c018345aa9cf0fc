"""Turns Hydra's errors into one line with a hint: what was misspelt, what is allowed."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue

from mimsuite.config.composing import compose_task, dotted_keys
from mimsuite.config.folder import conf_dir

SWEEP = re.compile(r"Ambiguous value for argument '([^']+)'")
NOT_KEYS = re.compile(r"In '([^']+)': .*Cannot merge DictConfig with ListConfig")
UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'|Key '([^']+)' is not in struct")


NULL_GROUP = (
    "a config group cannot be null; leave it out for its default; logger=null turns all loggers off, ~logger.wandb one"
)


def explain(error: Exception, task: str) -> str:
    """One line for an error of Hydra or OmegaConf: the thing, the value, what is allowed, a guess."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return unknown_choice(error.missing_cfg_file, list(error.options or []))
    if match := UNKNOWN_KEY.search(str(error)):
        full = re.search(r"full_key: (\S+)", str(error))
        return unknown_key(match[1] or (full[1] if full else match[2]), task)
    if isinstance(error, MissingMandatoryValue):
        key = str(getattr(error, "full_key", None) or "a key")
        return f"{key}= is missing; give {key}=..., `mimsuite {task} --help` says what it takes"
    if match := SWEEP.search(text):
        key, _, value = match[1].partition("=")
        return f"{key}={value} is a sweep; for a list write {key}=[{value}], for a sweep add -m"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; an argument is key=value, a list is [a,b]; quote odd values"
    return form_of_recipe(error, text)


def form_of_recipe(error: Exception, text: str) -> str:
    """One line for a group or a recipe that has not the form of one; `text` is the error's own."""
    if isinstance(error, RecursionError):
        return "a recipe takes itself by its defaults:, directly or through others; remove that entry"
    if match := NOT_KEYS.search(text):
        return f"{match[1]}.yaml has a list where keys are wanted; a recipe holds `key: value`"
    return NULL_GROUP if text.startswith("Config group override must be") else text


def unknown_choice(missing: str, options: list[str]) -> str:
    """`model=vit_tny`: names the group, the value, the nearest and all choices."""
    group, _, choice = str(Path(missing).with_suffix("")).rpartition("/")
    if not (conf_dir() / group).is_dir() and (conf_dir() / (first := group.partition("/")[0])).is_dir():
        given = missing.removeprefix(f"{first}/")
        return (
            f"{first}={given} is a path; use {first}={choice} with --config-dir=FOLDER, where {first}/{choice}.yaml is"
        )
    options = options or sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    guess = get_close_matches(choice, options, n=1)
    hint = f"did you mean {group}={guess[0]}? " if guess else ""
    return f"{group}={choice} is unknown; {hint}{group} takes {', '.join(options)}"


def unknown_key(key: str, task: str) -> str:
    """`btach=3`: names the key and the nearest one that exists."""
    if key == "experiment":
        return "the recipe of experiment= does not begin with the line `# @package _global_`; add it, as the first line"
    known = sorted(set(dotted_keys(compose_task(task, [])[0])))
    if key in known:
        group = key.partition(".")[0]
        return (
            f"{key} does not go with the {group}= that is chosen, which has no such key; remove it, or choose another"
        )
    guess = get_close_matches(key, known, n=1, cutoff=0.5)
    if not guess:
        last = {name.rpartition(".")[2]: name for name in known}
        guess = [last[name] for name in get_close_matches(key.rpartition(".")[2], last, n=1)]
    hint = f"did you mean {guess[0]}? " if guess else ""
    return f"unknown key {key!r}; {hint}`mimsuite {task} --help` lists the keys"
