"""Turns model configs and `init=` into models, and models into Hugging Face folders."""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite.config.instantiate import instantiate
from mimsuite.encoders.config import CLASSIFIER_POOLS, pair
from mimsuite.errors import InputError
from mimsuite.runs.folder import cache_folder
from mimsuite.settings.combinations import MAE_KEYS
from mimsuite.settings.labels import PROBLEM_TYPES, Labelled
from mimsuite.weights.init import Weights

if TYPE_CHECKING:
    from torch import nn

    from mimsuite.data.index import DataIndex
    from mimsuite.evaluation.features.passes import FeaturePass
    from mimsuite.masked.normalization import Normalize
    from mimsuite.models.composed import ForImageClassification, ForMaskedImageModeling
    from mimsuite.models.pretrained import Pretrained

log = logging.getLogger("mimsuite")


def model_config(
    cfg: DictConfig,
    weights: Weights | None,
    overrides: Sequence[str],
    trusted: Sequence[str],
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Any:
    """The model's config object; needs no torch.

    It comes from the weights, unless there are none or the command line names a model.

    Args:
        image_size: `(H, W)` of this run; None for the model's own.
        channels: of the data; None for the model's own.

    Raises:
        InputError: a field of the wrong value, or one that the model does not have; weights for other channels.
    """
    if weights is not None and not named(overrides, "model"):
        config = config_of(weights)
        if channels not in (None, config.num_channels):
            raise InputError(
                f"init={weights.init} takes {config.num_channels} channels but the images have {channels}; "
                "use other weights or other data"
            )
        if image_size is not None and hasattr(config, "image_size"):
            config.image_size = side(image_size)
        return config
    sizes: dict[str, Any] = {}
    if image_size is not None and "image_size" in cfg.model:
        sizes["image_size"] = side(image_size)
    if channels is not None:
        sizes["num_channels"] = channels
    try:
        config = instantiate(cfg.model, trusted, **sizes)
    except TypeError as error:
        raise InputError(f"model: {error}") from error
    if weights is not None and weights.config.get("model_type") != config.model_type:
        raise InputError(
            f"init={weights.init} holds a {weights.config.get('model_type')}, but model= names a {config.model_type}; "
            "leave model= out, or use other weights"
        )
    return config


def for_objective(config: Any, cfg: DictConfig, weights: Weights | None, overrides: Sequence[str]) -> Any:
    """A copy of the model's config that says what is predicted, what becomes of hidden patches, and with which decoder.

    The decoder is that of `head`, or of the weights if they have one and the command line names none.

    Raises:
        InputError: a key that the decoder does not have, or a wrong value.
    """
    changes: dict[str, Any] = {"mim_target": cfg.objective.target}
    if pair(config.encoder_stride) != config.stride:
        stride = side(config.stride)
        if weights is None or named(overrides, "model"):
            raise InputError(
                f"model.encoder_stride={config.encoder_stride} is not the model's stride; use "
                f"model.encoder_stride={str(stride).replace(' ', '')}"
            )
        changes["encoder_stride"] = stride  # of weights that were made for something else
    if config.model_type != "vit":
        return config.changed(**changes)
    changes |= {"mask_mode": cfg.objective.mask_mode, "decoder_hidden_size": None}
    if cfg.objective.mask_mode == "drop":
        before = None if weights is None or named(overrides, "head") else config_of(weights)
        own = getattr(before, "decoder_hidden_size", None) is not None
        changes |= {f"decoder_{key}": getattr(before, f"decoder_{key}") if own else cfg.head[key] for key in MAE_KEYS}
    return config.changed(**changes)


def classifier_config(config: Any, cfg: DictConfig, weights: Weights | None, labelled: Labelled) -> Any:
    """A copy of the model's config for a classifier of the run's labels; what concerned masks is taken out of it.

    Args:
        config: of the encoder.
        cfg: read are `head.pool` and `drop_path`.
        weights: what `init=` names, or None.
        labelled: the labels.

    Raises:
        InputError: a value that the encoder does not take.
    """
    changes: dict[str, Any] = {
        "id2label": labelled.names,
        "problem_type": PROBLEM_TYPES[labelled.facts.kind],
        "classifier_pool": str(cfg.head.pool),
        "mim_target": "pixels",
        "architectures": None,
    }
    if config.model_type == "vit":
        of_masking = ("mask_mode", *(f"decoder_{key}" for key in MAE_KEYS))
        changes |= {name: getattr(type(config), name) for name in of_masking}  # the defaults, which no file names
    if cfg.head.pool not in CLASSIFIER_POOLS:
        raise InputError(f"head.pool={cfg.head.pool} is unknown; head.pool takes {', '.join(CLASSIFIER_POOLS)}")
    if cfg.head.pool == "cls" and not config.class_tokens[-1]:
        raise InputError("head.pool=cls, but this encoder has no class token; use head.pool=mean")
    std = cfg.head.std
    if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 <= std < math.inf:
        raise InputError(f"head.std={std} is no number from 0; use 0.02, or 0 for zeros")
    if cfg.drop_path is not None:
        rate = cfg.drop_path
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise InputError(f"drop_path={rate} is no rate from 0 to below 1; use 0.1, or 0 for none")
        stages = len(config.depth) if config.model_type == "cvt" else 0  # of a CvT the last stage drops (spec of CvT)
        changes["drop_path_rate"] = [0.0] * (stages - 1) + [rate] if stages else rate
    frozen_depth(cfg, config.num_blocks)
    return config.changed(**changes)


def frozen_depth(cfg: DictConfig, blocks: int) -> int:
    """The deepest parameters that `freeze` keeps as they are, as `depth_of` counts; -1 for none.

    Raises:
        InputError: none of null, all and a number of blocks.
    """
    if cfg.freeze is None:
        return -1
    if cfg.freeze == "all":
        return blocks + 1
    if isinstance(cfg.freeze, bool) or not isinstance(cfg.freeze, int) or not 0 <= cfg.freeze <= blocks:
        raise InputError(
            f"freeze={cfg.freeze}: this encoder has {blocks} blocks; use a number from 0 to {blocks}, or all"
        )
    return int(cfg.freeze)


def keeps_head(weights: Weights | None, config: Any) -> bool:
    """Whether weights have a classifier for the very classes of a config, pooled in the same way."""
    if weights is None:
        return False
    own = config_of(weights)
    same = (own.id2label, own.classifier_pool, own.problem_type or config.problem_type)
    named = (weights.config.get("architectures") or [""])[0].endswith("ForImageClassification")
    return bool(named and same == (config.id2label, config.classifier_pool, config.problem_type))


def classifier(config: Any, weights: Weights | None, cfg: DictConfig) -> ForImageClassification:
    """A classifier: fresh, or with the encoder of `init=`, and with its head if that is for the same classes.

    Args:
        config: of the classifier, at the run's image size.
        weights: what `init=` names, or None.
        cfg: read are `head.std` and `freeze`.
    """
    from torch import nn

    from mimsuite.models import AutoModelForImageClassification

    native = config if weights is None else at_native_size(config, weights)
    model: ForImageClassification = AutoModelForImageClassification.from_config(native)
    kept = keeps_head(weights, config)
    if weights is not None:
        unused = ("decoder.", "mask_token", f"{model.base_prefix}.embeddings.mask_token", "pooler.")
        fill(model, weights, without=unused if kept else (*unused, "classifier."))
    if not kept:
        linear = next(m for m in model.classifier.modules() if isinstance(m, nn.Linear))
        nn.init.normal_(linear.weight, std=cfg.head.std)
        nn.init.zeros_(linear.bias)
    if hasattr(config, "image_size"):
        model.encoder.set_image_size(config.image_size)
    deepest, encoder = frozen_depth(cfg, config.num_blocks), model.network()
    for name, parameter in encoder.named_parameters():  # type: ignore[attr-defined]
        if encoder.depth_of(name) <= deepest:
            parameter.requires_grad_(False)
    return model


def named(overrides: Sequence[str], group: str) -> bool:
    """Whether the command line chooses a group, or a value of it."""
    return any(o.lstrip("+~").startswith((f"{group}=", f"{group}.")) for o in overrides)


def drops(config: Any) -> bool:
    """Whether a model leaves hidden patches out (MAE)."""
    return bool(config.model_type == "vit" and config.mask_mode == "drop")


def config_of(weights: Weights) -> Any:
    """The config object of weights, at their own image size; needs no torch."""
    from mimsuite.models import AutoConfig

    return AutoConfig.from_dict(weights.config)


def side(size: tuple[int, int]) -> int | list[int]:
    """A size as Hugging Face's configs have it: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)


def masked_model(
    config: Any, weights: Weights | None, head: DictConfig, trusted: Sequence[str]
) -> ForMaskedImageModeling:
    """A masked image model: fresh, or with the encoder of `init=`, and with its decoder if the shapes are the same."""
    from mimsuite.models import AutoModelForMaskedImageModeling

    make_head = None if drops(config) else instantiate(head, trusted)  # of the decoder the config says all
    if weights is None:
        fresh: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(config, head=make_head)
        return fresh
    model: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(
        at_native_size(config, weights), head=make_head
    )
    fill(model, weights, without=() if decoder_fits(model, weights) else ("decoder.",))
    if hasattr(config, "image_size"):
        model.encoder.set_image_size(config.image_size)
    return model


def at_native_size(config: Any, weights: Weights) -> Any:
    """A copy of the config at the image size of the weights."""
    native = copy.copy(config)
    if hasattr(native, "image_size"):
        native.image_size = config_of(weights).image_size
    return native


def trained_model(weights: Weights, config: Any, image_size: tuple[int, int]) -> ForMaskedImageModeling:
    """A trained masked image model, in evaluation mode, at `image_size = (H, W)` pixels.

    Raises:
        InputError: weights without a decoder.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    if not any(name.startswith("decoder.") for name in weights.state()):
        raise InputError(f"init={weights.init} has no decoder, so it predicts no pixels; use a pretraining run")
    model: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(copy.copy(config))
    fill(model, weights)
    model.encoder.set_image_size(image_size)
    model.eval()
    return model


def encoder(weights: Weights | None, config: Any, image_size: tuple[int, int]) -> nn.Module:
    """A frozen encoder by the contract of `mimsuite.types`, with the weights, or at random initialisation for None.

    Args:
        config: the config of the weights, at their own image size.
        image_size: `(H, W)` pixels to encode at.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    model = AutoModelForMaskedImageModeling.from_config(copy.copy(config))
    if weights is not None:
        fill(model, weights)
    model.encoder.set_image_size(image_size)
    found: nn.Module = model.encoder.requires_grad_(False).eval()
    return found


def load_model(weights: Weights) -> Pretrained:
    """The model that a folder names in `architectures`, else its bare encoder.

    Of a checkpoint, and of an encoder with a decoder beside, the masked image model.
    """
    from mimsuite import models
    from mimsuite.models.pretrained import Pretrained
    from mimsuite.weights.files import DECODER

    config = config_of(weights)
    name = (weights.config.get("architectures") or [""])[0]
    found = getattr(models, name) if name in models.__all__ else None
    beside = weights.folder is not None and (weights.folder / DECODER).is_file()
    if beside or (weights.checkpoint is not None and not name.endswith("ForImageClassification")):
        model = models.AutoModelForMaskedImageModeling.from_config(config)
    elif isinstance(found, type) and issubclass(found, Pretrained) and isinstance(config, found.config_class):
        model = found(config)
    else:
        model = models.AutoModel.from_config(config)
    fill(model, weights)
    loaded: Pretrained = model
    return loaded


def decoder_fits(model: nn.Module, weights: Weights) -> bool:
    """Whether what weights and model both have of a decoder has the same shapes: one target and one size of decoder."""
    own = model.state_dict()
    return all(own[k].shape == t.shape for k, t in weights.state().items() if k.startswith("decoder.") and k in own)


def fill(model: Pretrained, weights: Weights, without: tuple[str, ...] = ()) -> None:
    """Copies weights into a model, but for names that begin with one of `without`.

    What is fresh or left over is said in one log line.

    Raises:
        InputError: weights of another model.
    """
    from mimsuite.models.pretrained import load_state

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = {name: value for name, value in weights.state().items() if not name.startswith(without)}
        load_state(model, state, weights.init)
    for warning in caught:
        log.info("weights   %s", warning.message)


def check_channels(index: DataIndex, weights: Weights) -> None:
    """Refuses images of another number of channels than the weights take."""
    channels = weights.config.get("num_channels", 3)
    if channels != index.channels:
        raise InputError(
            f"init={weights.init} takes {channels} channels but the images have {index.channels}; "
            "use other weights or other data"
        )


def feature_pass(
    weights: Weights,
    index: DataIndex,
    network: nn.Module,
    image_size: tuple[int, int],
    *,
    device: str,
    batch: int,
    workers: int,
) -> FeaturePass:
    """How features of images are computed, and kept in the user's cache.

    Args:
        weights: whose config and statistics hold.
        index: the data.
        network: the encoder, at `image_size`; perhaps at random initialisation.
        image_size: `(H, W)` pixels.
        device: where it is computed.
        batch: images per forward pass.
        workers: processes that read.
    """
    from mimsuite.evaluation.features.passes import FeaturePass

    return FeaturePass(
        encoder=network.to(device),
        model=json.dumps(weights.config, sort_keys=True),
        normalize=normalizer(index, weights).to(device),
        image_size=image_size,
        device=device,
        batch=batch,
        workers=workers,
        folder=cache_folder() / "features",
    )


def normalizer(index: DataIndex, weights: Weights | None) -> Normalize:
    """Normalisation by the statistics of the weights, where they are written down, else of the data."""
    from mimsuite.masked.normalization import Normalize

    mean, std = (weights and weights.statistics) or (index.mean, index.std)
    return Normalize(mean, std, 65535 if index.dtype == "uint16" else 255)


def normalizer_of(weights: Weights) -> Normalize:
    """Normalisation as the weights were trained with; 0.5 and 0.5 where nothing says more, as Hugging Face's ViT."""
    from mimsuite.masked.normalization import Normalize

    half = (0.5,) * int(weights.config.get("num_channels", 3))
    mean, std = weights.statistics or (half, half)
    return Normalize(mean, std, round(1 / weights.preprocessor.get("rescale_factor", 1 / 255)))


def preprocessor(normalize: Normalize, image_size: tuple[int, int]) -> Any:
    """The image processor that prepares images as training did."""
    from mimsuite.models import ViTImageProcessor

    return ViTImageProcessor(
        size={"height": image_size[0], "width": image_size[1]},
        resample=3,
        rescale_factor=1 / normalize.maximum,
        image_mean=normalize.mean.flatten().tolist(),
        image_std=normalize.std.flatten().tolist(),
    )


def save_weights(folder: Path, model: nn.Module, normalize: Normalize, image_size: tuple[int, int]) -> None:
    """Writes a Hugging Face folder: `config.json`, `model.safetensors`, `preprocessor_config.json`."""
    model.save_pretrained(folder)  # type: ignore[operator]
    preprocessor(normalize, image_size).save_pretrained(folder)
