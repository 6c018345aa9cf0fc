"""How well a masked image model predicts a split: the metrics of a run's validation, over all images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mimsuite.data.progress import report_progress
from mimsuite.errors import InputError
from mimsuite.evaluation.features.exchange import rank_and_size
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.psnr import HiddenPSNR, flat_loss
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")


@dataclass
class MaskedSums:
    """What a process found out about its share of the images, batch by batch.

    Attributes:
        losses, flat: of each batch, times its images, float64.
        psnr: summed up.
        images: how many.
        bad: that cannot be decoded.
    """

    losses: list[Tensor]
    flat: list[Tensor]
    psnr: HiddenPSNR
    images: int = 0
    bad: int = 0


@torch.inference_mode()
def measure_masked(
    model: ForMaskedImageModeling, loader: Iterable[Batch], normalize: Normalize, *, loss: str, device: str, images: int
) -> MaskedSums:
    """Predicts images under masks.

    Args:
        model: in evaluation mode, on `device`.
        loader: batches with masks.
        normalize: images as loaded to normalised floats, on `device`.
        loss: name of the error, one of `mimsuite.masked.losses.ERRORS`.
        device: where it is computed.
        images: how many the loader gives.
    """
    seen = MaskedSums([], [], HiddenPSNR(exchanges=False).to(device))  # `masked_metrics` adds up those of all processes
    leads = rank_and_size()[0] == 0
    with report_progress("evaluating under masks") if leads else nullcontext(lambda done, total: None) as report:
        for batch in loader:
            assert batch.mask is not None
            pixels, mask = normalize(batch.images.to(device, non_blocking=True)), batch.mask.to(device)
            value, prediction = model.predict(pixels, mask, loss)
            seen.losses.append(weigh_by_images(value, pixels))
            picture = model.target.picture(prediction, pixels, mask, model.head_stride)
            if picture is not None:
                seen.psnr.update(normalize.undo(picture), normalize.undo(pixels), mask, normalize.peak)
            seen.flat.append(weigh_by_images(flat_loss(model.target, pixels, mask, model.head_stride, loss), pixels))
            seen.images, seen.bad = seen.images + len(pixels), seen.bad + len(batch.bad)
            report(seen.images, images)
    seen.psnr.to("cpu")
    return seen


def masked_metrics(shares: Sequence[MaskedSums], mode: str) -> dict[str, float]:
    """The masked loss, the PSNR of hidden pixels where there are such, and the loss of a flat colour.

    Computed as `MIMObjective` validates: a batch's loss counts by its images, and an image that cannot be decoded is
    replaced by another. With masks that hide the same in every image the size of the batches changes nothing.

    Args:
        shares: of the processes, in their order.
        mode: of the model's target.

    Returns:
        `loss`; `psnr`, in dB, where the prediction is a picture; and `loss_mean_colour`, what a flat colour would
        reach (see `flat_loss`): a model has to be below it.

    Raises:
        InputError: no images.
    """
    done, bad = sum(seen.images for seen in shares), sum(seen.bad for seen in shares)
    if not done:
        raise InputError("no images to evaluate: the split is empty; check data= and split=")
    if bad:
        log.warning("bad       %d undecodable images were replaced by others", bad)
    total, flat = (
        sum((value for seen in shares for value in getattr(seen, name)), torch.zeros((), dtype=torch.float64))
        for name in ("losses", "flat")
    )
    metrics = {"loss": float(total / done)}
    if mode != "orientations":
        psnr = shares[0].psnr
        for seen in shares[1:]:
            psnr.total, psnr.images = psnr.total + seen.psnr.total, psnr.images + seen.psnr.images
        metrics["psnr"] = float(psnr.compute())
    return metrics | {"loss_mean_colour": float(flat / done)}


def weigh_by_images(value: Tensor, pixels: Tensor) -> Tensor:
    """A batch's mean, times its images, float64 on the CPU."""
    return value.cpu().double() * len(pixels)
