"""`mimsuite predict`: classes of images without labels, as a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.runs.console import log_to_console, report_reader
from mimsuite.settings.outputs import writing
from mimsuite.settings.predict import read_predict
from mimsuite.settings.read import format_size

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes what a classifier predicts for every image; returns counts and places."""
    log_to_console()
    settings = read_predict(cfg, overrides)
    count = settings.index.num_samples(settings.part)
    log.info(
        "data      %s: %s (%s) at %s px",
        *(settings.index.root, settings.part.split, count_of(count, "image"), format_size(settings.size)),
    )
    outputs = settings.outputs
    log.info("model     %s: %s, %d outputs", settings.trained.init, outputs.kind, outputs.outputs)

    from mimsuite.evaluation.features.tables import write_table
    from mimsuite.evaluation.judging.load import check_probe
    from mimsuite.evaluation.judging.predictions import predict_table

    check_probe(settings.trained)
    columns = predict_table(settings)
    with writing("out", settings.out):
        write_table(settings.out, columns)
    images = len(columns["key"])
    log.info("predictions of %s in %s", count_of(images, "image"), settings.out)
    report_reader(settings.out)
    return {
        "out": str(settings.out),
        "samples": images,
        "split": settings.part.split,
        "kind": outputs.kind,
        "classes": list(outputs.names or ()) if outputs.kind != "regression" else [],
    }


if __name__ == "__main__":
    app.main("predict", run)
