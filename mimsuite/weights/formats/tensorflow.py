"""Hugging Face's `tf_model.h5` of ViT and CvT: names of variables behind those of the Keras layers that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimsuite.weights.formats import classic
from mimsuite.weights.formats.format import Format, Found
from mimsuite.weights.formats.sizes import cvt_sizes, vit_sizes
from mimsuite.weights.tensors import Entry, Tensors

NAME = "tf_model.h5"
WORDS = classic.Words("kernel", "gamma", "beta")
ENCODERS, BESIDE = ("vit", "cvt"), ("classifier", "layernorm")


def canonical(found: Found) -> Found:
    """With Hugging Face's names, without the prefix of the encoder."""
    return Found(found.where, found.tensors.renamed(own_name), found.config)


def own_name(name: str) -> str:
    """The name of a variable without those of the Keras layer and the model that it lies in."""
    *scopes, last = name.removesuffix(":0").replace("_._", ".").split("/")
    if last.startswith("cvt."):  # CvT's class token has its whole name in one
        return last.removeprefix("cvt.")
    inner = [place + 1 for place, scope in enumerate(scopes) if scope in ENCODERS]
    beside = [place for place, scope in enumerate(scopes) if scope in BESIDE]
    return ".".join([*scopes[(inner or beside or [0])[-1] :], last])


def is_vit(found: Found) -> bool:
    """By the patch embedding and the last norm."""
    return canonical(found).has("embeddings.patch_embeddings.projection.kernel", "layernorm.gamma")


def is_cvt(found: Found) -> bool:
    """By the first embedding."""
    return canonical(found).has("encoder.stages.0.embedding.convolution_embeddings.projection.kernel")


def vit_config(found: Found) -> dict[str, Any]:
    """That beside the file, else the sizes by shapes."""
    return dict(found.config) if found.config.get("model_type") == "vit" else vit_sizes(found, VIT_TABLE, eps=1e-12)


def cvt_config(found: Found) -> dict[str, Any]:
    """That beside the file, else the sizes by shapes."""
    return dict(found.config) if found.config.get("model_type") == "cvt" else cvt_sizes(found, CVT_TABLE)


def with_counts(tensors: Tensors, _: Mapping[str, Any]) -> Tensors:
    """With the number of batches that torch's BatchNorm keeps and TensorFlow does not: 0."""

    def zero() -> Any:
        import torch

        return torch.zeros((), dtype=torch.int64)

    ends = "running_mean", "num_batches_tracked"
    counted = {n.removesuffix(ends[0]) + ends[1]: Entry((), "int64", zero) for n in tensors if n.endswith(ends[0])}
    return tensors | Tensors(counted)


VIT_TABLE, CVT_TABLE = (classic.table(layers, WORDS) for layers in (classic.VIT, classic.CVT))
VIT = Format(
    "tensorflow",
    "a Vision Transformer of Hugging Face's TensorFlow classes",
    "vit",
    lambda _: VIT_TABLE,
    is_vit,
    vit_config,
    canonical,
)
CVT = Format(
    "tensorflow",
    "a CvT of Hugging Face's TensorFlow classes",
    "cvt",
    lambda _: CVT_TABLE,
    is_cvt,
    cvt_config,
    canonical,
    derive=with_counts,
)
