"""Hugging Face folders of BEiT (Bao et al. 2022): the norm is of the tokens in pretraining, then of their mean."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import HALF, Format, Found
from mimsuite.weights.formats.hf_vit import ENCODER, LAYER, QKV, is_of, layers, own_config
from mimsuite.weights.formats.mapping import NO_KEY_BIAS, Rule, Table, both

TITLE = "a BEiT folder of Hugging Face"
QUERY, KEY, _ = (f"{name}.bias" for name in QKV)
TABLE_NAME = "relative_position_bias_table"
TABLE = Table(
    (
        *(rule for rule in ENCODER if rule.theirs not in (QUERY, KEY)),
        Rule(QUERY, (QUERY, KEY), NO_KEY_BIAS),
        Rule(f"{LAYER}.lambda_1", f"{LAYER}.gamma_1"),
        Rule(f"{LAYER}.lambda_2", f"{LAYER}.gamma_2"),
        Rule(f"encoder.relative_position_bias.{TABLE_NAME}", f"encoder.rel_pos_bias.{TABLE_NAME}"),
        Rule(f"{LAYER}.attention.attention.relative_position_bias.{TABLE_NAME}", f"{LAYER}.rel_pos_bias.{TABLE_NAME}"),
        *both("pooler.layernorm", "fc_norm"),
        *layers("classifier"),
    ),
    # An index that follows from the sizes; the head of pretraining, which predicts visual words.
    (r".*relative_position_index", r"lm_head\..*"),
)


def config(found: Found) -> dict[str, Any]:
    """Our config.

    Raises:
        InputError: a norm of the encoder and another one behind it.
    """
    theirs = found.config
    pretrained = "BeitForMaskedImageModeling" in (theirs.get("architectures") or [])
    mean = bool(theirs.get("use_mean_pooling", True))
    if pretrained and not mean:  # this class has a norm of its own behind the encoder's
        raise found.refuse(
            TITLE,
            "with two norms behind each other (use_mean_pooling=false), which no ViT here has; use weights that were "
            "trained with use_mean_pooling=true, as the published ones",
        )
    scale = theirs.get("layer_scale_init_value", 0.1)
    switches = ("use_absolute_position_embeddings", "use_shared_relative_position_bias", "use_relative_position_bias")
    own = own_config(found) | {name: theirs.get(name, False) for name in switches}
    return own | {
        "architectures": ["ViTForImageClassification" if found.has("classifier.weight") else "ViTModel"],
        "layer_scale_init_value": scale if scale > 0 else None,
        "drop_path_rate": theirs.get("drop_path_rate", 0.1),
        "norm_after_pool": mean and not pretrained,
        "classifier_pool": "mean" if mean else "cls",
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
