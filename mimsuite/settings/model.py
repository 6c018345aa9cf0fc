"""Which model a run trains: the config object, from the keys, the weights and the data. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite.config.instantiate import instantiate
from mimsuite.encoders.config import as_pair
from mimsuite.errors import InputError
from mimsuite.models.load import config_of, side
from mimsuite.settings.combinations import MAE_KEYS
from mimsuite.settings.labels import PROBLEM_TYPES, TrainingLabels
from mimsuite.weights.init import Weights
from mimsuite.words import CLASSIFIER_POOLS


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
    if weights is not None and not overrides_group(overrides, "model"):
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
    if as_pair(config.encoder_stride) != config.stride:
        stride = side(config.stride)
        if weights is None or overrides_group(overrides, "model"):
            raise InputError(
                f"model.encoder_stride={config.encoder_stride} is not the model's stride; use "
                f"model.encoder_stride={str(stride).replace(' ', '')}"
            )
        changes["encoder_stride"] = stride  # of weights that were made for something else
    if config.model_type != "vit":
        return config.changed(**changes)
    changes |= {"mask_mode": cfg.objective.mask_mode, "decoder_hidden_size": None}
    if cfg.objective.mask_mode == "drop":
        before = None if weights is None or overrides_group(overrides, "head") else config_of(weights)
        own = getattr(before, "decoder_hidden_size", None) is not None
        changes |= {f"decoder_{key}": getattr(before, f"decoder_{key}") if own else cfg.head[key] for key in MAE_KEYS}
    return config.changed(**changes)


def classifier_config(config: Any, cfg: DictConfig, weights: Weights | None, labelled: TrainingLabels) -> Any:
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


def overrides_group(overrides: Sequence[str], group: str) -> bool:
    """Whether the command line chooses a group, or a value of it."""
    return any(o.lstrip("+~").startswith((f"{group}=", f"{group}.")) for o in overrides)
