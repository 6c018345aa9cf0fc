"""Hugging Face's `flax_model.msgpack` of a Vision Transformer: the names of its other files, split at the dots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.weights.containers.msgpack_file import write_msgpack
from mimsuite.weights.formats import classic
from mimsuite.weights.formats.format import Format, Found, write_as
from mimsuite.weights.formats.sizes import vit_sizes

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "a Vision Transformer of Hugging Face's Flax classes"
NAME = "flax_model.msgpack"
TABLE = classic.table(classic.VIT, classic.Words("kernel", "scale", "bias"))


def canonical(found: Found) -> Found:
    """Without the prefix of the encoder."""
    return found.without_prefix("params.").without_prefix("vit.")


def is_flax(found: Found) -> bool:
    """By the patch embedding and the last norm."""
    return canonical(found).has("embeddings.patch_embeddings.projection.kernel", "layernorm.scale")


def config(found: Found) -> dict[str, Any]:
    """That beside the file, else the sizes by shapes."""
    return dict(found.config) if found.config.get("model_type") == "vit" else vit_sizes(found, TABLE, eps=1e-12)


def write(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes the file into a folder, which has its `config.json` from elsewhere.

    Args:
        folder: of Hugging Face's form.
        state: our tensors, with or without the prefix of the encoder.
        config: of their `config.json`.

    Raises:
        InputError: a tensor that this format has no place for.
    """
    made = write_as(FORMAT, state, config)
    prefix = "vit." if any(name.startswith("classifier.") for name in made) else ""
    named = {name if name.startswith("classifier.") else prefix + name: tensor for name, tensor in made.items()}
    write_msgpack(folder / NAME, named)


FORMAT = Format("flax", TITLE, "vit", lambda _: TABLE, is_flax, config, canonical)
