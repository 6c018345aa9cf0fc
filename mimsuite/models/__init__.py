"""Models, configurations and image processors.

Everything is imported when first used, so that configs stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "encoders.bit_config": ("BitConfig",),
    "encoders.cvt_config": ("CvtConfig",),
    "encoders.vit_config": ("ViTConfig",),
    "models.auto": (
        "AutoBackbone",
        "AutoConfig",
        "AutoImageProcessor",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForMaskedImageModeling",
    ),
    "models.bit": ("BitBackbone", "BitForImageClassification", "BitForMaskedImageModeling", "BitModel"),
    "models.cvt": ("CvtForImageClassification", "CvtForMaskedImageModeling", "CvtModel"),
    "models.vit": ("ViTForImageClassification", "ViTForMaskedImageModeling", "ViTModel"),
    "processors.processors": (
        "BitImageProcessor",
        "ConvNextImageProcessor",
        "ViTFeatureExtractor",
        "ViTImageProcessor",
        "ViTImageProcessorFast",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mimsuite.models' has no attribute {name!r}")
    return getattr(import_module(f"mimsuite.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
