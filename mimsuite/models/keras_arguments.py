"""The arguments of KerasHub's `ViTBackbone`, checked under its names, and the types that Keras has names for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import torch

from mimsuite.encoders.checks import Checks
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError
from mimsuite.weights.formats.keras import DEFAULTS, image_sides, vit_config

DATA_FORMATS = ("channels_last", "channels_first")
_TYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


class Policy(NamedTuple):
    """A `dtype` of Keras.

    Attributes:
        name: as Keras has it: "float32", "mixed_bfloat16".
        parameters: the type of the parameters.
        compute: the type of inputs, activations and outputs.
    """

    name: str
    parameters: torch.dtype
    compute: torch.dtype

    def serialized(self) -> dict[str, Any]:
        """As Keras writes it into `config.json`."""
        config = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": self.name}}
        return config | {"registered_name": None}


def read_policy(dtype: Any) -> Policy:
    """The policy of a name, a type of torch, or a dict of Keras; None: torch's default type.

    Raises:
        InputError: another value.
    """
    named = dtype
    if isinstance(dtype, Policy):
        return dtype
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        plain = dtype.get("class_name") == "DTypePolicy" and isinstance(inner, Mapping)
        named = inner.get("name") if plain and isinstance(inner, Mapping) else None
    elif dtype is None or isinstance(dtype, torch.dtype):
        named = str(dtype or torch.get_default_dtype()).removeprefix("torch.")
    mixed = {f"mixed_{name}": _TYPES[name] for name in ("bfloat16", "float16")}
    if isinstance(named, str) and named in _TYPES:
        return Policy(named, _TYPES[named], _TYPES[named])
    if isinstance(named, str) and named in mixed:
        return Policy(named, torch.float32, mixed[named])
    raise InputError(
        f"dtype={dtype!r} is not a type; use {', '.join([*_TYPES, *mixed])}, or Keras's DTypePolicy of one"
    )


@dataclass(kw_only=True)
class ViTArguments(Checks):
    """Arguments of `ViTBackbone`; what they mean, and their defaults, stands there.

    Raises:
        InputError: a value that is not allowed.
        TypeError: a value of the wrong type.
    """

    image_shape: Any
    patch_size: Any
    num_layers: int
    num_heads: int
    hidden_dim: int
    mlp_dim: int
    dropout_rate: float
    attention_dropout: float
    layer_norm_epsilon: float
    use_mha_bias: bool
    use_mlp_bias: bool
    use_class_token: bool
    use_patch_bias: bool
    data_format: Any
    dtype: Any
    name: str
    trainable: bool

    def __post_init__(self) -> None:
        if not isinstance(self.image_shape, list | tuple) or len(self.image_shape) != 3:
            raise InputError(f"image_shape={self.image_shape!r} is not 3 integers: height, width, channels")
        if None in self.image_shape:
            raise InputError(f"image_shape={self.image_shape!r} must have a height and a width, not None")
        self._check_ints("image_shape", 1, 3)
        self._check_side("patch_size")
        if isinstance(self.patch_size, int):
            self.patch_size = [self.patch_size] * 2
        for name in ("num_heads", "hidden_dim", "mlp_dim"):
            self._check_int(name, low=1)
        self._check_int("num_layers", low=0)
        for name in ("dropout_rate", "attention_dropout"):
            self._check_float(name, 0, 1)
        self._check_float("layer_norm_epsilon", 0, above=True)
        for name in ("use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias", "trainable"):
            self._check_bool(name)
        self.data_format = DATA_FORMATS[0] if self.data_format is None else self.data_format
        self._check_choice("data_format", DATA_FORMATS)
        self.dtype = read_policy(self.dtype)
        if not isinstance(self.name, str):
            raise TypeError(f"name={self.name!r} must be a string")
        self._check_fit()

    def _check_fit(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise InputError(f"hidden_dim={self.hidden_dim} is not a multiple of num_heads={self.num_heads}")
        order = "(height, width, channels)" if self.data_format == DATA_FORMATS[0] else "(channels, height, width)"
        for side, size, patch in zip(("height", "width"), image_sides(vars(self)), self.patch_size, strict=False):
            if size % patch:
                raise InputError(
                    f"Input {side} {size} should be divisible by patch size {patch}; use another image_shape, which is "
                    f"{order} with data_format={self.data_format!r}"
                )

    @classmethod
    def take(cls, values: Mapping[str, Any], where: str) -> Self:
        """Of the content of a `config.json`.

        Raises:
            InputError: a name that is not an argument, or one that is missing.
        """
        known = {field.name for field in fields(cls)}
        given = {**DEFAULTS, "dtype": None, "name": "vi_t_backbone", "trainable": True, **values}
        if wrong := sorted(given.keys() ^ known):
            what = "has no argument" if wrong[0] in given else "needs the argument"
            raise InputError(f"{where}: ViTBackbone {what} {wrong[0]!r}; its arguments are {', '.join(sorted(known))}")
        return cls(**given)

    def config(self) -> dict[str, Any]:
        """As `config.json` has them."""
        found = asdict(self) | {"dtype": self.dtype.serialized()}
        return {name: found.pop(name) for name in ("name", "trainable", "dtype")} | found

    def vit(self) -> ViTConfig:
        """As our configuration."""
        return ViTConfig.from_dict(vit_config(vars(self)))
