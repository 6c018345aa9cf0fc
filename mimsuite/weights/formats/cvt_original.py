"""The convolutional vision transformer's original `.pth` files (Wu et al. 2021); their activation is QuickGELU."""

from __future__ import annotations

from typing import Any

from mimsuite.weights.formats.format import IMAGENET, Format, Found
from mimsuite.weights.formats.mapping import Rule, Table, both
from mimsuite.weights.formats.sizes import cvt_sizes

TITLE = "an original CvT (.pth)"
STAGE, THEIR_STAGE = "encoder.stages.{i}", "stage{i}"
LAYER, BLOCK = f"{STAGE}.layers.{{j}}", f"{THEIR_STAGE}.blocks.{{j}}"
STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PARTS = {"q": "query", "k": "key", "v": "value"}
TABLE = Table(
    (
        *both(f"{THEIR_STAGE}.patch_embed.proj", f"{STAGE}.embedding.convolution_embeddings.projection"),
        *both(f"{THEIR_STAGE}.patch_embed.norm", f"{STAGE}.embedding.convolution_embeddings.normalization"),
        Rule(f"{THEIR_STAGE}.cls_token", f"{STAGE}.cls_token"),
        *both(f"{BLOCK}.norm1", f"{LAYER}.layernorm_before"),
        *both(f"{BLOCK}.norm2", f"{LAYER}.layernorm_after"),
        *(
            rule
            for letter, part in PARTS.items()
            for theirs, ours in (
                (
                    f"{BLOCK}.attn.conv_proj_{letter}",
                    f"{LAYER}.attention.attention.convolution_projection_{part}.convolution_projection",
                ),
            )
            for rule in (
                Rule(f"{theirs}.conv.weight", f"{ours}.convolution.weight"),
                *(Rule(f"{theirs}.bn.{end}", f"{ours}.normalization.{end}") for end in STATISTICS),
                *both(f"{BLOCK}.attn.proj_{letter}", f"{LAYER}.attention.attention.projection_{part}"),
            )
        ),
        *both(f"{BLOCK}.attn.proj", f"{LAYER}.attention.output.dense"),
        *both(f"{BLOCK}.mlp.fc1", f"{LAYER}.intermediate.dense"),
        *both(f"{BLOCK}.mlp.fc2", f"{LAYER}.output.dense"),
        *both("norm", "layernorm"),
        *both("head", "classifier"),
    )
)


def canonical(found: Found) -> Found:
    """Without the prefix of DistributedDataParallel."""
    return found.without_prefix("module.")


def is_cvt(found: Found) -> bool:
    """By the first embedding and the convolution before its keys."""
    return canonical(found).has("stage0.patch_embed.proj.weight", "stage0.blocks.0.attn.conv_proj_k.conv.weight")


def config(found: Found) -> dict[str, Any]:
    """The sizes by shapes, and the activation of the paper's code."""
    return cvt_sizes(found, TABLE) | {"hidden_act": "quick_gelu"}


FORMAT = Format("cvt", TITLE, "cvt", lambda _: TABLE, is_cvt, config, canonical, preprocessor=lambda _: dict(IMAGENET))
