"""Mixing of labelled images on the device (mixup, CutMix), soft targets, and the loss that takes them."""

from __future__ import annotations

import math
import random
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.losses import widen
from mimsuite.words import LabelKind


class Mixing:
    """Mixes each image of a batch with its mirror place: the first with the last, the second with the last but one.

    A batch has one weight, drawn from Beta(alpha, alpha), and is mixed in one of two ways: mixup (Zhang et al. 2018)
    averages pixels, CutMix (Yun et al. 2019) puts a box of the one image into the other. This is how DeiT (Touvron et
    al. 2021) and MAE (He et al. 2022, table 9) do it. What is drawn are a few numbers on the host, from the seed of
    the call alone; nothing is copied to or from the device. A batch is what one process puts through at once: with
    another micro-batch or number of processes, other images are mixed.
    """

    def __init__(
        self,
        *,
        mixup: float,
        cutmix: float,
        smoothing: float,
        outputs: int,
        label_kind: str,
        probability: float = 1.0,
        switch: float = 0.5,
    ) -> None:
        """Checks the settings.

        Args:
            mixup: alpha of mixup; 0 for none.
            cutmix: alpha of CutMix; 0 for none.
            smoothing: what is taken from the label and spread evenly over all classes (Szegedy et al. 2016); of a set,
                0 and 1 become `smoothing / 2` and `1 - smoothing / 2`.
            outputs: K, the classes, labels or numbers.
            label_kind: what the labels are, one of `words.LabelKind`.
            probability: of a batch to be mixed.
            switch: where both are on, the probability of CutMix.

        Raises:
            InputError: a value is out of range, or smoothing of numbers.
        """
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < math.inf:
                low = "below 0" if alpha < 0 else "not finite"
                raise InputError(f"objective.{name}={alpha} is {low}; use 0 for none, or 0.8")
        if not 0 <= smoothing < 1:
            raise InputError(f"objective.smoothing={smoothing} is not in [0, 1); use 0.1, or 0 for none")
        for name, chance in (("probability", probability), ("switch", switch)):
            if not 0 <= chance <= 1:
                raise InputError(f"objective.{name}={chance} is not between 0 and 1; use 0.5")
        if label_kind not in get_args(LabelKind):
            known = ", ".join(get_args(LabelKind))
            raise InputError(f"label_kind={label_kind} is unknown; use one of {known}")
        if label_kind == "regression" and smoothing:
            raise InputError(f"objective.smoothing={smoothing}, but the labels are numbers; use objective.smoothing=0")
        self._mixup, self._cutmix, self._smoothing = mixup, cutmix, smoothing
        self._outputs, self._label_kind = outputs, label_kind
        self._probability, self._switch = probability, switch

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mixes a batch; what comes in is left as it is.

        Args:
            images: `(B, C, H, W)` floats, normalised.
            labels: `(B,)` integers under K for classes, `(B, K)` zeros and ones for sets, `(B, K)` or, for one
                number, `(B,)` for regression; on the images' device. Classes are not checked here: on a device that
                would wait for it.
            seed: decides everything.

        Returns:
            The images, and float32 targets `(B, K)`, which add up to 1 for classes.

        Raises:
            InputError: labels of another kind or shape.
        """
        targets = self._targets(images, labels)
        chance = random.Random(seed)
        mixed, cut = chance.random() < self._probability, chance.random() < self._switch
        if not (self._mixup and self._cutmix):
            cut = self._cutmix > 0
        alpha = self._cutmix if cut else self._mixup
        if not mixed or not alpha:
            return images, targets
        share = chance.betavariate(alpha, alpha)
        if cut:
            rows, columns, share = _box(images.shape[-2], images.shape[-1], share, chance)
            images = images.clone()
            images[..., rows, columns] = images[..., rows, columns].flip(0)
        else:
            images = images.lerp(images.flip(0), 1 - share)
        return images, targets.lerp(targets.flip(0), 1 - share)

    def _targets(self, images: Tensor, labels: Tensor) -> Tensor:
        """Float32 targets `(B, K)` before mixing."""
        batch, outputs, whole = len(images), self._outputs, not labels.is_floating_point()
        if self._label_kind == "classes" and whole and labels.shape == (batch,):
            targets = torch.full((batch, outputs), self._smoothing / outputs, dtype=torch.float32, device=labels.device)
            on = 1 - self._smoothing + self._smoothing / outputs
            return targets.scatter_(1, labels[:, None].long(), on)
        single = self._label_kind == "regression" and outputs == 1 and labels.shape == (batch,)
        if self._label_kind != "classes" and (single or labels.shape == (batch, outputs)):
            numbers = labels.to(torch.float32).reshape(batch, outputs)
            return numbers * (1 - self._smoothing) + self._smoothing / 2 if self._smoothing else numbers
        expected = f"({batch},) integers" if self._label_kind == "classes" else f"({batch}, {outputs}) floats"
        raise InputError(
            f"labels of a batch are {labels.dtype} of shape {tuple(labels.shape)}, and {expected} were expected "
            f"({self._label_kind}, {outputs} outputs); label all images in the same way"
        )


def _box(height: int, width: int, share: float, chance: random.Random) -> tuple[slice, slice, float]:
    """A box that covers `1 - share` of the picture, cut at its borders, and the share that is then left."""
    side = math.sqrt(1 - share)
    spans = []
    for length in (height, width):
        cut, centre = int(length * side), chance.randrange(length)
        spans.append(slice(max(0, centre - cut // 2), min(length, centre - cut // 2 + cut)))
    rows, columns = spans
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return rows, columns, 1 - covered / (height * width)


def soft_loss(logits: Tensor, targets: Tensor, label_kind: str, weights: Tensor | None = None) -> Tensor:
    """The loss of soft targets, computed in float32 or wider.

    Args:
        logits: `(B, K)`, or the predicted numbers.
        targets: `(B, K)` floats.
        label_kind: "classes": cross entropy, the mean over images; "multilabel": binary cross entropy, the mean over
            images and labels; "regression": mean squared error.
        weights: `(K,)`, factors on the terms of each class or label; the mean is not divided by them.

    Returns:
        A scalar. For the targets of whole classes, without weights, it is that of `classification_loss`.

    Raises:
        InputError: shapes that do not fit, an unknown kind, or weights of numbers.
    """
    if logits.shape != targets.shape:
        raise InputError(f"targets of shape {tuple(targets.shape)} do not fit logits of shape {tuple(logits.shape)}")
    logits = widen(logits)
    targets = targets.to(logits.dtype)
    weights = None if weights is None else weights.to(logits.dtype)
    if label_kind == "classes":
        return F.cross_entropy(logits, targets, weights)
    if label_kind == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets, weights)
    if label_kind != "regression":
        raise InputError(f"label_kind={label_kind} is unknown; use one of {', '.join(get_args(LabelKind))}")
    if weights is not None:
        raise InputError("class_weights are given, but the labels are numbers; remove class_weights")
    return F.mse_loss(logits, targets)
