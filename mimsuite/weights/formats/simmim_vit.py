"""SimMIM's original ViT `.pth` files (Xie et al. 2022), and BEiT's, whose network it is: with relative positions."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats import timm_vit
from mimsuite.weights.formats.format import HALF, IMAGENET, Format, Found, square
from mimsuite.weights.formats.mapping import NO_KEY_BIAS, THIRDS, Rule, Table, both
from mimsuite.weights.formats.sizes import vit_sizes
from mimsuite.weights.formats.timm_folder import labels_of, preprocessing_of

TITLE = "a ViT of SimMIM's or BEiT's published code"
LAYER, BLOCK = timm_vit.LAYER, timm_vit.BLOCK
TABLE_NAME = "relative_position_bias_table"
SHARED, OF_BLOCK = f"rel_pos_bias.{TABLE_NAME}", f"attn.{TABLE_NAME}"


QUERY, KEY, VALUE = (f"{name}.bias" for name in timm_vit.QKV)
TABLE = Table(
    (
        Rule("cls_token", "embeddings.cls_token"),
        Rule("mask_token", "embeddings.mask_token"),
        *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        Rule("pos_embed", "embeddings.position_embeddings"),
        Rule(SHARED, f"encoder.rel_pos_bias.{TABLE_NAME}"),
        Rule(f"{BLOCK}.{OF_BLOCK}", f"{LAYER}.rel_pos_bias.{TABLE_NAME}"),
        *both(f"{BLOCK}.norm1", f"{LAYER}.layernorm_before"),
        *both(f"{BLOCK}.norm2", f"{LAYER}.layernorm_after"),
        Rule(f"{BLOCK}.attn.qkv.weight", tuple(f"{name}.weight" for name in timm_vit.QKV), THIRDS),
        Rule(f"{BLOCK}.attn.q_bias", (QUERY, KEY), NO_KEY_BIAS),
        Rule(f"{BLOCK}.attn.v_bias", VALUE),
        *both(f"{BLOCK}.attn.proj", f"{LAYER}.attention.output.dense"),
        *both(f"{BLOCK}.mlp.fc1", f"{LAYER}.intermediate.dense"),
        *both(f"{BLOCK}.mlp.fc2", f"{LAYER}.output.dense"),
        Rule(f"{BLOCK}.gamma_1", f"{LAYER}.gamma_1"),
        Rule(f"{BLOCK}.gamma_2", f"{LAYER}.gamma_2"),
        *both("norm", "layernorm"),
        *both("decoder.0", "decoder.0"),
        *both("fc_norm", "fc_norm"),
        *both("head", "classifier"),
    ),
    # What follows from the grid, and BEiT's head of pretraining, which predicts visual words.
    ignored=(r".*relative_position_index", r"lm_head\..*"),
)


def canonical(found: Found) -> Found:
    """Without the prefixes of DistributedDataParallel and of the encoder."""
    return found.without_prefix("module.").without_prefix("encoder.")


def is_simmim(found: Found) -> bool:
    """By the relative positions, which all blocks share in pretraining and each has of its own afterwards."""
    own = canonical(found)
    return own.has("patch_embed.proj.weight", "blocks.0.attn.qkv.weight") and any(
        own.has(name) for name in (SHARED, f"blocks.0.{OF_BLOCK}")
    )


def config(found: Found) -> dict[str, Any]:
    """The sizes, by shapes; of the table of relative positions the last three rows are the class token's."""
    shared, own = found.has(SHARED), found.has(f"blocks.0.{OF_BLOCK}")
    rows, heads = found.shapes[SHARED if shared else f"blocks.0.{OF_BLOCK}"]
    side = (square(found, rows - 3) + 1) // 2
    made = vit_sizes(found, TABLE, eps=1e-6, heads=heads)
    patch = made["patch_size"]
    made |= {
        "image_size": side * patch if isinstance(patch, int) else [side * one for one in patch],
        "use_absolute_position_embeddings": found.has("pos_embed"),
        "use_shared_relative_position_bias": shared,
        "use_relative_position_bias": own,
        "init_scheme": "simmim",
    }
    if "layer_scale_init_value" in made:
        made["layer_scale_init_value"] = 0.1
    if found.has("decoder.0.weight"):
        return made | {"architectures": ["ViTForMaskedImageModeling"]}
    return made | labels_of(found, made.get("num_labels"))


def preprocessor(found: Found) -> dict[str, Any]:
    """That of timm's `config.json`; else by what was trained: SimMIM's decoder, BEiT's words, or not known."""
    if own := preprocessing_of(found):
        return own
    return dict(IMAGENET if found.has("decoder.0.weight") else HALF if found.has("lm_head.weight") else {})


FORMAT = Format("simmim", TITLE, "vit", lambda _: TABLE, is_simmim, config, canonical, preprocessor=preprocessor)
