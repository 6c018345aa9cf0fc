"""How a configuration becomes a dict, JSON or a file, and is read and changed. Imports no torch."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn, Self

from mimsuite.data.storage import write_text
from mimsuite.encoders.config_fields import PRIVATE, ConfigFields, default_labels
from mimsuite.errors import InputError, reading
from mimsuite.weights.folder import read_our_config
from mimsuite.weights.source import HubOptions, also_named, find_folder, plain_names, read_json
from mimsuite.words import ACTIVATION_NAMES


class ConfigForm(ConfigFields):
    """Reading, writing and changing, under the names that Hugging Face's configs have for it."""

    @classmethod
    @also_named(config_dict="data")
    def from_dict(cls, data: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Self:
        """Makes a configuration from the content of a `config.json`.

        Fields that we do not know are kept as attributes and written back. `overrides` win; a new
        `num_labels` makes new label names. Overrides that are neither fields nor in `data` have no effect, which
        a warning says.

        Args:
            data: the content.
            return_unused_kwargs: give a tuple instead: the configuration, and a dict of overrides without effect.
            overrides: fields.

        Raises:
            InputError: a wrong value, or a `model_type` of another family.
        """
        config, unused = cls.read_dict(data, overrides)
        if return_unused_kwargs:
            return config, unused  # type: ignore[return-value]  # as Hugging Face has it
        if unused:
            warnings.warn(f"{cls.__name__}: not fields, and without effect: {cls._named(unused)}", stacklevel=2)
        return config

    @classmethod
    def read_dict(cls, data: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """As `from_dict`; returns the configuration, and what of `overrides` has no effect."""
        values, wanted = cls.renamed(data), cls.renamed(overrides)
        if wanted.get("dtype") == "auto":  # of the files
            del wanted["dtype"]
        unused = {name: wanted.pop(name) for name in list(wanted) if name not in values and not cls._knows(name)}
        replaced = cls._replaced(values, wanted)
        values = {name: value for name, value in values.items() if name not in replaced} | wanted
        if cls._takes_all():
            return cls(**values), unused
        known = signature(cls).parameters
        config = cls(**{name: value for name, value in values.items() if name in known})
        config.keep({name: value for name, value in values.items() if name not in known})
        return config, unused

    @classmethod
    def _replaced(cls, values: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
        """Names in `values` that are derived anew from what is wanted."""
        names = set(wanted)
        if wanted.get("num_labels") == len(values.get("id2label") or ()):  # as many as before keep their names
            names.discard("num_labels")
        return {partner for name in names for partner in cls.partners.get(name, ())}

    @classmethod
    def _knows(cls, name: str) -> bool:
        return hasattr(cls, name) or any(f.name == name for f in fields(cls)) or name in signature(cls).parameters

    def changed(self, **overrides: Any) -> Self:
        """Returns a copy with other values; what was derived from them is derived anew.

        Raises:
            InputError: a value that is not a field, or wrong.
        """
        functions = {name: value for name, value in vars(self).items() if callable(value)}
        written = copy.copy(self)
        vars(written).update(dict.fromkeys(functions, ACTIVATION_NAMES[0]))
        data = written.to_dict() | functions | {"attn_implementation": self.attn_implementation}
        config, unknown = self.read_dict(data, overrides)
        if unknown:
            names = ", ".join(sorted(f.name for f in fields(self)))
            raise InputError(f"{type(self).__name__} has no field {next(iter(unknown))!r}; fields: {names}")
        config.name_or_path = self.name_or_path
        return config

    @also_named(config_dict="values")
    def update(self, values: Mapping[str, Any]) -> None:
        """Sets several fields, one after the other; those that we do not know are kept."""
        given, known = self.renamed(values), {f.name for f in fields(self)} | vars(self).keys()
        for name in [name for name in given if name in known]:
            setattr(self, name, given.pop(name))
        self.keep(given)

    @also_named(update_str="text")
    def update_from_string(self, text: str) -> None:
        """Sets fields from `name=value,name=value`; the value that a field has decides how the text is read.

        Raises:
            InputError: a field that there is not, or a value that is none of its type.
        """
        for part in text.split(","):
            name, _, value = part.partition("=")
            if not hasattr(self, name):
                raise InputError(f"{type(self).__name__} has no field {name!r}")
            kind = type(getattr(self, name))
            words = {
                "true": True,
                "1": True,
                "y": True,
                "yes": True,
                "false": False,
                "0": False,
                "n": False,
                "no": False,
            }
            if kind is bool and value.lower() in words:
                setattr(self, name, words[value.lower()])
            elif kind in (int, float, str):
                with reading(f"{name}={value}", f"give a value of type {kind.__name__}"):
                    setattr(self, name, kind(value))
            else:
                raise InputError(f"{name}={value}: only numbers, true or false and words are set from a string")

    def to_dict(self) -> dict[str, Any]:
        """Returns what `config.json` holds: common and ours-only fields only where not the default.

        Raises:
            InputError: an activation that is a function, which has no written form.
        """
        data: dict[str, Any] = {"model_type": self.model_type}
        optional = {f.name: f.default for f in fields(ConfigFields) if f.default is not MISSING}
        optional |= {f.name: f.default for f in fields(self) if f.name in self.ours_only}
        optional |= {name: value for name, value in self.derived().items() if name in self.ours_only}
        known = {f.name for f in fields(self)}
        for name, value in vars(self).items():
            if callable(value):
                raise InputError(
                    f"{name} is a function and cannot be written; use one of {', '.join(ACTIVATION_NAMES)}"
                )
            default = optional.get(name, MISSING) if name in known else getattr(type(self), name, MISSING)
            if name not in PRIVATE and (default is MISSING or value != default):
                data[name] = _listed(value)
        data.pop("attn_implementation", None)
        if self.id2label == default_labels(2) and self.label2id == {v: k for k, v in self.id2label.items()}:
            del data["id2label"], data["label2id"]
        return data

    def to_file(self) -> dict[str, Any]:
        """Returns what `config.json` holds, in the form in which it is written."""
        return self.to_dict()

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as `to_dict`, which leaves out what has its default."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """Returns `config.json`: sorted keys, indent 2, newline at the end; the same with and without `use_diff`."""
        return json_text(self.to_file())

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Writes `to_json_string` into a file."""
        write_text(Path(json_file_path), self.to_json_string())

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Reads a file that `to_json_file` wrote."""
        with reading(str(json_file), "restore the file"):
            config: Self = cls.from_dict(plain_names(read_json(Path(json_file))))
        return config

    @classmethod
    @also_named(pretrained_model_name_or_path="source")
    def get_config_dict(cls, source: str | Path, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the content of `config.json` (or of a JSON file), and the keywords that do not say where it lies."""
        options = HubOptions.take(keywords)
        if Path(source).is_file():
            return plain_names(read_json(Path(source))), keywords
        return read_our_config(find_folder(source, options)), keywords

    @classmethod
    @also_named(pretrained_model_name_or_path="source")
    def from_pretrained(cls, source: str | Path, *, return_unused_kwargs: bool = False, **overrides: Any) -> Self:
        """Reads `config.json` of a folder or of `hf:ORG/NAME`, or a JSON file; arguments and errors as of `from_dict`.

        Keywords that say how the files come here (`weights.source.HubOptions`) are taken, too.
        """
        content, overrides = cls.get_config_dict(source, **overrides)
        with reading(f"{source}: config.json", "restore the file"):
            return cls.from_dict(content, return_unused_kwargs=return_unused_kwargs, **overrides)

    @also_named(save_directory="folder")
    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False, **_: Any) -> None:
        """Writes `config.json` into `folder`, made if absent; further keywords, of uploading, have no effect.

        Raises:
            InputError: `push_to_hub`.
        """
        if push_to_hub:
            self.push_to_hub()
        text = self.to_json_string()
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder) / "config.json", text)

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Raises an InputError: only models are uploaded."""
        raise InputError(
            "a configuration is not uploaded alone; use push_to_hub of its model, or `hf upload ORG/NAME FOLDER`"
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """The configuration itself: no part of it is for text."""
        return self


def json_text(data: Mapping[str, Any]) -> str:
    """An object as `config.json` has it: sorted keys, indent 2, newline at the end."""
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _listed(value: Any) -> Any:
    """Tuples as lists, at any depth, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_listed(v) for v in value]
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return value
