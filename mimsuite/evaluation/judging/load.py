"""Loads what is evaluated: a classifier or a probe as one function from images to predictions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import hash_of_inputs, pool_features
from mimsuite.evaluation.judging.classifier import Classifier
from mimsuite.evaluation.probes.saved_head import read_weights
from mimsuite.masked.normalization import Normalize
from mimsuite.models.load import config_of, load_encoder, load_model, load_normalizer
from mimsuite.settings.class_match import MatchedOutputs
from mimsuite.settings.probe_head import ProbeHead
from mimsuite.settings.trained import TrainedModel
from mimsuite.weights.init import Weights


def load_classifier(
    trained: TrainedModel, index: DataIndex, outputs: MatchedOutputs, size: tuple[int, int], device: str, *, flip: bool
) -> Classifier:
    """A classifier or a probe at one size, in evaluation mode, in float32.

    Args:
        trained: what is loaded.
        index: the data, for the type of its pixels.
        outputs: what is predicted.
        size: `(H, W)` pixels.
        device: where it computes.
        flip: see `Classifier`.
    """
    if trained.probe is not None:
        network, normalize = probe_network(trained.weights, trained.probe, size, device)
    else:
        model: Any = load_model(trained.weights).eval().to(device)
        model.encoder.set_image_size(size)
        normalize = load_normalizer(trained.weights)

        def network(pixels: Tensor) -> Tensor:
            logits: Tensor = model(pixels, return_dict=True).logits
            return logits

    fit_dtype(normalize, index)
    return Classifier(network, normalize.to(device), outputs.kind, outputs.outputs, outputs.order, flip, device)


def check_probe(trained: TrainedModel) -> None:
    """Refuses a probe whose encoder has other weights by now: the head knows nothing of their features.

    Raises:
        InputError: the run that `init=` named went on, or another one took its place.
    """
    facts = trained.probe and trained.probe.facts
    if facts and facts.weights is not None and hash_of_inputs(trained.weights.state(), "", "") != facts.weights:
        raise InputError(
            f"init={trained.init} is a probe of {facts.init}, whose weights have changed since: it was trained on, or "
            "replaced; run the probe again"
        )


def probe_network(weights: Weights, probe: ProbeHead, size: tuple[int, int], device: str) -> Any:
    """Pixels to predictions by encoder and head, and the normalisation that the probe used."""
    head, facts = read_weights(probe), probe.facts
    encoder: Any = load_encoder(weights, config_of(weights), size).to(device)

    def network(pixels: Tensor) -> Tensor:
        (features,) = encoder.forward_layers(pixels, [facts.layer])
        # In float16, as the features are stored that heads are trained on: so a probe gives its own metrics again.
        return head.scores(pool_features(features, facts.pool).half().cpu()).to(device)

    return network, Normalize(facts.mean, facts.std, facts.maximum)


def fit_dtype(normalize: Normalize, index: DataIndex) -> None:
    """Takes the largest value of the data's type for 1, where the weights know the other type."""
    if (index.maximum > 255) != (normalize.maximum > 255):
        normalize.maximum = index.maximum
