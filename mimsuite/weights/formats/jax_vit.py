"""The Vision Transformer's original `.npz` files (Dosovitskiy et al. 2021), with the old and the new numbers of layers.

Their network has the tanh form of GELU; as in Hugging Face's copies of these weights ours has the exact one, unless
`hidden_act="gelu_new"` is asked for (the largest difference of one activation is 4.7e-4).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError
from mimsuite.weights.containers.npz import write_npz
from mimsuite.weights.formats.format import HALF, Format, Found, write_as
from mimsuite.weights.formats.mapping import CONV, DENSE, FROM_HEADS, INTO_HEADS, OF_HEADS, POSITIONS, Rule, Table
from mimsuite.weights.formats.sizes import vit_sizes

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "an original Vision Transformer (.npz)"
LAYER, BLOCK = "encoder.layer.{i}", "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"
ENCODER = (
    Rule("cls", "embeddings.cls_token"),
    Rule("Transformer/posembed_input/pos_embedding", "embeddings.position_embeddings", POSITIONS),
    Rule("embedding/kernel", "embeddings.patch_embeddings.projection.weight", CONV),
    Rule("embedding/bias", "embeddings.patch_embeddings.projection.bias"),
    Rule(f"{BLOCK}/LayerNorm_0/scale", f"{LAYER}.layernorm_before.weight"),
    Rule(f"{BLOCK}/LayerNorm_0/bias", f"{LAYER}.layernorm_before.bias"),
    Rule(f"{BLOCK}/LayerNorm_2/scale", f"{LAYER}.layernorm_after.weight"),
    Rule(f"{BLOCK}/LayerNorm_2/bias", f"{LAYER}.layernorm_after.bias"),
    *(
        rule
        for part in ("query", "key", "value")
        for rule in (
            Rule(f"{ATTENTION}/{part}/kernel", f"{LAYER}.attention.attention.{part}.weight", INTO_HEADS),
            Rule(f"{ATTENTION}/{part}/bias", f"{LAYER}.attention.attention.{part}.bias", OF_HEADS),
        )
    ),
    Rule(f"{ATTENTION}/out/kernel", f"{LAYER}.attention.output.dense.weight", FROM_HEADS),
    Rule(f"{ATTENTION}/out/bias", f"{LAYER}.attention.output.dense.bias"),
    Rule(f"{BLOCK}/MlpBlock_3/Dense_0/kernel", f"{LAYER}.intermediate.dense.weight", DENSE),
    Rule(f"{BLOCK}/MlpBlock_3/Dense_0/bias", f"{LAYER}.intermediate.dense.bias"),
    Rule(f"{BLOCK}/MlpBlock_3/Dense_1/kernel", f"{LAYER}.output.dense.weight", DENSE),
    Rule(f"{BLOCK}/MlpBlock_3/Dense_1/bias", f"{LAYER}.output.dense.bias"),
    Rule("Transformer/encoder_norm/scale", "layernorm.weight"),
    Rule("Transformer/encoder_norm/bias", "layernorm.bias"),
    Rule("pre_logits/kernel", "pooler.dense.weight", DENSE),
    Rule("pre_logits/bias", "pooler.dense.bias"),
)
HEAD = (Rule("head/kernel", "classifier.weight", DENSE), Rule("head/bias", "classifier.bias"))
WHOLE, WITHOUT_HEAD = Table((*ENCODER, *HEAD)), Table(ENCODER, ignored=("head/.*",))
# Of the new numbers -> of the old ones. The norm's comes first, and only where there are new numbers.
RENUMBERED = {
    "/LayerNorm_1/": "/LayerNorm_2/",
    "/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    "/MlpBlock_0/": "/MlpBlock_3/",
}
# Fields of our config that the files do not show -> values that their network has, the default first.
ALIKE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh"),
    "use_gated_mlp": (False,),
    "norm_after_pool": (False,),
}
OTHERS = {
    "MAPHead_0/": "attention pooling",
    "Transformer/encoderblock/": "all blocks in one array each (scan)",
    "img/": "a text encoder beside it",
    "root_block/": "a convolutional stem (hybrid)",
    "conv_root/": "a convolutional stem (hybrid)",
}


def canonical(found: Found) -> Found:
    """Without the prefixes of training programs, and with the old numbers."""
    own = found.without_prefix("opt/target/", "params/")
    new = any("/MultiHeadDotProductAttention_0/" in name for name in own.tensors)

    def old_name(name: str) -> str:
        for recent, old in RENUMBERED.items() if new else ():
            name = name.replace(recent, old)
        return "Transformer/posembed_input/pos_embedding" if name == "pos_embedding" else name

    return Found(own.where, own.tensors.renamed(old_name), own.config)


def is_jax(found: Found) -> bool:
    """By the patch embedding and the last norm."""
    own = canonical(found)
    return any(own.has(f"{part}embedding/kernel", f"{part}Transformer/encoder_norm/scale") for part in ("", "img/"))


def config(found: Found) -> dict[str, Any]:
    """The sizes, by shapes. Old ImageNet-21k files have a classifier behind `pre_logits`, which is left out."""
    for part, what in OTHERS.items():
        if any(name.startswith(part) for name in found.tensors):
            raise found.refuse(TITLE, f"with {what}, which mimsuite does not read")
    heads = found.shapes["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"][1]
    return vit_sizes(found, table_of(with_pooler=found.has("pre_logits/kernel")), eps=1e-6, heads=heads)


def table_of(*, with_pooler: bool) -> Table:
    """The names; a classifier only where it stands on the class token itself, as ours does."""
    return WITHOUT_HEAD if with_pooler else WHOLE


def table(config: Mapping[str, Any]) -> Table:
    """The names that a network has which `config` describes."""
    return table_of(with_pooler=config.get("architectures") == ["ViTModel"])


def write(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes a file with the old numbers and no prefix.

    Args:
        path: the file.
        state: our tensors, with or without the prefix of the encoder.
        config: of their `config.json`.

    Raises:
        InputError: a network that the published code does not have.
    """
    for field, known in ALIKE.items():
        if (value := config.get(field, known[0])) not in known:
            raise InputError(
                f"{field}={value}: the Vision Transformer of the published code has no such thing; use to=hf"
            )
    made = write_as(FORMAT, state, config)
    if "head/kernel" in made and config.get("classifier_pool") in ("mean", "both") and "cls" in made:
        raise InputError(f"classifier_pool={config['classifier_pool']}: this format does not say it; use to=hf")
    write_npz(path, made)


FORMAT = Format("jax", TITLE, "vit", table, is_jax, config, canonical, preprocessor=lambda _: dict(HALF))
