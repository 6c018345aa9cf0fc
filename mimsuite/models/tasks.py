"""The public model classes: an encoder, alone or with a head, with files.

A family is declared in a few lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.heads.classifier import linear_head, pool
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.losses import classification_loss, masked_l1, masked_l1_patches
from mimsuite.models.bit import ResNetV2
from mimsuite.models.config import BitConfig, CvtConfig, ViTConfig
from mimsuite.models.config_base import ModelConfig, Side, pair
from mimsuite.models.cvt import ConvolutionalTransformer
from mimsuite.models.layers import init_truncated_normal
from mimsuite.models.outputs import (
    BackboneOutput,
    ImageClassifierOutput,
    ImageClassifierOutputWithNoAttention,
    MaskedImageModelingOutput,
)
from mimsuite.models.vit import VisionTransformer, classic_key
from mimsuite.patches import as_grid_mask, expand_mask, gather_patches
from mimsuite.types import Encoder, FeatureMap
from mimsuite.weights.huggingface import Pretrained, lift_keys


class PixelHead(Protocol):
    """What a masked image model asks of its head, an `nn.Module`."""

    def __call__(self, grid: Tensor) -> Tensor:
        """Returns the picture `(B, C, h * sh, w * sw)` from `grid (B, D, h, w)`."""
        ...

    def hidden_only(self, cells: Tensor) -> Tensor:
        """Returns patch vectors `(K, C * sh * sw)`, order channel, row, column, from `cells (K, D)`."""
        ...


HeadFactory = Callable[[int, tuple[int, int], int], nn.Module]


class ForMaskedImageModeling(Pretrained):
    """An encoder and a head that predicts pixels (SimMIM, Xie et al. 2022); families add their `forward`.

    Args:
        config: the family's configuration.
        encoder: with a mask token.
        encoder_stride: pixels per cell that the head writes.
        num_channels: C of the images.
        head: makes the head from the encoder's width, the stride and the channels.

    Attributes:
        stride_field: what the config calls the stride of the encoder.
    """

    stride_field: ClassVar[str]

    def __init__(
        self,
        config: ModelConfig,
        encoder: nn.Module,
        encoder_stride: Side,
        num_channels: int,
        head: HeadFactory,
    ) -> None:
        super().__init__()
        self.config = config
        self.add_module(self.base_prefix, encoder)
        lift_keys(self)
        self.num_channels = num_channels
        self.head_stride = pair(encoder_stride)
        self.decoder = head(self.encoder.num_features, self.head_stride, num_channels)

    @property
    def encoder(self) -> Encoder:
        """The family's encoder."""
        return self.network()

    def masked_loss(self, pixel_values: Tensor, mask: Tensor, hidden_per_image: int | None = None) -> Tensor:
        """The loss of `forward`, with the head applied to hidden cells only.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats; also the target.
            mask: `(B, gh, gw)` bool, True = hidden, on a grid whose cells are whole multiples of the
                encoder's `mask_stride`.
            hidden_per_image: hidden cells of `mask` in each image, if all have the same number and the caller
                knows
                it: then nothing is counted on the device and all shapes are known to `torch.compile`.

        Returns:
            A scalar in float32 or wider.

        Raises:
            InputError: a size or mask that does not fit.
        """
        self._check_stride(pixel_values)
        features = self.encoder.forward_features(pixel_values, mask).grid
        self._check_cover(features, pixel_values)
        grid = (features.shape[-2], features.shape[-1])
        if grid[0] % mask.shape[1] or grid[1] % mask.shape[2]:  # finer than the features: cells partly hidden
            return masked_l1(self.decoder(features), pixel_values, mask)
        repeats = (grid[0] // mask.shape[1]) * (grid[1] // mask.shape[2])
        count = None if hidden_per_image is None else hidden_per_image * repeats
        where = hidden_cells(expand_mask(mask, grid), count)
        predicted = cast(PixelHead, self.decoder).hidden_only(features.permute(0, 2, 3, 1)[where])
        return masked_l1_patches(predicted, gather_patches(pixel_values, grid, where), self.num_channels)

    def dense_output(self, features: Tensor, pixel_values: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Returns the loss (None without mask) and the picture from features `(B, D, h, w)`.

        `mask` is `(B, gh, gw)` bool, True = hidden.
        """
        picture: Tensor = self.decoder(features)
        return (None if mask is None else masked_l1(picture, pixel_values, mask)), picture

    def _check_stride(self, pixel_values: Tensor) -> None:
        """Whether the picture that the head writes covers the image exactly."""
        if self.head_stride != self.encoder.stride:
            raise InputError(
                f"When `bool_masked_pos` is provided, `{self.stride_field}` must be equal to `encoder_stride` to "
                "ensure that the reconstructed image has the same dimensions as the input. Got "
                f"`{self.stride_field}` = {self.encoder.stride} and `encoder_stride` = {self.head_stride}."
            )
        (height, width), (down, across) = pixel_values.shape[-2:], self.head_stride
        if height % down or width % across:
            raise InputError(
                f"image {height}x{width} is not a multiple of the stride {down}x{across}; resize or crop it"
            )

    def _check_cover(self, features: Tensor, pixel_values: Tensor) -> None:
        """Whether the features are a regular grid over the image, as padding and rounding may prevent."""
        rows, columns = features.shape[-2:]
        (height, width), (down, across) = pixel_values.shape[-2:], self.encoder.stride
        if (rows * down, columns * across) != (height, width):
            raise InputError(
                f"image {height}x{width} gives a map of {rows}x{columns} cells, which do not tile it at stride "
                f"{down}x{across}; use multiples of the stride, and a padding that keeps whole cells"
            )


class ForImageClassification(Pretrained):
    """An encoder and a linear layer on its class token or mean cell; families add their `forward`.

    Args:
        config: the family's configuration; `num_labels` outputs.
        encoder: without mask token.
    """

    def __init__(self, config: ModelConfig, encoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.add_module(self.base_prefix, encoder)
        lift_keys(self)
        self.classifier = linear_head(self.encoder.num_features, config.num_labels)

    @property
    def encoder(self) -> Encoder:
        """The family's encoder."""
        return self.network()

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Returns `classification_loss` by the config's `problem_type`, or None without labels."""
        return None if labels is None else classification_loss(logits, labels, self.config.problem_type)


def hidden_cells(mask: Tensor, per_image: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns image, row and column of every hidden cell, three `(K,)` int64 tensors.

    Args:
        mask: `(B, h, w)` bool, True = hidden.
        per_image: hidden cells of each image; None: count them, which waits for the device.
    """
    if per_image is None:
        image, row, column = mask.nonzero(as_tuple=True)
        return image, row, column
    batch, _, width = mask.shape
    order = torch.argsort(mask.flatten(1).to(torch.uint8), dim=1, descending=True, stable=True)[:, :per_image]
    image = torch.arange(batch, device=mask.device)[:, None].expand_as(order)
    return image.flatten(), (order // width).flatten(), (order % width).flatten()


# --- ViT --------------------------------------------------------------------------------------------------


class ViTModel(VisionTransformer, Pretrained):
    """The bare Vision Transformer; see `VisionTransformer` for arguments and attributes."""

    config_class = ViTConfig
    base_prefix = "vit"
    is_base = True
    init_options = ("add_pooling_layer", "use_mask_token")
    file_key = staticmethod(classic_key)


class ViTForMaskedImageModeling(ForMaskedImageModeling):
    """ViT with a mask token and a head that predicts pixels (SimMIM, Xie et al. 2022).

    Args:
        config: sizes; `image_size` must be a multiple of `patch_size`.
        head: makes the head from width, stride `(sh, sw)` and channels; default `SimMIMHead`.

    Raises:
        InputError: `image_size` is not a multiple of `patch_size`.
    """

    config_class = ViTConfig
    base_prefix = "vit"
    stride_field = "patch_size"
    init_options = ("head",)
    file_key = staticmethod(classic_key)
    vit: VisionTransformer

    def __init__(self, config: ViTConfig, head: HeadFactory = SimMIMHead) -> None:
        if any(s % p for s, p in zip(pair(config.image_size), pair(config.patch_size), strict=True)):
            raise InputError(f"image_size={config.image_size} is not a multiple of patch_size={config.patch_size}")
        encoder = VisionTransformer(config, add_pooling_layer=False, use_mask_token=True)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)
        init_truncated_normal(self.decoder, config.initializer_range)

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
        features = self.vit.feature_map(out.last_hidden_state, grid).grid
        loss, picture = self.dense_output(features, pixel_values, mask)
        result = MaskedImageModelingOutput(loss, picture, out.hidden_states, out.attentions)
        return result if _wants_object(self.config, return_dict) else result.to_tuple()


class ViTForImageClassification(ForImageClassification):
    """ViT with a linear layer on the class token (`use_class_token=False`: on the mean patch)."""

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
        logits = self.classifier(pool(self.vit.feature_map(out.last_hidden_state, grid)))
        result = ImageClassifierOutput(self.loss(logits, labels), logits, out.hidden_states, out.attentions)
        return result if _wants_object(self.config, return_dict) else result.to_tuple()


# --- CvT and BiT, whose models take the same arguments ---------------------------------------------------------


class DenseEncoder(Protocol):
    """What CvT and BiT offer beside the encoder's contract."""

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of all stages."""
        ...


class DenseForMaskedImageModeling(ForMaskedImageModeling):
    """The forward pass of masked image models without attention matrices."""

    init_options = ("head",)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the reconstruction of the whole picture, and with a mask the loss on its hidden pixels.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats; H and W multiples of the stride.
            bool_masked_pos: `(B, H / m * W / m)` or `(B, rows, columns)`, True = hidden, m the encoder's mask stride;
                bool, or numbers 0 and 1.
            output_hidden_states: also return the maps of all stages; None: the config's value.
            return_dict: False: a tuple instead of `MaskedImageModelingOutput`; None: the config's value.

        Raises:
            InputError: no pixels, or a size, mask or `encoder_stride` that does not fit (a ValueError).
        """
        pixels = _given(pixel_values)
        mask = None
        if bool_masked_pos is not None:
            self._check_stride(pixels)
            (height, width), (down, across) = pixels.shape[-2:], self.encoder.mask_stride
            mask = as_grid_mask(bool_masked_pos, len(pixels), (height // down, width // across))
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        features, states = cast(DenseEncoder, self.encoder).features_and_states(pixels, mask, need_states)
        self._check_cover(features.grid, pixels)
        loss, picture = self.dense_output(features.grid, pixels, mask)
        result = MaskedImageModelingOutput(loss, picture, states)
        return result if _wants_object(self.config, return_dict) else result.to_tuple()


class DenseForImageClassification(ForImageClassification):
    """The forward pass of classifiers without attention matrices."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the logits, and with `labels` the loss (see `mimsuite.losses.classification_loss`).

        Args:
            pixel_values: `(B, C, H, W)` normalised floats.
            labels: `(B,)` classes or numbers, or `(B, num_labels)` floats.
            output_hidden_states: also return the maps of all stages; None: the config's value.
            return_dict: False: a tuple instead of `ImageClassifierOutputWithNoAttention`; None: the config's value.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        pixels = _given(pixel_values)
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        features, states = cast(DenseEncoder, self.encoder).features_and_states(pixels, None, need_states)
        logits = self.classifier(pool(features))
        result = ImageClassifierOutputWithNoAttention(self.loss(logits, labels), logits, states)
        return result if _wants_object(self.config, return_dict) else result.to_tuple()


# --- CvT --------------------------------------------------------------------------------------------------------


class CvtModel(ConvolutionalTransformer, Pretrained):
    """The bare CvT; see `ConvolutionalTransformer`.

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
    """CvT with a linear layer on the last stage's class token, or on the mean cell without one."""

    config_class = CvtConfig
    base_prefix = "cvt"
    beside_prefix = ("layernorm",)
    cvt: ConvolutionalTransformer

    def __init__(self, config: CvtConfig) -> None:
        super().__init__(config, ConvolutionalTransformer(config, add_final_norm=True))
        init_truncated_normal(self.classifier, config.initializer_range)


# --- BiT --------------------------------------------------------------------------------------------------------


class BitModel(ResNetV2, Pretrained):
    """The bare BiT; see `ResNetV2` for arguments and attributes."""

    config_class = BitConfig
    base_prefix = "bit"
    is_base = True
    init_options = ("use_mask_token",)


class BitForMaskedImageModeling(DenseForMaskedImageModeling):
    """BiT with a mask token and a head that predicts pixels: SimMIM (Xie et al. 2022) on a ResNet.

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
    """BiT with a linear layer on the mean cell."""

    config_class = BitConfig
    base_prefix = "bit"
    bit: ResNetV2

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config, ResNetV2(config))
        self.classifier = nn.Sequential(nn.Flatten(), self.classifier)  # so that files name it `classifier.1`


class BitBackbone(Pretrained):
    """BiT as the first part of a detector or segmenter: the maps of the stages in `config.out_features`.

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
        self.out_features, self.out_indices = config.out_features, config.out_indices
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
        _, states = self.bit.encode(_given(pixel_values), None, need_states=True)
        assert states is not None
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = BackboneOutput(tuple(states[i] for i in self.out_indices), states if need_states else None)
        return result if _wants_object(self.config, return_dict) else result.to_tuple()


def _given(pixel_values: Tensor | None) -> Tensor:
    if pixel_values is None:
        raise InputError("You have to specify pixel_values")
    return pixel_values


def _wants_object(config: ModelConfig, return_dict: bool | None) -> bool:
    return config.return_dict if return_dict is None else return_dict
