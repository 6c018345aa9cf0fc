"""What a classifier predicts for images without labels, as columns of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mimsuite.data.csv_labels import NO_FINDING
from mimsuite.evaluation.features.tables import Columns, name_columns
from mimsuite.evaluation.judging.classifier import check_decoded, predict_images
from mimsuite.evaluation.judging.load import load_classifier
from mimsuite.evaluation.judging.report import join_label_names
from mimsuite.models.device import torch_device
from mimsuite.settings.predict import PredictSettings
from mimsuite.types import BadSample


def predict_table(settings: PredictSettings) -> Columns:
    """Predicts every image once; the columns of the table, see `conf/predict.yaml`."""
    index, samples = settings.index, settings.index.records(settings.part)
    bad: list[BadSample] = []
    parts = list(
        predict_images(
            load_classifier(
                settings.trained, index, settings.outputs, settings.size, torch_device(), flip=settings.flip
            ),
            *(index, samples),
            image_size=settings.size,
            batch=settings.batch,
            workers=settings.workers,
            title=f"predicting {index.root}",
            bad=bad,
        )
    )
    check_decoded(sum(len(part.keys) for part in parts), len(samples), bad)
    numbers = torch.cat([part.numbers for part in parts]).numpy()
    columns: Columns = {"key": [key for part in parts for key in part.keys]}
    columns |= name_columns(index, settings.part, numbers)
    return columns | prediction_columns(settings, torch.cat([part.outputs.cpu() for part in parts]))


def prediction_columns(settings: PredictSettings, outputs: Tensor) -> Columns:
    """The columns of `outputs (N, K)`, logits or numbers."""
    kind, names = settings.outputs.kind, settings.outputs.names or ()
    if kind == "regression":
        return {"value": outputs[:, 0].float().numpy()}
    columns: Columns = {}
    if kind == "multilabel":
        probabilities = outputs.sigmoid()
        columns["labels"] = [join_label_names(row, names) or NO_FINDING for row in probabilities >= 0.5]
    else:
        probabilities = outputs.softmax(1)
    best, classes = probabilities.topk(settings.top, dim=1)
    for place in range(settings.top):
        end = f"_{place + 1}" if place else ""
        columns[f"class{end}"] = [names[number] for number in classes[:, place].tolist()]
        columns[f"probability{end}"] = best[:, place].float().numpy()
    if settings.every_class:
        for number, name in enumerate(unlike(names)):
            columns[f"probability_{name}"] = np.ascontiguousarray(probabilities[:, number].float().numpy())
    return columns


def unlike(names: Sequence[str]) -> list[str]:
    """Names of columns, no two alike: a number follows the names that several classes share."""
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]
