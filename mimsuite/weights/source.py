"""Where a pretrained folder lies: on this disk, in this package, or on the Hugging Face hub. Imports no torch."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from mimsuite.errors import InputError, reading

P = ParamSpec("P")
R = TypeVar("R")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
PROBE_HEAD = "head.json"  # of the folder of a probe
ENDINGS = (".npz", ".pth", ".pt", ".bin", ".safetensors", ".h5", ".msgpack")  # that files of weights often have
DECODER = "decoder.safetensors"  # of a model whose other file is the bare encoder
SAFETENSORS, TORCH_FILES = "model*.safetensors", "pytorch_model*.bin"
FRAMEWORK_FILES = {"flax": "flax_model.msgpack", "tensorflow": "tf_model.h5"}
SOURCES = ("safetensors", "torch", *FRAMEWORK_FILES)  # kinds of files in a folder, in the order in which they are read
HUB_FILES = ["*.json", SAFETENSORS, "decoder*.safetensors"]
WRAPPED = "mimsuite"  # in a config.json of another library: the key of what is ours
KEYWORDS = {
    "use_safetensors": {True: "safetensors", False: "torch"},
    "from_flax": {True: "flax"},
    "from_tf": {True: "tensorflow"},
}
MARK, CLASS_MARK = "mimsuite_", "Mimsuite"  # before names of what transformers would load and compute otherwise
DEMOS = Path(__file__).parent / "demo"  # small trained models that we ship, a folder each


# Keywords of `from_pretrained` that code for Hugging Face gives, and that change nothing here.
WITHOUT_EFFECT = (
    *("code_revision", "mirror", "proxies", "resume_download", "trust_remote_code", "user_agent"),
    *("_commit_hash", "_from_auto", "_from_pipeline"),
)


@dataclass(frozen=True)
class HubOptions:
    """Which files of a hub repository are wanted, and how they come here; a folder on this disk has only `subfolder`.

    Attributes:
        revision: a branch, tag or commit; None: the one behind `@` in the name, else `main`.
        token: for repositories that are not public; None: the one that `hf auth login` keeps.
        cache_dir: where downloads are kept; None: huggingface_hub's own folder.
        force_download: download again what is there.
        local_files_only: take what was downloaded before, and ask no network.
        subfolder: of the repository or folder.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    subfolder: str = ""

    @classmethod
    def take(cls, keywords: dict[str, Any]) -> Self:
        """Removes from `keywords` what every `from_pretrained` of Hugging Face takes, also what has no effect here.

        Code of a repository is never run: `trust_remote_code=True` is answered with a warning.
        """
        if keywords.get("trust_remote_code"):
            warnings.warn(
                "trust_remote_code=True has no effect: mimsuite runs no code of a repository or folder", stacklevel=3
            )
        for name in WITHOUT_EFFECT:
            keywords.pop(name, None)
        old_token = keywords.pop("use_auth_token", None)
        found = {name: keywords.pop(name) for name in cls.__dataclass_fields__ if name in keywords}
        found["token"] = old_token if found.get("token") is None else found["token"]
        found["subfolder"] = found.get("subfolder") or ""
        return cls(**found)


def take_files(keywords: dict[str, Any]) -> str | None:
    """Removes what says which files of weights are read; returns one of `SOURCES`, or None.

    Raises:
        InputError: two keywords that name different files.
    """
    given = {
        keyword: values[value]
        for keyword, values in KEYWORDS.items()
        if isinstance(value := keywords.pop(keyword, None), bool) and value in values
    }
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} name different files of weights; give one of them")
    return next(iter(given.values()), None)


def also_named(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets callers give arguments under other names: `also_named(save_directory="folder")`."""

    def rename(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            renamed: dict[str, Any] = {names.get(name, name): value for name, value in keywords.items()}
            return function(*args, **renamed)

        return call

    return rename


class MissingFileError(InputError, FileNotFoundError):
    """A file that a pretrained folder must have does not exist; also a `FileNotFoundError`."""

    def __str__(self) -> str:
        return str(self.args[0])


def find_folder(source: str | Path, options: HubOptions | None = None, *, files: str | None = None) -> Path:
    """Returns the local folder of `source`: a folder, `demo:NAME`, `hf:ORG/NAME[@REVISION]`, or `ORG/NAME` for short.

    Hub repositories are downloaded to huggingface_hub's own cache.

    Args:
        source: a folder or a name.
        options: which files of it, and how they come here.
        files: of `SOURCES`: which files of weights are downloaded; None: the first that are there, in that order.

    Raises:
        MissingFileError: no such folder, or it has no such `subfolder`.
        InputError: no such demo; huggingface_hub is not installed, or the repository cannot be downloaded.
    """
    options = options or HubOptions()
    folder = _find_whole(source, options, files)
    inner = Path(options.subfolder)
    if inner.is_absolute() or ".." in inner.parts:
        raise InputError(f"subfolder={options.subfolder!r} leads out of {str(source)!r}; give a folder inside it")
    if not (folder / inner).is_dir():
        raise MissingFileError(f"{str(source)!r} has no folder {options.subfolder!r}; give another subfolder")
    return folder / inner


def _find_whole(source: str | Path, options: HubOptions, files: str | None) -> Path:
    """The folder of `source` itself; arguments and errors as for `find_folder`."""
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        return folder
    name = str(source)
    if name.startswith("demo:"):
        return _demo(name)
    if name.startswith("hf:"):
        return _download(name.removeprefix("hf:").strip("/"), options, files)
    if HUB_NAME.fullmatch(name) and not name.startswith((".", "/")):
        return _download(name, options, files)
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
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise MissingFileError(
            f"{folder} holds an adapter of PEFT, and no model; read the model that it adapts, then "
            f"peft.PeftModel.from_pretrained(model, {str(folder)!r})"
        )
    return plain_names(read_json(folder / "config.json"))


def plain_names(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json` without what `marked_names` and `wrapped_names` did; another stays as it is."""
    if isinstance(ours := config.get(WRAPPED), dict):
        config = ours | {"library_config": {key: value for key, value in config.items() if key != WRAPPED}}
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


def wrapped_names(config: dict[str, Any]) -> dict[str, Any]:
    """A config of an encoder of another library as that library's own, with ours under one key; others stay."""
    inner: dict[str, Any] | None = config.get("library_config")
    if inner is None:
        return config
    return inner | {WRAPPED: {key: value for key, value in config.items() if key != "library_config"}}


def _demo(name: str) -> Path:
    folder = DEMOS / name.removeprefix("demo:")
    known = sorted(path.parent.name for path in DEMOS.glob("*/config.json"))
    if folder.name not in known or folder.parent != DEMOS:
        raise InputError(f"{name!r} is unknown; use {' or '.join(f'demo:{one}' for one in known)}")
    return folder


def _download(name: str, options: HubOptions, files: str | None) -> Path:
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
    repository, _, tag = name.partition("@")
    if tag and options.revision not in (None, "main", tag):
        raise InputError(f"{name!r} names another revision than revision={options.revision!r}; give one of them")
    within = f"{options.subfolder.strip('/')}/" if options.subfolder else ""
    wanted: dict[str, Any] = {"revision": tag or options.revision}
    wanted |= {key: value for key in ("token", "cache_dir") if (value := getattr(options, key)) is not None}
    wanted |= {key: True for key in ("force_download", "local_files_only") if getattr(options, key)}

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(repository, allow_patterns=[within + one for one in patterns], **wanted))

    try:
        folder = fetch(HUB_FILES)
        patterns = {"safetensors": SAFETENSORS, "torch": TORCH_FILES, **FRAMEWORK_FILES}
        for pattern in patterns.values() if files is None else [patterns[files]]:
            if pattern != SAFETENSORS:
                folder = fetch([*HUB_FILES, pattern])
            if any((folder / within).glob(pattern)):
                break
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name!r} is not a local folder, and cannot be downloaded from the Hugging Face hub: {reason}"
        ) from error
    return folder
