"""What `init=` names, as something to evaluate: a classifier, a probe on its encoder, or a masked image model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mimsuite.errors import InputError
from mimsuite.settings.class_match import KIND_OF_PROBLEM, ClassifierOutputs
from mimsuite.settings.probe_head import FACTS, HeadFacts, ProbeHead, find_head
from mimsuite.types import EncoderConfig
from mimsuite.weights.channels import Statistics
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import Alpha

CLASSIFIER, MASKED = "ForImageClassification", "ForMaskedImageModeling"  # ends of class names in `architectures`


@dataclass(frozen=True)
class TrainedModel:
    """Something trained, not yet loaded.

    Attributes:
        init: what the user gave.
        weights: the model's; of a probe the encoder's.
        probe: the head of a probe, or None.
        masked: whether it is a masked image model.
    """

    init: str
    weights: Weights
    probe: ProbeHead | None
    masked: bool

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`(H, W)` pixels that it was trained at; None where nothing says it."""
        if self.probe is not None:
            height, width = self.probe.facts.image_size
            return height, width
        return self.weights.image_size

    @property
    def alpha(self) -> Alpha:
        """What became of transparency in the images that it was trained on; what files do not say is "white"."""
        return self.probe.facts.alpha if self.probe is not None else self.weights.alpha or "white"


def find_trained(init: str, trusted: Collection[str] = ()) -> TrainedModel:
    """Finds out what `init=` names, whose config may name the classes in `trusted`.

    Raises:
        InputError: nothing there, or an encoder without classifier and decoder.
    """
    if not (Path(init) / FACTS).is_file():
        weights = find_weights(init).trusting(trusted)
        return TrainedModel(init, weights, None, is_masked(weights))
    probe = find_head(Path(init))
    try:
        return TrainedModel(init, encoder_of(probe.facts).trusting(trusted), probe, masked=False)
    except InputError as error:
        raise InputError(f"init={init} is a probe whose encoder is not where it was: {error}") from error


def encoder_of(facts: HeadFacts) -> Weights:
    """The encoder of a probe, as it was when the probe was trained."""
    rules = (facts.init_position, facts.init_channels)
    return find_weights(facts.init).fitted(*rules, len(facts.mean), Statistics(facts.mean, facts.std))


def is_masked(weights: Weights) -> bool:
    """Whether weights are a masked image model's, and not a classifier's.

    Raises:
        InputError: they are neither's.
    """
    name = str((weights.config.get("architectures") or [""])[0])
    if name.endswith(CLASSIFIER):
        return False
    if name.endswith(MASKED) or weights.has_decoder or weights.checkpoint is not None:
        return True
    raise InputError(
        f"init={weights.init} is an encoder without a classifier or decoder ({name or 'its config names no class'}); "
        f"train one with `mimsuite probe` or `mimsuite finetune init={weights.init}`, and evaluate that"
    )


def classifier_outputs(trained: TrainedModel, config: EncoderConfig) -> ClassifierOutputs:
    """What a classifier or a probe predicts, by its own files.

    Raises:
        InputError: a model of that kind without outputs.
    """
    if trained.probe is not None:
        facts, outputs = trained.probe.facts, trained.probe.outputs
        return ClassifierOutputs(trained.init, facts.kind, facts.classes or [str(n) for n in range(outputs)])
    if not config.num_labels:
        raise InputError(f"init={trained.init} has num_labels=0, so no classifier; train one with `mimsuite finetune`")
    kind = KIND_OF_PROBLEM.get(str(config.problem_type)) or ("regression" if config.num_labels == 1 else None)
    return ClassifierOutputs(trained.init, kind, [str(config.id2label.get(n, n)) for n in range(config.num_labels)])
