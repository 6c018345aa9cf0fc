"""Configuration of the convolutional vision transformer. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import InitVar, field
from typing import Any, ClassVar, Self

from mimsuite.encoders.config import Activation
from mimsuite.encoders.config_fields import ConfigFields, configuration
from mimsuite.encoders.map_config import OF_MASKING, MapConfig
from mimsuite.errors import InputError
from mimsuite.types import Scale
from mimsuite.words import PROJECTION_METHODS


@configuration
class CvtConfig(MapConfig):
    """Convolutional vision transformer (Wu et al. 2021); the defaults are CvT-13. Lists have one entry per stage.

    Attributes:
        num_channels: C of the images.
        patch_sizes: kernel of each stage's embedding convolution.
        patch_stride: its stride.
        patch_padding: its padding.
        embed_dim: widths.
        num_heads: must divide `embed_dim`.
        depth: blocks.
        mlp_ratio: hidden width of the MLP over `embed_dim`; `mlp_ratios` is taken as well.
        attention_drop_rate: dropout on the attention probabilities.
        drop_rate: dropout after the embedding, the attention's output and the MLP.
        drop_path_rate: stochastic depth, rising linearly over a stage's blocks from 0 to this.
        qkv_bias: biases of query, key and value.
        cls_token: whether the stage has a class token; the last stage's serves the classifier.
        qkv_projection_method: "dw_bn" (depthwise convolution and BatchNorm), "avg" (pooled keys and values) or
            "linear".
        kernel_qkv: kernel of these projections.
        padding_kv: padding for keys and values.
        stride_kv: stride for keys and values.
        padding_q: padding for queries, which must keep the size of the map.
        stride_q: stride for queries, 1.
        initializer_range: standard deviation of fresh weights.
        layer_norm_eps: kept, not used: every LayerNorm of CvT has 1e-5, in the paper's code and in Hugging Face's.
        hidden_act: ours; activation of the MLP ("quick_gelu" in the paper's files).
        encoder_stride: ours; pixels that the SimMIM head writes per cell; None: the product of `patch_stride`.
    """

    model_type: ClassVar[str] = "cvt"
    ours_only: ClassVar[frozenset[str]] = frozenset({"hidden_act", "encoder_stride", *OF_MASKING})
    derived_from: ClassVar[frozenset[str]] = frozenset({"patch_stride"})
    other_names: ClassVar[dict[str, str]] = ConfigFields.other_names | {"mlp_ratios": "mlp_ratio"}

    num_channels: int = 3
    patch_sizes: list[int] = field(default_factory=lambda: [7, 3, 3])
    patch_stride: list[int] = field(default_factory=lambda: [4, 2, 2])
    patch_padding: list[int] = field(default_factory=lambda: [2, 1, 1])
    embed_dim: list[int] = field(default_factory=lambda: [64, 192, 384])
    num_heads: list[int] = field(default_factory=lambda: [1, 3, 6])
    depth: list[int] = field(default_factory=lambda: [1, 2, 10])
    mlp_ratio: list[float] = field(default_factory=lambda: [4.0, 4.0, 4.0])
    attention_drop_rate: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    drop_rate: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    drop_path_rate: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.1])
    qkv_bias: list[bool] = field(default_factory=lambda: [True, True, True])
    cls_token: list[bool] = field(default_factory=lambda: [False, False, True])
    qkv_projection_method: list[str] = field(default_factory=lambda: ["dw_bn", "dw_bn", "dw_bn"])
    kernel_qkv: list[int] = field(default_factory=lambda: [3, 3, 3])
    padding_kv: list[int] = field(default_factory=lambda: [1, 1, 1])
    stride_kv: list[int] = field(default_factory=lambda: [2, 2, 2])
    padding_q: list[int] = field(default_factory=lambda: [1, 1, 1])
    stride_q: list[int] = field(default_factory=lambda: [1, 1, 1])
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    hidden_act: Activation = "gelu"
    encoder_stride: int = None  # type: ignore[assignment]  # an int after __post_init__
    mlp_ratios: InitVar[list[float] | None] = None

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the last stage's map: the product of `patch_stride`."""
        return math.prod(self.patch_stride), math.prod(self.patch_stride)

    @property
    def first_width(self) -> int:
        """Width of the first stage's map."""
        return self.embed_dim[0]

    @property
    def finest_stride(self) -> int:
        """Pixels per cell of the first stage's map."""
        return self.patch_stride[0]

    @property
    def stages(self) -> list[Scale]:
        """Number, width and stride of every stage's map."""
        strides = [math.prod(self.patch_stride[: i + 1]) for i in range(len(self.depth))]
        return [Scale(i, width, stride) for i, (width, stride) in enumerate(zip(self.embed_dim, strides, strict=True))]

    @property
    def padding_fix(self) -> str | None:
        """A `patch_padding` with which every embedding makes `side / stride` cells."""
        sizes = list(zip(self.patch_sizes, self.patch_stride, self.patch_padding, strict=True))
        if all(kernel - stride <= 2 * padding < kernel for kernel, stride, padding in sizes):
            return None
        return f"patch_padding={[max(0, (kernel - stride + 1) // 2) for kernel, stride, _ in sizes]}"

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every stage."""
        return list(self.cls_token)

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.embed_dim[-1]

    @property
    def latent_blocks(self) -> list[int]:
        """The blocks of the last stage."""
        return list(range(self.num_blocks - self.depth[-1] + 1, self.num_blocks + 1))

    @property
    def alike_blocks(self) -> list[int]:
        """The blocks of the last stage."""
        return self.latent_blocks

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depth)

    @property
    def not_in_transformers(self) -> list[str]:
        """Fields whose values change what a classifier computes and that transformers does not know, or gets wrong."""
        stages = len(self.depth)
        known = {
            "classifier_pool": ("auto", "cls"),
            "hidden_act": ("gelu",),
            "cls_token": ([False] * (stages - 1) + [True],),
            "qkv_projection_method": (["dw_bn"] * stages,),
        }
        shallow = any(depth <= stage for stage, depth in enumerate(self.depth))  # transformers takes the stage's rate
        return self._beyond(known) + ([f"depth={self.depth}"] if shallow else [])

    def derived(self) -> dict[str, Any]:
        """The head of a masked image model writes a whole cell."""
        return {"encoder_stride": self.stride[0]}

    def __post_init__(self, mlp_ratios: list[float] | None) -> None:
        super().__post_init__()
        if mlp_ratios is not None:
            self.mlp_ratio = mlp_ratios
        self._check_int("num_channels", low=1)
        self._check_ints("embed_dim", low=1)
        stages = len(self.embed_dim)
        for name in ("patch_sizes", "patch_stride", "num_heads", "depth", "kernel_qkv", "stride_kv", "stride_q"):
            self._check_ints(name, low=1, count=stages)
        for name in ("patch_padding", "padding_kv", "padding_q"):
            self._check_ints(name, low=0, count=stages)
        for name in ("attention_drop_rate", "drop_rate", "drop_path_rate"):
            self._check_floats(name, 0, 1, stages)
        self._check_floats("mlp_ratio", 0, float("inf"), stages, above=True)
        for name in ("qkv_bias", "cls_token"):
            self._check_bools(name, stages)
        for method in self._check_each("qkv_projection_method", stages):
            if method not in PROJECTION_METHODS:
                raise InputError(f"qkv_projection_method={method!r} is not one of {', '.join(PROJECTION_METHODS)}")
        self._check_masking()
        self._check_float("initializer_range", 0)
        self._check_float("layer_norm_eps", 0, above=True)
        self._check_activation("hidden_act")
        if self.encoder_stride is None:
            self.encoder_stride = self.stride[0]
        self._check_int("encoder_stride", low=1)
        self._check_stages()

    def with_drop_path(self, rate: float) -> Self:
        """A copy whose last stage drops up to `rate`, as the paper's models do; the stages before it drop nothing."""
        return self.changed(drop_path_rate=[0.0] * (len(self.depth) - 1) + [rate])

    def _check_stages(self) -> None:
        for width, heads in zip(self.embed_dim, self.num_heads, strict=True):
            if width % heads:
                raise InputError(f"num_heads={self.num_heads} must divide embed_dim={self.embed_dim}")
        for kernel, pad in zip(self.patch_sizes, self.patch_padding, strict=True):
            if 2 * pad > kernel:
                raise InputError(
                    f"patch_padding={self.patch_padding} is more than half of patch_sizes={self.patch_sizes}: "
                    "whole windows would hold nothing but padding"
                )
        for i, method in enumerate(self.qkv_projection_method):
            kernel = self.kernel_qkv[i]
            if method == "dw_bn" and (self.stride_q[i] != 1 or 2 * self.padding_q[i] != kernel - 1):
                raise InputError(
                    f"stride_q={self.stride_q} and padding_q={self.padding_q} change the map's size; use stride 1 and "
                    f"padding (kernel_qkv - 1) / 2 with odd kernel_qkv, here {self.kernel_qkv}"
                )
            if method == "avg" and 2 * self.padding_kv[i] > kernel:
                raise InputError(f"padding_kv={self.padding_kv} is more than half of kernel_qkv={self.kernel_qkv}")
