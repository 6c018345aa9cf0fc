"""Configuration of a toy encoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mimsuite.encoders.config import ModelConfig, Side, as_pair


@dataclass(kw_only=True)
class ToyConfig(ModelConfig):
    """Square patches, then residual blocks of depthwise 3x3 convolutions (as ConvMixer, Trockman & Kolter 2022).

    Attributes:
        num_channels: C of the images.
        width: of every map.
        depth: blocks.
        patch_size: pixels per cell, one side.
        drop_path_rate: stochastic depth, rising linearly over the blocks from 0 to this.
        encoder_stride: pixels that the head writes per cell; None: `patch_size`.
    """

    model_type: ClassVar[str] = "toy"

    num_channels: int = 3
    width: int = 32
    depth: int = 3
    patch_size: int = 8
    drop_path_rate: float = 0.0
    encoder_stride: Side = None  # type: ignore[assignment]  # given after __post_init__

    @property
    def stride(self) -> tuple[int, int]:
        """A patch."""
        return as_pair(self.patch_size)

    @property
    def mask_stride(self) -> tuple[int, int]:
        """A patch."""
        return as_pair(self.patch_size)

    @property
    def stride_field(self) -> str:
        """The field that is the stride."""
        return "patch_size"

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self.depth

    @property
    def class_tokens(self) -> list[bool]:
        """No block has a class token."""
        return [False] * self.depth

    @property
    def needs_whole_cells(self) -> bool:
        """Patches are not padded."""
        return True

    @classmethod
    def masked_model_class(cls) -> type[Any]:
        """How mimsuite finds the network, which is not in its table of families."""
        from their_package.encoder import ToyForMaskedImageModeling

        return ToyForMaskedImageModeling

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_channels", "width", "depth", "patch_size"):
            self._check_int(name, low=1)
        self._check_float("drop_path_rate", 0, 1)
        if self.encoder_stride is None:
            self.encoder_stride = self.patch_size
        self._check_side("encoder_stride")
