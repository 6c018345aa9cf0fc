"""Fields of every configuration, those that follow each other, and those that we do not know. Imports no torch."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

from mimsuite.encoders.checks import Checks
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.words import ATTENTION_IMPLEMENTATIONS, CLASSIFIER_POOLS, MOST_CLASSES, PROBLEM_TYPES, TARGETS

if TYPE_CHECKING:
    import torch

LABELS = ("num_labels", "id2label", "label2id")
PRIVATE = frozenset({"_complete", "_name_or_path", "_trusted", "num_labels"})
"""Attributes that are no fields, or not stored as such."""

Kind = TypeVar("Kind", bound="type[ConfigFields]")


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
def configuration(cls: Kind) -> Kind:
    """Makes a class a keyword-only dataclass whose constructor also takes fields that it does not know, and keeps them.

    The signature names the known fields alone: configs of Hydra are held to it.
    """
    dataclass(kw_only=True, eq=False)(cls)
    known_only = cls.__init__
    known = frozenset(signature(known_only).parameters)

    @wraps(known_only)
    def take_all(self: ConfigFields, **values: Any) -> None:
        values = self.renamed(values)
        known_only(self, **{name: value for name, value in values.items() if name in known})
        self.keep({name: value for name, value in values.items() if name not in known})

    cls.__init__ = take_all  # type: ignore[method-assign]
    return cls


class NumLabels:
    """The field `num_labels` is not stored: it is the length of `id2label`."""

    def __get__(self, config: ConfigFields | None, owner: type[ConfigFields]) -> Any:
        return None if config is None else len(config.id2label)


class DType:
    """The field `dtype` is stored as a name, and read as torch's object where the program has imported torch."""

    def __get__(self, config: ConfigFields | None, owner: type[ConfigFields]) -> Any:
        name = None if config is None else vars(config)["dtype"]
        return name if name is None else getattr(sys.modules.get("torch"), name, name)

    def __set__(self, config: ConfigFields, value: Any) -> None:
        vars(config)["dtype"] = None if value is None else str(value).removeprefix("torch.")


@configuration
class ConfigFields(Checks):
    """Fields of all families.

    Of fields that follow from each other (`partners`), the others change when one of them is set. A field that follows
    from others by default (`derived`) does so until it is set to something else.

    Attributes:
        num_labels: outputs of a classifier, as many as `id2label` has; None: 2. 0: the classifier is the identity.
        id2label: class names by number; default `LABEL_0`, `LABEL_1`, ...
        label2id: the reverse.
        problem_type: None (inferred from the labels at each call) or one of `PROBLEM_TYPES`.
        output_hidden_states: default of the forward argument.
        output_attentions: default of the forward argument.
        return_dict: False: forward returns a tuple.
        architectures: class names of the weights beside the file.
        dtype: of the weights beside the file (`torch_dtype` is its old name): `torch.float32`, or "float32" in a
            program without torch.
        transformers_version: kept as it was read.
        attn_implementation: "auto" (also None), "sdpa" or "eager"; how to compute, so never written to `config.json`.
        mim_target: ours; what a masked image model predicts: "pixels", "norm_pixels" or "hog"
            (`mimsuite.masked.targets`).
        mim_predictor: ours; a model that predicts the features of a teacher: the values of its
            `encoders.predictor_config.PredictorConfig`; None for one that predicts what `mim_target` says.
        classifier_pool: ours; what a classifier looks at: "cls", the class token, "mean", the mean of the cells,
            "both", one behind the other, or "auto", the class token where the encoder has one.

    Raises:
        InputError: a value that is not allowed (a ValueError), naming field, value and what is.
        TypeError: a value of the wrong type.
    """

    model_type: ClassVar[str] = ""
    ours_only: ClassVar[frozenset[str]] = frozenset()
    #: Each of these names fields that are derived anew when it is set.
    partners: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(LABELS, LABELS)
    #: Fields whose values `derived` looks at.
    derived_from: ClassVar[frozenset[str]] = frozenset()
    #: Old and other names of fields, in files and keywords.
    other_names: ClassVar[dict[str, str]] = {"torch_dtype": "dtype", "_attn_implementation": "attn_implementation"}
    #: What a file may say, and is not kept: it says nothing, or follows from other fields.
    not_kept: ClassVar[frozenset[str]] = frozenset({"_commit_hash", "_complete"})

    # What tools that are made for Hugging Face's configs ask: another value can be set, and is written.
    attribute_map: ClassVar[dict[str, str]] = {}
    base_config_key: ClassVar[str] = ""
    chunk_size_feed_forward: ClassVar[int] = 0
    is_encoder_decoder: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[list[str]] = []
    sub_configs: ClassVar[dict[str, Any]] = {}
    tie_word_embeddings: ClassVar[bool] = False

    num_labels: int = NumLabels()  # type: ignore[assignment]
    id2label: dict[int, str] = None  # type: ignore[assignment]
    label2id: dict[str, int] = None  # type: ignore[assignment]
    problem_type: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None
    dtype: str | torch.dtype | None = DType()  # type: ignore[assignment]
    transformers_version: str | None = None
    attn_implementation: str = "auto"
    mim_target: str = "pixels"
    mim_predictor: dict[str, Any] | None = None
    classifier_pool: str = "auto"

    @property
    def name_or_path(self) -> str:
        """Where the model of this configuration was read; empty for one that was made."""
        return str(vars(self).get("_name_or_path", ""))

    @name_or_path.setter
    def name_or_path(self, value: Any) -> None:
        vars(self)["_name_or_path"] = str(value)

    @property
    def use_return_dict(self) -> bool:
        """Old name of `return_dict`."""
        return self.return_dict

    @property
    def torch_dtype(self) -> Any:
        """Old name of `dtype`."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: Any) -> None:
        self.dtype = value

    @property
    def _attn_implementation(self) -> str:
        """What tools ask: "sdpa", also for "auto", or "eager"."""
        return "sdpa" if self.attn_implementation == "auto" else self.attn_implementation

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | None) -> None:
        before, self.attn_implementation = self.attn_implementation, value or "auto"
        try:
            self._check_choice("attn_implementation", ATTENTION_IMPLEMENTATIONS)
        except InputError:
            self.attn_implementation = before
            raise

    def derived(self) -> dict[str, Any]:
        """Fields that follow from others, unless they are set to something else."""
        return {}

    def __init_subclass__(cls) -> None:
        """Marks objects as complete behind `__post_init__`: from then on, fields follow each other."""
        super().__init_subclass__()
        check = cls.__post_init__

        @wraps(check)
        def check_and_mark(self: Self, *values: Any) -> None:
            check(self, *values)
            if type(self) is cls:
                vars(self)["_complete"] = True

        cls.__post_init__ = check_and_mark  # type: ignore[method-assign, assignment]

    def __post_init__(self) -> None:
        self._fill_labels()
        if self.problem_type is not None:
            self._check_choice("problem_type", PROBLEM_TYPES)
        for name in ("output_hidden_states", "output_attentions", "return_dict"):
            self._check_bool(name)
        self._attn_implementation = self.attn_implementation
        self._check_choice("mim_target", TARGETS)
        if self.mim_predictor is not None:
            vars(self)["mim_predictor"] = PredictorConfig.from_dict(self.mim_predictor).to_dict()
        self._check_choice("classifier_pool", CLASSIFIER_POOLS)

    def __setattr__(self, name: str, value: Any) -> None:
        complete = "_complete" in vars(self)
        if complete and name in self.partners:
            self._set_partner(name, value)
        elif complete and name in self.derived_from:
            following = [other for other, derived in self.derived().items() if vars(self)[other] == derived]
            super().__setattr__(name, value)
            derived = self.derived()
            vars(self).update({other: derived[other] for other in following})
        else:
            super().__setattr__(name, value)

    def _set_partner(self, name: str, value: Any) -> None:
        """Sets one of several partners; the others are derived anew, or left as they were where it is wrong."""
        before = dict(vars(self))
        if name == "label2id" and self._names_agree(value):
            vars(self)[name] = value
            return
        if name == "num_labels" and value == self.num_labels:
            return
        vars(self).update(dict.fromkeys(self.partners[name]), **{name: value})
        try:
            self._fill(name)
        except (ValueError, TypeError):
            vars(self).clear()
            vars(self).update(before)
            raise

    def _fill(self, name: str) -> None:
        """Derives the partners of a field that was set, which are None."""
        self._fill_labels()

    def _names_agree(self, label2id: Any) -> bool:
        return isinstance(label2id, dict) and all(
            str(label2id.get(name)) == str(number) for number, name in self.id2label.items()
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfigFields):
            return NotImplemented
        mine, others = (
            {name: value for name, value in vars(one).items() if name not in PRIVATE} for one in (self, other)
        )
        return type(self) is type(other) and mine == others

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        """The names of the fields that are stored."""
        return iter([name for name in vars(self) if name not in PRIVATE])

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the names that the fields have here, without those that are not kept.

        Raises:
            InputError: a `model_type` of another family.
        """
        found = values.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise InputError(
                f"model_type={found!r} is not {cls.model_type!r}, the one {cls.__name__} reads; use AutoConfig"
            )
        dropped = {"model_type"} | cls.not_kept
        kept = {name: value for name, value in values.items() if name not in dropped and name not in cls.other_names}
        for old, name in cls.other_names.items():
            if old in values:
                kept.setdefault(name, values[old])
        return kept

    def keep(self, values: Mapping[str, Any]) -> None:
        """Sets fields that we do not know; one warning names those whose names look like slips of known ones.

        Raises:
            InputError: the name of a method.
        """
        strange = [name for name in values if not hasattr(type(self), name)]
        slips = [name for name in strange if self._nearest(name)]
        if slips:
            warnings.warn(
                f"{type(self).__name__}: not fields, kept and without effect: {self._named(slips)}", stacklevel=3
            )
        for name, value in values.items():
            held = getattr(type(self), name, None)
            if callable(held) or (isinstance(held, property) and held.fset is None):
                raise InputError(f"config.json has the field {name!r}, which is a method here; rename or remove it")
            setattr(self, name, value)

    @classmethod
    def _nearest(cls, name: str) -> str | None:
        return next(iter(get_close_matches(name, [f.name for f in fields(cls)], n=1, cutoff=0.85)), None)

    @classmethod
    def _named(cls, names: Iterable[str]) -> str:
        """Names that are no fields, with the fields that may have been meant."""
        found = {name: cls._nearest(name) for name in names}
        return ", ".join(name if near is None else f"{name} (did you mean {near}?)" for name, near in found.items())

    @classmethod
    def _takes_all(cls) -> bool:
        """Whether the constructor takes fields that the class does not have."""
        parameters = signature(cls.__init__, follow_wrapped=False).parameters.values()
        return any(one.kind is Parameter.VAR_KEYWORD for one in parameters)

    def _fill_labels(self) -> None:
        for name in ("id2label", "label2id"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} must be a dict, got {type(getattr(self, name)).__name__}")
        own = vars(self)  # what is set here has no partners to change
        if self.id2label is None and self.label2id is not None:
            try:
                own["id2label"] = {int(v): k for k, v in self.label2id.items()}
            except (TypeError, ValueError):
                raise InputError(f"label2id={self.label2id} has values that are not class numbers") from None
        count = own.get("num_labels")
        if self.id2label is not None:
            try:
                own["id2label"] = {int(k): v for k, v in self.id2label.items()}
            except (TypeError, ValueError):
                raise InputError(f"id2label has keys {list(self.id2label)[:3]}; expected class numbers") from None
            if count not in (None, len(self.id2label)):
                raise InputError(
                    f"num_labels={count} but id2label names {len(self.id2label)} classes; give one of them"
                )
            count = len(self.id2label)
        own["num_labels"] = 2 if count is None else count
        self._check_int("num_labels", low=0, high=MOST_CLASSES)
        if self.id2label is None:
            own["id2label"] = default_labels(own["num_labels"])
        if self.label2id is None:
            own["label2id"] = {v: k for k, v in self.id2label.items()}
        del own["num_labels"]


def default_labels(count: int) -> dict[int, str]:
    """The names of classes that have none."""
    return {i: f"LABEL_{i}" for i in range(count)}
