"""Weights for images of other channels: their first kernels, and mean and deviation of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mimsuite.data.folders import count_of
from mimsuite.errors import InputError
from mimsuite.weights.tensors import Entry
from mimsuite.words import ChannelRule

if TYPE_CHECKING:
    from torch import Tensor

WORDS: dict[ChannelRule, str] = {"mean": "averaged", "repeat": "cycled", "zero": "zero-filled"}


class Statistics(NamedTuple):
    """Mean and deviation of every channel, as fractions of the largest value."""

    mean: Sequence[float]
    std: Sequence[float]


class ChannelFit(NamedTuple):
    """How kernels for some channels become kernels for others.

    Every old channel is shared out in parts that sum to 1, and differences of mean and deviation are taken into kernels
    and bias. So a grey picture gives the same sums as before.

    Attributes:
        rule: "mean": every new channel gets the same part of all old ones; "repeat": the new ones take the old ones in
            turn, or, where there are fewer, the old ones go to the new ones in turn; "zero": the old ones stay, and
            further ones get zeros.
        old: channels of the weights.
        new: channels of the images.
        before: statistics of the old channels; None where they are not known.
        of_data: those of the images.
    """

    rule: ChannelRule
    old: int
    new: int
    before: Statistics | None
    of_data: Statistics

    def shares(self) -> list[list[float]]:
        """The part of every old channel (rows) that every new one (columns) gets."""
        if self.rule == "mean":
            return [[1 / self.new] * self.new for _ in range(self.old)]
        if self.rule == "zero":
            return [[float(old == new) for new in range(self.new)] for old in range(self.old)]
        turn = min(self.old, self.new)
        taken = [[float(old % turn == new % turn) for new in range(self.new)] for old in range(self.old)]
        return [[share / sum(row) for share in row] for row in taken]

    @property
    def after(self) -> Statistics | None:
        """Statistics of the new channels: of the old ones that they are made of, averaged; of others those of the data.

        None where those of the old ones are not known.
        """
        if self.before is None:
            return None
        mean, std = (self._mixed(*pair) for pair in zip(self.before, self.of_data, strict=True))
        return Statistics(mean, std)

    def _mixed(self, own: Sequence[float], of_data: Sequence[float]) -> list[float]:
        found = []
        for new, parts in enumerate(zip(*self.shares(), strict=True)):
            mixed = sum(part * value for part, value in zip(parts, own, strict=True))
            found.append(mixed / sum(parts) if any(parts) else of_data[new])
        return found

    def kernel(self, entry: Entry) -> Entry:
        """A kernel `(out, old, h, w)` for the new channels, read when it is asked for."""

        def read() -> Tensor:
            import torch

            kernel = entry.read()
            return torch.einsum("okhw,kn->onhw", kernel.double(), self._scales()[0]).to(kernel.dtype)

        return Entry((entry.shape[0], self.new, *entry.shape[2:]), entry.dtype, read)

    def bias(self, entry: Entry, kernel: Entry) -> Entry:
        """A bias `(out,)` that makes up for other means; `kernel` is that of the old channels."""

        def read() -> Tensor:
            import torch

            bias, sums = entry.read(), kernel.read().double().sum((2, 3))
            return (bias.double() + torch.einsum("ok,kn->o", sums, self._scales()[1])).to(bias.dtype)

        return Entry(entry.shape, entry.dtype, read)

    def _scales(self) -> tuple[Tensor, Tensor]:
        """What a value of each new channel is worth to each old one, `(old, new)` float64, and what is missing then."""
        import torch

        shares = torch.tensor(self.shares(), dtype=torch.float64)
        if self.before is None or self.after is None:
            return shares, torch.zeros_like(shares)
        (old_mean, old_std), (mean, std) = (
            (torch.tensor(s.mean, dtype=torch.float64), torch.tensor([v or 1.0 for v in s.std], dtype=torch.float64))
            for s in (self.before, self.after)
        )
        return shares * std / old_std[:, None], shares * (mean - old_mean[:, None]) / old_std[:, None]

    def __str__(self) -> str:
        old = f"{count_of(self.old, 'channel')} become{'s' * (self.old == 1)}"
        return f"{old} {self.new}: kernels {WORDS[self.rule]} (init_channels={self.rule})"


def check_rule(rule: ChannelRule | None, init: str, old: int, new: int) -> ChannelRule:
    """The rule by which weights for `old` channels come to take `new` ones.

    Raises:
        InputError: no rule is given, or one that does not lead there.
    """
    if rule is None:
        raise InputError(
            f"init={init} takes {count_of(old, 'channel')} but the images have {new}; give "
            "init_channels=mean|repeat|zero (first kernels averaged, cycled or zero-filled), or use other weights or "
            "other data"
        )
    if rule == "zero" and new < old:
        raise InputError(
            f"init_channels=zero adds channels, but init={init} takes {old} and the images have {new}; use "
            "init_channels=mean or init_channels=repeat"
        )
    return rule
