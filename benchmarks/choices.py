"""What the ledger says about choices of model, objective and mask: the tables of docs/choosing.md.

python benchmarks/choices.py     # writes them; `ledger.py render` and `proof.py render` do it, too

Every number is one of a file in benchmarks/results, which stands beside it as a link. Where no run was made, the tables
say so.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger

from mimsuite.errors import InputError

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "choosing.md"
EXPERIMENTS = HERE.parent / "conf" / "experiment"
NAME = re.compile(r"<!-- choices: (\w+) -->\n(.*?)<!-- choices: end -->", re.DOTALL)
NOTHING = "nothing measured"
OBJECTIVES = ("SimMIM", "MAE", "MaskFeat", "sparse SimMIM", "latent")
FAMILIES = ("vit", "cvt", "bit", "external")
MASKS = ("random", "block", "grid", "inverse_block", "multi_block")
IMPOSSIBLE = {
    ("MAE", "cvt"),
    ("MAE", "bit"),
    ("MAE", "external"),
    ("sparse SimMIM", "vit"),
    ("sparse SimMIM", "external"),
}
KINDS = {
    "photographs (CIFAR-10, Imagenette)": ("cifar10-jpeg", "imagenette-224"),
    "drawings (the embedded emoji)": ("emoji-64",),
    "16-bit microscopy": (),
    "satellite bands": (),
    "medical slices": (),
}


def file_link(entry: ledger.Entry, text: str) -> str:
    """A link from the page to the file of a run."""
    return f"[{text}](../benchmarks/results/{entry['name']}.json)"


def seeds(group: Sequence[ledger.Entry]) -> str:
    """The seeds of a group, each a link to its file."""
    return ", ".join(file_link(entry, str(entry["seed"])) for entry in group)


def top1(group: Sequence[ledger.Entry], name: str) -> str:
    """An accuracy of a group; empty where a run has none."""
    values = [entry["figures"].get(name) for entry in group]
    return "" if None in values else ledger.spread(name, values)


def pretrained(entry: ledger.Entry, known: dict[str, ledger.Entry]) -> str:
    """What the pretraining was that a run started from."""
    if entry["start"] == "random":
        return "from scratch"
    before = known.get(entry["before"]["entry"] or "")
    if before is None:
        return str(entry["start"])
    changes = [part for part in before["recipe"] if part.startswith("mask.") or "uniformity" in part]
    teacher = ", its teacher" if "teacher" in entry["start"] else ""
    return f"{before['objective']}{teacher}, {before['images']:,} images" + (
        f", `{' '.join(changes)}`" if changes else ""
    )


def mask_of(entry: ledger.Entry) -> str:
    """The mask of a pretraining run."""
    given = next((part[5:] for part in entry["recipe"] if part.startswith("mask=")), None)
    file = EXPERIMENTS / f"{entry['experiment']}.yaml"
    chosen = re.search(r"override /mask: (\w+)", file.read_text()) if file.is_file() else None
    return given or (chosen[1] if chosen else "random")


def labels_table(entries: Sequence[ledger.Entry]) -> Iterator[dict[str, str]]:
    """Fine-tuning after pretraining, and training from scratch, where both were done."""
    known = {entry["name"]: entry for entry in entries}
    runs = [entry for entry in entries if entry["task"] == "finetune"]
    for data, share, model in sorted({(e["data"], ledger.labels(e), e["model"]["text"]) for e in runs}):
        alike = [e for e in runs if (e["data"], ledger.labels(e), e["model"]["text"]) == (data, share, model)]
        if len({entry["start"] == "random" for entry in alike}) < 2:
            continue
        for group in sorted(ledger.grouped(alike), key=lambda g: (g[0]["start"] == "random", g[0]["steps"])):
            row = ledger.row(group, [])
            yield {
                "data, labels": f"{data}, {share}",
                "model": row["model"],
                "start": pretrained(group[0], known),
                "fine-tuning": " ".join(f"`{part}`" for part in group[0]["recipe"] if not part.startswith("model.")),
                "steps": row["steps"],
                "PFLOPs, own + before": row["PFLOPs, own + before"],
                "test top-1": top1(group, "test/top1"),
                "seeds": seeds(group),
            }


def probes_table(entries: Sequence[ledger.Entry]) -> Iterator[dict[str, str]]:
    """Probes of frozen encoders beside random initialisation and raw pixels."""
    known = {entry["name"]: entry for entry in entries}
    probes = [entry for entry in entries if entry["task"] == "probe" and "probe/top1" in entry["figures"]]
    for group in ledger.grouped(probes):
        one = group[0]
        if any(part.startswith("shots") for part in one["recipe"]):
            continue
        alike = [p for p in probes if (p["data"], p["model"]["text"]) == (one["data"], one["model"]["text"])]
        beside = next((p for p in alike if "random/probe/top1" in p["figures"]), None)
        fresh, raw = (
            (file_link(beside, top1([beside], f"{name}/probe/top1")) if beside else NOTHING)
            for name in ("random", "8x8")
        )
        yield {
            "data": one["data"],
            "model": ledger.row(group, [])["model"],
            "pretraining": pretrained(one, known) + (f"; probe `{' '.join(one['recipe'])}`" if one["recipe"] else ""),
            "linear probe, top-1": top1(group, "probe/top1"),
            "random initialisation": fresh,
            "raw pixels, 8x8": raw,
            "seeds": seeds(group),
        }


def cost_table(entries: Sequence[ledger.Entry]) -> Iterator[dict[str, str]]:
    """What pretraining took."""
    for group in ledger.grouped([entry for entry in entries if entry["task"] == "pretrain"]):
        row = ledger.row(group, [])
        yield {
            "data": row["data"],
            "model": row["model"],
            "objective": group[0]["objective"],
            "images": row["images"],
            "time": ledger.duration(statistics.mean(entry["seconds"] for entry in group)),
            "images/s": f"{statistics.mean(entry['images'] / entry['seconds'] for entry in group):.0f}",
            "machine": row["machine"],
            "seeds": seeds(group),
        }


def counted(runs: Sequence[ledger.Entry]) -> str:
    """How many pretraining runs there are."""
    return NOTHING if not runs else f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def coverage_table(entries: Sequence[ledger.Entry]) -> Iterator[dict[str, str]]:
    """For which objective and family there are pretraining runs."""
    runs = [entry for entry in entries if entry["task"] == "pretrain"]
    named = [*OBJECTIVES, *sorted({run["objective"] for run in runs} - set(OBJECTIVES))]
    for objective in named:
        of_it = [run for run in runs if run["objective"] == objective]
        cells = {name: counted([run for run in of_it if run["model"]["family"] == name]) for name in FAMILIES}
        yield {"objective": objective} | {
            name: "does not exist" if (objective, name) in IMPOSSIBLE else cell for name, cell in cells.items()
        }


def masks_table(entries: Sequence[ledger.Entry]) -> Iterator[dict[str, str]]:
    """For which masks, and for which kinds of data, there are pretraining runs."""
    runs = [entry for entry in entries if entry["task"] == "pretrain"]
    if unknown := {run["data"] for run in runs} - {name for names in KINDS.values() for name in names}:
        raise InputError(
            f"data {', '.join(sorted(unknown))} is in the ledger; add it to KINDS of benchmarks/choices.py"
        )
    for name in MASKS:
        yield {"choice": f"`mask={name}`", "pretraining runs": counted([run for run in runs if mask_of(run) == name])}
    for kind, names in KINDS.items():
        yield {"choice": kind, "pretraining runs": counted([run for run in runs if run["data"] in names])}


TABLES: dict[str, Any] = {
    "labels": labels_table,
    "probes": probes_table,
    "cost": cost_table,
    "coverage": coverage_table,
    "masks": masks_table,
}


def rendered(page: str, entries: Sequence[ledger.Entry]) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        lines = "\n".join(ledger.table(list(TABLES[match[1]](entries))))
        return f"<!-- choices: {match[1]} -->\n\n{lines}\n\n<!-- choices: end -->"

    return NAME.sub(table, page)


def render() -> None:
    """Writes the tables of the page."""
    PAGE.write_text(rendered(PAGE.read_text(), ledger.entries(HERE)))


if __name__ == "__main__":
    render()
