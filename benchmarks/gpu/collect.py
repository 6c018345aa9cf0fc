"""Brings what came back from a GPU machine into the repository: entries of the ledger, and a page to read.

python benchmarks/gpu/collect.py FOLDER

FOLDER holds the PART.json files of `run.sh`. Entries go to benchmarks/results, the machine gets a letter in
machines.json, and the tables of RESULTS.md are made again. What `check` and `speed` found is printed as Markdown. Dry
runs are refused.
"""

from __future__ import annotations

import argparse
import json
import string
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ledger

from mimsuite.errors import InputError

ROOT = Path(ledger.__file__).resolve().parent


def described(machine: dict[str, Any]) -> str:
    """A machine in one line, for `machines.json`."""
    libraries = machine["libraries"]
    return (
        f"one {machine['device']} ({machine['memory_gib']} GiB), {machine['cpus']} cores; Python {machine['python']}, "
        f"torch {libraries['torch']}, CUDA {machine['cuda']}"
    )


def letter_of(text: str, root: Path) -> str:
    """The letter of a machine; a new one gets the next that is free."""
    file = root / "machines.json"
    known = ledger.read(file)
    for letter, other in known.items():
        if other == text:
            return str(letter)
    letter = next(letter for letter in string.ascii_uppercase if letter not in known)
    file.write_text(json.dumps(known | {letter: text}, indent=2) + "\n")
    return letter


def entries_of(part: dict[str, Any], root: Path) -> list[str]:
    """Writes the ledger entries of a part; returns their names."""
    names = []
    for found in part["found"].values():
        if entry := found.get("ledger"):
            entry |= {"machine": letter_of(described(part["machine"]), root)}
            (root / "results" / f"{entry['name']}.json").write_text(json.dumps(entry, indent=2) + "\n")
            names.append(entry["name"])
    return names


def page(part: dict[str, Any]) -> str:
    """What `check` or `speed` found, as Markdown."""
    lines = [f"### {part['part']}: {part['status']}", "", described(part["machine"]), ""]
    if part["part"] == "check":
        rows = [
            (name, found["status"], found.get("reason") or found.get("facts")) for name, found in part["found"].items()
        ]
        return "\n".join([*lines, "| check | outcome | found |", "|---|---|---|", *map(row, rows), ""])
    for name, found in part["found"].items():
        if "failed" in found:
            lines.append(f"* {name}: failed: {found['failed']}")
            continue
        lines += [
            f"* {name}: {key}: {shown(found[key])}" for key in found if key not in ("losses", "variants", "profile")
        ]
        lines += [f"* {name}: {variant}: {shown(facts)}" for variant, facts in found.get("variants", {}).items()]
        lines += [f"* {name}: profile: {', '.join(found['profile'])}"] if "profile" in found else []
    return "\n".join([*lines, ""])


def row(cells: tuple[Any, ...]) -> str:
    """One line of a table."""
    return f"| {' | '.join(shown(cell).replace('|', '/') for cell in cells)} |"


def shown(value: Any) -> str:
    """A value in few characters; a spread as median (smallest to largest)."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and value.keys() == {"median", "least", "most"}:
        return f"{value['median']:.4g} ({value['least']:.4g} to {value['most']:.4g})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items() if key != "losses")
    return str(value)


def collect(folder: Path, root: Path) -> str:
    """Writes entries and tables; returns the page.

    Raises:
        InputError: there is nothing, or a dry run among it.
    """
    parts = [ledger.read(file) for file in sorted(folder.glob("*.json"))]
    if not parts:
        raise InputError(f"{folder} holds no PART.json; give the folder that run.sh wrote to")
    for part in parts:
        if part["dry"]:
            raise InputError(f"{part['part']}.json is of a dry run, whose numbers mean nothing; remove it")
    names = [name for part in parts for name in entries_of(part, root)]
    if names:
        ledger.render(root)
    lines = [f"{len(names)} entries of the ledger: {', '.join(names) or 'none'}", ""]
    return "\n".join([*lines, *(page(part) for part in parts if part["part"] in ("check", "speed"))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT)
    given = parser.parse_args()
    try:
        print(collect(given.folder, given.root))
    except InputError as error:
        sys.exit(str(error))
