"""The Python functions have the keys of their YAML, with types and help; `python tests/test_signatures.py` writes them.

They are source code, so that editors and notebooks complete them.
"""

import inspect
import json
import re
import textwrap
from pathlib import Path

import pytest

import mimsuite
from mimsuite.config.help import chosen_groups, documented_keys
from mimsuite.settings.objects import OBJECT_KEYS

ROOT = Path(__file__).parents[1]
FILES = {
    "training": ("The functions that train", ["pretrain", "finetune", "bench", "plan"]),
    "tasks": (
        "The functions that use a model",
        ["probe", "evaluate", "predict", "embed", "export", "reconstruct"],
    ),
    "data": ("The functions for data and curves", ["plot", "report", "pack", "inspect", "demo", "doctor"]),
}
SUMMARY = "the content of `summary.json`"
RETURNS = {
    "pretrain": SUMMARY,
    "finetune": SUMMARY,
    "probe": SUMMARY,
    "evaluate": SUMMARY,
    "predict": "counts and places",
    "embed": "counts and places",
    "export": "places, and the largest difference",
    "reconstruct": "masked loss and PSNR",
    "plot": "the last metrics of each run by its name",
    "report": "what it says of each run, by its name",
    "pack": "counts",
    "inspect": "what `inspect.json` holds",
    "bench": "what it prints, speeds per device",
    "plan": "what it prints, with the command as `command` and its keys as `overrides`",
    "demo": "the metrics that it prints",
    "doctor": "the findings, and `exit_code` 1 where one is a fault",
}
PLACE, SIZE, NUMBER = "str | Path", "int | Sequence[int] | str", "int | str"
TYPES = {
    **dict.fromkeys(("init", "out", "images", "src", "csv", "labels_file", "cache"), PLACE),
    **dict.fromkeys(("data", "runs"), f"{PLACE} | Sequence[{PLACE}]"),
    **dict.fromkeys(("image_size", "sizes"), SIZE),
    **dict.fromkeys(("batch", "micro_batch", "channels", "workers", "devices", "val_every", "save_every"), NUMBER),
    **dict.fromkeys(("layer", "freeze"), NUMBER),
    **dict.fromkeys(("lr", "layer_decay"), "float | str"),
    **dict.fromkeys(("layers", "pool", "metrics", "masks", "channels_shown", "trusted_targets"), "str | Sequence[Any]"),
    **dict.fromkeys(("shots", "ratios"), "Sequence[float]"),
    **{
        "steps": "int",
        "epochs": "float",
        "seconds": "float",
        "hours": "float",
        "drop_path": "float",
        "class_weights": "str | Sequence[float]",
        "bands": "Sequence[str | int]",
        "band_names": "str | Sequence[str]",
        "value_range": "Sequence[float]",
        "nodata": "float",
    },
    **{"map": f"{PLACE} | bool", "labels": PLACE, "online_probe": "bool | str"},
}
OBJECTS = {
    "mask": ("MaskSampler", "a sampler of your own"),
    "augment": ("Transform", "an augmentation of your own"),
    "callbacks": ("Callback | Sequence[Callback]", "Lightning callbacks, in addition"),
    "logger": ("Logger | Sequence[str] | Sequence[Logger]", "Lightning loggers instead"),
    "model": ("ModelConfig | Module", "a config or a model of `mimsuite.models`"),
}
IMPORTS = {
    "MaskSampler": "mimsuite.masked.samplers",
    "Transform": "mimsuite.data.augment.crop",
    "Callback": "lightning",
    "Logger": "lightning.pytorch.loggers",
    "ModelConfig": "mimsuite.encoders.config",
    "Module": "torch.nn",
}


def type_of(key, default):
    """The type of a key, from its name or its default."""
    if key in TYPES:
        return TYPES[key]
    found = json.loads(default) if default and default[0] in "0123456789tf[" and default != "folder" else default
    return {bool: "bool", int: "int", float: "float", list: "Sequence[Any]"}.get(type(found), "str")


def parameters_of(task):
    """`(name, type, required, help)` of every parameter of a task's function, in the order of its YAML."""
    path = ROOT / "conf" / f"{task}.yaml"
    for key, default, text in documented_keys(path.read_text().splitlines(), ""):
        known = not default or default == "null" or f"({default}:" in text
        help_text = text.replace("(null:", "(default:") if known else f"{text} (default: {default})"
        yield key, type_of(key, default), not default, help_text
    yield from groups_of(task, path)


def groups_of(task, path):
    for group, choice in (chosen_groups(path) | {"experiment": None}).items():
        known = sorted(file.stem for file in (path.parent / group).glob("*.yaml"))
        several = len(known) > 1 or group in OBJECT_KEYS.get(task, ())
        if several and (group != "experiment" or "experiment: null" in path.read_text()):
            default = f" (default: {choice})" if choice else ""
            text = f"a choice of `conf/{group}`: {', '.join(known)}{default}"
            kinds = "str"
            if group in OBJECT_KEYS.get(task, ()):
                kind, more = OBJECTS[group]
                kinds, text = f"str | {kind}", f"{text}; or {more}"
            yield group, kinds, False, text


def render(file):
    """The source of one file of `mimsuite/api`."""
    about, tasks = FILES[file]
    functions = [render_function(task) for task in tasks]
    used = {name: home for name, home in IMPORTS.items() if any(name in text for text in functions)}
    lines = [f'"""{about}. Written by `python tests/test_signatures.py` from `conf/`; change the YAML."""', ""]
    lines += ["from __future__ import annotations", ""]
    lines += ["from collections.abc import Sequence", "from pathlib import Path"]
    lines += [f"from typing import {'TYPE_CHECKING, ' * bool(used)}Any", "", "from mimsuite.api.calls import call"]
    if used:
        lines += ["", "if TYPE_CHECKING:"]
        homes = sorted(used.items(), key=lambda pair: (pair[1].startswith("mimsuite"), pair[1]))
        blocks = [
            [f"    from {home} import {name}" for name, home in homes if home.startswith("mimsuite") == own]
            for own in (False, True)
        ]
        lines += "\n\n".join("\n".join(block) for block in blocks if block).splitlines()
    return "\n".join(lines) + "\n\n\n" + "\n\n\n".join(functions) + "\n"


def render_function(task):
    """The source of one function."""
    rows = sorted(parameters_of(task), key=lambda row: not row[2])  # those that must be given come first
    intro = (ROOT / "conf" / f"{task}.yaml").read_text().partition("\n#\n")[0].replace("\n#", "")
    purpose = re.match(r"# (.+?[.?])( |$)", intro)[1]
    lines = [f"def {task}(", "    *,"]
    lines += [f"    {key}: {kind}," if must else f"    {key}: {kind} | None = None," for key, kind, must, _ in rows]
    lines += ["    **overrides: Any,", ") -> dict[str, Any]:"]
    lines += textwrap.wrap(f'"""{purpose}', 120, initial_indent=" " * 4, subsequent_indent=" " * 4)
    lines += ["", "    Args:"]
    for key, _, _, text in rows:
        lines += textwrap.wrap(f"{key}: {text}", 120, initial_indent=" " * 8, subsequent_indent=" " * 12)
    lines += [
        f'        overrides: further keys, as `**{{"group.key": value}}`; `mimsuite {task} --help` lists them.',
        "",
    ]
    lines += ["    Returns:", f"        {RETURNS[task][0].upper()}{RETURNS[task][1:]}.", "", "    Raises:"]
    lines += ["        InputError: a key or value that the task does not take, or bad input.", '    """']
    return "\n".join([*lines, f'    return call("{task}", locals())'])


@pytest.mark.parametrize("file", FILES)
def test_the_functions_have_the_keys_of_their_yaml(file):
    written = (ROOT / "mimsuite" / "api" / f"{file}.py").read_text()
    assert written == render(file), "run `python tests/test_signatures.py`"


@pytest.mark.parametrize("task", [task for _, tasks in FILES.values() for task in tasks])
def test_every_key_has_help_and_a_type(task):
    rows = list(parameters_of(task))
    assert all(kind and text for _, kind, _, text in rows)
    assert list(inspect.signature(getattr(mimsuite, task)).parameters) == [
        *(row[0] for row in sorted(rows, key=lambda row: not row[2])),
        "overrides",
    ]


if __name__ == "__main__":
    for name in FILES:
        (ROOT / "mimsuite" / "api" / f"{name}.py").write_text(render(name))
