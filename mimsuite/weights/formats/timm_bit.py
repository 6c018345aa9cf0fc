"""timm's Big Transfer ResNets, `resnetv2_..._bit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError
from mimsuite.weights.formats.format import Format, Found, write_as
from mimsuite.weights.formats.mapping import POINT, Rule, Table, both
from mimsuite.weights.formats.sizes import bit_sizes
from mimsuite.weights.formats.timm_folder import labels_of, preprocessing_of, write_folder
from mimsuite.weights.tensors import in_memory

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "a Big Transfer ResNet of timm"
LAYER, BLOCK = "encoder.stages.{i}.layers.{j}", "stages.{i}.blocks.{j}"
TABLE = Table(
    (
        Rule("stem.conv.weight", "embedder.convolution.weight"),
        *(
            rule
            for number in (1, 2, 3)
            for rule in (
                *both(f"{BLOCK}.norm{number}", f"{LAYER}.norm{number}"),
                Rule(f"{BLOCK}.conv{number}.weight", f"{LAYER}.conv{number}.weight"),
            )
        ),
        Rule(f"{BLOCK}.downsample.conv.weight", f"{LAYER}.downsample.conv.weight"),
        *both("norm", "norm"),
        *both("head.fc", "classifier.1", POINT),
    )
)
OTHERS = {
    "running_mean": "BatchNorm",
    "stem.norm": "norms behind the convolutions",
    "downsample.norm": "norms behind the convolutions",
    "stem.conv1": "a stem of three convolutions",
}
# Blocks per stage, and how often wider than the narrowest -> the names that timm has.
NAMES = {
    ((3, 4, 6, 3), 1): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4): "resnetv2_152x4_bit",
}


def is_timm_bit(found: Found) -> bool:
    """By the names of the stem and of the first block, of ResNets v2 of timm also those that are not Big Transfer's."""
    return any(found.has(f"stem.{stem}.weight", "stages.0.blocks.0.conv1.weight") for stem in ("conv", "conv1"))


def config(found: Found) -> dict[str, Any]:
    """Widths and depths, by shapes; a width factor is in the widths."""
    for part, what in OTHERS.items():
        if any(part in name for name in found.tensors):
            raise found.refuse(TITLE, f"but with {what}, which mimsuite does not have")
    made = bit_sizes(found, TABLE)
    return made | labels_of(found, made.get("num_labels"))


def write(
    folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> None:
    """Writes a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    Args:
        folder: is made.
        state: our tensors, with or without the prefix of the encoder.
        config: of their `config.json`.
        preprocessor: of their `preprocessor_config.json`, for mean and deviation.

    Raises:
        InputError: a network that timm does not have.
    """
    made = write_as(FORMAT, state, config)
    sizes = bit_sizes(Found("", in_memory(made)), TABLE)
    depths, widths, factor = tuple(sizes["depths"]), sizes["hidden_sizes"], sizes["embedding_size"] // 64
    name = NAMES.get((depths, factor))
    other = {
        "layer_type": ("preactivation",),
        "global_padding": (None,),
        "num_groups": (32,),
        "embedding_dynamic_padding": (False,),
        "hidden_act": ("relu",),
    }
    for field, known in other.items():
        if config.get(field, known[0]) not in known:
            raise InputError(f"{field}={config[field]}: no Big Transfer ResNet of timm has it; use to=hf")
    if name is None or widths != [256 * factor * 2**stage for stage in range(4)]:
        raise InputError(
            f"depths={list(depths)}, hidden_sizes={widths}: timm has {', '.join(NAMES.values())}; use to=hf"
        )
    write_folder(folder, name, made, config, preprocessor, {})


FORMAT = Format("timm", TITLE, "bit", lambda _: TABLE, is_timm_bit, config, preprocessor=preprocessing_of)
