"""A model as an encoder and a head: what masked image models and classifiers of all families share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from mimsuite.encoders.config import ModelConfig, Side, as_pair
from mimsuite.encoders.layers import check_config, given_pixels, is_hooked
from mimsuite.encoders.outputs import (
    ImageClassifierOutputWithNoAttention,
    MaskedImageModelingOutput,
    as_output,
)
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.heads.classifier import linear_head, pool
from mimsuite.heads.losses import classification_loss
from mimsuite.heads.predictor import make_predictor
from mimsuite.masked.losses import masked_error, masked_error_patches
from mimsuite.masked.patches import as_grid_mask, expand_mask
from mimsuite.masked.targets import make_target
from mimsuite.models.pretrained import Pretrained, lift_keys
from mimsuite.types import Encoder, FeatureMap


class MaskedHead(Protocol):
    """What a masked image model asks of its head, an `nn.Module`.

    `grid (B, D, h, w)` and `cls (B, D)` or None are an encoder's features; `hidden (B, rows, columns)` is the mask,
    bool, True = hidden, on a grid that divides `(h, w)`.
    """

    def __call__(self, grid: Tensor, cls: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Returns the whole target, `(B, C, h * sh, w * sw)`."""
        ...

    def hidden_only(
        self, grid: Tensor, cls: Tensor | None, hidden: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Returns the cells `where` (image, row, column) of it, `(K, C * sh * sw)`, order channel, row, column."""
        ...


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
            self.decoder = self._predictor(PredictorConfig.from_dict(config.mim_predictor), places)

    def _predictor(self, wanted: PredictorConfig, places: tuple[int, int]) -> nn.Module:
        """What predicts features, for the grid of the config's image size where it has one."""
        config, size = self.config, self.config.fixed_size
        grid = None if size is None else (size[0] // config.stride[0], size[1] // config.stride[1])
        values = self.num_channels * places[0] * places[1]
        return make_predictor(wanted, self.encoder.num_features, values, grid, fills=config.drops_patches)

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
        self, pixel_values: Tensor, mask: Tensor, hidden_per_image: int | None = None, loss: str = "l1"
    ) -> tuple[Tensor, FeatureMap]:
        """`masked_loss`, and the features of the masked images that it is made of."""
        features, mask = self.masked_features(pixel_values, mask, hidden_per_image)
        grid = (features.grid.shape[-2], features.grid.shape[-1])
        finer = grid[0] % mask.shape[1] or grid[1] % mask.shape[2]  # than the features: cells are partly hidden
        if finer or not hasattr(self.decoder, "hidden_only") or self._is_watched():
            target = self.target.dense(pixel_values, self.head_stride)
            return masked_error(self._picture(features, mask), target, mask, loss), features
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
        self._check_stride(pixel_values)
        mask = as_grid_mask(mask, pixel_values.shape[0], (mask.shape[-2], mask.shape[-1]))
        features = self.features(pixel_values, mask, hidden_per_image)
        self._check_cover(features.grid, pixel_values)
        return features, mask

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
        self, features: FeatureMap, pixel_values: Tensor, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Returns the loss (None without mask) and the whole prediction, in the target's places and channels.

        `mask` is `(B, gh, gw)` bool, True = hidden.
        """
        predicted = self._picture(features, mask)
        if mask is None:
            return None, predicted
        return masked_error(predicted, self.target.dense(pixel_values, self.head_stride), mask), predicted

    def _picture(self, features: FeatureMap, mask: Tensor | None) -> Tensor:
        """The whole prediction; a user's own decoder may be any module that makes a picture of a map."""
        if self.config.mim_predictor is not None:
            raise InputError(
                "this model predicts features of its teacher and no pixels (objective=latent); measure it by `mimsuite "
                "probe`, and look at it by `mimsuite reconstruct`"
            )
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


class OwnModel(Pretrained):
    """The base of models that users write: the family's encoder under its prefix, and whatever they add.

    As in Hugging Face, the subclass makes its parts after `super().__init__(config)` and ends with `self.post_init()`;
    `from_pretrained` and `save_pretrained` then work.

    Args:
        config: the family's configuration.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_config(config, self.config_class)
        self.config = config


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
        features, states = cast(DenseEncoder, self.encoder).features_and_states(pixels, mask, need_states)
        self._check_cover(features.grid, pixels)
        loss, picture = self.dense_output(features, pixels, mask)
        result = MaskedImageModelingOutput(loss, picture, states)
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


def blocks_of(*parts: Any) -> list[nn.Module]:
    """The residual blocks of parts that have a method `blocks`; an attribute of that name may be anything."""
    methods = [found for part in parts if inspect.ismethod(found := getattr(part, "blocks", None))]
    return [block for method in methods for block in method()]


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
