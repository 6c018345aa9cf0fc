"""Closed lists of words: what a key or a field may say. Tables of objects have exactly these keys."""

from __future__ import annotations

from typing import Literal, get_args

INIT_SCHEMES = ("hf", "simmim", "mae")
POSITIONS = ("learned", "sincos2d")
MASK_MODES = ("replace", "drop")
PROJECTION_METHODS = ("dw_bn", "avg", "linear")
LAYER_TYPES = ("preactivation", "bottleneck")
PADDINGS = ("SAME", "VALID")
OUTPUT_STRIDES = (4, 8, 16, 32)

SPLITS = ("train", "val", "test")
LABEL_SOURCES = ("auto", "none", "folder")  # of `mimsuite pack`, beside a CSV file
INTERPOLATIONS = ("bicubic", "bilinear")  # of augmentation
LabelKind = Literal["classes", "multilabel", "regression"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
MAX_CLASSES = 1 << 20  # a larger number is hardly meant as a class
