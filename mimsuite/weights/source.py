"""Where a pretrained folder lies: on this disk, in this package, or on the Hugging Face hub. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError, reading

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.json", "model*.safetensors", "decoder.safetensors"]
MARK, CLASS_MARK = "mimsuite_", "Mimsuite"  # before names of what transformers would load and compute otherwise
DEMOS = Path(__file__).parent / "demo"  # small trained models that we ship, a folder each


class MissingFileError(InputError, FileNotFoundError):
    """A file that a pretrained folder must have does not exist; also a `FileNotFoundError`."""

    def __str__(self) -> str:
        return str(self.args[0])


def find_folder(source: str | Path) -> Path:
    """Returns the local folder of `source`: a folder, `demo:NAME`, `hf:ORG/NAME[@REVISION]`, or `ORG/NAME` for short.

    Hub repositories are downloaded to huggingface_hub's own cache (safetensors, else `pytorch_model.bin`).

    Raises:
        MissingFileError: no such folder.
        InputError: no such demo; huggingface_hub is not installed, or the repository cannot be downloaded.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        return folder
    name = str(source)
    if name.startswith("demo:"):
        return _demo(name)
    if name.startswith("hf:"):
        return _download(name.removeprefix("hf:").strip("/"))
    if HUB_NAME.fullmatch(name) and not name.startswith((".", "/")):
        return _download(name)
    raise MissingFileError(f"{name!r} is not a folder; give a folder with config.json, hf:ORG/NAME or demo:NAME")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        MissingFileError: no such file.
        InputError: it is not a JSON object.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; expected a Hugging Face style folder with it")
    with reading(str(path), "download or write it again"):
        data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a JSON {type(data).__name__}; expected an object")
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json` under our own names; errors as `read_json`."""
    return plain_names(read_json(folder / "config.json"))


def plain_names(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json` without the marks of `marked_names`; one without marks stays as it is."""
    own = {key: config[key] for key in ("model_type", "architectures") if key in config}
    if isinstance(own.get("model_type"), str):
        own["model_type"] = own["model_type"].removeprefix(MARK)
    if isinstance(own.get("architectures"), list):
        own["architectures"] = [str(name).removeprefix(CLASS_MARK) for name in own["architectures"]]
    return config | own


def marked_names(config: dict[str, Any]) -> dict[str, Any]:
    """The same under names that transformers does not know, so that it refuses what it would compute otherwise."""
    classes = [f"{CLASS_MARK}{name}" for name in config.get("architectures") or []]
    return config | {"model_type": f"{MARK}{config['model_type']}", "architectures": classes}


def _demo(name: str) -> Path:
    folder = DEMOS / name.removeprefix("demo:")
    known = sorted(path.parent.name for path in DEMOS.glob("*/config.json"))
    if folder.name not in known or folder.parent != DEMOS:
        raise InputError(f"{name!r} is unknown; use {' or '.join(f'demo:{one}' for one in known)}")
    return folder


def _download(name: str) -> Path:
    if not HUB_NAME.fullmatch(name):
        raise InputError(f"'hf:{name}' is not a hub name; use hf:ORG/NAME or hf:ORG/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise InputError(
            f"{name!r} is not a local folder, and reading it from the hub needs huggingface_hub; "
            "pip install mimsuite[hub]"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES))
        if not any(folder.glob("model*.safetensors")):
            patterns = [*HUB_FILES, "pytorch_model*.bin"]
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name!r} is not a local folder, and cannot be downloaded from the Hugging Face hub: {reason}"
        ) from error
    return folder
