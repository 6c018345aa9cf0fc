"""How an image processor becomes a dict, JSON or `preprocessor_config.json`, and is read from it."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError, reading
from mimsuite.processors.options import ALSO_TAKEN, ProcessorOptions, image_processor
from mimsuite.weights.source import HubOptions, also_named, find_folder, read_json

FILE = "preprocessor_config.json"
NESTED = "processor_config.json"  # of several processors, ours under "image_processor"


@image_processor
class ProcessorFiles(ProcessorOptions):
    """Reading and writing, under the names that Hugging Face's processors have for it."""

    def to_dict(self) -> dict[str, Any]:
        """Returns what `preprocessor_config.json` holds, with the entries of a file that are not known here."""
        found = {"image_processor_type": type(self).__name__}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.default is not None or item.name == "do_convert_rgb":
                found[item.name] = value
        found |= {name: value for name, value in self.kept().items() if value is not None}
        return {name: _plain(value) for name, value in found.items()}

    def to_json_string(self) -> str:
        """Returns the text of `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @also_named(json_file_path="path")
    def to_json_file(self, path: str | Path) -> None:
        """Writes the text of `preprocessor_config.json` to a file of any name."""
        write_text(Path(path), self.to_json_string())

    @classmethod
    @also_named(json_file="path")
    def from_json_file(cls, path: str | Path) -> Self:
        """Reads what `to_json_file` wrote; errors as `from_pretrained`."""
        made: Self = cls.from_pretrained(path)
        return made

    @classmethod
    @also_named(image_processor_dict="data")
    def from_dict(cls, data: dict[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Makes a processor from the content of a file.

        Args:
            data: what `to_dict` returns; entries that are not known here are kept, and written again.
            return_unused_kwargs: return the processor and those of the `overrides` that are no fields; without it one
                warning names them.
            overrides: fields that win.

        Raises:
            InputError: a step of the file that this processor does not have.
        """
        known = {f.name for f in fields(cls)}
        wanted = {name: value for name, value in overrides.items() if name in known or name in ALSO_TAKEN}
        unused = {name: value for name, value in overrides.items() if name not in wanted}
        if unused and not return_unused_kwargs:
            warnings.warn(f"{cls.__name__} has no option {', '.join(map(repr, unused))}: ignored", stacklevel=2)
        values = {k: v for k, v in data.items() if k in known and (v is not None or k.startswith("do_"))}
        made = cls(**(values | wanted))
        made.keep({name: value for name, value in data.items() if name not in known and name not in wanted})
        return (made, unused) if return_unused_kwargs else made

    @classmethod
    @also_named(pretrained_model_name_or_path="source")
    def get_image_processor_dict(cls, source: str | Path, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the content of the file of `source`, and the keywords that do not say where it lies.

        Arguments and errors as for `from_pretrained`.
        """
        options = HubOptions.take(keywords)
        name = keywords.pop("image_processor_filename", FILE)
        if Path(source).is_file():
            return read_json(Path(source)), keywords
        folder = find_folder(source, options)
        if (folder / NESTED).is_file():
            inner = read_json(folder / NESTED).get("image_processor")
            if isinstance(inner, dict):
                return inner, keywords
        return read_json(folder / name), keywords

    @classmethod
    @also_named(pretrained_model_name_or_path="source")
    def from_pretrained(cls, source: str | Path, **overrides: Any) -> Any:
        """Reads `preprocessor_config.json` of a folder or of `hf:ORG/NAME`, or a file like it.

        Args:
            source: a folder, a name on the hub, or a file.
            overrides: fields that win, keywords of the hub (`HubOptions`), `return_unused_kwargs` (`from_dict`).

        Raises:
            FileNotFoundError: no folder or no file (also an InputError).
            InputError: as `from_dict`.
        """
        content, overrides = cls.get_image_processor_dict(source, **overrides)
        with reading(f"{source}: {FILE}", "restore the file"):
            return cls.from_dict(content, **overrides)

    @also_named(save_directory="folder")
    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False, **keywords: Any) -> list[str]:
        """Writes `preprocessor_config.json` into `folder`, made if absent.

        Args:
            folder: where to.
            push_to_hub: is refused.
            keywords: of the hub, without effect.

        Returns:
            The name of the file.

        Raises:
            InputError: `push_to_hub`.
        """
        if push_to_hub:
            raise InputError("push_to_hub=True: mimsuite uploads nothing; save, and use `hf upload ORG/NAME FOLDER`")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / FILE)
        return [str(Path(folder) / FILE)]


def _plain(value: Any) -> Any:
    """A copy that JSON and YAML write as plain values."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list | tuple) else value
