"""What the config of a masked image model says of a predictor of features. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from mimsuite.errors import InputError
from mimsuite.types import EncoderConfig
from mimsuite.words import COMBINES, PREDICTORS

MOST = 2**20  # of any of its numbers


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """A predictor and what it predicts; a dict of these values is a model config's `mim_predictor`.

    Attributes:
        kind: one of `words.PREDICTORS`.
        hidden_size: E, its width; a multiple of 4 and of the heads.
        num_hidden_layers: its blocks.
        num_attention_heads: heads of a block of the kind "transformer".
        intermediate_size: width of that block's MLP.
        features: channels of the target.
        layers: numbers of the teacher's blocks that the target is made of.
        combine: how, one of `words.COMBINES`.
        pixels: whether it predicts pixels, too.

    Raises:
        InputError: a value that is not allowed.
    """

    kind: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    features: int
    layers: tuple[int, ...]
    combine: str
    pixels: bool = False

    def __post_init__(self) -> None:
        numbers = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "features")
        values = [(name, getattr(self, name)) for name in numbers] + [("layers", value) for value in self.layers]
        for name, value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
                raise InputError(f"mim_predictor.{name}={value!r} is not a whole number from 1 to {MOST:,}")
        for name, allowed in (("kind", PREDICTORS), ("combine", COMBINES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"mim_predictor.{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not self.layers or not isinstance(self.pixels, bool):
            raise InputError("mim_predictor needs some layers, and pixels as true or false; restore it")
        if self.kind == "transformer" and (self.hidden_size % self.num_attention_heads or self.hidden_size % 4):
            raise InputError(
                f"mim_predictor.hidden_size={self.hidden_size} is not a multiple of 4 and of "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads what `to_dict` gives.

        Raises:
            InputError: something else.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) | {"pixels"} != names:
            raise InputError(f"mim_predictor={values!r} is not a predictor; it has {', '.join(sorted(names))}")
        layers = values["layers"]
        if not isinstance(layers, list | tuple):
            raise InputError(f"mim_predictor.layers={layers!r} is not a list; give numbers of blocks")
        return cls(**{**values, "layers": tuple(layers)})

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` has it."""
        return asdict(self) | {"layers": list(self.layers)}


def check_predicts_pixels(config: EncoderConfig) -> None:
    """Checks that the model of a config has a head for pixels or what is made of them.

    Raises:
        InputError: it has a predictor of features.
    """
    if config.mim_predictor is not None:
        raise InputError(
            "this model predicts features of its teacher and no pixels (objective=latent); measure it by `mimsuite "
            "evaluate` or `probe`, and look at it by `mimsuite reconstruct`"
        )
