"""What every model configuration does: labels, checks with one-line errors, JSON. Imports no torch."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError, reading
from mimsuite.weights.source import find_folder, read_config
from mimsuite.words import (
    ACTIVATION_NAMES,
    ATTENTION_IMPLEMENTATIONS,
    CLASSIFIER_POOLS,
    MOST_CLASSES,
    PROBLEM_TYPES,
    TARGETS,
)

LARGEST = 2**20  # of any whole number in a config; no network is as wide, as deep or as finely cut

Activation = str | Callable[..., Any]
Side = int | list[int]


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """What every family's configuration holds; with what a family adds it fulfils `mimsuite.types.EncoderConfig`.

    A family defines `num_channels`, `stride`, `mask_stride`, `encoder_stride`, `num_blocks` and `class_tokens`. By
    default its encoder takes any image size, cannot drop patches, and so on; where that is wrong it overrides the
    property.

    Attributes:
        num_labels: outputs of a classifier; None: as many as `id2label`, else 2. 0: the classifier is the
            identity.
        id2label: class names by number; default `LABEL_0`, `LABEL_1`, ...
        label2id: the reverse.
        problem_type: None (inferred from the labels at each call) or one of `PROBLEM_TYPES`.
        output_hidden_states: default of the forward argument.
        output_attentions: default of the forward argument.
        return_dict: False: forward returns a tuple.
        architectures: class names of the weights beside the file.
        dtype: of the weights beside the file, such as "float32" (files may say `torch_dtype`).
        transformers_version: kept as it was read.
        attn_implementation: "auto", "sdpa" or "eager"; how to compute, so never written to `config.json`.
        mim_target: ours; what a masked image model predicts: "pixels", "norm_pixels" or "hog"
            (`mimsuite.masked.targets`).
        classifier_pool: ours; what a classifier looks at: "cls", the class token, "mean", the mean of the cells, or
            "auto", the class token where the encoder has one.

    Raises:
        InputError: a value that is not allowed (a ValueError), naming field, value and what is.
        TypeError: a value of the wrong type.
    """

    model_type: ClassVar[str] = ""
    ours_only: ClassVar[frozenset[str]] = frozenset()

    num_labels: int = None  # type: ignore[assignment]  # an int after __post_init__
    id2label: dict[int, str] = None  # type: ignore[assignment]
    label2id: dict[str, int] = None  # type: ignore[assignment]
    problem_type: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None
    dtype: str | None = None
    transformers_version: str | None = None
    attn_implementation: str = "auto"
    mim_target: str = "pixels"
    classifier_pool: str = "auto"

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """C of the images."""

    @property
    @abstractmethod
    def encoder_stride(self) -> Side:
        """Pixels per cell that the head of a masked image model writes: a side, or `[h, w]`."""

    @property
    @abstractmethod
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the feature map."""

    @property
    @abstractmethod
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Residual blocks, counted through all stages."""

    @property
    @abstractmethod
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every layer."""

    @property
    def stride_field(self) -> str | None:
        """The field that is the stride; None where the stride follows from several fields."""
        return None

    @property
    def has_class_token(self) -> bool:
        """Whether the features that the encoder ends with have a class token."""
        return self.class_tokens[-1]

    @property
    def needs_whole_cells(self) -> bool:
        """Whether an image must consist of whole cells: not where convolutions pad it."""
        return False

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """`(H, W)` pixels that the weights are made for; None: any size."""
        return None

    @property
    def fixed_grid(self) -> bool:
        """Whether positions are known for the whole grid of `fixed_size` only."""
        return False

    @property
    def can_drop(self) -> bool:
        """Whether the encoder can drop hidden patches."""
        return self.drop_obstacle is None

    @property
    def drop_obstacle(self) -> str | None:
        """Why it cannot, and the fix."""
        return (
            f"objective.mask_mode=drop (objective=mae) drops hidden patches, which a {self.model_type} cannot: "
            "its convolutions need whole maps; use objective=simmim, or a ViT"
        )

    @property
    def drops_patches(self) -> bool:
        """Whether hidden patches are dropped."""
        return False

    @property
    def decoder_sizes(self) -> dict[str, int] | None:
        """The sizes of MAE's decoder; None without one."""
        return None

    @property
    def decays_mask_token(self) -> bool:
        """Whether weight decay acts on the mask token."""
        return False

    @property
    def not_in_transformers(self) -> list[str]:
        """`field=value` of what changes a classifier's logits and is unknown to, or wrong in, transformers."""
        return []

    @classmethod
    def masked_model_class(cls) -> type[Any] | None:
        """The masked image model of an encoder that is not part of mimsuite; None for those that are."""
        return None

    def with_drop_path(self, rate: float) -> Self:
        """A copy with stochastic depth that rises linearly over all blocks to `rate`."""
        return self.changed(drop_path_rate=rate)

    def with_image_size(self, size: tuple[int, int]) -> Self:
        """A copy of the same: by default an encoder has no image size."""
        return copy.copy(self)

    def with_masking(self, target: str, decoder: Mapping[str, int] | None = None) -> Self:
        """A copy of a masked image model whose head covers the image, and which replaces hidden cells.

        Raises:
            InputError: a decoder, which needs an encoder that drops hidden patches.
        """
        if decoder is not None:
            raise InputError(str(self.drop_obstacle))
        return self.changed(mim_target=target, **self._whole_head())

    def without_masking(self) -> Self:
        """A copy without what concerns masked images alone, for a classifier."""
        return self.changed(mim_target="pixels", architectures=None)

    def _whole_head(self) -> dict[str, Any]:
        """The stride of a head that covers the image; nothing where it is so already."""
        return {} if as_pair(self.encoder_stride) == self.stride else {"encoder_stride": as_side(self.stride)}

    def __post_init__(self) -> None:
        self._fill_labels()
        if self.problem_type is not None:
            self._check_choice("problem_type", PROBLEM_TYPES)
        for name in ("output_hidden_states", "output_attentions", "return_dict"):
            self._check_bool(name)
        self._check_choice("attn_implementation", ATTENTION_IMPLEMENTATIONS)
        self._check_choice("mim_target", TARGETS)
        self._check_choice("classifier_pool", CLASSIFIER_POOLS)
        if self.dtype is not None:
            self.dtype = str(self.dtype).removeprefix("torch.")

    @classmethod
    def from_dict(cls, data: dict[str, Any], **overrides: Any) -> Self:
        """Makes a configuration from the content of a `config.json`.

        Fields that we do not know are kept as attributes and written back. `overrides` win; a new
        `num_labels` makes new label names.

        Raises:
            InputError: an override that is not a field, or a `model_type` of another family.
        """
        known = {f.name for f in fields(cls)}
        overrides = dict(overrides)
        if "torch_dtype" in overrides:
            overrides["dtype"] = overrides.pop("torch_dtype")
        for name in overrides:
            if name not in known and name not in data:
                raise InputError(f"{cls.__name__} has no field {name!r}; fields: {', '.join(sorted(known))}")
        values = {k: v for k, v in data.items() if k != "model_type"}
        found = data.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise InputError(
                f"model_type={found!r} is not {cls.model_type!r}, the one {cls.__name__} reads; use AutoConfig"
            )
        if "torch_dtype" in values:
            values.setdefault("dtype", values.pop("torch_dtype"))
            values.pop("torch_dtype", None)
        labels = overrides.get("num_labels")
        if labels is not None and labels != len(values.get("id2label") or {}):
            values = {k: v for k, v in values.items() if k not in ("id2label", "label2id", "num_labels")}
        if overrides.keys() & {"id2label", "label2id"}:  # new names replace those of the file
            values = {k: v for k, v in values.items() if k not in ("id2label", "label2id", "num_labels")}
        values |= overrides
        config = cls(**{k: v for k, v in values.items() if k in known})
        for name in sorted(values.keys() - known):
            if hasattr(cls, name):
                raise InputError(f"config.json has the field {name!r}, which is a method here; rename or remove it")
            setattr(config, name, values[name])
        return config

    def changed(self, **overrides: Any) -> Self:
        """Returns a copy with other values; what was derived from them is derived anew. Errors as `from_dict`."""
        functions = {name: value for name, value in vars(self).items() if callable(value)}
        written = copy.copy(self)
        vars(written).update(dict.fromkeys(functions, ACTIVATION_NAMES[0]))
        data = written.to_dict() | functions | {"attn_implementation": self.attn_implementation}
        return self.from_dict(data, **overrides)

    @classmethod
    def from_pretrained(cls, source: str | Path, **overrides: Any) -> Self:
        """Reads `config.json` of a folder or of `hf:ORG/NAME`.

        `overrides` are fields that win over the file.
        """
        content = read_config(find_folder(source))
        with reading(f"{source}: config.json", "restore the file"):
            return cls.from_dict(content, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `config.json` holds: common and ours-only fields only where not the default.

        Raises:
            InputError: an activation that is a function, which has no written form.
        """
        data: dict[str, Any] = {"model_type": self.model_type}
        optional = {f.name: f.default for f in fields(ModelConfig) if f.default is not MISSING}
        optional |= {f.name: f.default for f in fields(self) if f.name in self.ours_only}
        for name, value in vars(self).items():
            if callable(value):
                raise InputError(
                    f"{name} is a function and cannot be written; use one of {', '.join(ACTIVATION_NAMES)}"
                )
            if name not in optional or value != optional[name]:
                data[name] = _listed(value)
        del data["num_labels"]
        data.pop("attn_implementation", None)
        if self.id2label == _default_labels(2) and self.label2id == {v: k for k, v in self.id2label.items()}:
            del data["id2label"], data["label2id"]
        return data

    def to_json_string(self) -> str:
        """Returns `config.json`: sorted keys, indent 2, newline at the end."""
        return json_text(self.to_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` into `folder`, made if absent."""
        text = self.to_json_string()
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder) / "config.json", text)

    def _beyond(self, known: dict[str, tuple[Any, ...]]) -> list[str]:
        """`field=value` of every field whose value is none of those that are known."""
        return [f"{name}={getattr(self, name)}" for name, values in known.items() if getattr(self, name) not in values]

    def _fill_labels(self) -> None:
        for name in ("id2label", "label2id"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} must be a dict, got {type(getattr(self, name)).__name__}")
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(v): k for k, v in self.label2id.items()}
        if self.id2label is not None:
            try:
                self.id2label = {int(k): v for k, v in self.id2label.items()}
            except (TypeError, ValueError):
                raise InputError(f"id2label has keys {list(self.id2label)[:3]}; expected class numbers") from None
            if self.num_labels is None:
                self.num_labels = len(self.id2label)
            elif self.num_labels != len(self.id2label):
                raise InputError(
                    f"num_labels={self.num_labels} but id2label names {len(self.id2label)} classes; give one of them"
                )
        if self.num_labels is None:
            self.num_labels = 2
        self._check_int("num_labels", low=0, high=MOST_CLASSES)
        if self.id2label is None:
            self.id2label = _default_labels(self.num_labels)
        if self.label2id is None:
            self.label2id = {v: k for k, v in self.id2label.items()}

    def _check_int(self, name: str, low: int, high: int = LARGEST) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}")
        if value < low:
            raise InputError(f"{name}={value} must be at least {low}")
        if value > high:
            raise InputError(f"{name}={value} must be at most {high}")

    def _check_float(self, name: str, low: float, high: float = float("inf"), *, above: bool = False) -> None:
        """`above`: `low` itself is not allowed."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}")
        if not low <= value <= high or (above and value == low):
            raise InputError(
                f"{name}={value} must be {'above' if above else 'at least'} {low}"
                + (f" and at most {high}" * (high < float("inf")))
            )

    def _check_bool(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise TypeError(f"{name}={getattr(self, name)!r} must be true or false")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise InputError(f"{name}={value!r} is not one of {', '.join(allowed)}")

    def _check_activation(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str):
            self._check_choice(name, ACTIVATION_NAMES)
        elif not callable(value):
            raise TypeError(f"{name}={value!r} must be a name or a function; names: {', '.join(ACTIVATION_NAMES)}")

    def _check_each(self, name: str, count: int | None = None) -> list[Any]:
        """A list, of `count` entries where that is given; a tuple becomes a list. Returns the entries."""
        value = getattr(self, name)
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name}={value!r} must be a list, got {type(value).__name__}")
        if not value or count not in (None, len(value)):
            raise InputError(f"{name}={list(value)} has {len(value)} entries; expected {count or 'at least 1'}")
        setattr(self, name, list(value))
        return list(value)

    def _check_ints(self, name: str, low: int, count: int | None = None) -> None:
        """A list of integers of at least `low`."""
        for value in self._check_each(name, count):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}={getattr(self, name)!r} must hold integers, got {type(value).__name__}")
            if value < low:
                raise InputError(f"{name}={getattr(self, name)} must hold integers of at least {low}")

    def _check_floats(self, name: str, low: float, high: float, count: int, *, above: bool = False) -> None:
        """A list of numbers; `above`: `low` itself is not allowed."""
        for value in self._check_each(name, count):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}={getattr(self, name)!r} must hold numbers, got {type(value).__name__}")
            if not low <= value <= high or (above and value == low):
                limits = f"{'above' if above else 'at least'} {low}" + f" and at most {high}" * (high < float("inf"))
                raise InputError(f"{name}={getattr(self, name)} must hold numbers {limits}")

    def _check_bools(self, name: str, count: int) -> None:
        """A list of true or false."""
        if not all(isinstance(value, bool) for value in self._check_each(name, count)):
            raise TypeError(f"{name}={getattr(self, name)!r} must hold true or false")

    def _check_side(self, name: str) -> None:
        """One positive integer, or a pair of them, which becomes a list."""
        value = getattr(self, name)
        sides = list(value) if isinstance(value, list | tuple) else [value]
        for side in sides:
            if isinstance(side, bool) or not isinstance(side, int):
                raise TypeError(f"{name}={value!r} must be an integer or a pair (height, width) of them")
        if len(sides) > 2 or (isinstance(value, list | tuple) and len(sides) != 2) or min(sides) < 1:
            raise InputError(f"{name}={value!r} must be a positive integer or a pair (height, width) of them")
        if isinstance(value, tuple):
            setattr(self, name, sides)


def json_text(data: Mapping[str, Any]) -> str:
    """An object as `config.json` has it: sorted keys, indent 2, newline at the end."""
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def as_pair(side: Side) -> tuple[int, int]:
    """Returns `(height, width)` of a side given as one number or as a pair."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def as_side(size: tuple[int, int]) -> Side:
    """Returns `(height, width)` as configs have it: one number for a square, else a list."""
    return size[0] if size[0] == size[1] else list(size)


def _default_labels(count: int) -> dict[int, str]:
    return {i: f"LABEL_{i}" for i in range(count)}


def _listed(value: Any) -> Any:
    """Tuples as lists, at any depth, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_listed(v) for v in value]
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return value
