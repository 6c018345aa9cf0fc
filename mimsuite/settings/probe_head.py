"""The head that a probe saved: which features of which encoder it takes. Read without torch.

A probe's folder holds the weights in `head.safetensors`, and these facts in `head.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError, reading
from mimsuite.settings.views import VECTOR_POOLS, View
from mimsuite.weights.source import PROBE_HEAD
from mimsuite.words import (
    ALPHAS,
    CHANNEL_RULES,
    LABEL_KINDS,
    POSITION_RULES,
    Alpha,
    ChannelRule,
    LabelKind,
    Pool,
    PositionRule,
)

TENSORS, FACTS = "head.safetensors", PROBE_HEAD


@dataclass(frozen=True)
class HeadFacts:
    """What a head needs beside its weights; the content of `head.json`.

    Attributes:
        init: the encoder, as `init=` names it.
        model_type: its family.
        layer: whose features, from 1.
        pool: how the layer's cells become a vector.
        image_size: `[H, W]` pixels of the centre crops.
        mean, std: per channel, of the normalisation of images with values from 0 to 1.
        maximum: the pixel value that becomes 1.
        layernorm: whether each feature vector is normalised first, without affine parameters.
        kind: what is predicted: classes, label sets ("multilabel"), or numbers ("regression").
        classes: their names, where they are known.
        alpha: what became of transparency when the images were read.
        init_channels: what made the encoder's kernels for the images' channels; None: it took them as they are.
        init_position: how its table of positions was resized.
        weights: a hash of all weights that `init` had then; None in files of earlier versions.
    """

    init: str
    model_type: str
    layer: int
    pool: Pool
    image_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    maximum: int
    layernorm: bool
    kind: LabelKind
    classes: Sequence[str] | None
    alpha: Alpha = "white"
    init_channels: ChannelRule | None = None
    init_position: PositionRule = "bicubic"
    weights: str | None = None

    @property
    def view(self) -> View:
        """Which features the head takes."""
        return View(self.layer, self.pool)


@dataclass(frozen=True)
class ProbeHead:
    """A head on disk.

    Attributes:
        folder: the probe's.
        facts: content of `head.json`.
        outputs: K, the values that it predicts.
    """

    folder: Path
    facts: HeadFacts
    outputs: int


def find_head(folder: Path) -> ProbeHead:
    """Reads the facts of a head, and checks its weights without reading them.

    Raises:
        InputError: no head there, or damaged files.
    """
    from safetensors import safe_open

    if not (folder / FACTS).is_file():
        raise InputError(f"{folder} holds no {FACTS}; give the folder that a probe wrote")
    with reading(f"the head in {folder}", "run the probe again"):
        facts = HeadFacts(**read_facts(json.loads((folder / FACTS).read_text(encoding="utf-8"))))
        with safe_open(folder / TENSORS, "numpy") as file:
            weight, bias = (file.get_slice(name) for name in ("weight", "bias"))
            shapes, dtype = (weight.get_shape(), bias.get_shape()), weight.get_dtype()
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or dtype != "F64":
        raise InputError(
            f"the head in {folder} has a weight {tuple(shapes[0])} of {dtype} and a bias {tuple(shapes[1])}; run the "
            "probe again"
        )
    return ProbeHead(folder, facts, shapes[0][0])


def read_facts(content: Any) -> dict[str, Any]:
    """The content of `head.json`, if its words are known ones."""
    known = isinstance(content, dict) and content.get("pool") in VECTOR_POOLS and content.get("kind") in LABEL_KINDS
    if not known or content.get("alpha", "white") not in ALPHAS:
        raise ValueError(f"{FACTS} names no known pooling, kind of labels or treatment of transparency")
    rules = content.get("init_channels"), content.get("init_position", "bicubic")
    if rules[0] not in (None, *CHANNEL_RULES) or rules[1] not in POSITION_RULES:
        raise ValueError(f"{FACTS} names no known init_channels or init_position")
    found: dict[str, Any] = content
    return found
