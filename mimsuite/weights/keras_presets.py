"""Which folder a handle of KerasHub means: a built-in name, a Kaggle, Hugging Face or ModelScope handle, or a folder.

What a client library downloaded before is found in its cache without the client; else the client is imported and asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mimsuite.errors import InputError, cause_of

FORMS = (
    "a built-in name like 'vit_base_patch16_224_imagenet', 'kaggle://user/vit/keras/name', 'hf://user/name', "
    "'modelscope://user/name', or the path of a folder with config.json"
)
FILES = ["*.json", "*.weights.h5", "model*.safetensors"]
"""What is downloaded: a preset's files, or those of a Hugging Face folder."""
WEIGHTS = ("model.weights.h5", "model.weights.json", "model.safetensors", "model.safetensors.index.json")

SIZES = {
    "base": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072},
    "large": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096},
    "huge": {"num_layers": 32, "num_heads": 16, "hidden_dim": 1280, "mlp_dim": 5120},
}
_NAME = re.compile(r"vit_(base|large|huge)_patch(\d+)_(\d+)_imagenet(21k)?")
_COUNTS = {
    "vit_base_patch16_224_imagenet": 85_798_656,
    "vit_base_patch16_224_imagenet21k": 85_798_656,
    "vit_base_patch16_384_imagenet": 86_090_496,
    "vit_base_patch32_224_imagenet21k": 87_455_232,
    "vit_base_patch32_384_imagenet": 87_528_192,
    "vit_large_patch16_224_imagenet": 303_301_632,
    "vit_large_patch16_224_imagenet21k": 303_301_632,
    "vit_large_patch16_384_imagenet": 303_690_752,
    "vit_large_patch32_224_imagenet21k": 305_510_400,
    "vit_large_patch32_384_imagenet": 305_607_680,
    "vit_huge_patch14_224_imagenet21k": 630_764_800,
}


class MissingClientError(InputError, ImportError):
    """The library that downloads from a hub is not installed; also an `ImportError`."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnreachableError(InputError, ConnectionError):
    """A hub does not give a preset; also a `ConnectionError`."""

    def __str__(self) -> str:
        return str(self.args[0])


def builtin_presets() -> dict[str, dict[str, Any]]:
    """The built-in presets by name, each with its `metadata` and its `kaggle_handle`, as KerasHub has them."""
    return {name: _builtin(name, count) for name, count in _COUNTS.items()}


def builtin_arguments(name: str) -> dict[str, Any]:
    """The arguments of `ViTBackbone` of a built-in preset."""
    size, patch, image, _ = _parts(name)
    return {"image_shape": [int(image), int(image), 3], "patch_size": [int(patch), int(patch)], **SIZES[size]}


def is_builtin(name: str) -> bool:
    """Whether it is the name of a built-in preset."""
    return name in _COUNTS


def is_handle(name: str) -> bool:
    """Whether a name means a preset that is not a folder of this disk."""
    return name in _COUNTS or name.lower().startswith(tuple(f"{scheme}://" for scheme in HUBS))


def find_preset(preset: str | Path) -> Path:
    """Returns the folder of a preset, which is downloaded if it is not on this disk.

    Args:
        preset: one of `FORMS`.

    Raises:
        InputError: not one of them, or a folder without `config.json`.
        MissingClientError: the client library of a hub is not installed, and its cache does not have the preset.
        UnreachableError: the hub does not give it.
    """
    if not isinstance(preset, str | Path):
        raise InputError(f"a preset must be a string, got preset={preset!r}; use {FORMS}")
    name = str(preset)
    if name in _COUNTS:
        name = _builtin(name, _COUNTS[name])["kaggle_handle"]
    scheme, separator, handle = name.partition("://")
    if separator and scheme.lower() in HUBS:
        return _on_hub(name, HUBS[scheme.lower()], handle.strip("/"))
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise InputError(f"unknown preset {name!r}; use {FORMS}")
    if not (folder / "config.json").is_file():
        raise InputError(f"preset {name!r} has no config.json; give a folder that save_to_preset wrote")
    return folder


class Hub(NamedTuple):
    """A place that presets are downloaded from.

    Attributes:
        title: its name in messages.
        client: the package that downloads, as pip calls it.
        form: what a handle looks like.
        pattern: a regular expression of it.
        cached: the folders where its client may have put a handle's files, the newest first.
        download: asks the client for them.
    """

    title: str
    client: str
    form: str
    pattern: re.Pattern[str]
    cached: Callable[[str], Iterator[Path]]
    download: Callable[[str], str]


def _on_hub(preset: str, hub: Hub, handle: str) -> Path:
    if not hub.pattern.fullmatch(handle) or ".." in handle.split("/"):
        raise InputError(f"preset {preset!r} is not a handle of {hub.title}; use {hub.form}")
    for folder in hub.cached(handle):
        if (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS):
            return folder
    try:
        return Path(hub.download(handle))
    except ImportError:
        raise MissingClientError(
            f"preset {preset!r} is not in the local cache, and downloading it from {hub.title} needs {hub.client}; "
            f"pip install {hub.client}"
        ) from None
    except Exception as error:  # each client has errors of its own, for a lost network as for a wrong name
        raise UnreachableError(
            f"preset {preset!r} is not in the local cache, and cannot be downloaded from {hub.title}: {cause_of(error)}"
        ) from error


def _cached_by_kaggle(handle: str) -> Iterator[Path]:
    place = _cache("KAGGLEHUB_CACHE", "kagglehub") / "models" / handle
    inner = [path for path in place.glob("*") if path.name.isdecimal() and path.is_dir()]
    versions = [place] if place.name.isdecimal() else sorted(inner, key=lambda path: int(path.name), reverse=True)
    for folder in versions:  # the client leaves a mark beside what came whole, a folder or a single file
        marks = folder.parent / ".complete" / folder.name
        single = any((marks / f"{name}.complete").is_file() for name in WEIGHTS)
        if single or (folder.parent / f"{folder.name}.complete").is_file():
            yield folder


def _from_kaggle(handle: str) -> str:
    import kagglehub

    return str(kagglehub.model_download(handle))


def _cached_by_hugging_face(handle: str) -> Iterator[Path]:
    place = Path(os.environ.get("HF_HUB_CACHE") or _cache("HF_HOME", "huggingface") / "hub")
    repository = place / f"models--{handle.replace('/', '--')}"
    main = repository / "refs" / "main"
    commits = [main.read_text(encoding="utf-8").strip()] if main.is_file() else []
    yield from (repository / "snapshots" / Path(commit).name for commit in commits)


def _from_hugging_face(handle: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(handle, allow_patterns=FILES)


def _cached_by_modelscope(handle: str) -> Iterator[Path]:
    place, (owner, name) = _cache("MODELSCOPE_CACHE", "modelscope"), handle.split("/")
    snapshots = (place / "models" / f"{owner}--{name}" / "snapshots").glob("*")
    yield from sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True)
    for middle in ("models", "hub/models", "hub", ""):  # of older clients
        yield from (place / middle / owner / one for one in (name.replace(".", "___"), name))


def _from_modelscope(handle: str) -> str:
    from modelscope.hub.snapshot_download import snapshot_download

    return str(snapshot_download(handle, allow_patterns=FILES))


def _cache(variable: str, name: str) -> Path:
    """The cache folder of a client: where a variable of the environment says, or in the user's own."""
    return Path(os.environ.get(variable) or Path(os.path.expanduser("~"), ".cache", name))


HUBS = {
    "kaggle": Hub(
        "Kaggle",
        "kagglehub",
        "kaggle://ORG/MODEL/keras/VARIANT or kaggle://ORG/MODEL/keras/VARIANT/VERSION",
        re.compile(r"[\w.-]+(/[\w.-]+){3}(/\d+)?"),
        _cached_by_kaggle,
        _from_kaggle,
    ),
    "hf": Hub(
        "Hugging Face",
        "huggingface_hub",
        "hf://ORG/MODEL",
        re.compile(r"[\w.-]+/[\w.-]+"),
        _cached_by_hugging_face,
        _from_hugging_face,
    ),
    "modelscope": Hub(
        "ModelScope",
        "modelscope",
        "modelscope://ORG/MODEL",
        re.compile(r"[\w.-]+/[\w.-]+"),
        _cached_by_modelscope,
        _from_modelscope,
    ),
}


def _parts(name: str) -> tuple[str, str, str, str | None]:
    found = _NAME.fullmatch(name)
    assert found is not None
    return found[1], found[2], found[3], found[4]


def _builtin(name: str, count: int) -> dict[str, Any]:
    size, patch, image, wide = _parts(name)
    kind, data = ("backbone", "21k") if wide else ("model", "1k")
    text = f"ViT-{size[0].upper()}{patch} {kind} pre-trained on the ImageNet {data} dataset with image resolution of "
    return {
        "metadata": {"description": f"{text}{image}x{image}", "params": count, "path": "vit"},
        "kaggle_handle": f"kaggle://keras/vit/keras/{name}/{3 if wide or patch == '32' else 4}",
    }
