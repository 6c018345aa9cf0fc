"""The metrics of what a model predicts of images under masks: of every image as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import write_rows
from mimsuite.settings.hiding import MaskChoice

if TYPE_CHECKING:
    from mimsuite.pictures.scene import Drawing

COLUMNS = ("image", "ratio", "mask")


def write_metrics(path: Path, names: Sequence[str], choices: Sequence[MaskChoice], results: Sequence[Drawing]) -> None:
    """Writes a CSV with a line per image and mask: ratio and name of the mask, and the metrics of the image.

    These are masked loss and PSNR in dB (or nothing), of features their cosine. The ratio is the one that was asked
    for; without one (a range, no mask) the share of the image that is hidden.
    """
    pairs = zip(choices, results, strict=True)
    columns = (*COLUMNS, *results[0].of_images())
    write_rows(path, columns, (row for choice, result in pairs for row in rows_of(names, choice, result)))


def rows_of(names: Sequence[str], choice: MaskChoice, result: Drawing) -> Iterator[tuple[Any, ...]]:
    """A row of the table per image."""
    values = list(result.of_images().values())
    for i, name in enumerate(names):
        share = float(result.mask[i].mean()) if choice.ratio is None else choice.ratio
        yield name, share, choice.mask_name, *("" if math.isnan(column[i]) else float(column[i]) for column in values)
