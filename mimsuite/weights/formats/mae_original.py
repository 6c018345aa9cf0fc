"""Files of MAE's published code: timm's encoder, with the decoder of pretraining beside it where they are whole."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats import timm_vit
from mimsuite.weights.formats.format import IMAGENET, Format, Found, square
from mimsuite.weights.formats.mapping import THIRDS, Rule, Table, both
from mimsuite.weights.formats.sizes import vit_sizes

TITLE = "a file of MAE's published code"
LAYER, BLOCK = "decoder.decoder_layers.{i}", "decoder_blocks.{i}"
QKV = tuple(f"{LAYER}.attention.attention.{part}" for part in ("query", "key", "value"))
TABLE = Table(
    (
        *timm_vit.ENCODER,
        Rule("mask_token", "decoder.mask_token"),  # of the decoder's width: not the encoder's
        Rule("decoder_pos_embed", "decoder.decoder_pos_embed"),
        *both("decoder_embed", "decoder.decoder_embed"),
        *both(f"{BLOCK}.norm1", f"{LAYER}.layernorm_before"),
        *both(f"{BLOCK}.norm2", f"{LAYER}.layernorm_after"),
        *both(f"{BLOCK}.attn.qkv", QKV, THIRDS, THIRDS),
        *both(f"{BLOCK}.attn.proj", f"{LAYER}.attention.output.dense"),
        *both(f"{BLOCK}.mlp.fc1", f"{LAYER}.intermediate.dense"),
        *both(f"{BLOCK}.mlp.fc2", f"{LAYER}.output.dense"),
        *both("decoder_norm", "decoder.decoder_norm"),
        *both("decoder_pred", "decoder.decoder_pred"),
    )
)
DECODER_HEADS = 16  # of all published decoders; the files do not say it


DECODER_HEADS = 16  # of all published decoders; the files do not say it


def is_mae(found: Found) -> bool:
    """By the decoder: an encoder alone is timm's."""
    return timm_vit.is_timm(found) and timm_vit.canonical(found).has("decoder_embed.weight", "decoder_pred.weight")


def config(found: Found) -> dict[str, Any]:
    """The sizes of encoder and decoder, by shapes; the target is that of the published recipe."""
    timm_vit.check(found)
    width = found.shapes["decoder_embed.weight"][0]
    square(found, found.shapes["decoder_pos_embed"][1] - 1)
    if width % DECODER_HEADS:
        raise found.refuse(TITLE, f"but with a decoder {width} wide, which {DECODER_HEADS} heads do not divide")
    return vit_sizes(found, TABLE, eps=1e-6) | {
        "position": "sincos2d",
        "mask_mode": "drop",
        "mim_target": "norm_pixels",
        "init_scheme": "mae",
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": found.count(r"decoder_blocks\.(\d+)\."),
        "decoder_num_attention_heads": DECODER_HEADS,
        "decoder_intermediate_size": found.shapes["decoder_blocks.0.mlp.fc1.weight"][0],
    }


FORMAT = Format(
    "mae", TITLE, "vit", lambda _: TABLE, is_mae, config, timm_vit.canonical, preprocessor=lambda _: dict(IMAGENET)
)
