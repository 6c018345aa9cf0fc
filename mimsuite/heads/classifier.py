"""The classification head: pool the features, then one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from mimsuite.types import FeatureMap


def pool(features: FeatureMap, how: str = "auto") -> Tensor:
    """Returns `(B, D)`: with "auto" or "cls" the class token, with "mean", or for want of a token, the mean cell."""
    return features.grid.mean((2, 3)) if features.cls is None or how == "mean" else features.cls


def linear_head(num_features: int, num_labels: int) -> nn.Module:
    """Returns `(B, D) -> (B, num_labels)`; with 0 labels the identity, so that the features come out."""
    return nn.Linear(num_features, num_labels) if num_labels else nn.Identity()
