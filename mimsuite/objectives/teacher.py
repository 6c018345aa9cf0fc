"""The teacher of a latent objective: an encoder that gets no gradient, and follows the student or stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.masked.latent import combine_layers, norm_cells
from mimsuite.masked.losses import widen
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.quality import ImageSums, as_unit
from mimsuite.models.load import load_encoder, load_normalizer
from mimsuite.models.mark import mark_of
from mimsuite.models.parts import blocks_of
from mimsuite.objectives.spreading import part_of
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights


class GivesBlocks(Protocol):
    """An encoder whose blocks can be looked into."""

    def forward_blocks(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps `(B, D, h, w)` of residual blocks, numbered from 1 through all stages, of whole images."""
        ...


class Teacher(nn.Module):
    """Gives the features of whole images that a student predicts: float32 weights, evaluation mode, no gradient.

    Args:
        encoder: the teacher's own, such as a copy of the student's.
        layers: numbers of its blocks, all with maps of one size.
        combine: how they become one target, see `masked.latent.combine_layers`.
        normalize: of a frozen teacher, integer images to the floats that it was trained with; None for one that follows
            the student, and sees what that sees.
        image_size: `(H, W)` pixels of the images that a frozen teacher sees; None: as they are.

    Attributes:
        module: the encoder.
        stacked: layers that stand side by side in the target.
        frozen: whether it stays as it is; then it is in no checkpoint, as it can be read again where it came from.
        mark: of a frozen teacher's weights, by which a run that goes on knows it again; else None.

    Raises:
        InputError: an encoder that does not show its blocks.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: Sequence[int],
        combine: str,
        *,
        normalize: Normalize | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(encoder, "forward_blocks", None)):
            raise InputError(f"objective=latent: a teacher of {type(encoder).__name__} has no method forward_blocks")
        self.module: nn.Module = encoder.requires_grad_(False).float()
        self.layers, self.combine = list(layers), combine
        self.stacked = len(self.layers) if combine == "stack" else 1
        self.normalize, self.image_size = normalize, image_size
        self.frozen = normalize is not None
        self.mark = mark_of(encoder) if self.frozen else None
        if self.frozen:
            self.register_load_state_dict_pre_hook(_keep_own)  # type: ignore[no-untyped-call]
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever the student does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, pixels: Tensor, grid: tuple[int, int], sums: ImageSums | None = None) -> Tensor:
        """The target `(B, C, h, w)`, in float32 or wider.

        Args:
            images: `(B, C, H, W)` integers.
            pixels: the same, normalised for the student.
            grid: `(h, w)` of the student's map, to which another one is resized (bilinearly).
            sums: is told the last layer's features, of which each cell is normalised; the targets of "mean" differ
                between images also where these do not.
        """
        seen = pixels if self.normalize is None else self.normalize(images)
        if self.image_size not in (None, (seen.shape[-2], seen.shape[-1])):
            seen = F.interpolate(seen, size=self.image_size, mode="bicubic", antialias=True)
        maps = cast(GivesBlocks, self.module).forward_blocks(seen, self.layers)
        if sums is not None:
            sums.add(as_unit(norm_cells(widen(maps[-1]))))
        target = combine_layers(maps, self.combine)
        if (target.shape[-2], target.shape[-1]) != grid:
            target = F.interpolate(widen(target), size=grid, mode="bilinear", antialias=True)
        return target

    @torch.no_grad()
    def update(self, student: nn.Module, kept: float, skipped: Tensor) -> None:
        """Moves towards the student after an optimizer step, without waiting for the device.

        Args:
            student: the student's encoder; where its weights are spread over processes, these are, too, in equal parts.
            kept: the share of itself that it keeps.
            skipped: a bool scalar on the device; nothing moves if it is True.
        """
        taken = ((1 - kept) * ~skipped).to(torch.float32)
        own, now = ([part_of(p) for p in network.parameters()] for network in (self.module, student))
        weights: Any = [taken] * len(own)
        torch._foreach_lerp_(own, now, weights)
        for mine, theirs in zip(self.module.buffers(), student.buffers(), strict=True):
            mine.copy_(torch.where(skipped, mine, theirs))

    def blocks(self) -> list[nn.Module]:
        """The residual blocks of the encoder, to be compiled; none of one with stages, whose blocks are watched."""
        return blocks_of(self.module) if self.module.num_layers == self.module.num_blocks else []

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's; nothing where it is frozen."""
        if not self.frozen:
            return super().state_dict(*args, **kwargs)
        return kwargs.get("destination") if kwargs.get("destination") is not None else {}


def load_teacher(
    weights: Weights,
    config: EncoderConfig,
    image_size: tuple[int, int],
    predictor: PredictorConfig,
    normalize: Normalize,
    *,
    frozen: bool,
) -> Teacher:
    """A teacher whose weights lie in files.

    Args:
        weights: the teacher's.
        config: theirs.
        image_size: `(H, W)` pixels of the images that it sees.
        predictor: which of its features are predicted.
        normalize: the student's; its type of pixels is that of the images.
        frozen: whether it has a normalisation of its own.
    """
    own = load_normalizer(weights) if frozen else None
    if own is not None and (own.maximum > 255) != (normalize.maximum > 255):
        own.maximum = normalize.maximum
    encoder = load_encoder(weights, config, image_size)
    size = image_size if frozen else None
    return Teacher(encoder, predictor.layers, predictor.combine, normalize=own, image_size=size)


def _keep_own(teacher: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before a state dict is loaded: a frozen teacher misses nothing in it."""
    state.update(nn.Module.state_dict(teacher, prefix=prefix))


def momentum_schedule(start: float, end: float, steps: int, shape: str) -> Callable[[int], float]:
    """The share of itself that a teacher keeps after a step, counted from 0: from `start` to `end` at the last one.

    `shape` is "linear" or "cosine" (slow at both ends).
    """

    def kept(step: int) -> float:
        done = min(1.0, step / max(1, steps - 1))
        return start + (end - start) * (done if shape == "linear" else 0.5 * (1 - math.cos(math.pi * done)))

    return kept
