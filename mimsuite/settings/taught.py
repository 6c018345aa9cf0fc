"""Whose features a trained latent model predicts: the teacher of its run, and the loss. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.masked.geometry import Pair
from mimsuite.models.load import config_of
from mimsuite.settings.latent import EMA, is_latent, read_teacher
from mimsuite.settings.past_run import pretraining_config
from mimsuite.settings.read import read, read_choice, read_positive
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights, in_folder
from mimsuite.words import LOSSES

FOLDER, PART = "weights-teacher", "teacher.module."  # where a run has its teacher, and a checkpoint


@dataclasses.dataclass(frozen=True)
class LatentTeacher:
    """The teacher of a latent run, not yet loaded, and how predictions are compared with it.

    Attributes:
        weights: the teacher's.
        config: of its encoder.
        image_size: `(H, W)` pixels of the images that it sees.
        frozen: whether it has a normalisation of its own; else it sees what the student sees.
        predictor: which of its features are predicted.
        loss: name of the error.
        beta: of the smooth L1 loss.
    """

    weights: Weights
    config: EncoderConfig
    image_size: Pair
    frozen: bool
    predictor: PredictorConfig
    loss: str
    beta: float


def find_teacher(weights: Weights, config: EncoderConfig, image_size: Pair, trusted: Sequence[str]) -> LatentTeacher:
    """The teacher of the run that wrote the weights of a latent model.

    Args:
        weights: what `init=` names.
        config: theirs.
        image_size: `(H, W)` pixels of what the student sees.
        trusted: classes of the user's own that a config may name.

    Raises:
        InputError: `init=` is not the folder of the run, or the teacher is not there.
    """
    init = weights.init
    stored = pretraining_config(init)
    if stored is None or not is_latent(stored):
        raise InputError(
            f"init={init} predicts the features of a teacher, which is not in these files; give the folder of the run "
            "that wrote them, with its config.yaml"
        )
    given = str(read(stored, "objective.teacher"))
    if given == EMA:
        own = of_run(weights).trusting(trusted)
        found = own, config_of(own), image_size
    else:
        frozen = read_teacher(given, config, image_size, trusted)
        found = frozen.weights, frozen.config, frozen.image_size
    return LatentTeacher(
        *found,
        frozen=given != EMA,
        predictor=PredictorConfig.from_dict(config.mim_predictor),
        loss=read_choice(stored, "objective.loss", LOSSES),
        beta=read_positive(stored, "objective.beta"),
    )


def of_run(weights: Weights) -> Weights:
    """The weights of the teacher that followed a student: beside the student's.

    Raises:
        InputError: a run without them.
    """
    if weights.checkpoint is not None:
        return dataclasses.replace(weights, part=PART)
    if not (Path(weights.init) / FOLDER).is_dir():
        raise InputError(f"init={weights.init} has no {FOLDER}/, whose features it predicts; restore that folder")
    return in_folder(weights.init, Path(weights.init) / FOLDER)
