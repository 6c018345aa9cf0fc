"""The public model classes: an encoder, alone or with a head, with files. A family is declared in a few lines."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.heads.classifier import pool
from mimsuite.heads.mae import MAEDecoder
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.models.bit import ResNetV2
from mimsuite.models.composed import (
    DenseForImageClassification,
    DenseForMaskedImageModeling,
    ForImageClassification,
    ForMaskedImageModeling,
    HeadFactory,
)
from mimsuite.models.config import BitConfig, CvtConfig, ViTConfig
from mimsuite.models.config_base import pair
from mimsuite.models.cvt import ConvolutionalTransformer
from mimsuite.models.layers import check_config, given_pixels, init_truncated_normal
from mimsuite.models.outputs import (
    BackboneOutput,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    returned,
)
from mimsuite.models.vit import VisionTransformer, classic_key
from mimsuite.patches import as_grid_mask
from mimsuite.types import FeatureMap
from mimsuite.weights.huggingface import Pretrained

# --- ViT --------------------------------------------------------------------------------------------------


class ViTModel(VisionTransformer, Pretrained):
    """The bare Vision Transformer (Dosovitskiy et al. 2021, section 3.1).

    Gives `last_hidden_state (B, N + 1, D)` and `pooler_output (B, pooler_output_size)`; arguments, attributes and
    errors: see `VisionTransformer`.
    """

    config_class = ViTConfig
    base_prefix = "vit"
    is_base = True
    init_options = ("add_pooling_layer", "use_mask_token")
    file_key = staticmethod(classic_key)


class ViTForMaskedImageModeling(ForMaskedImageModeling):
    """ViT with a head that predicts what is hidden (SimMIM, Xie et al. 2022, section 3; MAE, He et al. 2022).

    Gives `reconstruction (B, C, H, W)` and, with a mask `(B, N)`, the scalar `loss`. The config decides:
    `mask_mode="replace"` has a mask token and SimMIM's head, `mask_mode="drop"` MAE's decoder (`decoder_hidden_size`
    and the like). Files of the latter are those of the bare encoder, with the decoder beside in `decoder.safetensors`.

    Args:
        config: sizes; `image_size` must be a multiple of `patch_size`.
        head: with "replace", makes the head from width, places per patch and channels; default `SimMIMHead`.

    Raises:
        InputError: `image_size` is not a multiple of `patch_size`, or `mask_mode` and decoder do not fit together.
    """

    config_class = ViTConfig
    base_prefix = "vit"
    stride_field = "patch_size"
    init_options = ("head",)
    file_key = staticmethod(classic_key)
    vit: VisionTransformer

    def __init__(self, config: ViTConfig, head: HeadFactory | None = None) -> None:
        check_config(config, ViTConfig)
        size, patch = pair(config.image_size), pair(config.patch_size)
        if any(s % p for s, p in zip(size, patch, strict=True)):
            raise InputError(f"image_size={config.image_size} is not a multiple of patch_size={config.patch_size}")
        drops = config.mask_mode == "drop"
        if drops != (config.decoder_hidden_size is not None) or (drops and head is not None):
            raise InputError(
                f"mask_mode={config.mask_mode} with decoder_hidden_size={config.decoder_hidden_size}: drop needs MAE's "
                "decoder (decoder_hidden_size=512, say), replace another head (decoder_hidden_size=None)"
            )
        encoder = VisionTransformer(config, add_pooling_layer=False, use_mask_token=not drops)
        if drops:
            head = partial(MAEDecoder, grid=(size[0] // patch[0], size[1] // patch[1]), **decoder_fields(config))
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head or SimMIMHead)
        if isinstance(self.decoder, MAEDecoder):
            encoder.on_new_grid = self.decoder.set_grid
        else:
            init_truncated_normal(self.decoder, config.initializer_range)

    def _recompute(self, wanted: bool) -> None:
        super()._recompute(wanted)
        if isinstance(self.decoder, MAEDecoder):
            self.decoder.gradient_checkpointing = wanted

    def features(self, pixels: Tensor, mask: Tensor, hidden_per_image: int | None) -> FeatureMap:
        """The encoder's features, without a count on the device where the number of hidden cells is known."""
        return self.vit.features_where(pixels, mask, hidden_per_image)

    def file_parts(self) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """What is saved: the class that the files are of, its tensors, and those of a decoder beside."""
        if self.vit.config.mask_mode == "replace":
            return super().file_parts()
        state = self.state_dict()
        encoder = {k.removeprefix("vit."): t for k, t in state.items() if k.startswith("vit.")}
        return "ViTModel", encoder, {k: t for k, t in state.items() if not k.startswith("vit.")}

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the reconstruction of the whole picture, and with a mask the loss on its hidden pixels.

        Arguments as for `VisionTransformer.forward`; `MaskedImageModelingOutput`, or a tuple.
        """
        if pixel_values is not None and bool_masked_pos is not None:
            self._check_stride(pixel_values)
        out = self.vit(
            pixel_values,
            bool_masked_pos,
            head_mask,
            output_attentions,
            output_hidden_states,
            interpolate_pos_encoding,
            return_dict=True,
        )
        assert pixel_values is not None
        grid = (pixel_values.shape[-2] // self.vit.stride[0], pixel_values.shape[-1] // self.vit.stride[1])
        mask = None if bool_masked_pos is None else as_grid_mask(bool_masked_pos, len(pixel_values), grid)
        features = self.vit.feature_map(out.last_hidden_state, grid, self.vit.kept(mask))
        loss, picture = self.dense_output(features, pixel_values, mask)
        result = MaskedImageModelingOutput(loss, picture, out.hidden_states, out.attentions)
        return returned(result, self.config.return_dict, return_dict)


def decoder_fields(config: ViTConfig) -> dict[str, Any]:
    """The arguments of `MAEDecoder` that a config holds."""
    return {
        "class_token": config.use_class_token,
        "hidden_size": config.decoder_hidden_size,
        "num_hidden_layers": config.decoder_num_hidden_layers,
        "num_attention_heads": config.decoder_num_attention_heads,
        "intermediate_size": config.decoder_intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": config.hidden_act,
        "qkv_bias": config.qkv_bias,
        "attn_implementation": config.attn_implementation,
    }


class ViTForImageClassification(ForImageClassification):
    """ViT with a linear layer on the class token (Dosovitskiy et al. 2021, section 3.1).

    Gives `logits (B, num_labels)`. With `use_class_token=False` or `classifier_pool="mean"` the layer is on the
    mean of the normed patches. Raises InputError for labels that are out of range or of another count.
    """

    config_class = ViTConfig
    base_prefix = "vit"
    file_key = staticmethod(classic_key)
    vit: VisionTransformer

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, VisionTransformer(config, add_pooling_layer=False))
        init_truncated_normal(self.classifier, config.initializer_range)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the logits, and with `labels` the loss (see `mimsuite.losses.classification_loss`).

        Arguments as for `VisionTransformer.forward`; `ImageClassifierOutput`, or a tuple.
        """
        out = self.vit(
            pixel_values,
            None,
            head_mask,
            output_attentions,
            output_hidden_states,
            interpolate_pos_encoding,
            return_dict=True,
        )
        assert pixel_values is not None
        grid = (pixel_values.shape[-2] // self.vit.stride[0], pixel_values.shape[-1] // self.vit.stride[1])
        features = self.vit.feature_map(out.last_hidden_state, grid)
        logits = self.classifier(pool(features, self.config.classifier_pool))
        result = ImageClassifierOutput(self.loss(logits, labels), logits, out.hidden_states, out.attentions)
        return returned(result, self.config.return_dict, return_dict)


# --- CvT --------------------------------------------------------------------------------------------------------


class CvtModel(ConvolutionalTransformer, Pretrained):
    """The bare convolutional vision transformer (Wu et al. 2021, section 3).

    Gives `last_hidden_state (B, D, h, w)` and `cls_token_value (B, 1, D)`, both before the final norm; attributes and
    errors: see `ConvolutionalTransformer`.

    Args:
        config: sizes and switches.
        add_pooling_layer: without effect, as in Hugging Face.
        add_final_norm: adds the LayerNorm that `forward_features` ends with.
        use_mask_token: adds the mask token.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    is_base = True
    init_options = ("add_pooling_layer", "add_final_norm", "use_mask_token")

    def __init__(
        self,
        config: CvtConfig,
        add_pooling_layer: bool = True,
        add_final_norm: bool = False,
        use_mask_token: bool = False,
    ) -> None:
        super().__init__(config, add_final_norm, use_mask_token)


class CvtForMaskedImageModeling(DenseForMaskedImageModeling):
    """CvT with a mask token and a head that predicts pixels: SimMIM (Xie et al. 2022) as for its Swin encoder.

    Gives `reconstruction (B, C, H, W)` and, with a mask on the first stage's grid, the scalar `loss`. Hidden pixels are
    filled before the first convolution, because it overlaps the cells.

    Args:
        config: sizes.
        head: makes the head from width, stride `(s, s)` and channels; default `SimMIMHead`.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    beside_prefix = ("layernorm", "mask_token")
    stride_field = "the product of patch_stride"
    cvt: ConvolutionalTransformer

    def __init__(self, config: CvtConfig, head: HeadFactory = SimMIMHead) -> None:
        encoder = ConvolutionalTransformer(config, add_final_norm=True, use_mask_token=True)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)
        init_truncated_normal(self.decoder, config.initializer_range)


class CvtForImageClassification(DenseForImageClassification):
    """CvT with a linear layer on the last stage's class token (Wu et al. 2021), or on the mean cell without one.

    Gives `logits (B, num_labels)`. Raises InputError for labels that are out of range or of another count.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    beside_prefix = ("layernorm",)
    cvt: ConvolutionalTransformer

    def __init__(self, config: CvtConfig) -> None:
        super().__init__(config, ConvolutionalTransformer(config, add_final_norm=True))
        init_truncated_normal(self.classifier, config.initializer_range)


# --- BiT --------------------------------------------------------------------------------------------------------


class BitModel(ResNetV2, Pretrained):
    """The bare Big Transfer network (Kolesnikov et al. 2020, section 3.1).

    Gives `last_hidden_state (B, D, h, w)` after the final norm and `pooler_output (B, D)`; arguments, attributes and
    errors: see `ResNetV2`.
    """

    config_class = BitConfig
    base_prefix = "bit"
    is_base = True
    init_options = ("use_mask_token",)


class BitForMaskedImageModeling(DenseForMaskedImageModeling):
    """BiT with a mask token and a head that predicts pixels: SimMIM (Xie et al. 2022) on a ResNet.

    Gives `reconstruction (B, C, H, W)` and, with a mask on the stem's 4-pixel grid, the scalar `loss`. Hidden pixels
    are filled before the stem, because it overlaps the cells.

    Args:
        config: sizes.
        head: makes the head from width, stride `(s, s)` and channels; default `SimMIMHead`.
    """

    config_class = BitConfig
    base_prefix = "bit"
    beside_prefix = ("mask_token",)
    stride_field = "output_stride"
    bit: ResNetV2

    def __init__(self, config: BitConfig, head: HeadFactory = SimMIMHead) -> None:
        encoder = ResNetV2(config, use_mask_token=True)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)
        init_truncated_normal(self.decoder, 0.02)


class BitForImageClassification(DenseForImageClassification):
    """BiT with a linear layer on the mean cell (Kolesnikov et al. 2020, section 3.2).

    Gives `logits (B, num_labels)`. Raises InputError for labels that are out of range or of another count.
    """

    config_class = BitConfig
    base_prefix = "bit"
    bit: ResNetV2

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config, ResNetV2(config))
        self.classifier = nn.Sequential(nn.Flatten(), self.classifier)  # so that files name it `classifier.1`


class BitBackbone(Pretrained):
    """BiT as the first part of a detector or segmenter: the maps of the stages in `config.out_features`.

    Gives `feature_maps`, a tuple of `(B, D_i, h_i, w_i)` (Kolesnikov et al. 2020, section 3.1). Raises InputError for
    pixels that do not fit the model; the config refuses wrong stages.

    Args:
        config: sizes, `out_features` or `out_indices`.

    Attributes:
        stage_names: of all maps.
        out_features: of the maps given.
        out_indices: their numbers in `stage_names`.
        channels: their widths.
        num_features: widths of all maps.
    """

    config_class = BitConfig
    base_prefix = "bit"
    bit: ResNetV2

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        self.config = config
        self.bit = ResNetV2(config)
        self.stage_names, self.num_features = config.stage_names, config.widths
        self.out_features, self.out_indices = list(config.out_features), list(config.out_indices)
        self.channels = [self.num_features[i] for i in config.out_indices]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the chosen maps `(B, D_i, h_i, w_i)` in the order of the stages, before the final norm.

        Arguments and errors as for `ResNetV2.forward`; `BackboneOutput`, or a tuple.
        """
        _, states = self.bit.encode(given_pixels(pixel_values), None, need_states=True)
        assert states is not None
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = BackboneOutput(tuple(states[i] for i in self.out_indices), states if need_states else None)
        return returned(result, self.config.return_dict, return_dict)
