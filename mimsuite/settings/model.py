"""Which model a run trains: the config object, from the keys, the weights and the data. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import instantiate
from mimsuite.encoders.config import as_pair, as_side
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.models.load import completed, config_of
from mimsuite.settings.combinations import MAE_KEYS, UNET_HEAD
from mimsuite.settings.labels import TrainingLabels
from mimsuite.settings.read import is_int, read, read_choice, read_int, read_number
from mimsuite.settings.resolve import with_values
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights
from mimsuite.words import CLASSIFIER_POOLS, PROBLEM_TYPE_OF

LEAST_CHANNELS = 4  # of a U-Net at single pixels, by default


def overrides_group(overrides: Sequence[str], group: str) -> bool:
    """Whether the command line chooses a group, or a value of it."""
    return any(o.lstrip("+~").startswith((f"{group}=", f"{group}.")) for o in overrides)


def read_model(
    cfg: DictConfig,
    weights: Weights | None,
    overrides: Sequence[str],
    trusted: Sequence[str],
    own: EncoderConfig | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> EncoderConfig:
    """The model's config object. It comes from the weights, unless there are none or the command line names a model.

    Args:
        cfg: read is `model`.
        weights: what `init=` names, or None.
        overrides: the command line's `key=value` arguments, those of a resumed run's first start included.
        trusted: further targets that configs may name.
        own: a config object that a caller gave instead of the group; None without one.
        image_size: `(H, W)` of this run; None for the model's own.
        channels: of the data; None for the model's own.

    Raises:
        InputError: a field of the wrong value, or one that the model does not have; weights for other channels.
    """
    if weights is not None and own is None and not overrides_group(overrides, "model"):
        config = config_of(weights)
        return config if image_size is None else config.with_image_size(image_size)
    if own is None:
        config = fresh_config(cfg.model, trusted, image_size, channels)
    else:
        config = own if channels is None else own.changed(num_channels=channels)
        config = completed(config.trusting(trusted))
        config = config if image_size is None else config.with_image_size(image_size)
    config.check_fit()
    if weights is not None and weights.config.get("model_type") != config.model_type:
        raise InputError(
            f"init={weights.init} holds a {weights.config.get('model_type')}, but model= names a {config.model_type}; "
            "remove model=, or use other weights"
        )
    return config


def fresh_config(
    node: DictConfig, trusted: Sequence[str], image_size: tuple[int, int] | None, channels: int | None
) -> EncoderConfig:
    """What the group `model` describes, at a run's image size and channels; arguments as of `read_model`."""
    sizes: dict[str, Any] = {}
    if image_size is not None and "image_size" in node:
        sizes["image_size"] = as_side(image_size)
    if channels is not None:
        sizes["num_channels"] = channels
    try:
        made: EncoderConfig = instantiate(with_values(node, sizes), trusted)
    except TypeError as error:
        raise InputError(f"model: {error}") from error
    made = completed(made.trusting(trusted))
    return made if image_size is None or made.fixed_size in (None, image_size) else made.with_image_size(image_size)


def found_out(config: EncoderConfig, cfg: DictConfig, overrides: Sequence[str], weights: Weights | None) -> DictConfig:
    """A copy of a task's config whose `model` also holds what was found out about an encoder that is not ours."""
    if weights is not None and not overrides_group(overrides, "model"):
        return cfg
    return with_values(cfg, {f"model.{name}": value for name, value in config.found_out.items()})


def masked_config(
    config: EncoderConfig,
    cfg: DictConfig,
    weights: Weights | None,
    overrides: Sequence[str],
    predictor: PredictorConfig | None = None,
) -> EncoderConfig:
    """A copy of the model's config that says what is predicted, what becomes of hidden patches, and with which decoder.

    The decoder is that of `head`, or of the weights if they have one and the command line names none.

    Args:
        config: of the encoder, at the run's image size.
        cfg: read are `objective.target`, `objective.mask_mode`, `objective.mask_layer` and `head`.
        weights: what `init=` names, or None.
        overrides: the command line's `key=value` arguments.
        predictor: what predicts features of a teacher in the decoder's place.

    Raises:
        InputError: a key that the decoder does not have, or a wrong value.
    """
    if as_pair(config.encoder_stride) != config.stride and (weights is None or overrides_group(overrides, "model")):
        wanted = str(as_side(config.stride)).replace(" ", "")
        raise InputError(
            f"model.encoder_stride={config.encoder_stride} is not the model's stride; use model.encoder_stride={wanted}"
        )
    mask_mode, decoder = str(read(cfg, "objective.mask_mode")), None
    if predictor is None and (mask_mode == "drop" or read(cfg, "head._target_") == UNET_HEAD):
        before = None
        if weights is not None and not overrides_group(overrides, "head"):
            before = type(config).from_dict(weights.config).decoder_sizes
        decoder = before or decoder_sizes(config, cfg, mask_mode)
    features = None if predictor is None else predictor.to_dict()
    masked = config.with_masking(str(read(cfg, "objective.target")), decoder, features, mask_mode)
    masked = masked.changed(**hiding_fields(cfg)) if masked.mask_layers else masked
    masked.check_fit()
    return masked


def hiding_fields(cfg: DictConfig) -> dict[str, Any]:
    """The fields of a config with maps of several sizes that say what becomes of hidden cells.

    Args:
        cfg: read are `objective.mask_mode` and `objective.mask_layer`, which a config of an older version has not.
    """
    layer = OmegaConf.select(cfg, "objective.mask_layer")
    return {"mask_mode": str(read(cfg, "objective.mask_mode")), "mask_layer": layer}


def decoder_sizes(config: EncoderConfig, cfg: DictConfig, mask_mode: str) -> dict[str, int]:
    """The sizes of MAE's decoder, or of a U-Net: by itself as wide as a quarter of the last map, at most 512.

    But it has at least four channels at single pixels: with three it learns far slower.
    """
    if mask_mode == "drop":
        return {key: cfg.head[key] for key in MAE_KEYS}
    coarsest = config.scales[0]
    quarter = min(512, coarsest.width // 4)
    width = max(LEAST_CHANNELS, quarter // coarsest.stride) * coarsest.stride
    return {"hidden_size": read_int(cfg, "head.hidden_size", auto=width)}


def classifier_config(config: EncoderConfig, cfg: DictConfig, labels: TrainingLabels) -> EncoderConfig:
    """A copy of the model's config for a classifier of the run's labels, without what concerns masks.

    Args:
        config: of the encoder.
        cfg: read are `head.pool` and `drop_path`.
        labels: the labels.

    Raises:
        InputError: a value that the encoder does not take.
    """
    if config.masked_model_class() is not None:
        raise InputError(
            f"model: a {config.model_type} is not part of mimsuite, and can only be pretrained from outside; "
            "use another model=, or add it to mimsuite as docs/extending.md says"
        )
    pool = read_choice(cfg, "head.pool", CLASSIFIER_POOLS)
    if pool in ("cls", "both") and not config.class_tokens[-1]:
        raise InputError(f"head.pool={pool}, but this encoder has no class token; use head.pool=mean")
    if read(cfg, "drop_path") is not None:
        config = config.with_drop_path(read_number(cfg, "drop_path", below=1, use="0.1, or 0 for none"))
    return config.without_masking().changed(
        id2label=labels.names,
        problem_type=PROBLEM_TYPE_OF[labels.facts.kind],
        classifier_pool=pool,
        architectures=None,
    )


def read_frozen_depth(cfg: DictConfig, blocks: int) -> int:
    """The deepest parameters that `freeze` keeps as they are, as `depth_of` counts; -1 for none.

    Raises:
        InputError: none of null, all and a number of blocks.
    """
    value = read(cfg, "freeze")
    if value is None:
        return -1
    if value == "all":
        return blocks + 1
    if not is_int(value) or value > blocks or value < 0:
        raise InputError(f"freeze={value}: this encoder has {blocks} blocks; use a number from 0 to {blocks}, or all")
    return read_int(cfg, "freeze", least=0)
