"""Big Transfer's original `.npz` files (Kolesnikov et al. 2020), and those of its newer published code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.weights.containers.npz import write_npz
from mimsuite.weights.formats.format import HALF, Format, Found, write_as
from mimsuite.weights.formats.mapping import CONV, FLAT, POINT_DENSE, Rule, Table
from mimsuite.weights.formats.sizes import bit_sizes

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "an original Big Transfer ResNet (.npz)"
LAYER, UNIT = "encoder.stages.{i}.layers.{j}", "resnet/block{i+1}/unit{j+1:02d}"
TABLE = Table(
    (
        Rule("resnet/root_block/standardized_conv2d/kernel", "embedder.convolution.weight", CONV),
        *(
            rule
            for number, letter in enumerate("abc", 1)
            for rule in (
                Rule(f"{UNIT}/{letter}/standardized_conv2d/kernel", f"{LAYER}.conv{number}.weight", CONV),
                Rule(f"{UNIT}/{letter}/group_norm/gamma", f"{LAYER}.norm{number}.weight", FLAT),
                Rule(f"{UNIT}/{letter}/group_norm/beta", f"{LAYER}.norm{number}.bias", FLAT),
            )
        ),
        Rule(f"{UNIT}/a/proj/standardized_conv2d/kernel", f"{LAYER}.downsample.conv.weight", CONV),
        Rule("resnet/group_norm/gamma", "norm.weight", FLAT),
        Rule("resnet/group_norm/beta", "norm.bias", FLAT),
        Rule("resnet/head/conv2d/kernel", "classifier.1.weight", POINT_DENSE),
        Rule("resnet/head/conv2d/bias", "classifier.1.bias", FLAT),
    )
)
# Of the newer code -> of the first files, of which some count their convolutions.
RENAMED = (
    (re.compile(r"/standardized_conv2d_\d+/"), "/standardized_conv2d/"),
    (re.compile(r"^(?=(root_block|block\d+|norm-pre-head|head)/)"), "resnet/"),
    (re.compile(r"/root_block/conv_root/"), "/root_block/standardized_conv2d/"),
    (re.compile(r"/norm-pre-head/"), "/group_norm/"),
    (re.compile(r"/head/(?=kernel|bias)"), "/head/conv2d/"),
    (re.compile(r"/conv_proj/"), "/a/proj/standardized_conv2d/"),
    *((re.compile(f"/conv{n}/"), f"/{letter}/standardized_conv2d/") for n, letter in enumerate("abc", 1)),
    *((re.compile(f"/gn{n}/"), f"/{letter}/group_norm/") for n, letter in enumerate("abc", 1)),
    (re.compile(r"/group_norm/scale$"), "/group_norm/gamma"),
    (re.compile(r"/group_norm/bias$"), "/group_norm/beta"),
)


def canonical(found: Found) -> Found:
    """With the names of the first files."""

    def old_name(name: str) -> str:
        for recent, old in RENAMED:
            name = recent.sub(old, name)
        return name

    own = found.without_prefix("opt/target/", "params/")
    return Found(own.where, own.tensors.renamed(old_name), own.config)


def is_bit(found: Found) -> bool:
    """By the stem and a block, of the network or of its relative whose norms stand behind the convolutions."""
    own = canonical(found)
    return own.has("resnet/block1/unit01/a/standardized_conv2d/kernel") or own.has("gn_root/scale", "conv_root/kernel")


def config(found: Found) -> dict[str, Any]:
    """Widths and depths, by shapes; a width factor is in the widths."""
    if found.has("gn_root/scale"):
        raise found.refuse(TITLE, "but with norms behind the convolutions (gn_root), which mimsuite does not read")
    return bit_sizes(found, TABLE)


def write(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes a file with the names of the first ones.

    Args:
        path: the file.
        state: our tensors, with or without the prefix of the encoder.
        config: of their `config.json`.

    Raises:
        InputError: a tensor that this format has no place for.
    """
    write_npz(path, write_as(FORMAT, state, config))


FORMAT = Format("bit", TITLE, "bit", lambda _: TABLE, is_bit, config, canonical, preprocessor=lambda _: dict(HALF))
