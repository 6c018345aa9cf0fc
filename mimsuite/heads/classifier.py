"""The classification head: pool the features, then one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from mimsuite.types import FeatureMap


def pool(features: FeatureMap) -> Tensor:
    """Returns `(B, D)`: the class token, or the mean of the cells for an encoder without one."""
    return features.cls if features.cls is not None else features.grid.mean((2, 3))


def linear_head(num_features: int, num_labels: int) -> nn.Module:
    """Returns `(B, D) -> (B, num_labels)`; with 0 labels the identity, so that the features come out."""
    return nn.Linear(num_features, num_labels) if num_labels else nn.Identity()
