"""Hugging Face folders of MAE: `ViTMAEModel`, and `ViTMAEForPreTraining` with its decoder."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import IMAGENET, Format, Found
from mimsuite.weights.formats.hf_vit import BLOCKS, ENCODER, alike, is_of, layers, own_config
from mimsuite.weights.formats.mapping import Table

TITLE = "a ViTMAE folder of Hugging Face"
DECODER_SIZES = {  # with Hugging Face's defaults
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
}
TABLE = Table(
    (
        *ENCODER,
        *alike("decoder.mask_token", "decoder.decoder_pos_embed"),
        *layers("decoder.decoder_embed", "decoder.decoder_norm", "decoder.decoder_pred"),
        *alike(*(rule.theirs.replace("encoder.layer", "decoder.decoder_layers") for rule in BLOCKS)),
    )
)


def config(found: Found) -> dict[str, Any]:
    """Our config; with the decoder's sizes where there is one."""
    own = own_config(found) | {"position": "sincos2d"}
    named = "ViTMAEForPreTraining" in (found.config.get("architectures") or [])
    if not (any(name.startswith("decoder.") for name in found.tensors) or (named and not found.tensors)):
        return own
    sizes = {name: found.config.get(name, default) for name, default in DECODER_SIZES.items()}
    target = "norm_pixels" if found.config.get("norm_pix_loss", False) else "pixels"
    return own | sizes | {"mask_mode": "drop", "mim_target": target}


def canonical(found: Found) -> Found:
    """Without prefix; transformers 5 writes the decoder's layers under a name of its own."""
    own = found.without_prefix("vit.")
    renamed = own.tensors.renamed(
        lambda name: name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")
    )
    return Found(own.where, renamed, own.config)


FORMAT = Format(
    "vit_mae",
    TITLE,
    "vit",
    lambda _: TABLE,
    lambda found: is_of(found, "vit_mae"),
    config,
    canonical,
    lambda _: dict(IMAGENET),
    ("vit_mae",),
)
