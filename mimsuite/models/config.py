"""The configurations of the families: Hugging Face's field names, checked when made. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar, Self

from mimsuite.errors import InputError
from mimsuite.models.config_base import Activation, ModelConfig, Side, pair

INIT_SCHEMES = ("hf", "simmim", "mae")
POSITIONS = ("learned", "sincos2d")
MASK_MODES = ("replace", "drop")
PROJECTION_METHODS = ("dw_bn", "avg", "linear")
LAYER_TYPES = ("preactivation", "bottleneck")
PADDINGS = ("SAME", "VALID")
OUTPUT_STRIDES = (4, 8, 16, 32)


@dataclass(kw_only=True)
class ViTConfig(ModelConfig):
    """Vision Transformer (Dosovitskiy et al. 2021); the defaults are ViT-B/16 at 224.

    Attributes:
        hidden_size: D, width of a token.
        num_hidden_layers: L, blocks.
        num_attention_heads: must divide `hidden_size`.
        intermediate_size: width of the MLP.
        hidden_act: activation of the MLP.
        hidden_dropout_prob: after the embeddings, the attention's output and the MLP.
        attention_probs_dropout_prob: on the attention probabilities.
        initializer_range: standard deviation of fresh weights.
        layer_norm_eps: of all LayerNorms; Hugging Face's default is 1e-12, the papers' code and our sizes
            have 1e-6.
        image_size: pixels, side or `[H, W]`; a remainder over whole patches is cut off.
        patch_size: pixels, side or `[ph, pw]`.
        num_channels: C of the images.
        qkv_bias: biases of query, key and value.
        encoder_stride: pixels that the SimMIM head writes per patch, side or pair; masks need it equal to
            `patch_size`.
        pooler_output_size: width of `ViTModel`'s pooler; None: `hidden_size`.
        pooler_act: its activation.
        drop_path_rate: ours; stochastic depth, rising linearly over the blocks from 0 to this.
        layer_scale_init_value: ours; start of the two scales per block (BEiT, SimMIM), None for no scales.
        use_absolute_position_embeddings: ours; False for SimMIM's ViT.
        use_shared_relative_position_bias: ours; one table of relative positions for all blocks (BEiT,
            SimMIM).
        use_attention_output_bias: ours; bias of the projection after attention.
        use_mlp_bias: ours; biases of the MLP.
        use_patch_bias: ours; bias of the patch embedding.
        use_class_token: ours; False: the class features are the mean of the patches.
        num_register_tokens: ours; further class tokens without position, which nothing reads (Darcet et al. 2024).
        position: ours; "learned", or "sincos2d": fixed sines and cosines of row and column (MAE).
        mask_mode: ours; what becomes of hidden patches: "replace" (by the mask token), or "drop": the blocks see
            visible patches only, and hidden places of the feature map are 0 (MAE).
        decoder_hidden_size: ours; width of MAE's decoder, which "drop" needs for pixels; None: SimMIM's head.
        decoder_num_hidden_layers: ours; its blocks.
        decoder_num_attention_heads: ours; must divide its width.
        decoder_intermediate_size: ours; width of its MLPs.
        init_scheme: ours; "hf"; "simmim": drawn mask token, and residual branches scaled down by depth; "mae":
            linear layers and the patch embedding from Xavier's uniform distribution.
    """

    model_type: ClassVar[str] = "vit"
    ours_only: ClassVar[frozenset[str]] = frozenset(
        {
            "drop_path_rate",
            "layer_scale_init_value",
            "use_absolute_position_embeddings",
            "use_shared_relative_position_bias",
            "use_attention_output_bias",
            "use_mlp_bias",
            "use_patch_bias",
            "use_class_token",
            "num_register_tokens",
            "position",
            "mask_mode",
            "decoder_hidden_size",
            "decoder_num_hidden_layers",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
            "init_scheme",
        }
    )

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Side = 224
    patch_size: Side = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: Side = 16
    pooler_output_size: int = None  # type: ignore[assignment]
    pooler_act: Activation = "tanh"
    drop_path_rate: float = 0.0
    layer_scale_init_value: float | None = None
    use_absolute_position_embeddings: bool = True
    use_shared_relative_position_bias: bool = False
    use_attention_output_bias: bool = True
    use_mlp_bias: bool = True
    use_patch_bias: bool = True
    use_class_token: bool = True
    num_register_tokens: int = 0
    position: str = "learned"
    mask_mode: str = "replace"
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    init_scheme: str = "hf"

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the feature map: the patch."""
        return pair(self.patch_size)

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide: the patch."""
        return pair(self.patch_size)

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every block."""
        return [self.use_class_token] * self.num_hidden_layers

    @property
    def num_blocks(self) -> int:
        """Blocks of the encoder."""
        return self.num_hidden_layers

    @property
    def not_in_transformers(self) -> list[str]:
        """Fields whose values change what a classifier computes and that transformers does not know."""
        known = {
            "classifier_pool": ("auto", "cls"),
            "layer_scale_init_value": (None,),
            "use_absolute_position_embeddings": (True,),
            "use_shared_relative_position_bias": (False,),
            "use_attention_output_bias": (True,),
            "use_mlp_bias": (True,),
            "use_patch_bias": (True,),
            "use_class_token": (True,),
            "num_register_tokens": (0,),
        }
        return self._beyond(known)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooler_output_size is None:
            self.pooler_output_size = self.hidden_size
        for name in (
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "num_channels",
            "pooler_output_size",
        ):
            self._check_int(name, low=1)
        self._check_int("num_hidden_layers", low=0)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            self._check_float(name, 0, 1)
        self._check_float("initializer_range", 0)
        self._check_float("layer_norm_eps", 0, above=True)
        if self.layer_scale_init_value is not None:
            self._check_float("layer_scale_init_value", 0)
        for name in ("hidden_act", "pooler_act"):
            self._check_activation(name)
        for name in ("image_size", "patch_size", "encoder_stride"):
            self._check_side(name)
        for name in ("qkv_bias", *sorted(n for n in self.ours_only if n.startswith("use_"))):
            self._check_bool(name)
        self._check_choice("init_scheme", INIT_SCHEMES)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if any(p > s for p, s in zip(pair(self.patch_size), pair(self.image_size), strict=True)):
            raise InputError(f"patch_size={self.patch_size} is larger than image_size={self.image_size}")
        self._check_tokens()

    def _check_tokens(self) -> None:
        """Positions, registers, and what dropping hidden patches needs."""
        self._check_int("num_register_tokens", low=0)
        self._check_choice("position", POSITIONS)
        self._check_choice("mask_mode", MASK_MODES)
        if self.position == "sincos2d" and (self.hidden_size % 4 or not self.use_absolute_position_embeddings):
            raise InputError(
                f"position=sincos2d needs use_absolute_position_embeddings and a hidden_size that is a multiple of 4, "
                f"here {self.hidden_size}; change it, or use position=learned"
            )
        if self.use_shared_relative_position_bias and (self.num_register_tokens or self.mask_mode == "drop"):
            raise InputError(
                "use_shared_relative_position_bias=True knows whole grids of patches only; use mask_mode=replace "
                "(SimMIM) and num_register_tokens=0, or learned positions"
            )
        for name in ("decoder_num_hidden_layers", "decoder_num_attention_heads", "decoder_intermediate_size"):
            self._check_int(name, low=1)
        if self.decoder_hidden_size is None:
            return
        self._check_int("decoder_hidden_size", low=1)
        if self.decoder_hidden_size % self.decoder_num_attention_heads or self.decoder_hidden_size % 4:
            raise InputError(
                f"decoder_hidden_size={self.decoder_hidden_size} is not a multiple of 4 and of "
                f"decoder_num_attention_heads={self.decoder_num_attention_heads}"
            )


@dataclass(kw_only=True)
class CvtConfig(ModelConfig):
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
    ours_only: ClassVar[frozenset[str]] = frozenset({"hidden_act", "encoder_stride"})

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
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide: one of the first stage."""
        return self.patch_stride[0], self.patch_stride[0]

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every stage."""
        return list(self.cls_token)

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
        self._check_float("initializer_range", 0)
        self._check_float("layer_norm_eps", 0, above=True)
        self._check_activation("hidden_act")
        if self.encoder_stride is None:
            self.encoder_stride = self.stride[0]
        self._check_int("encoder_stride", low=1)
        self._check_stages()

    @classmethod
    def from_dict(cls, data: dict[str, Any], **overrides: Any) -> Self:
        """As `ModelConfig.from_dict`; a file's `mlp_ratios` is read as `mlp_ratio`."""
        renamed = {"mlp_ratio" if k == "mlp_ratios" else k: v for k, v in data.items()}
        return super().from_dict(renamed, **{"mlp_ratio" if k == "mlp_ratios" else k: v for k, v in overrides.items()})

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

    def to_dict(self) -> dict[str, Any]:
        """As `ModelConfig.to_dict`; an `encoder_stride` that follows from `patch_stride` is left out."""
        data = super().to_dict()
        if self.encoder_stride == self.stride[0]:
            data.pop("encoder_stride", None)
        return data


@dataclass(kw_only=True)
class BitConfig(ModelConfig):
    """Big Transfer's ResNet v2 (Kolesnikov et al. 2020); the defaults are R50x1.

    Attributes:
        num_channels: C of the images.
        embedding_size: width of the stem.
        hidden_sizes: widths of the stages.
        depths: blocks per stage.
        layer_type: "preactivation" (ResNet v2) or "bottleneck" (v1.5).
        hidden_act: activation after every norm.
        global_padding: of all convolutions: None (symmetric), "same" (as TensorFlow's) or "valid"; kept in capitals.
        num_groups: of every GroupNorm; must divide every width.
        drop_path_rate: stochastic depth, rising linearly over all blocks from 0 to this.
        embedding_dynamic_padding: pad before the stem's pooling so that its stride divides the map.
        output_stride: pixels per cell of the last map: 4, 8, 16 or 32; later strides become dilation.
        width_factor: multiplies every width (3 with the defaults: R50x3).
        out_features: stages whose maps `BitBackbone` gives; None: the last.
        out_indices: the same as numbers into `stage_names`, negative ones from the end.
        encoder_stride: ours; pixels that the SimMIM head writes per cell; None: `stride`, which is `output_stride`
            with four stages.
    """

    model_type: ClassVar[str] = "bit"
    ours_only: ClassVar[frozenset[str]] = frozenset({"encoder_stride"})

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048])
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    layer_type: str = "preactivation"
    hidden_act: Activation = "relu"
    global_padding: str | None = None
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = False
    output_stride: int = 32
    width_factor: int = 1
    out_features: list[str] = None  # type: ignore[assignment]  # lists after __post_init__
    out_indices: list[int] = None  # type: ignore[assignment]
    encoder_stride: int = None  # type: ignore[assignment]

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the last stage's map."""
        side = int(min(self.output_stride, 4 * 2 ** (len(self.depths) - 1)))
        return side, side

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide: one of the stem's map."""
        return 4, 4

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every stage: none has."""
        return [False] * len(self.depths)

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def not_in_transformers(self) -> list[str]:
        """Fields whose values change what a classifier computes and that transformers gets wrong."""
        full = 4 * 2 ** (len(self.depths) - 1)  # from this stride on nothing is dilated
        strides = tuple(stride for stride in OUTPUT_STRIDES if stride >= full)
        return self._beyond({"output_stride": strides, "width_factor": (1,), "global_padding": (None, "SAME")})

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, ...: names for `out_features`."""
        return ["stem", *(f"stage{i}" for i in range(1, len(self.depths) + 1))]

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and of every stage, with `width_factor`."""
        stem = self.embedding_size if self.width_factor == 1 else make_div(self.embedding_size * self.width_factor)
        return [stem, *(make_div(size * self.width_factor) for size in self.hidden_sizes)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_channels", "embedding_size", "num_groups", "width_factor"):
            self._check_int(name, low=1)
        self._check_ints("hidden_sizes", low=1)
        self._check_ints("depths", low=1, count=len(self.hidden_sizes))
        for name in ("layer_type", "global_padding"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(
                    f"{name}={getattr(self, name)!r} must be a name, got {type(getattr(self, name)).__name__}"
                )
        if self.layer_type not in LAYER_TYPES:
            raise InputError(f"layer_type={self.layer_type} is not one of {','.join(LAYER_TYPES)}")
        self._check_activation("hidden_act")
        if self.global_padding is not None:
            if self.global_padding.upper() not in PADDINGS:
                raise InputError(f"Padding strategy {self.global_padding} not supported; use same, valid or null")
            self.global_padding = self.global_padding.upper()
        self._check_float("drop_path_rate", 0, 1)
        self._check_bool("embedding_dynamic_padding")
        self._check_int("output_stride", low=min(OUTPUT_STRIDES))
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputError(f"output_stride={self.output_stride} is not one of {', '.join(map(str, OUTPUT_STRIDES))}")
        if self.encoder_stride is None:
            self.encoder_stride = self.stride[0]
        self._check_int("encoder_stride", low=1)
        for width in (*self.widths, *(make_div(width / 4) for width in self.widths[1:])):
            if width % self.num_groups:
                raise InputError(
                    f"num_groups={self.num_groups} does not divide the width {width}; widths are {self.widths}"
                )
        self._align_outputs()

    def _align_outputs(self) -> None:
        """Fills `out_features` from `out_indices` or the other way round, and checks them."""
        names = self.stage_names
        if self.out_features is None and self.out_indices is None:
            self.out_features, self.out_indices = names[-1:], [len(names) - 1]
        self._check_outputs(names)
        if self.out_indices is None:
            self.out_indices = [names.index(feature) for feature in self.out_features]
        found = [names[index] for index in self.out_indices]
        if self.out_features is None:
            self.out_features = found
        if self.out_features != found:
            raise InputError(
                f"out_features={self.out_features} and out_indices={self.out_indices} name different stages; give one"
            )
        for name in ("out_features", "out_indices"):
            if len(set(found)) != len(found):
                raise InputError(f"{name}={getattr(self, name)} holds a stage twice; name each once")
            if found != sorted(found, key=names.index):
                raise InputError(f"{name}={getattr(self, name)} must be in the same order as stage_names: {names}")

    def _check_outputs(self, names: list[str]) -> None:
        for name in ("out_features", "out_indices"):
            if getattr(self, name) is not None:
                self._check_each(name)
        for feature in self.out_features or []:
            if feature not in names:
                raise InputError(f"out_features={self.out_features}: {feature!r} is not one of {', '.join(names)}")
        for index in self.out_indices or []:
            if isinstance(index, bool) or not isinstance(index, int):
                raise TypeError(f"out_indices={self.out_indices!r} must hold integers, got {type(index).__name__}")
            if not -len(names) <= index < len(names):
                raise InputError(f"out_indices={self.out_indices}: {index} is out of range for {', '.join(names)}")

    @classmethod
    def from_dict(cls, data: dict[str, Any], **overrides: Any) -> Self:
        """As `ModelConfig.from_dict`; an override of one of `out_features` and `out_indices` replaces both."""
        dropped = {"stage_names"}  # follows from depths
        default = data.get("out_features") == [f"stage{len(data.get('depths', []))}"]
        if overrides.keys() & {"out_features", "out_indices"} or ("depths" in overrides and default):
            dropped |= {"out_features", "out_indices"}
        return super().from_dict({k: v for k, v in data.items() if k not in dropped}, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """As `ModelConfig.to_dict`, with `stage_names`; an `encoder_stride` equal to `stride` is left out."""
        data = super().to_dict() | {"stage_names": self.stage_names}
        if self.encoder_stride == self.stride[0]:
            data.pop("encoder_stride", None)
        return data


def make_div(value: float) -> int:
    """Rounds a width to a multiple of 8, at least 8 and not below 0.9 of it."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
