"""Losses, computed in float32 or wider: half types are cast up, float64 stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.patches import fit_mask

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
IGNORED_LABEL = -100
ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": partial(F.l1_loss, reduction="none"),
    "mse": partial(F.mse_loss, reduction="none"),
    "smooth_l1": partial(F.smooth_l1_loss, reduction="none"),  # quadratic below 1 (Girshick 2015)
}


def widen(x: Tensor) -> Tensor:
    """Returns `x` in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor, kind: str = "l1") -> Tensor:
    """Mean error over hidden places and channels (SimMIM, Xie et al. 2022, section 3.4).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`: the normalised pixels, or another target of `mimsuite.masked.targets`.
        mask: `(B, gh, gw)` bool or 0/1, True = hidden, on a grid that divides `(H, W)` or that it divides.
        kind: one of `ERRORS`.

    Returns:
        A scalar; 0 for an empty mask. The sum runs over the whole batch, so an image with more hidden pixels
        counts for more.
    """
    hidden = fit_mask(mask, (target.shape[-2], target.shape[-1])).bool().unsqueeze(1)
    error = error_of(kind)(widen(prediction), widen(target)).masked_fill(~hidden, 0)
    return error.sum() / (hidden.sum() + 1e-5) / target.shape[1]


def masked_error_patches(prediction: Tensor, target: Tensor, channels: int, kind: str = "l1") -> Tensor:
    """The value of `masked_error` from the hidden cells alone.

    Args:
        prediction: `(K, channels * places)`, the hidden cells of the batch.
        target: the same cells of the target.
        channels: C of the target.
        kind: one of `ERRORS`.
    """
    # A float32 tensor, as the sum in `masked_error` becomes: so the two values agree to the last bits.
    hidden = torch.full((), target.numel() // channels, device=target.device)
    return error_of(kind)(widen(prediction), widen(target)).sum() / (hidden + 1e-5) / channels


def error_of(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The error of every value, by its name.

    Raises:
        InputError: an unknown name.
    """
    if kind not in ERRORS:
        raise InputError(f"objective.loss={kind} is unknown; it takes {', '.join(ERRORS)}")
    return ERRORS[kind]


def infer_problem_type(labels: Tensor, num_labels: int) -> str:
    """What kind of labels these are.

    One output is regression, integers are classes, the rest is multi-label.
    """
    if num_labels == 1:
        return PROBLEM_TYPES[0]
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    return PROBLEM_TYPES[1] if whole else PROBLEM_TYPES[2]


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """Mean squared error, cross entropy or binary cross entropy, by the kind of labels.

    Args:
        logits: `(B, num_labels)`.
        labels: `(B,)` classes (-100 is left out) or numbers, or `(B, num_labels)` floats.
        problem_type: one of `PROBLEM_TYPES`; None: see `infer_problem_type`, anew at every call.

    Returns:
        A scalar.

    Raises:
        InputError: no outputs, a shape that does not fit, or a class out of range.
    """
    num_labels = logits.shape[-1]
    kind = infer_problem_type(labels, num_labels) if problem_type is None else problem_type
    if kind not in PROBLEM_TYPES:
        raise InputError(f"problem_type={kind!r} is not one of {', '.join(PROBLEM_TYPES)}")
    if num_labels == 0:
        raise InputError("labels were given, but the model has num_labels=0; set num_labels to the number of classes")
    logits = widen(logits)
    if kind == "single_label_classification":
        classes = labels.reshape(-1)
        _check_count(len(logits), labels, logits)
        _check_classes(classes, num_labels)
        return F.cross_entropy(logits, classes.long(), ignore_index=IGNORED_LABEL)
    _check_count(logits.numel(), labels, logits)
    targets = labels.to(logits.dtype).reshape(logits.shape)
    return F.mse_loss(logits, targets) if kind == "regression" else F.binary_cross_entropy_with_logits(logits, targets)


def _check_count(expected: int, labels: Tensor, logits: Tensor) -> None:
    if labels.numel() != expected:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
            f"{tuple(logits.shape)}; expected {expected} values"
        )


def _check_classes(classes: Tensor, num_labels: int) -> None:
    """Says which class is out of range.

    Torch's own check is an IndexError on CPU and a lost device on a GPU.
    """
    if torch.compiler.is_compiling():
        return
    wrong = classes[((classes < 0) | (classes >= num_labels)) & (classes != IGNORED_LABEL)]
    if wrong.numel():
        raise InputError(f"label {int(wrong[0])} is out of range; the model has classes 0 to {num_labels - 1}")
