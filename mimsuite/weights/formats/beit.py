"""Hugging Face folders of BEiT (Bao et al. 2022) whose norm stands before the mean, as ours does: pretrained ones."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import HALF, Format, Found
from mimsuite.weights.formats.hf_vit import ENCODER, LAYER, QKV, is_of, layers, own_config
from mimsuite.weights.formats.mapping import NO_KEY_BIAS, Rule, Table

TITLE = "a BEiT folder of Hugging Face"
QUERY, KEY, _ = (f"{name}.bias" for name in QKV)
SHARED = "relative_position_bias_table"
TABLE = Table(
    (
        *(rule for rule in ENCODER if rule.theirs not in (QUERY, KEY)),
        Rule(QUERY, (QUERY, KEY), NO_KEY_BIAS),
        Rule(f"{LAYER}.lambda_1", f"{LAYER}.gamma_1"),
        Rule(f"{LAYER}.lambda_2", f"{LAYER}.gamma_2"),
        Rule(f"encoder.relative_position_bias.{SHARED}", f"encoder.rel_pos_bias.{SHARED}"),
        *layers("classifier"),
    ),
    # An index that follows from the sizes; the head of pretraining, which predicts visual words.
    (r".*relative_position_index", r"lm_head\..*"),
)
PRETRAINED = (
    "use the weights of pretraining (BeitForMaskedImageModeling), such as microsoft/beit-base-patch16-224-pt22k"
)


def config(found: Found) -> dict[str, Any]:
    """Our config.

    Raises:
        InputError: a norm behind the mean of the patches, or relative positions of each block's own.
    """
    theirs = found.config
    pretrained = "BeitForMaskedImageModeling" in (theirs.get("architectures") or [])
    mean = bool(theirs.get("use_mean_pooling", True))
    if mean != pretrained:  # the class of pretraining has a norm of its own behind the encoder
        what = "two norms behind each other" if pretrained else "a norm behind the mean of the patches"
        raise found.refuse(
            TITLE, f"with {what} (use_mean_pooling={str(mean).lower()}), which no ViT here has; {PRETRAINED}"
        )
    if theirs.get("use_relative_position_bias", False):
        raise found.refuse(
            TITLE, f"with relative positions of each block's own (use_relative_position_bias=true); {PRETRAINED}"
        )
    scale = theirs.get("layer_scale_init_value", 0.1)
    return own_config(found) | {
        "architectures": ["ViTForImageClassification" if found.has("classifier.weight") else "ViTModel"],
        "use_absolute_position_embeddings": theirs.get("use_absolute_position_embeddings", False),
        "use_shared_relative_position_bias": theirs.get("use_shared_relative_position_bias", False),
        "layer_scale_init_value": scale if scale > 0 else None,
        "drop_path_rate": theirs.get("drop_path_rate", 0.1),
    }


FORMAT = Format(
    "beit",
    TITLE,
    "vit",
    lambda _: TABLE,
    lambda found: is_of(found, "beit"),
    config,
    lambda found: found.without_prefix("beit."),
    lambda _: dict(HALF),
    ("beit",),
)
