"""Turns Hydra's errors into one line with a hint: what was misspelt, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from mimsuite.confdir import conf_dir

UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'|Key '([^']+)' is not in struct")


def explain(error: Exception, task: str, arguments: Sequence[str]) -> str:
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
    if "LexerNoViableAltException" in text or "mismatched input" in text or "no viable alternative" in text:
        bad = next((a for a in arguments if a and a in str(getattr(error, "override", ""))), None)
        return f"cannot read {bad or getattr(error, 'override', '')!r}; an argument is key=value, a list [a,b]; quote odd values"
    return text


def unknown_choice(missing: str, options: list[str]) -> str:
    """`model=vit_tny`: names the group, the value, the nearest and all choices."""
    group, _, choice = str(Path(missing).with_suffix("")).rpartition("/")
    options = options or sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    guess = get_close_matches(choice, options, n=1)
    hint = f"did you mean {group}={guess[0]}? " if guess else ""
    return f"{group}={choice} is unknown; {hint}{group} takes {', '.join(options)}"


def unknown_key(key: str, task: str) -> str:
    """`btach=3`: names the key and the nearest one that exists."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        known = sorted(set(dotted(compose(config_name=task))))
    guess = get_close_matches(key, known, n=1, cutoff=0.5)
    if not guess:
        last = {name.rpartition(".")[2]: name for name in known}
        guess = [last[name] for name in get_close_matches(key.rpartition(".")[2], last, n=1)]
    hint = f"did you mean {guess[0]}? " if guess else ""
    return f"unknown key {key!r}; {hint}`mimsuite {task} --help` lists the keys"


def dotted(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """All key names of a config, inner ones with dots."""
    for key in cfg:
        yield f"{prefix}{key}"
        node = OmegaConf.to_container(cfg, resolve=False).get(key)  # type: ignore[union-attr]
        if isinstance(node, dict):
            yield from dotted(OmegaConf.create(node), f"{prefix}{key}.")
