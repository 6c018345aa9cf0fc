"""The metrics of a trained model at every image size that is asked for, and the files that show what they come from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mimsuite.data.datamodule import eval_loader
from mimsuite.data.display_range import find_display
from mimsuite.data.index import DataIndex
from mimsuite.data.storage import write_rows
from mimsuite.evaluation.features.exchange import gather_values, own_share, rank_and_size
from mimsuite.evaluation.judging.classifier import files_of, judge_images, label_tensor, put_together
from mimsuite.evaluation.judging.latent import latent_metrics, load_taught, measure_latent
from mimsuite.evaluation.judging.load import load_classifier
from mimsuite.evaluation.judging.masked import masked_metrics, measure_masked
from mimsuite.evaluation.judging.report import images_of, write_report
from mimsuite.masked.samplers import MaskSampler, make_samplers
from mimsuite.models.load import config_of, load_masked_model, load_normalizer
from mimsuite.pictures.display import channel_words, display_words, shown_channels
from mimsuite.settings.class_match import MatchedOutputs
from mimsuite.settings.evaluate import EvaluateSettings
from mimsuite.settings.images import Size
from mimsuite.settings.masks import Masking
from mimsuite.types import DisplayRange

log = logging.getLogger("mimsuite")

Row = dict[str, float]


def make_sampler(masking: Masking | None) -> MaskSampler | None:
    """What draws the masks; None for a classifier.

    Raises:
        InputError: a mask that may not be named, or values that it does not take.
    """
    if masking is None:
        return None
    return make_samplers(OmegaConf.create(masking.node), masking.trusted, masking.drops)[0]


def evaluate_sizes(
    settings: EvaluateSettings, sampler: MaskSampler | None, folder: Path, device: str
) -> tuple[list[Row], dict[str, Any]]:
    """The metrics at every size, and what the summary says beside them.

    Of several processes all call it, and each reads a part of the images; the first one gets the metrics and writes,
    the others get nothing.

    Args:
        settings: of the task.
        sampler: draws the masks, see `make_sampler`.
        folder: where files go.
        device: where this process computes.
    """
    if settings.outputs is not None:
        rows, more = classifier_rows(settings, settings.outputs, folder, device)
    else:
        assert settings.masking is not None
        assert sampler is not None
        rows, more = masked_rows(settings, settings.masking, sampler, device)
    if len(rows) > 1:
        write_sizes(folder / "sizes.csv", settings.sizes, rows)
        more["sizes"] = [{"image_size": list(size), **row} for size, row in zip(settings.sizes, rows, strict=True)]
    return rows, more


def classifier_rows(
    settings: EvaluateSettings, outputs: MatchedOutputs, folder: Path, device: str
) -> tuple[list[Row], dict[str, Any]]:
    """The metrics of a classifier, and what the summary says beside them; files for the first size."""
    index, records = settings.index, settings.index.records(settings.part)
    display = find_display(index)
    if outputs.note:
        log.info("classes   %s", outputs.note)
    labels = label_tensor(settings.labels, outputs.kind, outputs.outputs)
    rows: list[Row] = []
    more: dict[str, Any] = {"kind": outputs.kind, "flip": settings.flip}
    for size in settings.sizes:
        own = judge_images(
            load_classifier(settings.trained, index, outputs, size, device, flip=settings.flip),
            *(index, records, labels),
            image_size=size,
            batch=settings.batch,
            workers=settings.workers,
            only=own_share(len(records), settings.batch),
        )
        if not (shares := gather_values(own)):
            continue
        found = put_together(shares, labels)
        rows.append(found.scores.metrics | {"loss": found.scores.loss})
        if size == settings.sizes[0]:
            more["images"] = len(found.keys)
            more["mistakes"] = write_report(
                *(folder, found, files_of(index, records, found.numbers), outputs.kind, outputs.names),
                pictures=settings.mistakes,
                split=settings.split,
                images=lambda numbers: images_of(index, records, numbers, settings.sizes[0], display),
                footer=colour_words(index, display),
            )
    return rows, more


def colour_words(index: DataIndex, display: DisplayRange | None) -> str:
    """Which channels a picture of mistakes shows, and which of their values; empty where that is plain."""
    values = display_words(display, shown_channels(index.channels, None), value_range=index.value_range)
    return "; ".join(filter(None, (channel_words(index.channels, None, index.bands or ()), values)))


def masked_rows(
    settings: EvaluateSettings, masking: Masking, sampler: MaskSampler, device: str
) -> tuple[list[Row], dict[str, Any]]:
    """The metrics of a masked image model, and what the summary says beside them."""
    weights, records = settings.trained.weights, settings.index.records(settings.part)
    normalize = load_normalizer(weights, settings.index).to(device)
    share, rows = own_share(len(records), settings.batch), list[Row]()
    for number, (size, unit) in enumerate(zip(settings.sizes, masking.units, strict=True)):
        model = load_masked_model(weights, config_of(weights), size).to(device)
        loader = eval_loader(
            *(settings.index, records),
            image_size=size,
            batch=settings.batch,
            workers=settings.workers,
            labels=False,
            mask=sampler,
            mask_unit=unit,
            processes=rank_and_size()[1],
            only=share,
        )
        batches = loader if share else ()
        if settings.teachers:
            taught = load_taught(model, settings.teachers[number], normalize, device)
            if sums := gather_values(measure_latent(taught, batches, device=device, images=len(share))):
                rows.append(latent_metrics(sums))
            continue
        own = measure_masked(model, batches, normalize, loss=masking.loss, device=device, images=len(share))
        if shares := gather_values(own):
            rows.append(masked_metrics(shares, model.target.mode))
    return rows, {"kind": "latent" if settings.teachers else "masked", "images": settings.images, "mask": masking.node}


def write_sizes(path: Path, sizes: Sequence[Size], rows: Sequence[Row]) -> None:
    """Writes a line per image size."""
    names = list(rows[0])
    lines = ([*size, *(row[name] for name in names)] for size, row in zip(sizes, rows, strict=True))
    write_rows(path, ["height", "width", *names], lines)
