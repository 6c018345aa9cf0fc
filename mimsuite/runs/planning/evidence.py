"""What was measured before: the rows of the project's ledger that the package has, and published results. No torch."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

NEAR = 2.0  # factor between the sides of two kinds of pictures up to which they count as alike
SCORES = ("top1", "map", "r2")

Row = Mapping[str, Any]


@functools.cache
def ledger() -> Mapping[str, Any]:
    """The packaged rows: `data` by name, `rows`, `published`; `python benchmarks/ledger.py render` writes them."""
    text = resources.files("mimsuite.runs.planning").joinpath("ledger.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def row_of(name: str) -> Row:
    """The row of a ledger file."""
    found: Row = next(row for row in ledger()["rows"] if row["name"] == name)
    return found


def percent(name: str, score: str) -> str:
    """A figure of a row, in per cent."""
    return f"{100 * row_of(name)['figures'][score]:.1f} %"


def both(name: str, score: str) -> str:
    """The same of seeds 0 and 1."""
    return " and ".join(percent(f"{name}_seed{seed}", score) for seed in (0, 1))


@dataclass(frozen=True)
class Known:
    """What the ledger has for data of one kind.

    Attributes:
        data: its name.
        same: whether it is the very data that was asked about.
        what: is on its pictures.
        images: for training.
        score: the name of the figures, such as "probe/top1".
        low, high: the range of the probes of pretrained encoders.
        random: of the same networks with random weights, where that was measured.
        pixels: of the raw pixels, where that was measured.
        probes: how many there are.
        epochs: of pretraining, the fewest and the most.
        names: the rows.
    """

    data: str
    same: bool
    what: str
    images: int
    score: str
    low: float
    high: float
    random: tuple[float, float] | None
    pixels: float | None
    probes: int
    epochs: tuple[float, float]
    names: tuple[str, ...]


def known_of(name: str, images: int, size: tuple[int, int], channels: int, dtype: str) -> list[Known]:
    """What the ledger has for pictures of as many channels and bits whose sides differ by at most a factor of two.

    Args:
        name: of the data.
        images: for training.
        size: median `(H, W)` in pixels.
        channels: of the images.
        dtype: "uint8" or "uint16".

    Returns:
        The nearest size first; the very data alone, where they were measured; nothing where nothing was.
    """
    near = list[tuple[float, Known]]()
    for other, facts in ledger()["data"].items():
        factor = min(size) / min(facts["size"])
        if facts["channels"] != channels or facts["dtype"] != dtype or not 1 / NEAR <= factor <= NEAR:
            continue
        rows = [row for row in ledger()["rows"] if row["data"] == other and row["task"] == "probe" and row["objective"]]
        same = other == name and abs(images / facts["images"] - 1) < 0.05
        if rows:
            near.append((max(factor, 1 / factor), _summed(other, same, facts, rows)))
    ordered = [known for _, known in sorted(near, key=lambda pair: pair[0])]
    return [known for known in ordered if known.same] or ordered


def _summed(name: str, same: bool, facts: Mapping[str, Any], rows: Sequence[Row]) -> Known:
    score = next(f"probe/{s}" for s in SCORES if any(f"probe/{s}" in row["figures"] for row in rows))
    rows = [row for row in rows if score in row["figures"]]
    values = [row["figures"][score] for row in rows]
    random = [row["figures"][f"random/{score}"] for row in rows if f"random/{score}" in row["figures"]]
    pixels = [row["figures"][f"8x8/{score}"] for row in rows if f"8x8/{score}" in row["figures"]]
    epochs = [row["epochs"] for row in rows if row["epochs"]] or [0.0]
    return Known(
        *(name, same, facts["what"], facts["images"], score, min(values), max(values)),
        random=(min(random), max(random)) if random else None,
        pixels=statistics.mean(pixels) if pixels else None,
        probes=len(rows),
        epochs=(min(epochs), max(epochs)),
        names=tuple(row["name"] for row in rows),
    )
