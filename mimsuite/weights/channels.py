"""Weights for images of other channels: their first kernels, and mean and deviation of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mimsuite.errors import InputError
from mimsuite.weights.tensors import Entry
from mimsuite.words import ChannelRule

if TYPE_CHECKING:
    from torch import Tensor

WORDS: dict[ChannelRule, str] = {"mean": "averaged", "repeat": "cycled", "zero": "zero-filled"}


class ChannelFit(NamedTuple):
    """How kernels for some channels become kernels for others.

    Every old channel is shared out in parts that sum to 1. So an image whose channels are all the same gives the same
    sums as before.

    Attributes:
        rule: "mean": every new channel gets the same part of all old ones; "repeat": the new ones take the old ones in
            turn, or, where there are fewer, the old ones go to the new ones in turn; "zero": the old ones stay, and
            further ones get zeros.
        old: channels of the weights.
        new: channels of the images.
    """

    rule: ChannelRule
    old: int
    new: int

    def shares(self) -> list[list[float]]:
        """The part of every old channel (rows) that every new one (columns) gets."""
        if self.rule == "mean":
            return [[1 / self.new] * self.new for _ in range(self.old)]
        if self.rule == "zero":
            return [[float(old == new) for new in range(self.new)] for old in range(self.old)]
        turn = min(self.old, self.new)
        taken = [[float(old % turn == new % turn) for new in range(self.new)] for old in range(self.old)]
        return [[share / sum(row) for share in row] for row in taken]

    def kernel(self, entry: Entry) -> Entry:
        """A kernel `(out, old, h, w)` for the new channels, read when it is asked for."""

        def read() -> Tensor:
            import torch

            kernel = entry.read()
            shares = torch.tensor(self.shares(), dtype=torch.float64)
            return torch.einsum("okhw,kn->onhw", kernel.double(), shares).to(kernel.dtype)

        return Entry((entry.shape[0], self.new, *entry.shape[2:]), entry.dtype, read)

    def statistic(self, own: Sequence[float], of_data: Sequence[float]) -> list[float]:
        """A mean or deviation per new channel: that of the old ones it is made of, averaged; else that of the data."""
        shares, found = self.shares(), []
        for new in range(self.new):
            parts = [row[new] for row in shares]
            total = sum(parts)
            mixed = sum(part * value for part, value in zip(parts, own, strict=True))
            found.append(mixed / total if total else of_data[new])
        return found

    def __str__(self) -> str:
        return f"{self.old} channels become {self.new}: kernels {WORDS[self.rule]} (init_channels={self.rule})"


def fit_channels(rule: ChannelRule | None, init: str, old: int, new: int) -> ChannelFit | None:
    """How weights for `old` channels come to take `new` ones; None where these are the same.

    Raises:
        InputError: no rule is given, or one that does not lead there.
    """
    if old == new:
        return None
    if rule is None:
        raise InputError(
            f"init={init} takes {old} channels but the images have {new}; give init_channels=mean|repeat|zero (first "
            "kernels averaged, cycled or zero-filled), or use other weights or other data"
        )
    if rule == "zero" and new < old:
        raise InputError(
            f"init_channels=zero adds channels, but init={init} takes {old} and the images have {new}; use "
            "init_channels=mean or init_channels=repeat"
        )
    return ChannelFit(rule, old, new)
