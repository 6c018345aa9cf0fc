"""Hugging Face folders of DINOv2 (Oquab et al. 2024), with and without registers (Darcet et al. 2024)."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import IMAGENET, Format, Found
from mimsuite.weights.formats.hf_vit import ATTENTION, EMBEDDINGS, LAYER, alike, is_of, layers, own_config
from mimsuite.weights.formats.mapping import TOKEN, Rule, Table, both

TITLE = "a DINOv2 folder of Hugging Face"
PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
TABLE = Table(
    (
        *(rule for rule in EMBEDDINGS if rule.theirs != "embeddings.mask_token"),
        Rule("embeddings.mask_token", "embeddings.mask_token", TOKEN),
        *alike("embeddings.register_tokens"),
        *ATTENTION,
        *both(f"{LAYER}.norm1", f"{LAYER}.layernorm_before"),
        *both(f"{LAYER}.norm2", f"{LAYER}.layernorm_after"),
        Rule(f"{LAYER}.layer_scale1.lambda1", f"{LAYER}.gamma_1"),
        Rule(f"{LAYER}.layer_scale2.lambda1", f"{LAYER}.gamma_2"),
        *both(f"{LAYER}.mlp.fc1", f"{LAYER}.intermediate.dense"),
        *both(f"{LAYER}.mlp.fc2", f"{LAYER}.output.dense"),
        *layers("layernorm", "classifier"),
    )
)
GATED = Table(
    tuple(
        Rule(rule.theirs.replace("mlp.fc1", "mlp.weights_in").replace("mlp.fc2", "mlp.weights_out"), *rule[1:])
        for rule in TABLE.rules
    )
)


def config(found: Found) -> dict[str, Any]:
    """Our config; images of all sizes are taken, as there."""
    theirs, registers = found.config, is_of(found, REGISTERS)
    own = own_config(found, patch_size=16 if registers else 14, layer_norm_eps=1e-6)
    width = int(own.get("hidden_size", 768) * theirs.get("mlp_ratio", 4))
    own |= {
        "intermediate_size": width,
        "layer_scale_init_value": theirs.get("layerscale_value", 1.0),
        "classifier_pool": "both",
        "interpolate_positions": True,
        "antialias_positions": registers,
        "num_register_tokens": theirs.get("num_register_tokens", 4) if registers else 0,
    }
    if theirs.get("use_swiglu_ffn", False):
        own |= {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": (width * 2 // 3 + 7) // 8 * 8}
    return own


FORMAT = Format(
    "dinov2",
    TITLE,
    "vit",
    lambda config: GATED if config.get("use_gated_mlp") else TABLE,
    lambda found: is_of(found, PLAIN, REGISTERS),
    config,
    lambda found: found.without_prefix("dinov2.", "dinov2_with_registers."),
    lambda _: dict(IMAGENET),
    (PLAIN, REGISTERS),
)
