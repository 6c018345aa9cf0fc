"""What the models return: dicts that are also read by attribute and by number, as Hugging Face's are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from torch import Tensor
from torch.utils._pytree import register_pytree_node

from mimsuite.encoders.seen_as import seen_as
from mimsuite.errors import InputError


class ModelOutput(OrderedDict[str, Any]):
    """A dict of the fields that are there, whose entries are also attributes and have numbers.

    Fields that are None are attributes only: they are missing in names, numbers, length and iteration, which yields
    names (`**outputs` works). What is set by attribute is set in the dict, and the other way round. Tools that change
    every tensor of an output rebuild it: `type(out)(pairs)` and `type(out)(mapping)` make one.

    Subclasses are dataclasses whose fields have the default None.
    """

    def __init_subclass__(cls) -> None:
        """Makes the class known to torch, so that `torch.export` and the like find the tensors."""
        register_pytree_node(
            cls,
            lambda out: (list(out.values()), list(out)),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def __post_init__(self) -> None:
        """Spreads pairs or a mapping, if the first field was given one and no other field anything."""
        first, *others = (f.name for f in fields(self))  # type: ignore[arg-type]
        given = getattr(self, first)
        if given is None or isinstance(given, Tensor) or any(getattr(self, name) is not None for name in others):
            return
        pairs = _pairs(given)
        if pairs is not None:
            setattr(self, first, None)
            self.update(pairs)

    # Pipelines keep the numbers of an output only if it is one of transformers'.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class; in a program that uses transformers, a subclass of it that is a `ModelOutput` of theirs, too."""
        return seen_as(type(self), "transformers.utils.generic", "ModelOutput")

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the fields that are there; what a model gives with `return_dict=False`."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)
        if value is not None:
            super().__setitem__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            return
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)

    def update(self, *given: Mapping[str, Any] | Iterable[tuple[str, Any]], **named: Any) -> None:  # type: ignore[override]
        """Sets several entries; arguments as of `dict.update`."""
        for name, value in dict(*given, **named).items():
            self[name] = value

    def _stays(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"the fields of a {type(self).__name__} are not removed; set one to None, or change dict(outputs)"
        )

    __delitem__ = pop = popitem = setdefault = clear = _stays

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), dict(vars(self)), dict(self))


def _rebuilt(kind: type[ModelOutput], attributes: dict[str, Any], entries: dict[str, Any]) -> ModelOutput:
    """An output from what pickling and copying keep of it."""
    out = kind()
    for name, value in (attributes | entries).items():
        setattr(out, name, value)
    return out


def _pairs(given: Any) -> list[tuple[str, Any]] | None:
    """The `(name, value)` pairs of a mapping or of anything to iterate over; None without pairs, as for feature maps.

    Raises:
        InputError: pairs among other entries.
    """
    if isinstance(given, Mapping):
        return list(given.items())
    if not isinstance(given, Iterable):
        return None
    entries = list(given)
    paired = [isinstance(e, list | tuple) and len(e) == 2 and isinstance(e[0], str) for e in entries]
    if all(paired) and (entries or isinstance(given, Iterator)):
        return entries
    if any(paired) or isinstance(given, Iterator):
        raise InputError(
            f"entry {paired.index(False)} is not a pair (name, value); give pairs, a mapping, or the fields"
        )
    return None


def as_output(out: ModelOutput, default: bool, return_dict: bool | None) -> Any:
    """What a call gives: the object, or its tuple where `return_dict` (None: the config's `default`) is False."""
    return out if (default if return_dict is None else return_dict) else out.to_tuple()


@dataclass(eq=False)
class BaseModelOutput(ModelOutput):
    """Of a ViT's encoder, called alone.

    Attributes:
        last_hidden_state: `(B, T, D)`, before the final LayerNorm.
        hidden_states: L + 1 tensors `(B, T, D)`, the first one as it came in.
        attentions: L tensors `(B, heads, T, T)`.
    """

    last_hidden_state: Tensor = None  # type: ignore[assignment]  # there wherever a model gives it
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """Of `ViTModel`.

    Attributes:
        last_hidden_state: `(B, N + 1, D)`, after the final LayerNorm.
        pooler_output: `(B, pooler_output_size)`, or None without pooler.
        hidden_states: L + 1 tensors `(B, N + 1, D)`, the last one before the final LayerNorm.
        attentions: L tensors `(B, heads, N + 1, N + 1)`.
    """

    last_hidden_state: Tensor = None  # type: ignore[assignment]  # there wherever a model gives it
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

    last_hidden_state: Tensor = None  # type: ignore[assignment]  # there wherever a model gives it
    cls_token_value: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithNoAttention(ModelOutput):
    """Of a BiT's encoder, called alone.

    Attributes:
        last_hidden_state: `(B, D, h, w)`, before the final norm.
        hidden_states: the map that came in, and those after every stage.
    """

    last_hidden_state: Tensor = None  # type: ignore[assignment]  # there wherever a model gives it
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """Of `BitModel`.

    Attributes:
        last_hidden_state: `(B, D, h, w)`, after the final norm.
        pooler_output: `(B, D, 1, 1)`, its mean over the map.
        hidden_states: the maps after the stem and after every stage, before the final norm.
    """

    last_hidden_state: Tensor = None  # type: ignore[assignment]  # there wherever a model gives it
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

    feature_maps: tuple[Tensor, ...] = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
