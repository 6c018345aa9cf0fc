"""A probe's head on disk: `head.safetensors`, and in `head.json` which features of which encoder it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Pool, View
from mimsuite.evaluation.probes.linear import LinearHead
from mimsuite.metrics.scores import METRICS, LabelKind

TENSORS, ABOUT = "head.safetensors", "head.json"


@dataclass(frozen=True)
class HeadFacts:
    """What a head needs beside its weights.

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

    @property
    def view(self) -> View:
        """Which features the head takes."""
        return View(self.layer, self.pool)


def save_head(folder: Path, head: LinearHead, facts: HeadFacts) -> None:
    """Writes weight `(K, D)` and bias `(K,)`, float64, and the facts."""
    save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, folder / TENSORS)
    (folder / ABOUT).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")


def load_head(folder: Path) -> tuple[LinearHead, HeadFacts]:
    """Reads what `save_head` wrote.

    Raises:
        InputError: no head there, or damaged files.
    """
    if not (folder / ABOUT).is_file():
        raise InputError(f"{folder} holds no {ABOUT}; give the folder that a probe wrote")
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        facts = HeadFacts(**checked(content))
        tensors = load_file(folder / TENSORS)
        head = LinearHead(tensors["weight"], tensors["bias"], facts.layernorm)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(f"the head in {folder} cannot be read ({error}); run the probe again") from error
    if head.weight.ndim != 2 or head.bias.shape != head.weight.shape[:1] or head.weight.dtype != torch.float64:
        raise InputError(
            f"the head in {folder} has a weight {tuple(head.weight.shape)} of {head.weight.dtype} and a bias "
            f"{tuple(head.bias.shape)}; run the probe again"
        )
    return head, facts


def checked(content: Any) -> Mapping[str, Any]:
    """The content of `head.json`, if its words are known ones."""
    if not isinstance(content, dict) or content.get("pool") not in get_args(Pool) or content.get("kind") not in METRICS:
        raise ValueError(f"{ABOUT} names no pooling or no kind of labels that we know")
    return content
