"""Closed lists of words: what a key or a field may say. Tables of objects have exactly these keys."""

from __future__ import annotations

INIT_SCHEMES = ("hf", "simmim", "mae")
POSITIONS = ("learned", "sincos2d")
MASK_MODES = ("replace", "drop")
PROJECTION_METHODS = ("dw_bn", "avg", "linear")
LAYER_TYPES = ("preactivation", "bottleneck")
PADDINGS = ("SAME", "VALID")
OUTPUT_STRIDES = (4, 8, 16, 32)
