"""How well a model predicts its teacher's features over a split, and whether features of different images differ."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from mimsuite.data.progress import report_progress
from mimsuite.errors import InputError
from mimsuite.evaluation.features.exchange import rank_and_size
from mimsuite.masked.latent import take_cells
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.quality import ImageSums, visible_mean
from mimsuite.metrics.latent import LatentMetrics
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.objectives.taught import TaughtModel
from mimsuite.objectives.teacher import load_teacher
from mimsuite.settings.taught import LatentTeacher
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")


@dataclass
class LatentSums:
    """What a process found out about its share of the images.

    Attributes:
        cells: of what was predicted.
        features: the student's, of what is visible in each image.
        teacher: the last layer of the teacher.
        bad: images that cannot be decoded.
    """

    cells: LatentMetrics
    features: ImageSums
    teacher: ImageSums
    bad: int = 0


def load_taught(model: ForMaskedImageModeling, found: LatentTeacher, normalize: Normalize, device: str) -> TaughtModel:
    """A loaded model together with its teacher, on `device`."""
    teacher = load_teacher(
        found.weights, found.config, found.image_size, found.predictor, normalize, frozen=found.frozen
    )
    return TaughtModel(model, teacher.to(device), normalize, found.loss, found.beta)


@torch.inference_mode()
def measure_latent(taught: TaughtModel, loader: Iterable[Batch], *, device: str, images: int) -> LatentSums:
    """Predicts the features of images under masks.

    Args:
        taught: the model and its teacher, on `device`.
        loader: batches with masks.
        device: where it is computed.
        images: how many the loader gives.
    """
    predictor = taught.model.config.mim_predictor
    assert predictor is not None
    channels = int(predictor["features"])
    cells = LatentMetrics(channels, channels // taught.teacher.stacked, taught.loss, taught.beta, exchanges=False)
    seen = LatentSums(cells.to(device), ImageSums(), ImageSums())
    leads = rank_and_size()[0] == 0
    with report_progress("evaluating under masks") if leads else nullcontext(lambda done, total: None) as report:
        for batch in (given.to(device) for given in loader):
            assert batch.mask is not None
            made, target = taught.see(batch, seen.teacher)
            seen.cells.update(made.predicted.features, take_cells(target, made.predicted.where))
            seen.features.add(F.normalize(visible_mean(made.features, batch.mask), dim=1))
            seen.bad += len(batch.bad)
            report(seen.features.count, images)
    seen.cells.to("cpu")
    seen.features.to("cpu")
    seen.teacher.to("cpu")
    return seen


def latent_metrics(shares: Sequence[LatentSums]) -> dict[str, float]:
    """The latent loss and what it is compared with, as `LatentObjective` validates, and signs of a collapse.

    Args:
        shares: of the processes, in their order.

    Returns:
        `loss`, `cosine` and `loss_mean_target` as of `LatentMetrics`; and of several images (`ImageSums.read`)
        `features_cosine` and `features_deviation` of the student, `teacher_cosine` and `teacher_deviation` of the
        teacher's last layer: a cosine near 1 and a deviation near 0 mean that all images look alike.

    Raises:
        InputError: no images.
    """
    if not (shares := [share for share in shares if share.features.count]):
        raise InputError("no images to evaluate: the split is empty; check data= and split=")
    whole = shares[0]
    for other in shares[1:]:
        whole.cells.merge(other.cells)
        whole.features.merge(other.features)
        whole.teacher.merge(other.teacher)
        whole.bad += other.bad
    if whole.bad:
        log.warning("bad       %d undecodable images were replaced by others", whole.bad)
    metrics: dict[str, float] = whole.cells.compute()
    for name, sums in (("features", whole.features), ("teacher", whole.teacher)):
        if sums.count > 1:
            cosine, deviation = sums.read().tolist()
            metrics |= {f"{name}_cosine": cosine, f"{name}_deviation": deviation}
    return metrics
