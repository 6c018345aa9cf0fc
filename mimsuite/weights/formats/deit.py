"""Hugging Face folders of DeiT (Touvron et al. 2021): a Vision Transformer with a second class token for distillation.

That token and its position are constants, and the first block sees their sum: one register token of ours holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mimsuite.weights.formats.format import IMAGENET, Format, Found
from mimsuite.weights.formats.hf_vit import ENCODER, alike, is_of, layers, own_config
from mimsuite.weights.formats.mapping import Table
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "a DeiT folder of Hugging Face"
DISTILLATION, REGISTER = "embeddings.distillation_token", "embeddings.register_tokens"
POSITIONS = "embeddings.position_embeddings"
# DeiTForImageClassificationWithTeacher has a classifier on each token and takes their mean, which nothing here does.
TWO_HEADS = r"(cls|distillation)_classifier\..*"
TABLE = Table((*ENCODER, *alike(DISTILLATION), *layers("pooler.dense", "classifier", "decoder.0")), (TWO_HEADS,))


def config(found: Found) -> dict[str, Any]:
    """Our config."""
    theirs = found.config
    pooler = {name: theirs[name] for name in ("pooler_output_size", "pooler_act") if theirs.get(name) is not None}
    return own_config(found) | pooler | {"num_register_tokens": 1}


def join(tensors: Tensors, _: Mapping[str, Any]) -> Tensors:
    """Puts the position of the distillation token into the token."""
    held = dict(tensors.entries)
    if DISTILLATION not in held or POSITIONS not in held:
        return tensors
    token, positions = held.pop(DISTILLATION), held.pop(POSITIONS)
    one, places, width = positions.shape

    def others() -> Tensor:
        import torch

        table = positions.read()
        return torch.cat([table[:, :1], table[:, 2:]], dim=1)

    held[REGISTER] = Entry(token.shape, token.dtype, lambda: token.read() + positions.read()[:, 1:2])
    held[POSITIONS] = Entry((one, places - 1, width), positions.dtype, others)
    return Tensors(held)


def part(state: Mapping[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The opposite: a distillation token whose position is 0."""
    import torch

    held = dict(state)
    table = held[POSITIONS]
    held[DISTILLATION] = held.pop(REGISTER)
    held[POSITIONS] = torch.cat([table[:, :1], torch.zeros_like(table[:, :1]), table[:, 1:]], dim=1)
    return held


FORMAT = Format(
    "deit",
    TITLE,
    "vit",
    lambda _: TABLE,
    lambda found: is_of(found, "deit"),
    config,
    lambda found: found.without_prefix("deit."),
    lambda _: dict(IMAGENET),
    ("deit",),
    join,
    part,
)
