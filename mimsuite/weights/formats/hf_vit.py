"""What Hugging Face's folders of Vision Transformers have in common: names in their files, fields of `config.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimsuite.weights.formats.format import Found
from mimsuite.weights.formats.mapping import Rule

LAYER = "encoder.layer.{i}"
QKV = tuple(f"{LAYER}.attention.attention.{part}" for part in ("query", "key", "value"))
FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "qkv_bias"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"),
    *("image_size", "patch_size", "num_channels", "id2label", "label2id", "num_labels", "problem_type", "dtype"),
)
"""Fields that these configs and ours have under the same names; what is not written has the same default, too."""


def alike(*names: str) -> Iterator[Rule]:
    """Rules for tensors of the same name there and here."""
    return (Rule(name, name) for name in names)


def layers(*names: str) -> Iterator[Rule]:
    """The same for `.weight` and `.bias` of layers."""
    return alike(*(f"{name}.{end}" for name in names for end in ("weight", "bias")))


EMBEDDINGS = (
    *alike("embeddings.cls_token", "embeddings.position_embeddings", "embeddings.mask_token"),
    *layers("embeddings.patch_embeddings.projection"),
)
ATTENTION = tuple(layers(*QKV, f"{LAYER}.attention.output.dense"))
BLOCKS = (
    *ATTENTION,
    *layers(f"{LAYER}.layernorm_before", f"{LAYER}.layernorm_after"),
    *layers(f"{LAYER}.intermediate.dense", f"{LAYER}.output.dense"),
)
ENCODER = (*EMBEDDINGS, *BLOCKS, *layers("layernorm"))


def is_of(found: Found, *model_types: str) -> bool:
    """Whether the `config.json` beside weights names one of these families."""
    return found.config.get("model_type") in model_types


def own_config(found: Found, **defaults: Any) -> dict[str, Any]:
    """Our config, made from theirs.

    Args:
        found: the weights, with it.
        defaults: those of the family's that are not ours.
    """
    theirs = {"patch_size": 16, "dtype": found.config.get("torch_dtype")} | defaults | dict(found.config)
    fields = {name: theirs[name] for name in FIELDS if theirs.get(name) is not None}
    return {"model_type": "vit", "architectures": [own_class(found)], "encoder_stride": theirs["patch_size"]} | fields


def own_class(found: Found) -> str:
    """Our class for the one that their config names."""
    theirs = str((found.config.get("architectures") or [""])[0])
    ends = ("ForImageClassification", "ForMaskedImageModeling")
    return next((f"ViT{end}" for end in ends if theirs.endswith(end)), "ViTModel")
