"""Turns model configs and `init=` into models, and models into Hugging Face folders."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite.config.instantiate import current_name, instantiate
from mimsuite.data.folders import count_of
from mimsuite.data.images.value_range import range_words
from mimsuite.data.storage import write_text
from mimsuite.errors import InputError
from mimsuite.models.fill import load_into, set_image_size
from mimsuite.types import DisplayRange, EncoderConfig
from mimsuite.weights.init import Weights

if TYPE_CHECKING:
    from torch import nn

    from mimsuite.data.index import DataIndex
    from mimsuite.masked.normalization import Normalize
    from mimsuite.models.composed import ForImageClassification, ForMaskedImageModeling
    from mimsuite.models.pretrained import Pretrained
    from mimsuite.processors.base import ImageProcessor

log = logging.getLogger("mimsuite")

SIMMIM_HEAD = "mimsuite.heads.simmim.SimMIMHead"
TRAINED_IN = "float32"  # whatever the type of the files
RANGES = (255, 65535)  # the largest values of 8 and of 16 bits
_DARK = 0.25  # of the full range, below which images are dark


def keeps_head(weights: Weights | None, config: EncoderConfig) -> bool:
    """Whether weights have a classifier for the very classes of a config, pooled in the same way."""
    if weights is None:
        return False
    own = config_of(weights)
    same = (own.id2label, own.classifier_pool, own.problem_type or config.problem_type)
    named = (weights.config.get("architectures") or [""])[0].endswith("ForImageClassification")
    return bool(named and same == (config.id2label, config.classifier_pool, config.problem_type))


def make_classifier(
    config: EncoderConfig, weights: Weights | None, *, std: float, frozen: int, from_source: bool = True
) -> ForImageClassification:
    """A classifier: fresh, or with the encoder of `init=`, and with its head if that is for the same classes.

    Args:
        config: of the classifier, at the run's image size.
        weights: what `init=` names, or None.
        std: of a fresh classifier's weights.
        frozen: the deepest parameters of the encoder that are not trained, as `depth_of` counts; -1 for none.
        from_source: as of `load_source`.
    """
    from torch import nn

    from mimsuite.models import AutoModelForImageClassification

    kept = keeps_head(weights, config)
    model: ForImageClassification
    if weights is None:
        model = AutoModelForImageClassification.from_config(config, dtype=TRAINED_IN)
        load_source(model, from_source)
    else:
        native = at_native_size(config, weights)
        unused = ("decoder.", "mask_token", f"{config.model_type}.embeddings.mask_token", "pooler.")
        model = load_into(
            lambda: AutoModelForImageClassification.from_config(copy.copy(native), dtype=TRAINED_IN),
            weights,
            without=unused if kept else (*unused, "classifier."),
        )
    if not kept:
        linear = next(m for m in model.classifier.modules() if isinstance(m, nn.Linear))
        nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
    if config.fixed_size is not None:
        set_image_size(model, config.fixed_size, weights)
    encoder = model.network()
    for name, parameter in encoder.named_parameters():  # type: ignore[attr-defined]
        if encoder.depth_of(name) <= frozen:
            parameter.requires_grad_(False)
    return model


def config_of(weights: Weights) -> EncoderConfig:
    """The config object of weights, at their own image size; needs no torch."""
    from mimsuite.models import AutoConfig

    config: EncoderConfig = AutoConfig.from_dict(weights.config)
    return config.trusting(weights.trusted)


def completed(config: EncoderConfig) -> EncoderConfig:
    """A config that knows its sizes: that of an encoder which is not ours is found out by building it.

    Raises:
        InputError: there is no such encoder.
    """
    if config.model_type != "external":
        return config
    from mimsuite.models.sources import completed as complete

    found: EncoderConfig = complete(config)
    return found


def load_source(model: Any, wanted: bool) -> None:
    """Fills a fresh model with the weights that its config starts from, if it names some.

    Args:
        model: of `mimsuite.models`, with a head.
        wanted: False for a run that goes on: its checkpoint has the weights, and the source may be gone.

    Raises:
        InputError: there are no such weights, or they do not fit.
    """
    if wanted and model.config.is_trained:
        model.network().load_source()


def make_masked_model(
    config: EncoderConfig,
    weights: Weights | None,
    head: DictConfig,
    trusted: Sequence[str],
    *,
    from_source: bool = True,
) -> ForMaskedImageModeling:
    """A masked image model: fresh, or with the encoder of `init=`, its mask token and decoder if their shapes fit.

    Args:
        config: of the model, at the run's image size.
        weights: what `init=` names, or None.
        head: the group of the head.
        trusted: further targets that it may name.
        from_source: as of `load_source`.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    make_head = head_factory(config, head, trusted)
    if weights is None:
        fresh: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(
            config, dtype=TRAINED_IN, head=make_head
        )
        load_source(fresh, from_source)
        return fresh
    native = at_native_size(config, weights)
    model: ForMaskedImageModeling = load_into(
        lambda: AutoModelForMaskedImageModeling.from_config(copy.copy(native), dtype=TRAINED_IN, head=make_head),
        weights,
        where_it_fits=("decoder.", "mask_token"),
    )
    if config.fixed_size is not None:
        set_image_size(model, config.fixed_size, weights)
    return model


def head_factory(config: EncoderConfig, head: DictConfig, trusted: Sequence[str]) -> Any:
    """What makes the head of a masked image model; None where the config alone says it: a decoder, or holes to fill."""
    named = config.decoder_sizes is not None or config.mim_predictor is not None
    holes = config.is_sparse and current_name(str(head._target_)) == SIMMIM_HEAD
    return None if named or holes else instantiate(head, trusted)


def at_native_size(config: EncoderConfig, weights: Weights) -> EncoderConfig:
    """A copy of the config at the image size of the weights, which are of the same family."""
    native = type(config).from_dict(weights.config).fixed_size
    return config if native is None else config.with_image_size(native)


def load_masked_model(weights: Weights, config: EncoderConfig, image_size: tuple[int, int]) -> ForMaskedImageModeling:
    """A trained masked image model, in evaluation mode, at `image_size = (H, W)` pixels.

    Raises:
        InputError: weights without a decoder.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    if not any(name.startswith("decoder.") for name in weights.state()):
        raise InputError(f"init={weights.init} has no decoder, so it predicts no pixels; use a pretraining run")
    model: ForMaskedImageModeling = load_into(
        lambda: AutoModelForMaskedImageModeling.from_config(copy.copy(config), dtype=TRAINED_IN), weights
    )
    set_image_size(model, image_size, weights)
    model.eval()
    return model


def load_encoder(weights: Weights | None, config: EncoderConfig, image_size: tuple[int, int]) -> nn.Module:
    """A frozen encoder by the contract of `mimsuite.types`, with the weights, or at random initialisation for None.

    Args:
        config: the config of the weights, at their own image size.
        image_size: `(H, W)` pixels to encode at.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    def make() -> ForMaskedImageModeling:
        made: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(copy.copy(config), dtype=TRAINED_IN)
        return made

    unused = ("decoder.", "mask_token", "classifier.", "pooler.")
    if weights is None:
        model = make()
    else:  # a decoder of other channels does not fit, and is not used here
        model = load_into(make, weights, without=() if weights.channels is None else ("decoder.",), unused=unused)
    set_image_size(model, image_size, weights)
    found: nn.Module = model.encoder.requires_grad_(False).eval()  # type: ignore[attr-defined]
    return found


def load_model(weights: Weights) -> Pretrained:
    """The model that a folder names in `architectures`, else its bare encoder.

    Of a checkpoint, and of an encoder with a decoder beside, the masked image model.
    """
    from mimsuite import models
    from mimsuite.models.pretrained import Pretrained, optional_parts

    config = config_of(weights)
    name = (weights.config.get("architectures") or [""])[0]
    found = getattr(models, name) if name in models.__all__ else None
    if (weights.has_decoder or weights.checkpoint is not None) and not name.endswith("ForImageClassification"):
        make = models.AutoModelForMaskedImageModeling.from_config
    elif isinstance(found, type) and issubclass(found, Pretrained) and isinstance(config, found.config_class):
        parts = {} if weights.foreign is None else optional_parts(found, weights.state())
        make = partial(found._from_config, **parts)
    else:
        make = models.AutoModel.from_config
    loaded: Pretrained = load_into(lambda: make(copy.copy(config), dtype=TRAINED_IN), weights)
    return loaded


def check_channels(index: DataIndex, weights: Weights) -> None:
    """Refuses images of another number of channels than the weights take; names another treatment of transparency."""
    channels = weights.config.get("num_channels", 3)
    if channels != index.channels:
        raise InputError(
            f"init={weights.init} takes {count_of(channels, 'channel')} but the images have {index.channels}; use "
            "other weights (finetune and probe make some, with init_channels=mean|repeat|zero) or other data"
        )
    if weights.alpha not in (None, index.alpha):
        log.warning(
            "data %s is read with alpha=%s, and init=%s was trained on images with alpha=%s; "
            "pack them again with that one",
            *(index.root, index.alpha, weights.init, weights.alpha),
        )
    warn_of_other_values(index.root, index.bands or (), index.value_range, weights)
    _warn_of_dark(index, weights)


def warn_of_preprocessing(weights: Weights, instead: str) -> None:
    """Warns of weights that do not say how their images were normalised, or say that they were not.

    Args:
        weights: of a model that is used as it is.
        instead: what is taken for mean and deviation, in words.
    """
    if weights.statistics is None:
        log.warning(
            "init=%s does not say by which mean and deviation its images were normalised, and %s are taken; where that "
            "is wrong, write image_mean and image_std to a preprocessor_config.json beside the weights",
            *(weights.init, instead),
        )
    off = [step for step in ("do_normalize", "do_rescale") if weights.preprocessor.get(step) is False]
    if off:
        log.warning(
            "init=%s: preprocessor_config.json says %s=false, and images are rescaled and normalised all the same",
            *(weights.init, off[0]),
        )
    elif weights.maximum not in RANGES:
        log.warning(
            "init=%s: preprocessor_config.json says rescale_factor=%g, which is neither 1/255 nor 1/65535, so images "
            "are not prepared here exactly as there",
            *(weights.init, weights.preprocessor["rescale_factor"]),
        )


def warn_of_other_values(
    where: str, bands: Sequence[str], value_range: tuple[float, float] | None, weights: Weights
) -> None:
    """Warns of images whose channels or values mean something else than those that the weights were trained on.

    Args:
        where: the place of the images.
        bands: names of their channels; empty where they have none.
        value_range: the values of the files that are 0 and the maximum; None: values are as stored.
        weights: of a model.
    """
    if bands and weights.bands and tuple(bands) != weights.bands and len(bands) == len(weights.bands):
        log.warning(
            "data %s has the bands %s, and init=%s was trained on %s; pack the data with bands=[%s] for the same order",
            *(where, ", ".join(bands), weights.init, ", ".join(weights.bands), ",".join(weights.bands)),
        )
    if value_range != weights.value_range and (weights.value_range is not None or weights.maximum > 255):
        own, trained = ("no value_range" if r is None else range_words(*r) for r in (value_range, weights.value_range))
        log.warning(
            "data %s has %s, and init=%s was trained on data with %s, so equal numbers do not mean equal values; pack "
            "the data with %s",
            *(where, own, weights.init, trained, trained),
        )


def _warn_of_dark(index: DataIndex, weights: Weights) -> None:
    """Warns of 16-bit images that use few of their values, and are black to a model of 8-bit images."""
    if index.display is None or weights.maximum > 255 or max(index.display.high) > _DARK:
        return
    log.warning(
        "init=%s was trained on 8-bit images, and these 16-bit images are dark to it: 99%% of their values are below "
        "%s of %s; pretrain on them, or spread their values to 8 bits before packing",
        *(weights.init, f"{round(max(index.display.high) * index.maximum):,}", f"{index.maximum:,}"),
    )


def make_normalizer(index: DataIndex, weights: Weights | None, config: EncoderConfig | None = None) -> Normalize:
    """Normalisation by the statistics of the weights, where they are written down, else of the data.

    Without weights, `config` may name those that a fresh model starts with. Pictures show the range of the data.
    """
    from mimsuite.data.display_range import find_display
    from mimsuite.masked.normalization import Normalize

    started = config.image_statistics if weights is None and config is not None else None
    mean, std = (weights and weights.statistics) or started or (index.mean, index.std)
    display, bands = find_display(index), index.bands or ()
    return Normalize(mean, std, index.maximum, display, index.alpha, bands, index.value_range)


HALF = "0.5 and 0.5"
"""What `load_normalizer` takes where nothing says more, in words."""


def load_normalizer(weights: Weights, index: DataIndex | None = None) -> Normalize:
    """Normalisation as the weights were trained with; 0.5 and 0.5 where nothing says more, as Hugging Face's ViT.

    Args:
        weights: of a model.
        index: images that are put into it. Their type decides which value is taken for 1, and pictures show their
            range where the weights do not say in which one they were trained; None: 16-bit data are shown within
            three deviations of the mean then.
    """
    from mimsuite.data.display_range import find_display
    from mimsuite.masked.normalization import Normalize

    half = (0.5,) * int(weights.config.get("num_channels", 3))
    mean, std = weights.statistics or (half, half)
    kept: dict[str, Any] = {"bands": weights.bands, "value_range": weights.value_range}
    if index is not None and (index.maximum > 255) != (weights.maximum > 255):
        return Normalize(mean, std, index.maximum, find_display(index), **kept)
    if weights.maximum <= 255:
        return Normalize(mean, std, weights.maximum, **kept)
    display = weights.display or (around_mean(mean, std) if index is None else find_display(index))
    return Normalize(mean, std, weights.maximum, display, **kept)


def around_mean(mean: Sequence[float], std: Sequence[float]) -> DisplayRange:
    """Three deviations to either side of the mean of every channel, as far as there are such values."""
    pairs = [(max(0.0, m - 3 * s), min(1.0, m + 3 * s)) for m, s in zip(mean, std, strict=True)]
    low, high = zip(*(pair if pair[0] < pair[1] else (0.0, 1.0) for pair in pairs), strict=True)
    return DisplayRange(low, high, "three deviations around the mean")


def make_processor(normalize: Normalize, image_size: tuple[int, int]) -> ImageProcessor:
    """The image processor that prepares images as evaluation does."""
    from mimsuite.models import CenterCropImageProcessor

    made: ImageProcessor = CenterCropImageProcessor(
        size={"height": image_size[0], "width": image_size[1]},
        rescale_factor=1 / normalize.maximum,
        image_mean=normalize.mean.flatten().tolist(),
        image_std=normalize.std.flatten().tolist(),
        do_convert_rgb=normalize.mean.numel() == 3,
        **({} if normalize.alpha == "white" else {"alpha": normalize.alpha}),
    )
    return made


def preprocessing(normalize: Normalize, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `preprocessor_config.json` holds: how images are prepared, and the range that pictures show.

    Transparency that is laid on white, as processors do, is not mentioned.
    """
    facts: dict[str, Any] = make_processor(normalize, image_size).to_dict()
    facts |= {"bands": list(normalize.bands)} if normalize.bands else {}
    facts |= {"value_range": list(normalize.value_range)} if normalize.value_range else {}
    if normalize.display is not None:
        facts |= {"display_low": list(normalize.display.low), "display_high": list(normalize.display.high)}
    return facts


def report_difference(model: Pretrained) -> None:
    """Reports once in a run what `save_pretrained` warns of in every save: fields that transformers does not know."""
    from mimsuite.models.pretrained import differs_in_transformers

    if fields := differs_in_transformers(model.config, model.file_parts({})[0]):
        log.info(
            "          transformers refuses weights/, as it would compute something else: it does not know %s; use "
            "mimsuite.load",
            ", ".join(fields),
        )


def save_weights(folder: Path, model: nn.Module, normalize: Normalize, image_size: tuple[int, int]) -> None:
    """Writes a Hugging Face folder: `config.json`, `model.safetensors`, `preprocessor_config.json`."""
    model.write_files(folder, model.state_dict())  # type: ignore[operator]  # no warning in every save of a run
    text = json.dumps(preprocessing(normalize, image_size), indent=2, sort_keys=True)
    write_text(folder / "preprocessor_config.json", text + "\n")
