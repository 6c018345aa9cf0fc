"""Hugging Face folders of MSN (Assran et al. 2022): `ViTMSNModel`, `ViTMSNForImageClassification`."""

from __future__ import annotations

from mimsuite.weights.formats.format import IMAGENET, Format
from mimsuite.weights.formats.hf_vit import ENCODER, is_of, layers, own_config
from mimsuite.weights.formats.mapping import Table

TITLE = "a ViTMSN folder of Hugging Face"
TABLE = Table((*ENCODER, *layers("classifier")))

FORMAT = Format(
    "vit_msn",
    TITLE,
    "vit",
    lambda _: TABLE,
    lambda found: is_of(found, "vit_msn"),
    lambda found: own_config(found, layer_norm_eps=1e-6),
    lambda found: found.without_prefix("vit."),
    lambda _: dict(IMAGENET),
    ("vit_msn",),
)
