"""A model as an encoder and a head: what masked image models and classifiers of all families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn

from mimsuite.encoders.config import ModelConfig, Side, as_pair
from mimsuite.encoders.layers import given_pixels, is_hooked
from mimsuite.encoders.outputs import (
    ImageClassifierOutputWithNoAttention,
    MaskedImageModelingOutput,
    as_output,
)
from mimsuite.encoders.predictor_config import check_predicts_pixels
from mimsuite.errors import InputError
from mimsuite.heads.classifier import linear_head, pool
from mimsuite.heads.losses import classification_loss
from mimsuite.masked.losses import fourier_error, masked_error, masked_error_patches
from mimsuite.masked.patches import as_grid_mask, expand_mask
from mimsuite.masked.targets import make_target
from mimsuite.models.parts import Maps, MaskedHead, blocks_of, hidden_cells, own_head, own_predictor
from mimsuite.models.pretrained import Pretrained, lift_keys
from mimsuite.types import Encoder, FeatureMap

HeadFactory = Callable[[int, tuple[int, int], int], nn.Module]


class ForMaskedImageModeling(Pretrained):
    """An encoder and a head that predicts what is hidden (SimMIM, Xie et al. 2022); families add their `forward`.

    Args:
        config: the family's configuration; `mim_target` names what is predicted.
        encoder: one that takes masks.
        encoder_stride: pixels per cell that the head writes.
        num_channels: C of the images.
        head: makes the head from the encoder's width, the target's places per cell, and the target's channels.

    Attributes:
        target: what is predicted (`mimsuite.masked.targets`).
        head_stride: `(h, w)` pixels per cell that the head writes.

    Raises:
        InputError: the cells do not consist of whole places of the target.
    """

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
        self.target, self.head_stride = make_target(config, self.encoder), as_pair(encoder_stride)
        self.num_channels, scale = self.target.channels(num_channels), self.target.scale
        if any(side % scale for side in self.head_stride):
            raise InputError(
                f"mim_target={config.mim_target} has places of {scale} pixels, and the stride "
                f"{self.head_stride} is not a multiple of them; use another stride, or mim_target=pixels"
            )
        places = (self.head_stride[0] // scale, self.head_stride[1] // scale)
        if config.mim_predictor is None:
            self.decoder = head(self.encoder.num_features, places, self.num_channels)
        else:
            self.decoder = own_predictor(config, self.encoder.num_features, self.num_channels * places[0] * places[1])

    def file_parts(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """How a state dict is saved: one that predicts features as the bare encoder, with the predictor beside."""
        if self.config.mim_predictor is None:
            return super().file_parts(state)
        prefix = f"{self.base_prefix}."
        encoder = {k.removeprefix(prefix): t for k, t in state.items() if not k.startswith("decoder.")}
        return type(self.encoder).__name__, encoder, {k: t for k, t in state.items() if k.startswith("decoder.")}

    @property
    def encoder(self) -> Encoder:
        """The family's encoder."""
        return self.network()

    def blocks(self) -> list[nn.Module]:
        """The residual blocks of encoder and head, as far as these have a method `blocks`: not all of users do."""
        return blocks_of(self.encoder, self.decoder)

    def features(self, pixels: Tensor, mask: Tensor, hidden_per_image: int | None) -> FeatureMap:
        """The encoder's features; a family whose encoder can use `hidden_per_image` hands it on."""
        return self.encoder.forward_features(pixels, mask)

    def encode(self, pixels: Tensor, mask: Tensor, hidden_per_image: int | None) -> tuple[FeatureMap, Maps]:
        """The features, and the maps that a U-Net looks at; None for other heads."""
        return self.features(pixels, mask, hidden_per_image), None

    def masked_loss(
        self, pixel_values: Tensor, mask: Tensor, hidden_per_image: int | None = None, loss: str = "l1"
    ) -> Tensor:
        """The loss of `forward`, or another one, with the head's last layer applied to hidden cells only.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats, of which the target is made.
            mask: `(B, gh, gw)` bool, True = hidden, on a grid whose cells are whole multiples of the
                encoder's `mask_stride`.
            hidden_per_image: hidden cells of `mask` in each image, if all have the same number and the caller knows
                it: then nothing is counted on the device and all shapes are known to `torch.compile`.
            loss: the error, one of `mimsuite.words.LOSSES`; that of `forward` is "l1".

        Returns:
            A scalar in float32 or wider.

        Raises:
            InputError: a size or mask that does not fit.
        """
        return self.masked_pass(pixel_values, mask, hidden_per_image, loss)[0]

    def masked_pass(
        self,
        pixel_values: Tensor,
        mask: Tensor,
        hidden_per_image: int | None = None,
        loss: str = "l1",
        fourier: float = 0.0,
    ) -> tuple[Tensor, FeatureMap]:
        """`masked_loss`, with `fourier` times the error of the spectrum, and the features that it is made of."""
        features, maps, mask = self._masked_maps(pixel_values, mask, hidden_per_image)
        grid = (features.grid.shape[-2], features.grid.shape[-1])
        finer = grid[0] % mask.shape[1] or grid[1] % mask.shape[2]  # than the features: cells are partly hidden
        if fourier or finer or not hasattr(self.decoder, "hidden_only") or self._is_watched():
            target = self.target.dense(pixel_values, self.head_stride)
            picture = self._picture(features, mask, maps)
            error = masked_error(picture, target, mask, loss)
            return error + fourier * fourier_error(picture, target, mask) if fourier else error, features
        repeats = (grid[0] // mask.shape[1]) * (grid[1] // mask.shape[2])
        count = None if hidden_per_image is None else hidden_per_image * repeats
        hidden = expand_mask(mask, grid)
        where = hidden_cells(hidden, count)
        predicted = cast(MaskedHead, self.decoder).hidden_only(*features, hidden, where)
        cells = self.target.cells(pixel_values, grid, where)
        return masked_error_patches(predicted, cells, self.num_channels, loss), features

    def masked_features(
        self, pixel_values: Tensor, mask: Tensor, hidden_per_image: int | None = None
    ) -> tuple[FeatureMap, Tensor]:
        """The features of masked images, a regular grid over them, and the mask as `(B, gh, gw)` bool.

        Arguments and errors as of `masked_loss`.
        """
        features, _, mask = self._masked_maps(pixel_values, mask, hidden_per_image)
        return features, mask

    def _masked_maps(
        self, pixel_values: Tensor, mask: Tensor, hidden_per_image: int | None
    ) -> tuple[FeatureMap, Maps, Tensor]:
        """What `masked_features` gives, and between them the maps that a U-Net looks at."""
        self._check_stride(pixel_values)
        mask = as_grid_mask(mask, pixel_values.shape[0], (mask.shape[-2], mask.shape[-1]))
        features, maps = self.encode(pixel_values, mask, hidden_per_image)
        self._check_cover(features.grid, pixel_values)
        return features, maps, mask

    def predict(self, pixels: Tensor, mask: Tensor, loss: str = "l1") -> tuple[Tensor, Tensor]:
        """The masked loss and the whole prediction, float32.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, h, w)` bool, True = hidden, one value per mask unit.
            loss: the error, one of `mimsuite.words.LOSSES`.

        Returns:
            A scalar, and the prediction in the places and channels of `target`.
        """
        down, across = self.encoder.mask_stride
        cells = expand_mask(mask, (pixels.shape[-2] // down, pixels.shape[-1] // across))
        predicted = self(pixels, cells).reconstruction
        target = self.target.dense(pixels, self.head_stride)
        return masked_error(predicted, target, mask, loss).float(), predicted.float()

    def dense_output(
        self, features: FeatureMap, pixel_values: Tensor, mask: Tensor | None, maps: Maps = None
    ) -> tuple[Tensor | None, Tensor]:
        """Returns the loss (None without mask) and the whole prediction, in the target's places and channels.

        `mask` is `(B, gh, gw)` bool, True = hidden; `maps` are those that a U-Net looks at.
        """
        predicted = self._picture(features, mask, maps)
        if mask is None:
            return None, predicted
        return masked_error(predicted, self.target.dense(pixel_values, self.head_stride), mask), predicted

    def _picture(self, features: FeatureMap, mask: Tensor | None, maps: Maps) -> Tensor:
        """The whole prediction; a user's own decoder may be any module that makes a picture of a map."""
        check_predicts_pixels(self.config)
        if maps is not None:
            drawn: Tensor = self.decoder(maps, mask)
            return drawn
        given = (*features, mask) if hasattr(self.decoder, "hidden_only") else (features.grid,)
        picture: Tensor = self.decoder(*given)
        return picture

    def _is_watched(self) -> bool:
        """Whether hooks wait for the decoder's whole picture, so that hidden cells alone are not enough."""
        return any(is_hooked(part) for part in (self.decoder, *self.decoder.children()))

    def _check_stride(self, pixel_values: Tensor) -> None:
        """Whether the picture that the head writes covers the image exactly."""
        if self.head_stride != self.encoder.stride:
            name = self.config.stride_field or "stride"
            raise InputError(
                f"When `bool_masked_pos` is provided, `{name}` must be equal to `encoder_stride` to "
                "ensure that the reconstructed image has the same dimensions as the input. Got "
                f"`{name}` = {self.encoder.stride} and `encoder_stride` = {self.head_stride}."
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

    Raises:
        InputError: `classifier_pool` is "cls" or "both", and an encoder without class token.
    """

    def __init__(self, config: ModelConfig, encoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.add_module(self.base_prefix, encoder)
        lift_keys(self)
        how = config.classifier_pool
        if how in ("cls", "both") and not config.has_class_token:
            raise InputError(f'classifier_pool="{how}", but this encoder has no class token; use "mean" or "auto"')
        self.num_labels = config.num_labels
        self.classifier = linear_head(self.encoder.num_features * (2 if how == "both" else 1), config.num_labels)

    @property
    def encoder(self) -> Encoder:
        """The family's encoder."""
        return self.network()

    def blocks(self) -> list[nn.Module]:
        """The residual blocks of the encoder, if it has a method `blocks`: not all of users do."""
        return blocks_of(self.encoder)

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Returns `classification_loss` by the config's `problem_type`, or None without labels."""
        if labels is not None and self.config.num_labels == 0:
            raise InputError("labels were given, but the model has num_labels=0; set num_labels to the classes' count")
        return None if labels is None else classification_loss(logits, labels, self.config.problem_type)


class DenseEncoder(Protocol):
    """What CvT and BiT offer beside the encoder's contract."""

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of all stages."""
        ...


class DenseForMaskedImageModeling(ForMaskedImageModeling):
    """Masked image models without attention matrices; their config decides whether the head is a U-Net.

    Args:
        config: the family's configuration.
        encoder: one that takes masks.
        encoder_stride: pixels per cell that the head writes.
        num_channels: C of the images.
        head: as of `ForMaskedImageModeling`; None: the one that the config names.

    Raises:
        InputError: a head beside the U-Net that the config names.
    """

    init_options = ("head",)

    def __init__(
        self,
        config: ModelConfig,
        encoder: nn.Module,
        encoder_stride: Side,
        num_channels: int,
        head: HeadFactory | None = None,
    ) -> None:
        if config.decoder_sizes is not None and head is not None:
            raise InputError(
                f"the config names a U-Net ({config.decoder_sizes}), and another head is given; remove one"
            )
        super().__init__(config, encoder, encoder_stride, num_channels, head or own_head(config))
        self.scales = [] if config.decoder_sizes is None else config.scales

    def encode(self, pixels: Tensor, mask: Tensor, hidden_per_image: int | None) -> tuple[FeatureMap, Maps]:
        """The features, and the maps that a U-Net looks at."""
        if not self.scales:
            return super().encode(pixels, mask, hidden_per_image)
        features, states = cast(DenseEncoder, self.encoder).features_and_states(pixels, mask, True)
        return features, self._maps(features, states)

    def _maps(self, features: FeatureMap, states: Maps) -> Maps:
        """The maps of the U-Net among the hidden states; the coarsest is the features, after the final norm."""
        if not self.scales or states is None:
            return None
        return (features.grid, *(states[scale.number] for scale in self.scales[1:]))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
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
        pixels = given_pixels(pixel_values)
        mask = None
        if bool_masked_pos is not None:
            self._check_stride(pixels)
            (height, width), (down, across) = pixels.shape[-2:], self.encoder.mask_stride
            mask = as_grid_mask(bool_masked_pos, pixels.shape[0], (height // down, width // across))
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoder, all_states = cast(DenseEncoder, self.encoder), bool(need_states or self.scales)
        features, states = encoder.features_and_states(pixels, mask, all_states)
        self._check_cover(features.grid, pixels)
        loss, picture = self.dense_output(features, pixels, mask, self._maps(features, states))
        result = MaskedImageModelingOutput(loss, picture, states if need_states else None)
        return as_output(result, self.config.return_dict, return_dict)


class DenseForImageClassification(ForImageClassification):
    """The forward pass of classifiers without attention matrices."""

    def pooled(self, pixels: Tensor, need_states: bool) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """What the classifier looks at, `(B, D)`, and if needed the maps of all stages."""
        features, states = cast(DenseEncoder, self.encoder).features_and_states(pixels, None, need_states)
        return pool(features, self.config.classifier_pool), states

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Returns the logits, and with `labels` the loss (see `mimsuite.heads.losses.classification_loss`).

        Args:
            pixel_values: `(B, C, H, W)` normalised floats.
            labels: `(B,)` classes or numbers, or `(B, num_labels)` floats.
            output_hidden_states: also return the maps of all stages; None: the config's value.
            return_dict: False: a tuple instead of `ImageClassifierOutputWithNoAttention`; None: the config's value.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        pooled, states = self.pooled(given_pixels(pixel_values), need_states)
        logits = self.classifier(pooled)
        result = ImageClassifierOutputWithNoAttention(self.loss(logits, labels), logits, states)
        return as_output(result, self.config.return_dict, return_dict)
