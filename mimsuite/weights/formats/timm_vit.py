"""timm's Vision Transformer, as DeiT, DINO and MAE (its encoder) have it, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError
from mimsuite.weights.formats.format import Format, Found, write_as
from mimsuite.weights.formats.mapping import POSITIONS, THIRDS, TOKEN, Rule, Table, both
from mimsuite.weights.formats.sizes import vit_sizes
from mimsuite.weights.formats.timm_folder import about, labels_of, preprocessing_of, write_folder

if TYPE_CHECKING:
    from torch import Tensor

LAYER, BLOCK = "encoder.layer.{i}", "blocks.{i}"
QKV = tuple(f"{LAYER}.attention.attention.{part}" for part in ("query", "key", "value"))
ENCODER = (
    Rule("cls_token", "embeddings.cls_token"),
    Rule("pos_embed", "embeddings.position_embeddings", POSITIONS),
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
# DINOv2's files have its mask token, DINO's whole ones the head of its training; fine-tuned MAE has `fc_norm`.
TABLE = Table(
    (
        *ENCODER,
        Rule("mask_token", "embeddings.mask_token", TOKEN),
        *both("fc_norm", "fc_norm"),
        *both("head", "classifier"),
    ),
    ignored=(r"(dino_)?head\.(mlp|last_layer)\..*",),
)
TITLE = "a Vision Transformer of timm, DeiT, DINO or MAE"
# What these files may have that our network does not: part of a name -> what it is.
OTHERS = {
    "norm_pre.": "a norm before the blocks (norm_pre)",
    "attn_pool.": "attention pooling (attn_pool)",
    "dist_token": "a distillation token (dist_token)",
    "patch_embed.backbone.": "a convolutional stem (hybrid)",
    "q_norm.": "normalised queries and keys (q_norm)",
}
RENAMED = (
    (re.compile(r"^register_tokens$"), "reg_token"),  # of DINOv2
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
    (re.compile(r"\.gamma_(\d)$"), r".ls\1.gamma"),  # of DeiT-III
)
# Architectures whose heads are not those of other networks of their width; those with the tanh form of GELU.
OPT = ("vit_giantopt_patch16_siglip_gap_256", "vit_giantopt_patch16_siglip_gap_384")
HEADS_OF = {**dict.fromkeys(OPT, 16), "vit_base_patch16_gap_224": 16, "test_vit": 2}
TANH = (
    *OPT,
    *(f"vit_so400m_patch16_siglip_gap_{size}" for size in (256, 384, 512)),
    *("vit_base_patch32_siglip_gap_256", "vit_large_patch16_siglip_gap_512"),
)
# Ours -> theirs; of those with the same name there the first is what it becomes here.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}


def is_timm(found: Found) -> bool:
    """By the names of the patch embedding and the first block."""
    return canonical(found).has("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")


def canonical(found: Found) -> Found:
    """With timm's names, without the prefixes of training programs.

    Those are DistributedDataParallel's, and DINO's for the backbone of a pair.
    """
    own = found.without_prefix("module.").without_prefix("backbone.", "model.", "visual.trunk.")

    def new_name(name: str) -> str:
        for pattern, new in RENAMED:
            name = pattern.sub(new, name)
        return name

    return Found(own.where, own.tensors.renamed(new_name), own.config)


def check(found: Found) -> None:
    """Refuses what our network does not have."""
    for part, what in OTHERS.items():
        if any(part in name for name in found.tensors):
            raise found.refuse(TITLE, f"but with {what}, which mimsuite does not have")
    if found.has("norm.weight") == found.has("fc_norm.weight"):
        raise found.refuse(TITLE, "but without a norm behind its blocks (norm), or with two (norm and fc_norm)")


def config(found: Found) -> dict[str, Any]:
    """The sizes by shapes; from timm's `config.json` what pools, and the names of the classes."""
    check(found)
    given = found.config.get("model_args")
    given = given if isinstance(given, Mapping) else {}
    if "_rpn_" in (name := str(found.config.get("architecture"))):
        raise found.refuse(TITLE, f"but with norms behind attention and MLP ({name}), which mimsuite does not have")
    heads = given.get("num_heads", HEADS_OF.get(name))
    made = vit_sizes(found, TABLE, eps=1e-6, heads=heads if isinstance(heads, int) else None, size=size_of(found))
    if found.has("reg_token", "mask_token"):  # DINOv2's code smooths positions where there are registers
        made["antialias_positions"] = True
    if (act := given.get("act_layer", "gelu_tanh" if name in TANH else None)) is not None:
        known = [ours for ours, theirs in ACTIVATIONS.items() if theirs == act]
        if not known:
            raise found.refuse(
                TITLE, f"but with act_layer={act}; known are {', '.join(dict.fromkeys(ACTIVATIONS.values()))}"
            )
        made["hidden_act"] = known[0]
    pool = found.config.get("global_pool", given.get("global_pool"))
    if pool == "avg":
        made["classifier_pool"] = "mean"
    elif pool == "token":
        made |= {"classifier_pool": "cls"} if found.has("fc_norm.weight") else {}
    elif pool and found.has("head.weight"):
        raise found.refuse(TITLE, f"but with global_pool={pool}, which no classifier here has")
    return made | labels_of(found, made.get("num_labels"))


def size_of(found: Found) -> tuple[int, int] | None:
    """`(H, W)` of the images, as timm's `config.json` has it; None where it does not, or makes no sense."""
    given = found.config.get("model_args")
    size = given.get("img_size") if isinstance(given, Mapping) else None
    if size is None and isinstance(shape := about(found).get("input_size"), list):
        size = shape[1:]
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return (sides[0], sides[1]) if len(sides) == 2 and all(type(side) is int for side in sides) else None


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
    without = {"use_attention_output_bias": True, "use_mlp_bias": True, "use_patch_bias": True, "use_gated_mlp": False}
    missing = [f"{name}={config[name]}" for name, known in without.items() if config.get(name, known) != known]
    if config.get("num_register_tokens"):
        missing.append(f"num_register_tokens={config['num_register_tokens']} without positions")
    if (act := config.get("hidden_act", "gelu")) not in ACTIVATIONS:
        missing.append(f"hidden_act={act}")
    if config.get("classifier_pool") == "both" and any(name.startswith("classifier.") for name in state):
        missing.append("classifier_pool=both")
    if missing:
        raise InputError(f"{missing[0]}: timm's Vision Transformer has no such thing; use to=hf")
    class_token = config.get("use_class_token", True)
    mean = config.get("classifier_pool") == "mean" or not class_token
    arguments = {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embed_dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
        "qkv_bias": config.get("qkv_bias", True),
        "init_values": config.get("layer_scale_init_value"),
        "class_token": class_token,
        "pos_embed": "learn" if config.get("use_absolute_position_embeddings", True) else "none",
        "global_pool": "avg" if mean else "token",
        "act_layer": ACTIVATIONS[act],
    }
    made = write_as(FORMAT, state, config)
    after_pool = "fc_norm.weight" in made
    arguments |= {"fc_norm": after_pool, "final_norm": after_pool or "norm.weight" in made}
    write_folder(folder, "vit_base_patch16_224", made, config, preprocessor, arguments)


FORMAT = Format("timm", TITLE, "vit", lambda _: TABLE, is_timm, config, canonical, preprocessor=preprocessing_of)
