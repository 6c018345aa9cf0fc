"""How samples become a batch: pictures stacked, masks drawn, labels brought to one form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mimsuite.data.augment.on_device import on_canvases
from mimsuite.data.hashing import mix_hashes
from mimsuite.data.labels import Label
from mimsuite.data.reader import Failure, Sample, too_many
from mimsuite.data.workers import MORE_SHARED_MEMORY, SHARED_MEMORY, finds_no_memory
from mimsuite.errors import InputError, RunError
from mimsuite.masked.samplers import MaskSampler, MaskWithTargets, StepSampler, has_targets, keep_some
from mimsuite.types import Batch

_MASK, _CHOICE, _SIZES, _CUT = 2, 3, 4, 5
_WHOLE_BATCH = 8  # smaller batches may be bad as a whole by bad luck


class Collate:
    """Makes a `Batch` of samples; a mask is drawn from its sample's own seed."""

    def __init__(
        self,
        masks: Sequence[MaskSampler] = (),
        grid: tuple[int, int] | None = None,
        num_classes: int | None = None,
        keys: bool = False,
        views: int = 1,
    ) -> None:
        """Takes the parts of a batch that samples do not have.

        Args:
            masks: draw the masks; of several, each optimizer step takes one for all its samples; empty for no masks.
            grid: mask units per axis, (gh, gw).
            num_classes: width of multi-label targets.
            keys: whether the samples' names are handed on.
            views: masks of each sample, in the order mask, sample.
        """
        self._views = views
        self._samplers, self._grid, self._num_classes, self._keys = tuple(masks), grid, num_classes, keys

    @property
    def draws_steps(self) -> bool:
        """Whether something of the masks is drawn once for all images of an optimizer step."""
        return any(isinstance(sampler, StepSampler) for sampler in self._samplers)

    @property
    def cuts(self) -> bool:
        """Whether the masks of a batch are cut to the smallest, so that they depend on how many there are."""
        return self._grid is not None and any(has_targets(sampler, self._grid) for sampler in self._samplers)

    def __call__(self, samples: Sequence[Sample | Failure]) -> Batch | Failure:
        """Stacks samples; an error among them, or too many broken images, takes the batch's place."""
        good: list[Sample] = []
        for sample in samples:
            if not isinstance(sample, Sample):
                return sample
            good.append(sample)
        bad = [b for sample in good for b in sample.bad]
        if len(good) >= _WHOLE_BATCH and all(sample.bad for sample in good):
            return too_many(bad)
        try:
            labels = targets_of([s.label for s in good if s.label is not None], self._num_classes)
        except InputError as error:
            return error
        try:
            images, windows = images_of(good)
        except RuntimeError as error:
            if not finds_no_memory(error):
                raise
            return RunError(f"a loader worker found {SHARED_MEMORY} full; {MORE_SHARED_MEMORY}")
        mask, targets = self._masks(good)
        return Batch(
            images=images,
            ids=torch.tensor([s.id for s in good], dtype=torch.int64),
            mask=mask,
            labels=labels,
            bad=bad,
            hidden=None if mask is None else same_count(mask),
            keys=[s.key for s in good] if self._keys else None,
            windows=windows,
            targets=targets,
            target_units=None if targets is None else int(targets[0, 0].sum()),
        )

    def _masks(self, samples: list[Sample]) -> tuple[Tensor | None, Tensor | None]:
        """Masks `(B, gh, gw)`, and targets `(B, T, gh, gw)` where they are not all that is hidden."""
        if not self._samplers or self._grid is None:
            return None, None
        draw = self._samplers[mix_hashes(samples[0].shared, _CHOICE) % len(self._samplers)]
        generator = torch.Generator()
        if isinstance(draw, StepSampler):
            draw = draw.of_step(self._grid, generator.manual_seed(mix_hashes(samples[0].shared, _SIZES)))
        views = [*samples] * self._views
        seeds = [mix_hashes(s.seed, _MASK, *(view,) * (view > 0)) for view in range(self._views) for s in samples]
        drawn = [draw(self._grid, generator.manual_seed(seed)) for seed in seeds]
        hidden = [mask for mask in drawn if not isinstance(mask, MaskWithTargets)]
        if len(hidden) == len(drawn):
            return torch.stack(hidden), None
        return cut_to_smallest([mask for mask in drawn if isinstance(mask, MaskWithTargets)], views)


def cut_to_smallest(drawn: Sequence[MaskWithTargets], samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Masks `(B, gh, gw)` that leave the same number visible, and targets `(B, T, gh, gw)` of the same size.

    Both numbers are the smallest of the batch. Where an image has more, a choice stays that its own seed decides.
    """
    visible = min(int((~mask.hidden).sum()) for mask in drawn)
    size = min(int(mask.targets.flatten(1).sum(1).min()) for mask in drawn)
    hidden, targets = [], []
    for mask, sample in zip(drawn, samples, strict=True):
        generator = torch.Generator().manual_seed(mix_hashes(sample.seed, _CUT))
        hidden.append(~keep_some(~mask.hidden, visible, generator))
        targets.append(torch.stack([keep_some(target, size, generator) for target in mask.targets]))
    return torch.stack(hidden), torch.stack(targets)


def images_of(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
    """`images` and `windows` of a `Batch`; in a worker the images are made in shared memory, which saves a copy."""
    images, mirrored = [s.image for s in samples], [s.mirrored for s in samples if s.mirrored is not None]
    return on_canvases(images, mirrored) if mirrored else (default_collate(images), None)


def same_count(mask: Tensor) -> int | None:
    """The number of True cells of every mask `(B, gh, gw)`, or None where they differ."""
    fewest, most = mask.flatten(1).sum(1).aminmax()
    return int(most) if fewest == most else None


def targets_of(labels: list[Label], num_classes: int | None) -> Tensor | None:
    """`(B,)` int64 for classes, `(B, K)` float32 for multi-label, `(B, 1)` float32 for regression."""
    if not labels:
        return None
    kinds = {type(label) for label in labels}
    if kinds == {int}:
        return torch.tensor(labels, dtype=torch.int64)
    if kinds <= {int, float}:
        return torch.tensor(labels, dtype=torch.float32)[:, None]
    if kinds != {tuple}:
        raise InputError("labels are lists in some samples and single numbers in others; use one form")
    if num_classes is None:
        raise InputError("labels are lists, and the number of classes is not known; name the classes in classes.txt")
    targets = torch.zeros(len(labels), num_classes)
    for target, label in zip(targets, labels, strict=True):
        target[list(label)] = 1.0  # type: ignore[arg-type]
    return targets


def join_targets(parts: Sequence[Tensor]) -> Tensor:
    """The targets of several batches as one; where some batches hold whole numbers alone, the others say what they are.

    Raises:
        InputError: lists of classes in some batches and single numbers in others.
    """
    if len({part.ndim for part in parts}) == 1:
        return torch.cat(list(parts))
    if any(part.ndim == 2 and part.shape[1] > 1 for part in parts):
        raise InputError("labels are lists in some samples and single numbers in others; use one form")
    return torch.cat([part.float().reshape(len(part), 1) for part in parts])
