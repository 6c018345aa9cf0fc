"""Paths of a composed config: `~` and `$HOME` written out; empty, missing and remote ones refused. Imports no torch.

Which keys are paths stands in the YAML files, see `mimsuite.config.kinds`.
"""

from __future__ import annotations

import os
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.folder import conf_dir
from mimsuite.config.help import documented_keys
from mimsuite.config.kinds import LISTS, PATHS, key_kinds
from mimsuite.data.stores.names import REMOTE, scheme_of, unknown_scheme
from mimsuite.errors import InputError
from mimsuite.settings.resolve import with_values
from mimsuite.words import WEIGHT_NAMES

HOME = re.compile(r"(\$HOME|\$\{HOME\})(?=/|$)")
WEIGHTS = ("init", "objective.teacher")
WRITTEN = ("out", "csv", "map")


def with_places(cfg: DictConfig, task: str) -> DictConfig:
    """A copy of a config in which every path can be taken as it is.

    Raises:
        InputError: a path or word that is empty; null where the task needs a place; an address of another machine.
    """
    rows = documented_keys((conf_dir() / f"{task}.yaml").read_text(encoding="utf-8").splitlines(), "")
    needed = {key for key, default, _ in rows if default != "null"}
    found: dict[str, Any] = {}
    for key, kind in key_kinds().items():
        group, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, group) if group else cfg
        if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if value is None:
            if key in needed:
                raise InputError(f"{key}=null names nothing, and `mimsuite {task}` needs it; give {key}=...")
            continue
        several = OmegaConf.is_list(value)
        if OmegaConf.is_dict(value) or (several and kind not in LISTS):
            wanted = "a path" if kind in PATHS else "text"
            raise InputError(f"{key}={value} is not {wanted}; give {key}=... one value")
        parts = [check_part(key, part, kind in PATHS) for part in (value if several else [value])]
        if (parts if several else parts[0]) != value:
            found[key] = parts if several else parts[0]
    return with_values(cfg, found) if found else cfg


def check_part(key: str, given: Any, is_path: bool) -> Any:
    """One value of such a key as text (a folder may be called `2024`), the user's own folder written out in a path."""
    if given is None or isinstance(given, bool):  # `map=false`
        return given
    value = str(given)
    if not value.strip():
        raise InputError(f"{key}= is empty (a variable of the shell that is not set?); give {key}=..., or remove it")
    if not is_path:
        return value
    refuse_remote(key, value)
    if not (HOME.match(value) or value.startswith("~")) or os.path.lexists(value):
        return value
    home = os.path.expanduser(HOME.sub("~", value, count=1))
    if home.startswith("~/") or home == "~":
        raise InputError(f"{key}={value}: this user has no home folder; set HOME, or give a path without ~")
    return home


def refuse_remote(key: str, value: str) -> None:
    """Refuses an address of another machine, but as `data`. Only its scheme is named: the rest may hold a password.

    Raises:
        InputError: `value` is one.
    """
    if key in WEIGHTS and value.lower().startswith(WEIGHT_NAMES):
        return
    scheme = scheme_of(value)
    if key == "data" and scheme in REMOTE:
        return
    if key == "data" and value.startswith("hf:"):
        raise InputError(f"data={value} is not read; use hf://datasets/ORG/NAME, with the folder of the shards behind")
    if key not in WEIGHTS and value.startswith("hf:"):
        scheme = "hf"
    if not scheme:
        return
    if scheme == "file":
        raise InputError(f"{key}=file://...: give the path alone, without file://")
    if key in WRITTEN:
        raise InputError(f"{key}={scheme}://... is not a folder of this machine; use a local {key}=, and copy it")
    if key in WEIGHTS:
        raise InputError(f"{key}={scheme}://... is not read; use {key}=hf:ORG/NAME, or copy the folder here")
    if key == "data":
        raise unknown_scheme(scheme)
    raise InputError(
        f"{key}={scheme}://... cannot be read: only data= reads other machines; copy it here, and give that"
    )
