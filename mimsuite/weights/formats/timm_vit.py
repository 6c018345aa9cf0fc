"""timm's Vision Transformer, as DeiT and DINO have it, too."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import Format, Found, heads_of, square
from mimsuite.weights.formats.mapping import THIRDS, Rule, Table, both

LAYER, BLOCK = "encoder.layer.{i}", "blocks.{i}"
QKV = tuple(f"{LAYER}.attention.attention.{part}" for part in ("query", "key", "value"))
ENCODER = (
    Rule("cls_token", "embeddings.cls_token"),
    Rule("pos_embed", "embeddings.position_embeddings"),
    Rule("reg_token", "embeddings.register_tokens"),
    *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *both(f"{BLOCK}.norm1", f"{LAYER}.layernorm_before"),
    *both(f"{BLOCK}.norm2", f"{LAYER}.layernorm_after"),
    *both(f"{BLOCK}.attn.qkv", QKV, THIRDS, THIRDS),
    *both(f"{BLOCK}.attn.proj", f"{LAYER}.attention.output.dense"),
    *both(f"{BLOCK}.mlp.fc1", f"{LAYER}.intermediate.dense"),
    *both(f"{BLOCK}.mlp.fc2", f"{LAYER}.output.dense"),
    Rule(f"{BLOCK}.ls1.gamma", f"{LAYER}.gamma_1"),
    Rule(f"{BLOCK}.ls2.gamma", f"{LAYER}.gamma_2"),
    *both("norm", "layernorm"),
)
TABLE = Table((*ENCODER, *both("head", "classifier")))
TITLE = "a Vision Transformer of timm, DeiT or DINO"
# What these files may have that our network does not: part of a name -> what it is.
OTHERS = {
    "fc_norm.": "a norm behind the mean of the patches (global average pooling)",
    "norm_pre.": "a norm before the blocks",
    "attn_pool.": "attention pooling",
    "dist_token": "a distillation token",
    "patch_embed.backbone.": "a convolutional stem (hybrid)",
    "rel_pos": "relative positions",
    "gamma_1": "layer scale in BEiT's form",
    "q_norm.": "normalised queries and keys",
    "mask_token": "a mask token",
}


def is_timm(found: Found) -> bool:
    """By the names of the first block."""
    own = canonical(found)
    return own.has("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")


def canonical(found: Found) -> Found:
    """Without the prefixes of training programs: DistributedDataParallel's, and DINO's for the backbone of a pair."""
    return found.without_prefix("module.").without_prefix("backbone.", "model.", "visual.trunk.")


def encoder_config(found: Found) -> dict[str, Any]:
    """The sizes, by shapes."""
    shapes = found.shapes
    width, channels, *patch = shapes["patch_embed.proj.weight"]
    prefix = int(found.has("cls_token"))
    registers = shapes["reg_token"][1] if found.has("reg_token") else 0
    config: dict[str, Any] = {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "hidden_size": width,
        "num_hidden_layers": found.count(r"blocks\.(\d+)\."),
        "num_attention_heads": heads_of(found, width),
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0],
        "layer_norm_eps": 1e-6,
        "num_channels": channels,
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        "qkv_bias": found.has("blocks.0.attn.qkv.bias"),
        "use_class_token": bool(prefix),
        "num_register_tokens": registers,
        "layer_scale_init_value": 1e-5 if found.has("blocks.0.ls1.gamma") else None,
        "encoder_stride": patch[0] if patch[0] == patch[1] else patch,
    }
    if found.has("pos_embed"):
        places = shapes["pos_embed"][1] - prefix
        side = square(found, places)
        config["image_size"] = [side * patch[0], side * patch[1]] if patch[0] != patch[1] else side * patch[0]
    return {name: value for name, value in config.items() if value is not None}


def config(found: Found) -> dict[str, Any]:
    """The sizes, and the classes where there is a head."""
    for part, what in OTHERS.items():
        if any(part in name for name in found.tensors):
            raise found.refuse(TITLE, f"with {what}, which mimsuite does not have")
    made = encoder_config(found)
    if "head.weight" in found.shapes:
        made |= {"architectures": ["ViTForImageClassification"], "num_labels": found.shapes["head.weight"][0]}
    return made


FORMAT = Format("timm", TITLE, "vit", lambda _: TABLE, is_timm, config, canonical)
