"""Hugging Face folders of I-JEPA (Assran et al. 2023): `IJepaModel`, `IJepaForImageClassification`."""

from __future__ import annotations

from mimsuite.weights.formats.format import IMAGENET, Format
from mimsuite.weights.formats.hf_vit import ENCODER, is_of, layers, own_config
from mimsuite.weights.formats.mapping import Table

TITLE = "an I-JEPA folder of Hugging Face"
# A pooler takes the first token there, which is the first patch: nothing here does so.
TABLE = Table((*ENCODER, *layers("classifier")), (r"pooler\..*",))

FORMAT = Format(
    "ijepa",
    TITLE,
    "vit",
    lambda _: TABLE,
    lambda found: is_of(found, "ijepa"),
    lambda found: own_config(found) | {"use_class_token": False},
    lambda found: found.without_prefix("ijepa."),
    lambda _: dict(IMAGENET),
    ("ijepa",),
)
