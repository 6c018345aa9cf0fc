"""Losses of masked image models, in float32 or wider: half types are cast up, float64 stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.patches import fit_mask

ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": partial(F.l1_loss, reduction="none"),
    "mse": partial(F.mse_loss, reduction="none"),
    "smooth_l1": partial(F.smooth_l1_loss, reduction="none"),  # quadratic below 1 (Girshick 2015)
}


def widen(x: Tensor) -> Tensor:
    """Returns `x` in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor, loss: str = "l1") -> Tensor:
    """Mean error over hidden places and channels (SimMIM, Xie et al. 2022, section 3.4).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`: the normalised pixels, or another target of `mimsuite.masked.targets`.
        mask: `(B, gh, gw)` bool or 0/1, True = hidden, on a grid that divides `(H, W)` or that it divides.
        loss: one of `words.LOSSES`.

    Returns:
        A scalar; 0 for an empty mask. The sum runs over the whole batch, so an image with more hidden pixels
        counts for more.
    """
    hidden = fit_mask(mask, (target.shape[-2], target.shape[-1])).bool().unsqueeze(1)
    error = error_of(loss)(widen(prediction), widen(target)).masked_fill(~hidden, 0)
    return error.sum() / (hidden.sum() + 1e-5) / target.shape[1]


def fourier_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Focal error of the 2-D Fourier spectrum of the prediction pasted into the picture (A2MIM, Li et al. 2023).

    The transform is linear and visible places are the picture's own, so this is the spectrum of the error in hidden
    places. Each frequency weighs as much as its error beside the largest of its image and channel, without gradient
    (focal frequency loss, Jiang et al. 2021, equations 8 to 10).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`, the picture.
        mask: as of `masked_error`.

    Returns:
        A scalar; 0 for an empty mask.
    """
    hidden = fit_mask(mask, (target.shape[-2], target.shape[-1])).bool().unsqueeze(1)
    error = (widen(prediction) - widen(target)).masked_fill(~hidden, 0)
    spectrum = torch.view_as_real(torch.fft.fft2(error, norm="ortho")).square().sum(-1)
    size = spectrum.detach().sqrt()
    weight = size / size.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    return (weight * spectrum).mean()


def masked_error_patches(prediction: Tensor, target: Tensor, channels: int, loss: str = "l1") -> Tensor:
    """The value of `masked_error` from the hidden cells alone.

    Args:
        prediction: `(K, channels * places)`, the hidden cells of the batch.
        target: the same cells of the target.
        channels: C of the target.
        loss: one of `words.LOSSES`.
    """
    # A float32 tensor, as the sum in `masked_error` becomes: so the two values agree to the last bits.
    hidden = torch.full((), target.numel() // channels, device=target.device)
    return error_of(loss)(widen(prediction), widen(target)).sum() / (hidden + 1e-5) / channels


def error_of(loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The error of every value, by its name.

    Raises:
        InputError: an unknown name.
    """
    if loss not in ERRORS:
        raise InputError(f"objective.loss={loss} is unknown; it takes {', '.join(ERRORS)}")
    return ERRORS[loss]
