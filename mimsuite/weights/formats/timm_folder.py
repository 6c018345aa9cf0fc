"""Folders of timm's hub: `model.safetensors`, and a `config.json` that names an architecture of timm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import write_text
from mimsuite.weights.containers.safetensors_file import write_safetensors
from mimsuite.weights.formats.format import IMAGENET, Found

if TYPE_CHECKING:
    from torch import Tensor


def about(found: Found) -> Mapping[str, Any]:
    """What timm's `config.json` says of the trained weights; empty without one."""
    inner = found.config.get("pretrained_cfg", found.config if "architecture" in found.config else {})
    return inner if isinstance(inner, Mapping) else {}


def preprocessing_of(found: Found) -> dict[str, Any]:
    """Mean and deviation, where `config.json` has them."""
    own = about(found)
    return {f"image_{name}": own[name] for name in ("mean", "std") if "mean" in own and "std" in own}


def labels_of(found: Found, outputs: int | None) -> dict[str, Any]:
    """The names of the classes, where `config.json` has one for each of the outputs."""
    names = found.config.get("label_names", about(found).get("label_names"))
    if not isinstance(names, list) or len(names) != outputs:
        return {}
    return {"id2label": {str(number): str(name) for number, name in enumerate(names)}}


def write_folder(
    folder: Path,
    architecture: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> None:
    """Writes a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    Args:
        folder: is made.
        architecture: the name that timm has.
        tensors: by the names there.
        config: of our `config.json`.
        preprocessor: of our `preprocessor_config.json`, for mean and deviation, and the size where `config` has none.
        arguments: of the architecture, where they are not its defaults.
    """
    prepared = preprocessor.get("size", {})
    size = config.get("image_size", [prepared.get(side, 224) for side in ("height", "width")])
    height, width = size if isinstance(size, list | tuple) else (size, size)
    outputs = next((len(tensors[name]) for name in ("head.weight", "head.fc.weight") if name in tensors), 0)
    used = IMAGENET | {name: value for name, value in preprocessor.items() if name in IMAGENET}
    trained = {
        "input_size": [config.get("num_channels", 3), height, width],
        "fixed_input_size": "image_size" in config,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": used["image_mean"],
        "std": used["image_std"],
        "num_classes": outputs,
    }
    names = config.get("id2label") or {}
    if outputs and len(names) == outputs:
        trained["label_names"] = [names.get(str(n), names.get(n)) for n in range(outputs)]
    content = {
        "architecture": architecture,
        "num_classes": outputs,
        "pretrained_cfg": trained,
        "model_args": {"num_classes": outputs, "in_chans": config.get("num_channels", 3), **arguments},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")
