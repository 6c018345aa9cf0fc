"""A masked image model that predicts features: its pass over masked images, and the copy of its encoder."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.heads.predictor import ConvolutionalPredictor, Predicted, TransformerPredictor
from mimsuite.masked.latent import PredictedFeatures
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.patches import fit_mask
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.types import FeatureMap


class LatentPass(NamedTuple):
    """What a model makes of masked images.

    Attributes:
        predicted: of the cells of all targets.
        features: the encoder's.
        hidden: `(B, h, w)` bool, cells of the features that are hidden at least in part.
    """

    predicted: Predicted
    features: FeatureMap
    hidden: Tensor


def latent_pass(
    model: ForMaskedImageModeling,
    pixels: Tensor,
    mask: Tensor,
    hidden_per_image: int | None = None,
    targets: Tensor | None = None,
    units_per_target: int | None = None,
) -> LatentPass:
    """Encodes masked images, and predicts the features of what is to be predicted.

    Args:
        model: one whose config has a `mim_predictor`.
        pixels: `(B, C, H, W)` normalised floats.
        mask: `(B, gh, gw)` bool, True = hidden.
        hidden_per_image: True cells of each mask, if all have the same number; else they are counted on the device.
        targets: `(B, T, gh, gw)` bool, True = to be predicted; None: all that is hidden is one target.
        units_per_target: True cells of each target, as `hidden_per_image`.

    Raises:
        InputError: a model without such a predictor; a size or mask that does not fit.
    """
    predictor = model.decoder
    if not isinstance(predictor, TransformerPredictor | ConvolutionalPredictor):
        raise InputError("this model predicts no features; train it with objective=latent")
    features, mask = model.masked_features(pixels, mask, hidden_per_image)
    grid = (features.grid.shape[-2], features.grid.shape[-1])
    hidden = fit_mask(mask, grid)
    if targets is None:
        wanted, units_per_target = hidden.unsqueeze(1), hidden_per_image
    else:
        wanted = fit_mask(targets.flatten(0, 1), grid).view(*targets.shape[:2], *grid)
    whole = not (grid[0] % mask.shape[1] or grid[1] % mask.shape[2])
    times = (grid[0] // mask.shape[1]) * (grid[1] // mask.shape[2])
    counts = [n * times if whole and n is not None else None for n in (hidden_per_image, units_per_target)]
    return LatentPass(predictor(features.grid, hidden, wanted, (counts[0], counts[1])), features, hidden)


def predicted_features(
    images: Tensor, mask: Tensor, made: LatentPass, target: Tensor, *, loss: Tensor, width: int, normalize: Normalize
) -> PredictedFeatures:
    """Predicted cells as a map, with all that a picture of it needs; of a cell of several targets the last counts.

    Args:
        images: `(B, C, H, W)` uint8 or int32.
        mask: `(B, gh, gw)` bool, True = hidden.
        made: what the model made of them.
        target: the teacher's features, `(B, C, h, w)`.
        loss: the latent loss, a scalar.
        width: channels of a layer.
        normalize: integer images to normalised floats.
    """
    image, row, column = made.predicted.where
    cells = torch.zeros_like(target).permute(0, 2, 3, 1)
    cells[image, row, column] = made.predicted.features.to(target.dtype)
    hidden = torch.zeros_like(made.hidden)
    hidden[image, row, column] = True
    return PredictedFeatures(
        images=images,
        mask=mask,
        hidden=hidden,
        predicted=cells.permute(0, 3, 1, 2).float(),
        target=target.float(),
        loss=loss.float(),
        width=width,
        normalize=normalize,
    )


def copy_encoder(model: ForMaskedImageModeling) -> nn.Module:
    """A copy of a model's encoder that knows nothing of its head."""
    made: Any = copy.deepcopy(model.encoder)
    if hasattr(made, "on_new_grid"):
        made.on_new_grid = None
    return cast(nn.Module, made)
