"""The metrics of reconstructions: of all images for people and programs, of every image as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import write_rows
from mimsuite.settings.hiding import MaskChoice

if TYPE_CHECKING:
    from mimsuite.pictures.reconstruction import Reconstruction

COLUMNS = ("image", "ratio", "mask", "masked_loss", "psnr")


def metrics_of(result: Reconstruction) -> dict[str, float]:
    """Masked loss over all images and, of pixels, mean PSNR in dB."""
    found = {"masked_loss": result.loss}
    return found if result.psnr is None else found | {"psnr": float(result.psnr.mean())}


def write_metrics(
    path: Path, names: Sequence[str], choices: Sequence[MaskChoice], results: Sequence[Reconstruction]
) -> None:
    """Writes a CSV with a line per image and mask: ratio and name of the mask, masked loss, PSNR in dB or nothing.

    The ratio is the one that was asked for; without one (a range, no mask) the share of the image that is hidden.
    """
    pairs = zip(choices, results, strict=True)
    write_rows(path, COLUMNS, (row for choice, result in pairs for row in rows_of(names, choice, result)))


def rows_of(names: Sequence[str], choice: MaskChoice, result: Reconstruction) -> Iterator[tuple[Any, ...]]:
    """A row of `COLUMNS` per image."""
    psnr = [math.nan] * len(names) if result.psnr is None else result.psnr.tolist()
    for i, (name, loss) in enumerate(zip(names, result.losses.tolist(), strict=True)):
        share = float(result.mask[i].mean()) if choice.ratio is None else choice.ratio
        yield name, share, choice.mask_name, loss, "" if math.isnan(psnr[i]) else psnr[i]
