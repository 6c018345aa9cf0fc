"""The classification head: pool the features, then one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimsuite.types import FeatureMap


def pool(features: FeatureMap, how: str = "auto") -> Tensor:
    """Returns `(B, D)`, or with "both" `(B, 2 D)`.

    With "auto" or "cls" the class token; with "mean", or for want of a token, the mean cell; with "both" the token and
    then the mean cell (DINOv2, Oquab et al. 2024).
    """
    if features.cls is None or how in ("mean", "both"):
        mean = features.grid.mean((2, 3))
        return mean if features.cls is None or how == "mean" else torch.cat([features.cls, mean], dim=1)
    return features.cls


def linear_head(num_features: int, num_labels: int) -> nn.Module:
    """Returns `(B, D) -> (B, num_labels)`; with 0 labels the identity, so that the features come out."""
    return nn.Linear(num_features, num_labels) if num_labels else nn.Identity()
