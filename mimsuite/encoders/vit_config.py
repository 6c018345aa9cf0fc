"""Configuration of the Vision Transformer. Imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from mimsuite.encoders.config import Activation, ModelConfig, Side, as_pair, as_side
from mimsuite.encoders.config_fields import configuration
from mimsuite.errors import InputError
from mimsuite.words import INIT_SCHEMES, PATCH_MASK_MODES, POSITIONS

# What becomes of hidden patches, and the sizes of MAE's decoder: a classifier has the defaults.
OF_MASKING = (
    "mask_mode",
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)


@configuration
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
        use_relative_position_bias: ours; each block has a table of its own (BEiT); added to a shared one.
        use_attention_output_bias: ours; bias of the projection after attention.
        use_mlp_bias: ours; biases of the MLP.
        use_gated_mlp: ours; the MLP's first layer is twice as wide, and the activation of its first half is multiplied
            by the other half: with "silu" SwiGLU, with "gelu" GEGLU (Shazeer 2020).
        use_patch_bias: ours; bias of the patch embedding.
        use_class_token: ours; False: the class features are the mean of the patches.
        num_register_tokens: ours; further class tokens without position, which nothing reads (Darcet et al. 2024).
        position: ours; "learned", or "sincos2d": fixed sines and cosines of row and column (MAE).
        norm_after_pool: ours; the last norm is on what a classifier looks at, and not on every token: the encoder alone
            has none (BEiT; MAE's fine-tuning).
        interpolate_positions: ours; images of other sizes are taken, and positions interpolated, also where a call does
            not ask for it.
        antialias_positions: ours; positions that are resized to fewer places are smoothed.
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
            "use_relative_position_bias",
            "use_attention_output_bias",
            "use_mlp_bias",
            "use_gated_mlp",
            "use_patch_bias",
            "use_class_token",
            "num_register_tokens",
            "position",
            "norm_after_pool",
            "interpolate_positions",
            "antialias_positions",
            *OF_MASKING,
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
    use_relative_position_bias: bool = False
    use_attention_output_bias: bool = True
    use_mlp_bias: bool = True
    use_gated_mlp: bool = False
    use_patch_bias: bool = True
    use_class_token: bool = True
    num_register_tokens: int = 0
    position: str = "learned"
    norm_after_pool: bool = False
    interpolate_positions: bool = False
    antialias_positions: bool = False
    mask_mode: str = "replace"
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    init_scheme: str = "hf"

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the feature map: the patch."""
        return as_pair(self.patch_size)

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide: the patch."""
        return as_pair(self.patch_size)

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every block."""
        return [self.use_class_token] * self.num_hidden_layers

    @property
    def num_blocks(self) -> int:
        """Blocks of the encoder."""
        return self.num_hidden_layers

    @property
    def num_features(self) -> int:
        """The width of a token."""
        return self.hidden_size

    @property
    def latent_blocks(self) -> list[int]:
        """The last half of the blocks."""
        return list(range(self.num_hidden_layers // 2 + 1, self.num_hidden_layers + 1))

    @property
    def alike_blocks(self) -> list[int]:
        """All."""
        return list(range(1, self.num_hidden_layers + 1))

    @property
    def stride_field(self) -> str:
        """The patch."""
        return "patch_size"

    @property
    def has_class_token(self) -> bool:
        """Whether there is one, also without blocks."""
        return self.use_class_token

    @property
    def needs_whole_cells(self) -> bool:
        """Patches have to tile the image."""
        return True

    @property
    def fixed_size(self) -> tuple[int, int]:
        """`(H, W)` pixels of `image_size`."""
        return as_pair(self.image_size)

    @property
    def fixed_grid(self) -> bool:
        """Relative positions cannot be resized."""
        return self.use_shared_relative_position_bias or self.use_relative_position_bias

    @property
    def resize_mode(self) -> str:
        """How positions are resized, as `mimsuite.encoders.positions.resize_positions` calls it."""
        return "timm" if self.antialias_positions else "hf"

    @property
    def drop_obstacle(self) -> str | None:
        """Relative positions are in the way of dropping patches."""
        if not self.fixed_grid:
            return None
        name = f"model.use_{'shared_' if self.use_shared_relative_position_bias else ''}relative_position_bias"
        positions = "" if self.use_absolute_position_embeddings else " model.use_absolute_position_embeddings=true"
        return (
            f"{name}=true knows whole grids of patches only, and objective=mae drops "
            f"some; use {name}=false{positions}, or objective=simmim"
        )

    @property
    def drops_patches(self) -> bool:
        """Whether `mask_mode` is "drop" (MAE)."""
        return self.mask_mode == "drop"

    @property
    def decoder_sizes(self) -> dict[str, int] | None:
        """The `decoder_` fields, by their names without that; None where `decoder_hidden_size` is."""
        if self.decoder_hidden_size is None:
            return None
        return {name.removeprefix("decoder_"): getattr(self, name) for name in OF_MASKING[1:]}

    @property
    def decays_mask_token(self) -> bool:
        """Only for SimMIM: not for MAE, nor for HOG (MaskFeat)."""
        return not self.drops_patches and self.mim_target != "hog"

    @property
    def not_in_transformers(self) -> list[str]:
        """Fields whose values change what a classifier computes and that transformers does not know."""
        known = {
            "classifier_pool": ("auto", "cls"),
            "layer_scale_init_value": (None,),
            "use_absolute_position_embeddings": (True,),
            "use_shared_relative_position_bias": (False,),
            "use_relative_position_bias": (False,),
            "norm_after_pool": (False,),
            "use_attention_output_bias": (True,),
            "use_mlp_bias": (True,),
            "use_gated_mlp": (False,),
            "use_patch_bias": (True,),
            "use_class_token": (True,),
            "num_register_tokens": (0,),
            "antialias_positions": (False,),
        }
        return self._beyond(known)

    def with_image_size(self, size: tuple[int, int]) -> Self:
        """A copy that is made for `(H, W)` pixels; whether patches tile them is not checked."""
        other = copy.copy(self)
        other.image_size = as_side(size)
        return other

    def with_masking(
        self,
        target: str,
        decoder: Mapping[str, int] | None = None,
        predictor: Mapping[str, Any] | None = None,
        mask_mode: str = "replace",
    ) -> Self:
        """A copy of a masked image model: with a decoder hidden patches are dropped (MAE), else as `mask_mode` says."""
        if mask_mode == "sparse":
            raise InputError(str(self.sparse_obstacle))
        changes: dict[str, Any] = {"mim_target": target, "mim_predictor": predictor, "decoder_hidden_size": None}
        changes["mask_mode"] = mask_mode if decoder is None else "drop"
        if decoder is not None:
            changes |= {f"decoder_{name}": size for name, size in decoder.items()}
        return self.changed(**changes, **self._whole_head())

    def without_masking(self) -> Self:
        """A copy without target and decoder, for a classifier."""
        changes = {name: getattr(type(self), name) for name in OF_MASKING}
        return self.changed(mim_target="pixels", mim_predictor=None, architectures=None, **changes)

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
        switches = ("qkv_bias", "norm_after_pool", "interpolate_positions", "antialias_positions")
        for name in (*switches, *sorted(n for n in self.ours_only if n.startswith("use_"))):
            self._check_bool(name)
        self._check_choice("init_scheme", INIT_SCHEMES)
        if any(p > s for p, s in zip(as_pair(self.patch_size), as_pair(self.image_size), strict=True)):
            raise InputError(f"patch_size={self.patch_size} is larger than image_size={self.image_size}")
        self._check_tokens()

    def check_fit(self) -> None:
        """Whether heads divide the width."""
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )

    def _check_tokens(self) -> None:
        """Positions, registers, and what dropping hidden patches needs."""
        self._check_int("num_register_tokens", low=0)
        self._check_choice("position", POSITIONS)
        self._check_choice("mask_mode", PATCH_MASK_MODES)
        if self.position == "sincos2d" and (self.hidden_size % 4 or not self.use_absolute_position_embeddings):
            raise InputError(
                f"position=sincos2d needs use_absolute_position_embeddings and a hidden_size that is a multiple of 4, "
                f"here {self.hidden_size}; change it, or use position=learned"
            )
        if self.fixed_grid and (self.num_register_tokens or self.mask_mode == "drop"):
            name = f"use_{'shared_' if self.use_shared_relative_position_bias else ''}relative_position_bias"
            raise InputError(
                f"{name}=True knows whole grids of patches only; use mask_mode=replace "
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
