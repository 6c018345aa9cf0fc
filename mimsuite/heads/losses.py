"""The loss of a classifier, by its problem type; in float32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.losses import widen
from mimsuite.words import PROBLEM_TYPES

IGNORED_LABEL = -100


def infer_problem_type(labels: Tensor, num_labels: int) -> str:
    """The problem type of labels: one output is regression, integers are classes, the rest is multi-label."""
    if num_labels == 1:
        return "regression"
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    return "single_label_classification" if whole else "multi_label_classification"


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """Mean squared error, cross entropy or binary cross entropy, by the problem type.

    Args:
        logits: `(B, num_labels)`.
        labels: `(B,)` classes (-100 is ignored) or numbers, or `(B, num_labels)` floats.
        problem_type: one of `PROBLEM_TYPES`; None: see `infer_problem_type`, anew at every call.

    Returns:
        A scalar.

    Raises:
        InputError: no outputs, a shape that does not fit, or a class out of range.
    """
    num_labels = logits.shape[-1]
    problem_type = infer_problem_type(labels, num_labels) if problem_type is None else problem_type
    if problem_type not in PROBLEM_TYPES:
        raise InputError(f"problem_type={problem_type!r} is not one of {', '.join(PROBLEM_TYPES)}")
    if num_labels == 0:
        raise InputError("labels were given, but the model has num_labels=0; set num_labels to the number of classes")
    logits = widen(logits)
    if problem_type == "single_label_classification":
        classes = labels.reshape(-1)
        _check_count(len(logits), labels, logits)
        _check_classes(classes, num_labels)
        return F.cross_entropy(logits, classes.long(), ignore_index=IGNORED_LABEL)
    _check_count(logits.numel(), labels, logits)
    targets = labels.to(logits.dtype).reshape(logits.shape)
    if problem_type == "regression":
        return F.mse_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)


def _check_count(expected: int, labels: Tensor, logits: Tensor) -> None:
    if labels.numel() != expected:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
            f"{tuple(logits.shape)}; expected {expected} values"
        )


def _check_classes(classes: Tensor, num_labels: int) -> None:
    """Names the class that is out of range: torch's own check is an IndexError on CPU and a lost device on a GPU."""
    if torch.compiler.is_compiling():
        return
    wrong = classes[((classes < 0) | (classes >= num_labels)) & (classes != IGNORED_LABEL)]
    if wrong.numel():
        raise InputError(f"label {int(wrong[0])} is out of range; the model has classes 0 to {num_labels - 1}")
