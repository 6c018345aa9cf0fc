"""The attentive head: learned queries pool the cells, then one linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.layers import is_plain
from mimsuite.errors import InputError

QUERIES = 32
EPS = 1e-6


class AttentiveHead(nn.Module):
    """Classifies a set of cells by M learned queries.

    "Efficient probing" (Psomas et al. 2026, "Attention, Please! Revisiting Attentive Probing Through the Lens of
    Efficiency", section 3): each query attends to the cells in their full width and averages its own slice of D / M of
    their projected values; the slices are joined. Neither queries nor keys are projected: for a query that is learned,
    a projection of the keys folds into the query. Cells pass a LayerNorm first, without gain and shift; then each
    dimension may be shifted and scaled by fixed statistics (`standardise`), for the features of masked image models
    differ much in their spread.

    Args:
        num_features: D, the width of a cell.
        num_labels: K, the number of outputs.
        queries: M, a divisor of D; None takes the largest common divisor of D and 32.

    Raises:
        InputError: `queries` does not divide the width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, num_labels: int, queries: int | None = None) -> None:
        super().__init__()
        count = math.gcd(num_features, QUERIES) if queries is None else queries
        if count < 1 or num_features % count:
            raise InputError(f"queries={queries} does not divide the width {num_features}; use a divisor, or None")
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.query = nn.Parameter(torch.empty(count, num_features))
        self.value = nn.Linear(num_features, num_features)
        self.classifier = nn.Linear(num_features, num_labels)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns `(B, K)` logits of cells `(B, T, D)`; of a feature map, `grid.flatten(2).transpose(1, 2)`."""
        cells = (self.normed(tokens) - self.mean) / self.std
        logits: Tensor = self.classifier(self._pooled(cells))
        return logits

    def _pooled(self, cells: Tensor) -> Tensor:
        """The projected cells `(B, D)`, as much of each as the queries take."""
        attention = self.attention(cells)
        if not is_plain(self.value, nn.Linear):
            projected = self.value(cells).unflatten(-1, (len(self.query), -1))
            return torch.einsum("bmt,btms->bms", attention, projected).flatten(1)
        # The mean of projected cells is the projected mean, and there are fewer queries than cells.
        slices = self.value.weight.view(len(self.query), -1, cells.shape[-1])
        return torch.einsum("bmd,msd->bms", attention @ cells, slices).flatten(1) + self.value.bias

    def normed(self, tokens: Tensor) -> Tensor:
        """Returns cells after the LayerNorm, `(..., D)`."""
        return F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Shifts and scales each dimension from now on.

        Args:
            mean: `(D,)`, of the cells after the LayerNorm; no gradients reach it.
            std: `(D,)`, likewise, nowhere 0.
        """
        self.mean.copy_(mean)
        self.std.copy_(std)

    def attention(self, cells: Tensor) -> Tensor:
        """Returns `(B, M, T)`, how much each query takes of each normalised cell `(B, T, D)`; sums to 1 over cells."""
        affinity = self.query @ cells.transpose(1, 2) / math.sqrt(cells.shape[-1])
        return affinity.softmax(-1)
