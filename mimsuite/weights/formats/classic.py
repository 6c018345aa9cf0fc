"""Hugging Face's own names of ViT and CvT by kind of layer; those of its TensorFlow and Flax classes follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mimsuite.weights.formats.mapping import CONV, DENSE, Rule, Table


class Layers(NamedTuple):
    """The layers of a family, named as in our files without the prefix of the encoder.

    Attributes:
        tensors: that are no part of a layer.
        norms: LayerNorms.
        dense: linear layers.
        convolutions: with or without bias.
        batch_norms: with running statistics.
    """

    tensors: tuple[str, ...]
    norms: tuple[str, ...]
    dense: tuple[str, ...]
    convolutions: tuple[str, ...]
    batch_norms: tuple[str, ...] = ()


class Words(NamedTuple):
    """What the tensors of a layer are called there.

    Attributes:
        kernel: the weight of a linear layer or convolution.
        scale: the weight of a norm.
        shift: its bias.
    """

    kernel: str
    scale: str
    shift: str


VIT_LAYER = "encoder.layer.{i}"
VIT = Layers(
    ("embeddings.cls_token", "embeddings.mask_token", "embeddings.position_embeddings"),
    (f"{VIT_LAYER}.layernorm_before", f"{VIT_LAYER}.layernorm_after", "layernorm"),
    (
        *(f"{VIT_LAYER}.attention.attention.{part}" for part in ("query", "key", "value")),
        *(f"{VIT_LAYER}.{part}.dense" for part in ("attention.output", "intermediate", "output")),
        "pooler.dense",
        "classifier",
    ),
    ("embeddings.patch_embeddings.projection",),
)
CVT_STAGE = "encoder.stages.{i}"
CVT_LAYER = f"{CVT_STAGE}.layers.{{j}}"
CVT_CONVOLUTIONS = tuple(
    f"{CVT_LAYER}.attention.attention.convolution_projection_{part}.convolution_projection"
    for part in ("query", "key", "value")
)
CVT = Layers(
    (f"{CVT_STAGE}.cls_token",),
    (
        f"{CVT_STAGE}.embedding.convolution_embeddings.normalization",
        f"{CVT_LAYER}.layernorm_before",
        f"{CVT_LAYER}.layernorm_after",
        "layernorm",
    ),
    (
        *(f"{CVT_LAYER}.attention.attention.projection_{part}" for part in ("query", "key", "value")),
        *(f"{CVT_LAYER}.{part}.dense" for part in ("attention.output", "intermediate", "output")),
        "classifier",
    ),
    (
        f"{CVT_STAGE}.embedding.convolution_embeddings.projection",
        *(f"{name}.convolution" for name in CVT_CONVOLUTIONS),
    ),
    tuple(f"{name}.normalization" for name in CVT_CONVOLUTIONS),
)


def table(layers: Layers, words: Words) -> Table:
    """The names of a family in a framework whose linear layers are `(in, out)` and convolutions `(h, w, in, out)`."""

    def rules() -> Iterator[Rule]:
        for name in layers.tensors:
            yield Rule(name, name)
        for name in (*layers.norms, *layers.batch_norms):
            yield Rule(f"{name}.{words.scale}", f"{name}.weight")
            yield Rule(f"{name}.{words.shift}", f"{name}.bias")
        for name in layers.batch_norms:
            yield Rule(f"{name}.moving_mean", f"{name}.running_mean")
            yield Rule(f"{name}.moving_variance", f"{name}.running_var")
        for names, form in ((layers.dense, DENSE), (layers.convolutions, CONV)):
            for name in names:
                yield Rule(f"{name}.{words.kernel}", f"{name}.weight", form)
                yield Rule(f"{name}.bias", f"{name}.bias")

    return Table(tuple(rules()))
