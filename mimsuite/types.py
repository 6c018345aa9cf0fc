"""The contracts that the parts share: what an encoder gives and what a batch holds. Imports no torch at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class FeatureMap(NamedTuple):
    """Features of an encoder, after its final norm unless they are those of an earlier layer.

    Attributes:
        grid: patch features, `(B, D, h, w)` float.
        cls: class-token features, `(B, D)` float, or None for encoders without one.
    """

    grid: Tensor
    cls: Tensor | None


@runtime_checkable
class Encoder(Protocol):
    """What every encoder offers; heads, objectives and probes use nothing else.

    Attributes:
        num_features: D, the width of the feature map.
        stride: `(sh, sw)`, pixels per cell of the feature map.
        mask_stride: `(mh, mw)`, pixels of the finest mask cell that the encoder can hide.
        num_layers: layers whose features can be had: blocks of a ViT, stages of a CvT or BiT.
        num_blocks: residual blocks, counted through all stages.
    """

    num_features: int
    stride: tuple[int, int]
    mask_stride: tuple[int, int]
    num_layers: int
    num_blocks: int

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes `pixels (B, C, H, W)`, normalised floats.

        `mask (B, gh, gw)` is bool, True = hidden from the encoder, on any regular grid over the image whose
        cells are whole multiples of `mask_stride`; the encoder repeats it to its own grid.
        """
        ...

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Encodes `pixels (B, C, H, W)`, normalised floats, without a mask, and gives the features of chosen layers.

        Layers count from 1. `num_layers` gives what `forward_features` gives, after the final norm; an earlier one
        gives what that block or stage puts out, before any norm that follows, with a width and a grid of its own. The
        class token is None where that layer has none. Nothing is computed past the deepest layer asked for.
        """
        ...

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Makes `(H, W)` pixels the encoder's own size, where it has one."""
        ...

    def depth_of(self, name: str) -> int:
        """How deep a parameter lies, by its name in the encoder's `named_parameters()`.

        0 for what embeds, i for the i-th block, counted from 1 through all stages, and `num_blocks + 1` for what
        follows the blocks. What leads from one stage to the next has the depth of the block before it, or belongs
        to the block after it.

        Raises:
            InputError: no such parameter.
        """
        ...


class BadSample(NamedTuple):
    """A sample that could not be used: where it lies and why."""

    shard: str
    key: str
    reason: str


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: `(B, C, H, W)` uint8, or int32 holding uint16 values; not normalised.
        ids: `(B,)` int64, the sample ids (a hash of the key).
        mask: `(B, gh, gw)` bool, True = hidden, one cell per mask unit; None where no masks are drawn.
        labels: `(B,)` int64 classes, or `(B, K)` float; None where the data has no labels or none are asked for.
        bad: samples that were replaced while this batch was read.
        hidden: True cells of each mask, if all have the same number.
        keys: the samples' names; None where none are asked for.
    """

    images: Tensor
    ids: Tensor
    mask: Tensor | None
    labels: Tensor | None
    bad: list[BadSample]
    hidden: int | None = None
    keys: list[str] | None = None
