"""`mimsuite embed`: features of every image of a data set in a file, and a map of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.models.load import config_of, load_encoder
from mimsuite.runs.console import report_reader
from mimsuite.runs.heartbeat import AGAIN
from mimsuite.runs.life import prepare_process
from mimsuite.runs.machine import own_device
from mimsuite.runs.meeting import CACHE, check_shared, joined
from mimsuite.runs.processes import read_in_processes
from mimsuite.settings.embed import EmbedSettings, read_embed
from mimsuite.settings.outputs import check_writable, writing
from mimsuite.settings.read import format_size
from mimsuite.settings.team import Team
from mimsuite.types import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mimsuite.evaluation.features.stored import StoredFeatures
    from mimsuite.evaluation.features.views import Features

log = logging.getLogger("mimsuite")

FLOAT_BYTES = 4


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the features of a split; returns counts and places.

    Processes that are started for `devices=` only fill the store of features; the command then reads them there.
    """
    leads = prepare_process()
    settings = read_embed(cfg, overrides)
    part, count = settings.part, settings.index.num_samples(settings.part)
    log.info(
        "data      %s: %s (%s) at %s px",
        *(settings.index.root, part.split, count_of(count, "image"), format_size(settings.image_size)),
    )
    team, code = read_in_processes("embed", overrides, settings.devices)
    if code:
        return {"exit_code": code}
    stored = read_features(settings, team if code is None else Team(0, 1, 1))
    if not leads or team.launcher == "devices=":
        return {"exit_code": 0}
    features = stored.features(settings.view)
    labels = find_labels(settings, features, stored)
    with writing("out", settings.out):
        write_files(settings, features, labels, stored)
    images, width = features.x.shape
    log.info("%s of %s: features (%d, %d) in %s", settings.view, settings.weights.init, images, width, settings.out)
    if settings.picture is not None:
        log.info("map in %s", settings.picture)
    report_reader(settings.out)
    return {
        "out": str(settings.out),
        "map": None if settings.picture is None else str(settings.picture),
        "samples": images,
        "width": width,
        "layer": settings.view.layer,
        "pool": settings.view.pool,
        "split": part.split,
        "labels": labels is not None,
    }


def read_features(settings: EmbedSettings, team: Team) -> StoredFeatures:
    """The features, computed by the processes of `team`, or read where an earlier task stored them."""
    from mimsuite.evaluation.features.passes import encoder_pass, features_folder

    weights, size, images = settings.weights, settings.image_size, settings.index.num_samples(settings.part)
    encoder = load_encoder(weights, config_of(weights), size)
    width = int(cast(Encoder, encoder).num_features)
    check_writable("out", settings.out, images * width * FLOAT_BYTES)  # not after an hour of features
    reader = encoder_pass(
        *(weights, settings.index, encoder, size),
        device=own_device(),
        batch=settings.batch,
        workers=settings.workers,
    )
    with joined(team, "gloo", task="embed", fix=AGAIN) as store:
        check_shared(features_folder(), team, store, CACHE)
        return reader.read(settings.index, settings.part, [settings.view])


def find_labels(settings: EmbedSettings, features: Features, stored: StoredFeatures) -> NDArray[Any] | None:
    """The labels of the images; masked where some have none."""
    if features.labels is not None:
        found: NDArray[Any] = features.labels.numpy()
        return found
    from mimsuite.evaluation.features.tables import known_labels

    labels = known_labels(settings.index, settings.part, stored.numbers)
    if labels is not None:
        known = len(labels) - int(labels.mask.reshape(len(labels), -1).all(1).sum())
        log.info(
            "labels    %s of %s images have one; the cells of the others are empty", f"{known:,}", f"{len(labels):,}"
        )
    return labels


def write_files(
    settings: EmbedSettings, features: Features, labels: NDArray[Any] | None, stored: StoredFeatures
) -> None:
    """Writes the table and the map; points have colours where images have one class or number."""
    from mimsuite.evaluation.features.tables import name_columns, write_table
    from mimsuite.pictures.maps import draw_map, principal_plane

    x = features.x.numpy()
    columns: dict[str, Any] = {"keys": stored.keys, **name_columns(settings.index, settings.part, stored.numbers)}
    columns |= {} if labels is None else {"labels": labels}
    write_table(settings.out, columns | {"features": x})
    if settings.picture is not None:
        single = labels is not None and (labels.ndim == 1 or labels.shape[1] == 1)
        colours = labels.reshape(-1) if labels is not None and single else None
        draw_map(principal_plane(x), colours, settings.index.classes, settings.title, settings.picture)


if __name__ == "__main__":
    app.main("embed", run)
