"""Objects that Python callers give in place of config nodes: a mask, an augmentation, callbacks, loggers, a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

from mimsuite.encoders.config import ModelConfig
from mimsuite.errors import InputError
from mimsuite.models.load import config_of
from mimsuite.weights.init import Weights, weights_in_memory

OBJECT_KEYS = {
    "pretrain": ("mask", "augment", "callbacks", "logger", "model"),
    "finetune": ("augment", "callbacks", "logger", "model"),
    "bench": ("mask", "augment", "model"),
}
"""Tasks -> the keys that take objects beside names."""


OF_THE_WEIGHTS = ("model_type", "architectures", "dtype", "transformers_version", "id2label", "label2id")


@dataclass(frozen=True)
class Objects:
    """What a caller gave as objects; each goes where the config's node would.

    Attributes:
        mask: a `mimsuite.masked.samplers.MaskSampler`, or None.
        augment: a `mimsuite.data.augment.crop.Transform`, or None.
        callbacks: Lightning callbacks, in addition to the config's.
        loggers: Lightning loggers, instead of the config's.
        model: a config of `mimsuite.models`, instead of the group `model`; None without one.
        weights: those of a model that was given, as if `init=` named them; None without one.
    """

    mask: Any = None
    augment: Any = None
    callbacks: tuple[Any, ...] = ()
    loggers: tuple[Any, ...] = ()
    model: ModelConfig | None = None
    weights: Weights | None = None

    @property
    def given(self) -> list[str]:
        """Names of what was given."""
        return [field.name for field in fields(self) if getattr(self, field.name) not in (None, ())]

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Groups -> what `config.yaml` tells of the object in their place: its class, and of a model its sizes, too."""
        single = {"mask": self.mask, "augment": self.augment}
        found: dict[str, dict[str, Any]] = {
            key: {"_target_": class_name(value)} for key, value in single.items() if value is not None
        }
        model = config_of(self.weights) if self.weights is not None else self.model
        if model is not None:
            known = signature(type(model)).parameters.keys() - OF_THE_WEIGHTS
            sizes = {key: value for key, value in model.to_dict().items() if key in known}
            whole = {"_recursive_": False} if model.found_out else {}  # else Hydra would build a network named in it
            found["model"] = {"_target_": class_name(model), **whole, **sizes}
        return found


NO_OBJECTS = Objects()


def split_objects(task: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], Objects]:
    """Parts the values of a call into those that a config holds and objects.

    Args:
        task: its name.
        values: by key.

    Raises:
        InputError: an object of the wrong kind, or for a key that takes names only.
    """
    found = {key: value for key, value in values.items() if is_object(key, value)}
    for key, value in found.items():
        if key not in OBJECT_KEYS.get(task, ()):
            takes = ", ".join(name for name, keys in OBJECT_KEYS.items() if key in keys)
            raise InputError(
                f"{key}={value!r} is an object, and mimsuite.{task} takes a name; only {takes} take objects"
            )
    made = {key: READERS[key](value) for key, value in found.items()}
    objects = Objects(**{name: value for parts in made.values() for name, value in parts.items()})
    return {key: value for key, value in values.items() if key not in found}, objects


def is_object(key: str, value: Any) -> bool:
    """Whether the value of a key that may have objects is one: neither a name nor a list of names."""
    keys = {name for names in OBJECT_KEYS.values() for name in names}
    if key not in keys or value is None or isinstance(value, (str, Mapping)) or (key == "logger" and value == []):
        return False
    return not (isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value))


def read_mask(value: Any) -> dict[str, Any]:
    """A sampler: called with the grid and a generator."""
    if not callable(value) or isinstance(value, type):
        raise InputError(f"mask={value!r} draws no masks; give an object that is called with (grid, generator)")
    return {"mask": value}


def read_augment(value: Any) -> dict[str, Any]:
    """An augmentation: has `size` and `box`, and is called with pixels and a generator."""
    if isinstance(value, type) or not callable(value) or not all(hasattr(value, name) for name in ("size", "box")):
        raise InputError(
            f"augment={value!r} is not an augmentation; give an object with size, box(height, width, generator) and "
            "__call__(pixels, generator), such as mimsuite.data.augment.crop.CenterCrop([64, 64])"
        )
    return {"augment": value}


def read_callbacks(value: Any) -> dict[str, Any]:
    """One Lightning callback, or several."""
    return {"callbacks": read_several("callbacks", value, "Callback")}


def read_loggers(value: Any) -> dict[str, Any]:
    """One Lightning logger, or several."""
    return {"loggers": read_several("logger", value, "Logger")}


def read_several(key: str, value: Any, base: str) -> tuple[Any, ...]:
    """Objects of a class of `lightning`, which is known by name here, as importing it takes seconds."""
    several = tuple(value) if isinstance(value, Sequence) else (value,)
    for item in several:
        classes = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(item).__mro__}
        if ("lightning", base) not in classes:
            raise InputError(f"{key}={item!r} is not a lightning.pytorch {base}; give one, or a list of them")
    return several


def read_model_object(value: Any) -> dict[str, Any]:
    """A config, or a model with its weights."""
    if isinstance(value, ModelConfig):
        return {"model": value}
    if isinstance(getattr(value, "config", None), ModelConfig) and hasattr(value, "state_dict"):
        return {"weights": weights_in_memory(value)}
    raise InputError(
        f"model={type(value).__name__} is neither a config nor a model of mimsuite.models; an encoder of your own is "
        "trained as docs/extending.md says"
    )


def class_name(value: Any) -> str:
    """The full name of a function, or of an object's class."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


READERS = {
    "mask": read_mask,
    "augment": read_augment,
    "callbacks": read_callbacks,
    "logger": read_loggers,
    "model": read_model_object,
}
