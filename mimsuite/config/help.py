"""`mimsuite TASK --help`, read from the comments of the task's YAML so that each fact has one place.

The comment block at the top of `conf/TASK.yaml` is the purpose and the examples. A trailing comment that starts with
`#:` documents a key; keys of the chosen groups are shown under their dotted name.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.kinds import KIND

KEY = re.compile(r"^(?P<key>\w+):\s*(?P<value>.*?)\s*#:\s*(?P<text>.*)$")


def help_text(task: str, conf: Path, more: Sequence[Path] = ()) -> str:
    """The help of a task: purpose, examples, documented keys with their defaults, config groups.

    Args:
        task: its name.
        conf: our YAML files.
        more: config folders of the user's, whose choices are listed, too.
    """
    path = conf / f"{task}.yaml"
    lines = path.read_text().splitlines()
    intro = []
    for line in lines:
        if not line.startswith("#"):
            break
        intro.append(line.removeprefix("#").removeprefix(" "))
    groups = chosen_groups(path)
    rows = documented_keys(lines, "")
    for group, choice in groups.items():
        file = conf / group / f"{choice}.yaml"
        if file.is_file():
            rows += documented_keys(file.read_text().splitlines(), f"{group}.")
    width = max((len(f"{key}={value}") for key, value, _ in rows), default=0)
    parts = [f"usage: mimsuite {task} key=value ...", "", *intro, "", "keys, with their defaults:"]
    parts += [f"  {f'{key}={value}':{width}}  {text}" for key, value, text in rows]
    if groups:
        parts += ["", "config groups (group=choice; group.key=value changes one value):"]
        for group in groups:
            choices = sorted({file.stem for folder in (conf, *more) for file in (folder / group).glob("*.yaml")})
            parts.append(f"  {group:12} {', '.join(choices) or '-'}")
    parts += [
        "",
        "`--cfg job --resolve` prints the composed configuration; `-m key=a,b` runs a sweep into out/0, out/1.",
    ]
    return "\n".join(parts)


def documented_keys(lines: list[str], prefix: str) -> list[tuple[str, str, str]]:
    """`(key, default, text)` of each line that carries a `#:` comment; the text without what `kinds` reads."""
    rows = []
    for line in lines:
        if match := KEY.match(line):
            value = "" if match["value"] == "???" else match["value"]
            rows.append((prefix + match["key"], value, KIND.sub("", match["text"])))
    return rows


def chosen_groups(path: Path) -> dict[str, str]:
    """The config groups of a task and the choice that it makes by default."""
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    defaults = loaded.get("defaults") or []
    return {str(k): str(v) for entry in defaults if not isinstance(entry, str) for k, v in entry.items()}
