"""How well a masked image model predicts a split: the metrics of a run's validation, over all images."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from mimsuite.data.progress import report_progress
from mimsuite.errors import InputError
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.psnr import HiddenPSNR, flat_loss
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")


@torch.inference_mode()
def masked_metrics(
    model: ForMaskedImageModeling,
    loader: Iterable[Batch],
    normalize: Normalize,
    *,
    loss: str,
    device: str,
    images: int,
) -> dict[str, float]:
    """The masked loss, the PSNR of hidden pixels where there are such, and the loss of a flat colour.

    Computed as `MIMObjective` validates: a batch's loss counts by its images, and an image that cannot be decoded is
    replaced by another. With masks that hide the same in every image the size of the batches changes nothing.

    Args:
        model: in evaluation mode, on `device`.
        loader: batches with masks.
        normalize: images as loaded to normalised floats, on `device`.
        loss: name of the error, one of `mimsuite.masked.losses.ERRORS`.
        device: where it is computed.
        images: how many the loader gives.

    Returns:
        `loss`; `psnr`, in dB, where the prediction is a picture; and `loss_mean_colour`, what a flat colour would
        reach (see `flat_loss`): a model has to be below it.

    Raises:
        InputError: an empty loader, or images that cannot be decoded.
    """
    psnr = HiddenPSNR().to(device)
    total, colour = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    done, bad = 0, 0
    with report_progress("evaluating under masks") as report:
        for batch in loader:
            assert batch.mask is not None
            pixels, mask = normalize(batch.images.to(device, non_blocking=True)), batch.mask.to(device)
            value, prediction = model.predict(pixels, mask, loss)
            total += weigh_by_images(value, pixels)
            picture = model.target.picture(prediction, pixels, mask, model.head_stride)
            if picture is not None:
                psnr.update(normalize.undo(picture), normalize.undo(pixels), mask, normalize.peak)
            colour += weigh_by_images(flat_loss(model.target, pixels, mask, model.head_stride, loss), pixels)
            done, bad = done + len(pixels), bad + len(batch.bad)
            report(done, images)
    if not done:
        raise InputError("no images to evaluate: the split is empty; check data= and split=")
    if bad:
        log.warning("bad       %d undecodable images were replaced by others", bad)
    metrics = {"loss": float(total / done)}
    if model.target.mode != "orientations":
        metrics["psnr"] = float(psnr.compute())
    return metrics | {"loss_mean_colour": float(colour / done)}


def weigh_by_images(value: Tensor, pixels: Tensor) -> Tensor:
    """A batch's mean, times its images, float64 on the CPU."""
    return value.cpu().double() * len(pixels)
