"""Weights alone under the names of other libraries: timm, original `.npz`, Flax, KerasHub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from mimsuite.data.storage import write_text
from mimsuite.encoders.config_form import json_text
from mimsuite.errors import InputError
from mimsuite.models.exporting.check import Call, Opened
from mimsuite.models.exporting.exported import Exported, load_exported
from mimsuite.models.pretrained import differs_in_transformers
from mimsuite.version import __version__
from mimsuite.weights.formats import bit_original, flax_vit, jax_vit, timm_bit, timm_vit
from mimsuite.weights.init import find_weights
from mimsuite.weights.keras_folder import write_preset

log = logging.getLogger("mimsuite")

JAX_FILE = "model.npz"
# Our families -> how they are written.
TIMM: dict[str, Callable[..., None]] = {"vit": timm_vit.write, "bit": timm_bit.write}
JAX: dict[str, Callable[..., None]] = {"vit": jax_vit.write, "bit": bit_original.write}


def files_of(exported: Exported) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and content of `config.json` as their files would have them; of an encoder without the mask token."""
    model = exported.model
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    unused = "mask_token" if model.is_base else " "
    return {k: t for k, t in model.state_dict().items() if k.rpartition(".")[2] != unused}, config


def write_timm(exported: Exported, folder: Path, preprocessor: str) -> bool:
    """Writes `config.json` and `model.safetensors` as timm's hub has them."""
    state, config = files_of(exported)
    TIMM[config["model_type"]](folder, state, config, json.loads(preprocessor))
    return exported.any_size


def open_timm(exported: Exported, folder: Path, part: str) -> Opened:
    """The folder, read by timm where that is installed, else by this package."""
    if find_spec("timm") is None:
        return open_ours(exported, folder, part)
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return Opened(f"timm {timm.__version__}", _features_of_timm(model, exported.outputs), exported.graph)


def _features_of_timm(model: Any, outputs: tuple[str, ...]) -> Call:
    """A model of timm as a function that gives our outputs."""

    def call(pixels: Tensor) -> tuple[Tensor, ...]:
        if outputs == ("logits",):
            return (model(pixels),)
        found = model.forward_features(pixels)
        if found.ndim == 4:
            return (found,)
        rows, columns = model.patch_embed.grid_size
        first = model.num_prefix_tokens
        grid = found[:, first:].transpose(1, 2).reshape(len(pixels), -1, rows, columns)
        return (grid, found[:, 0]) if "cls" in outputs else (grid,)

    return call


def write_jax(exported: Exported, folder: Path, preprocessor: str) -> bool:
    """Writes `model.npz` as the code of the paper does; its sizes are in the shapes.

    Raises:
        InputError: a grid of positions that is not square, which shapes alone do not tell.
    """
    state, config = files_of(exported)
    size, cell = exported.model.config.fixed_size, exported.model.config.stride
    if size is not None and size[0] // cell[0] != size[1] // cell[1]:
        raise InputError(f"to=jax: image_size=[{size[0]},{size[1]}] is not a square of patches; use to=hf")
    JAX[config["model_type"]](folder / JAX_FILE, state, config)
    return exported.any_size


def open_jax(exported: Exported, folder: Path, part: str) -> Opened:
    """The file, read by this package."""
    return open_ours(exported, folder / JAX_FILE, part)


def write_flax(exported: Exported, folder: Path, preprocessor: str) -> bool:
    """Writes `config.json` and `flax_model.msgpack`, for Hugging Face's Flax classes.

    Raises:
        InputError: a model that these classes do not have.
    """
    state, config = files_of(exported)
    if fields := differs_in_transformers(exported.model.config, config["architectures"][0]):
        raise InputError(f"to=flax: Hugging Face's Flax classes do not know {', '.join(fields)}; use to=hf")
    flax_vit.write(folder, state, config)
    write_text(folder / "config.json", json_text(config))
    return exported.any_size


def write_keras(exported: Exported, folder: Path, preprocessor: str) -> bool:
    """Writes a preset of KerasHub."""
    state, config = files_of(exported)
    write_preset(folder, config, state, json.loads(preprocessor))
    return exported.any_size


def open_ours(exported: Exported, place: Path, part: str) -> Opened:
    """A folder or file, read by this package."""
    level = log.level
    log.setLevel(logging.WARNING)  # the report of what was read names a folder that will not be there
    try:
        again = load_exported(find_weights(str(place)), part, exported.image_size)
    finally:
        log.setLevel(level)
    return Opened(f"mimsuite {__version__}", again.graph, exported.graph)
