"""What the models return: dataclasses that are also read like a dict or a tuple, as Hugging Face's are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils._pytree import register_pytree_node


class ModelOutput:
    """Access by attribute, by name and by number.

    As in Hugging Face, fields that are None are missing in numbers, tuples, keys and iteration, and
    iteration yields the names (`**outputs` works).
    """

    def keys(self) -> list[str]:
        """Returns the names of the fields that are there."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]

    def values(self) -> list[Any]:
        """Returns the fields that are there."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Returns names and values of the fields that are there."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the fields that are there; what a model gives with `return_dict=False`."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def __init_subclass__(cls) -> None:
        """Makes the class known to torch, so that `torch.export` takes models that return it."""
        register_pytree_node(
            cls,
            lambda out: (list(vars(out).values()), list(vars(out))),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )


def as_output(out: ModelOutput, default: bool, return_dict: bool | None) -> Any:
    """What a call gives: the object, or its tuple where `return_dict` (None: the config's `default`) is False."""
    return out if (default if return_dict is None else return_dict) else out.to_tuple()


@dataclass(eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """Of `ViTModel`.

    Attributes:
        last_hidden_state: `(B, N + 1, D)`, after the final LayerNorm.
        pooler_output: `(B, pooler_output_size)`, or None without pooler.
        hidden_states: L + 1 tensors `(B, N + 1, D)`, the last one before the final LayerNorm.
        attentions: L tensors `(B, heads, N + 1, N + 1)`.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MaskedImageModelingOutput(ModelOutput):
    """Of the `...ForMaskedImageModeling`.

    Attributes:
        loss: scalar, or None without mask.
        reconstruction: `(B, C, H, W)`, normalised pixels.
        hidden_states: as the encoder gives them.
        attentions: as the encoder gives them; None for families without attention matrices.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @property
    def logits(self) -> Tensor | None:
        """The reconstruction, under its old name."""
        return self.reconstruction


@dataclass(eq=False)
class ImageClassifierOutput(ModelOutput):
    """Of `ViTForImageClassification`.

    Attributes:
        loss: scalar, or None without labels.
        logits: `(B, num_labels)`.
        hidden_states: as the encoder gives them.
        attentions: as the encoder gives them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithCLSToken(ModelOutput):
    """Of `CvtModel`.

    Attributes:
        last_hidden_state: `(B, D, h, w)`, the last stage's map, before the final LayerNorm.
        cls_token_value: `(B, 1, D)`, likewise; None without class token in the last stage.
        hidden_states: the map after every stage.
    """

    last_hidden_state: Tensor
    cls_token_value: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """Of `BitModel`.

    Attributes:
        last_hidden_state: `(B, D, h, w)`, after the final norm.
        pooler_output: `(B, D)`, its mean over the map.
        hidden_states: the maps after the stem and after every stage, before the final norm.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class ImageClassifierOutputWithNoAttention(ModelOutput):
    """Of `CvtForImageClassification` and `BitForImageClassification`.

    Attributes:
        loss: scalar, or None without labels.
        logits: `(B, num_labels)`.
        hidden_states: as the encoder gives them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BackboneOutput(ModelOutput):
    """Of `BitBackbone`.

    Attributes:
        feature_maps: the maps of the chosen stages, `(B, D_i, h_i, w_i)`, before the final norm.
        hidden_states: all maps, if asked for.
        attentions: always None.
    """

    feature_maps: tuple[Tensor, ...]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
