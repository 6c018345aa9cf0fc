"""The public ViT classes: the encoder, alone or with a head, with files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mimsuite.encoders.config import as_pair
from mimsuite.encoders.layers import check_config, given_pixels, init_truncated_normal
from mimsuite.encoders.outputs import (
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    as_output,
)
from mimsuite.encoders.vit import VisionTransformer, classic_key
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError
from mimsuite.heads.classifier import pool
from mimsuite.heads.mae import MAEDecoder
from mimsuite.heads.predictor import TransformerPredictor
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.masked.patches import as_grid_mask
from mimsuite.models.composed import (
    ForImageClassification,
    ForMaskedImageModeling,
    HeadFactory,
)
from mimsuite.models.own import OwnModel
from mimsuite.models.pretrained import Pretrained
from mimsuite.types import FeatureMap


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


class ViTPreTrainedModel(OwnModel):
    """The base of a user's own model around a ViT as `self.vit`; see `OwnModel`."""

    config_class = ViTConfig
    base_prefix = "vit"
    file_key = staticmethod(classic_key)


def key_beside_decoder(key: str) -> str:
    """As `classic_key`; the names of a decoder are our own."""
    return key if key.startswith("decoder.") else classic_key(key)


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
    init_options = ("head",)
    file_key = staticmethod(key_beside_decoder)
    vit: ViTModel

    def __init__(self, config: ViTConfig, head: HeadFactory | None = None) -> None:
        check_config(config, ViTConfig)
        size, patch = as_pair(config.image_size), as_pair(config.patch_size)
        if any(s % p for s, p in zip(size, patch, strict=True)):
            raise InputError(f"image_size={config.image_size} is not a multiple of patch_size={config.patch_size}")
        drops = config.mask_mode == "drop"
        predicts_features = config.mim_predictor is not None
        if drops != (config.decoder_hidden_size is not None or (drops and predicts_features)) or (drops and head):
            raise InputError(
                f"mask_mode={config.mask_mode} with decoder_hidden_size={config.decoder_hidden_size}: drop needs MAE's "
                "decoder (decoder_hidden_size=512, say), replace another head (decoder_hidden_size=None)"
            )
        encoder = ViTModel(config, add_pooling_layer=False, use_mask_token=not drops)
        if drops and not predicts_features:
            head = partial(MAEDecoder, grid=(size[0] // patch[0], size[1] // patch[1]), **decoder_fields(config))
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head or SimMIMHead)
        if isinstance(self.decoder, MAEDecoder | TransformerPredictor):
            encoder.on_new_grid = self.decoder.set_grid
        else:
            init_truncated_normal(self.decoder, config.initializer_range)

    def features(self, pixels: Tensor, mask: Tensor, hidden_per_image: int | None) -> FeatureMap:
        """The encoder's features, without a count on the device where the number of hidden cells is known."""
        return self.vit.features_where(pixels, mask, hidden_per_image)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copies tensors into the model.

        Raises:
            InputError: those of the bare encoder, as `model.safetensors` holds them beside a decoder, of which nothing
                would be copied.
        """
        bare = self.vit.state_dict().keys() if self.vit.config.mask_mode == "drop" else ()
        if bare and not any(name.startswith("vit.") for name in state_dict) and bare & state_dict.keys():
            raise InputError(
                "model.safetensors of a model with MAE's decoder holds the encoder alone; read its folder by "
                "from_pretrained, which also reads decoder.safetensors"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def file_parts(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """How a state dict is saved: the class that the files are of, its tensors, and those of a decoder beside."""
        if self.vit.config.mask_mode == "replace" or self.config.mim_predictor is not None:
            return super().file_parts(state)
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
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Returns the reconstruction of the whole picture, and with a mask the loss on its hidden pixels.

        Arguments as for `VisionTransformer.forward`; `MaskedImageModelingOutput`, or a tuple.
        """
        if pixel_values is not None and bool_masked_pos is not None:
            self._check_stride(pixel_values)
        pixels = given_pixels(pixel_values)
        mask = (
            None if bool_masked_pos is None else as_grid_mask(bool_masked_pos, pixels.shape[0], self.vit.grid(pixels))
        )
        kept = self.vit.kept(mask)
        out = self.vit(
            pixels,
            mask,
            head_mask,
            output_attentions,
            output_hidden_states,
            interpolate_pos_encoding,
            return_dict=True,
            attention_mask=attention_mask,
            kept=kept,
        )
        features = self.vit.feature_map(out.last_hidden_state, self.vit.grid(pixels), kept)
        loss, picture = self.dense_output(features, pixels, mask)
        result = MaskedImageModelingOutput(loss, picture, out.hidden_states, out.attentions)
        return as_output(result, self.config.return_dict, return_dict)


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
    mean of the normed patches, with "both" on token and mean; with `norm_after_pool` the norm follows. Raises
    InputError for labels that are out of range or of another count.
    """

    config_class = ViTConfig
    base_prefix = "vit"
    file_key = staticmethod(classic_key)
    vit: ViTModel

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, ViTModel(config, add_pooling_layer=False))
        width = config.hidden_size * (2 if config.classifier_pool == "both" else 1)
        self.fc_norm = nn.LayerNorm(width, config.layer_norm_eps) if config.norm_after_pool else None
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
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Returns the logits, and with `labels` the loss (see `mimsuite.heads.losses.classification_loss`).

        Arguments as for `VisionTransformer.forward`; `ImageClassifierOutput`, or a tuple.
        """
        pixels = given_pixels(pixel_values)
        out = self.vit(
            pixels,
            None,
            head_mask,
            output_attentions,
            output_hidden_states,
            interpolate_pos_encoding,
            return_dict=True,
            attention_mask=attention_mask,
        )
        features = self.vit.feature_map(out.last_hidden_state, self.vit.grid(pixels))
        pooled = pool(features, self.config.classifier_pool)
        logits = self.classifier(pooled if self.fc_norm is None else self.fc_norm(pooled))
        result = ImageClassifierOutput(self.loss(logits, labels), logits, out.hidden_states, out.attentions)
        return as_output(result, self.config.return_dict, return_dict)
