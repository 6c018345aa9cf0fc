"""Encoders of timm, the one place where that library is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mimsuite.errors import InputError, cause_of

# Of `pretrained_cfg`: what a folder in timm's form keeps; the rest says where the first weights were.
KEPT = (
    *("tag", "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("pool_size", "first_conv", "classifier", "license"),
)


def describe(name: str, arguments: Mapping[str, Any], channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `config.json` holds of an encoder in timm's form, and the statistics that its images are normalised by.

    Args:
        name: as `timm.create_model` takes it.
        arguments: further ones of `timm.create_model`.
        channels: of the images.

    Raises:
        InputError: no such model, or arguments that it does not take.
    """
    model_args = json.loads(json.dumps(dict(arguments))) | {"in_chans": channels}
    made = create(name, name, model_args, pretrained=False)
    known = {key: value for key, value in made.pretrained_cfg.items() if key in KEPT and value is not None}
    if (size := getattr(getattr(made, "patch_embed", None), "img_size", None)) is not None:
        model_args["img_size"] = list(size)
        known["input_size"] = [channels, *size]
    values = {
        "architecture": made.pretrained_cfg.get("architecture", name.partition(".")[0]),
        "num_classes": 0,
        "num_features": made.num_features,
        "pretrained_cfg": json.loads(json.dumps(known | {"num_classes": 0, "custom_load": False})),
        "model_args": model_args,
    }
    mean, std = known.get("mean"), known.get("std")
    return values, {} if mean is None or std is None else {"image_mean": list(mean), "image_std": list(std)}


def build(values: Mapping[str, Any], name: str) -> nn.Module:
    """The encoder of a config, freshly initialised.

    Raises:
        InputError: timm does not build it.
    """
    made: nn.Module = create(str(values.get("architecture")), name, values.get("model_args", {}), pretrained=False)
    return made


def trained_state(source: str, values: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of timm's weights by their names in the encoder; none is missing.

    Raises:
        InputError: no such weights, or they cannot be downloaded.
    """
    return create(source, name, values.get("model_args", {}), pretrained=True).state_dict(), []


def create(name: str, called: str, arguments: Mapping[str, Any], *, pretrained: bool) -> Any:
    """What `timm.create_model` makes, without a classifier.

    Args:
        name: of the model.
        called: what the user calls it.
        arguments: further ones.
        pretrained: whether it has its weights, which may be downloaded.

    Raises:
        InputError: timm does not make it.
    """
    given = {key: value for key, value in arguments.items() if key != "num_classes"}
    library = import_library()
    try:
        return library.create_model(name, pretrained=pretrained, num_classes=0, **given)
    except Exception as error:  # each model has its own way to refuse
        what = "weights" if pretrained else "model"
        raise InputError(f"model.source={called}: timm does not give this {what} ({cause_of(error)})") from error


def import_library() -> Any:
    """The library.

    Raises:
        InputError: it is not installed, or cannot be imported.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision, which timm imports, raises a RuntimeError
        raise InputError(
            f'model.source=timm:... needs timm ({cause_of(error)}); pip install "mimsuite[timm]" in an environment '
            "whose torch has a torchvision"
        ) from error
    return timm
