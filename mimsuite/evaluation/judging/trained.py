"""What `init=` names, as something to be evaluated: a classifier, a probe on its encoder, or a masked image model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.evaluation.judging.answers import PROBLEMS, Answers, ClassifierOutputs
from mimsuite.models.device import torch_device
from mimsuite.models.load import config_of, load_encoder, load_model, normalizer_of
from mimsuite.settings.read import FALLBACK_SIZE
from mimsuite.weights.init import Weights, find_weights

if TYPE_CHECKING:
    from torch import Tensor

    from mimsuite.evaluation.judging.classifier import Classifier
    from mimsuite.evaluation.probes.linear import LinearHead
    from mimsuite.evaluation.probes.saved_head import HeadFacts
    from mimsuite.masked.normalization import Normalize

CLASSIFIER, MASKED = "ForImageClassification", "ForMaskedImageModeling"  # ends of class names in `architectures`


@dataclass(frozen=True)
class TrainedModel:
    """Something trained, not yet loaded.

    Attributes:
        init: what the user gave.
        weights: the model's; of a probe the encoder's.
        probe: head and facts of a probe, or None.
        masked: whether it is a masked image model.
    """

    init: str
    weights: Weights
    probe: tuple[LinearHead, HeadFacts] | None
    masked: bool

    @property
    def image_size(self) -> tuple[int, int]:
        """`(H, W)` pixels that it was trained at."""
        if self.probe is not None:
            height, width = self.probe[1].image_size
            return height, width
        return self.weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE)


def find_trained(init: str) -> TrainedModel:
    """Finds out what `init=` names; but for a probe without torch.

    Raises:
        InputError: nothing there, or an encoder without classifier and decoder.
    """
    if not (Path(init) / "head.json").is_file():
        weights = find_weights(init)
        return TrainedModel(init, weights, None, is_masked(weights))
    from mimsuite.evaluation.probes.saved_head import load_head

    probe = load_head(Path(init))
    try:
        return TrainedModel(init, find_weights(probe[1].init), probe, masked=False)
    except InputError as error:
        raise InputError(f"init={init} is a probe whose encoder is not where it was: {error}") from error


def is_masked(weights: Weights) -> bool:
    """Whether weights are a masked image model's, and not a classifier's.

    Raises:
        InputError: they are neither's.
    """
    name = str((weights.config.get("architectures") or [""])[0])
    beside = weights.folder is not None and (weights.folder / "decoder.safetensors").is_file()
    if name.endswith(CLASSIFIER):
        return False
    if name.endswith(MASKED) or beside or weights.checkpoint is not None:
        return True
    raise InputError(
        f"init={weights.init} is an encoder without a classifier or decoder ({name or 'its config names no class'}); "
        f"train one with `mimsuite probe` or `mimsuite finetune init={weights.init}`, and evaluate that"
    )


def own_answers(trained: TrainedModel, config: Any) -> ClassifierOutputs:
    """What a classifier or a probe says of its outputs.

    Raises:
        InputError: a model of that kind without outputs.
    """
    if trained.probe is not None:
        head, facts = trained.probe
        return ClassifierOutputs(trained.init, facts.kind, facts.classes or [str(n) for n in range(len(head.bias))])
    if not config.num_labels:
        raise InputError(f"init={trained.init} has num_labels=0, so no classifier; train one with `mimsuite finetune`")
    kind = PROBLEMS.get(str(config.problem_type)) or ("regression" if config.num_labels == 1 else None)
    return ClassifierOutputs(trained.init, kind, [str(config.id2label.get(n, n)) for n in range(config.num_labels)])


def scorer(
    trained: TrainedModel, index: DataIndex, answers: Answers, size: tuple[int, int], *, flip: bool
) -> Classifier:
    """A classifier or a probe at one size, on the device, in evaluation mode, in float32.

    Args:
        trained: what is loaded.
        index: the data, for the type of its pixels.
        answers: what is predicted.
        size: `(H, W)` pixels.
        flip: see `Classifier`.
    """
    from mimsuite.evaluation.judging.classifier import Classifier

    device = torch_device()
    if trained.probe is not None:
        network, normalize = probe_network(trained.weights, trained.probe, size, device)
    else:
        model: Any = load_model(trained.weights).eval().to(device)
        model.encoder.set_image_size(size)
        normalize = normalizer_of(trained.weights)

        def network(pixels: Tensor) -> Tensor:
            logits: Tensor = model(pixels, return_dict=True).logits
            return logits

    fit_dtype(normalize, index)
    return Classifier(network, normalize.to(device), answers.kind, answers.outputs, answers.order, flip, device)


def probe_network(weights: Weights, probe: tuple[LinearHead, HeadFacts], size: tuple[int, int], device: str) -> Any:
    """Pixels to scores by encoder and head, and the normalisation that the probe used."""
    from mimsuite.evaluation.features.views import pooled
    from mimsuite.masked.normalization import Normalize

    head, facts = probe
    encoder: Any = load_encoder(weights, config_of(weights), size).to(device)

    def network(pixels: Tensor) -> Tensor:
        (features,) = encoder.forward_layers(pixels, [facts.layer])
        # In float16, as features are stored that heads are trained on: so a probe's own figure comes out again.
        return head.scores(pooled(features, facts.pool).half().cpu()).to(device)

    return network, Normalize(facts.mean, facts.std, facts.maximum)


def fit_dtype(normalize: Normalize, index: DataIndex) -> None:
    """Takes the largest value of the data's type for 1, where the weights know the other type."""
    if (index.dtype == "uint16") != (normalize.maximum > 255):
        normalize.maximum = 65535 if index.dtype == "uint16" else 255
