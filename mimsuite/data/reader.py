"""What one sample is: image, id, label and seed, read from a shard. A map-style dataset over a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mimsuite.data.augment.crop import Transform
from mimsuite.data.augment.on_device import DeferredCrop
from mimsuite.data.hashing import mix_hashes
from mimsuite.data.images.decode import DecodeError, conform, open_image
from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.label_table import read_label
from mimsuite.data.labels import Label
from mimsuite.data.members import read_checked_image
from mimsuite.data.shard_files import files_for
from mimsuite.data.stores.names import shown
from mimsuite.errors import InputError, RunError
from mimsuite.types import BadSample

_AUGMENT = 1
_IN_A_ROW = 64  # undecodable images, before the data is given up


class Sample(NamedTuple):
    """A sample as the collate function gets it.

    Attributes:
        image: `(C, H, W)` uint8, or int32 holding uint16 values; with `mirrored`, a box's pixels `(h, w, C)`.
        id: the hash of the key, as int64.
        seed: what everything random about it is drawn from; in evaluation it depends on the key alone.
        label: None where none are asked for.
        bad: the undecodable samples that this one replaces.
        shared: what is drawn once for all samples of an optimizer step is drawn from this.
        key: the sample's name.
        mirrored: whether the device mirrors the picture that it makes of the pixels; None: the image is a picture.
    """

    image: Tensor
    id: int
    seed: int
    label: Label | None
    bad: tuple[BadSample, ...]
    shared: int = 0
    key: str = ""
    mirrored: bool | None = None


#: Errors travel as values: a worker's exception would reach the main process wrapped in its traceback.
Failure = InputError | RunError


class ImageReader(Dataset[Sample | Failure]):
    """Samples addressed by (epoch, number, optimizer step); keeps nothing but open files."""

    def __init__(
        self,
        index: DataIndex,
        samples: Samples,
        transform: Transform | DeferredCrop,
        *,
        seed: int | None,
        labels: bool,
    ) -> None:
        """Takes the samples of one split.

        Args:
            index: gives channels, dtype and the number of classes.
            samples: the samples, numbered from 0.
            transform: crops and augments the images, or leaves the resizing to the device.
            seed: of the run; None draws everything from the key alone, the same in each epoch and run.
            labels: whether labels are read; every sample must then have one.
        """
        self._samples, self._transform, self._seed, self._labels = samples, transform, seed, labels
        self._channels, self._dtype, self._alpha = index.channels, index.dtype, index.alpha
        self._index = index
        self._files = files_for(index, samples)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def sample_bytes(self) -> int:
        """What a sample takes in a batch, in bytes."""
        transform = self._transform
        height, width = transform.canvas if isinstance(transform, DeferredCrop) else transform.size
        labels = 4 * max(1, len(self._index.classes or ())) if self._labels else 0
        return self._channels * height * width * (1 if self._dtype == "uint8" else 4) + labels

    def __getitem__(self, item: tuple[int, int, int]) -> Sample | Failure:
        """Reads the sample `item = (epoch, number, optimizer step)`, or the next one that can be decoded in its place.

        Returns:
            The sample; an `InputError` where 64 in a row are broken, a label is wrong or a table is damaged; a
            `RunError` where a shard cannot be read, or is no longer the one that was indexed.
        """
        epoch, number, step = item
        bad: list[BadSample] = []
        try:
            for further in range(min(_IN_A_ROW, len(self))):
                sample = self._read((epoch, (number + further) % len(self), step), bad)
                if sample is not None:
                    return sample
        except (InputError, RunError) as error:
            return error
        return too_many(bad)

    def __getitems__(self, items: Sequence[tuple[int, int, int]]) -> list[Sample | InputError | RunError]:
        """The samples of a batch, up to the first error: those behind it would only wait for the same server again."""
        found = list[Sample | InputError | RunError]()
        for item in items:
            found.append(self[item])
            if isinstance(found[-1], (InputError, RunError)):
                break
        return found

    def _read(self, item: tuple[int, int, int], bad: list[BadSample]) -> Sample | None:
        epoch, number, step = item
        shard, row = self._samples[number]
        identity, member = read_checked_image(self._files, shard, row)
        key = member.key
        seed = mix_hashes(identity) if self._seed is None else mix_hashes(self._seed, epoch, identity)
        generator = torch.Generator().manual_seed(mix_hashes(seed, _AUGMENT))
        try:
            image = open_image(member.data, self._alpha)
            box = self._transform.box(image.height, image.width, generator)
            pixels = conform(image.pixels(box, self._transform.size), self._channels, self._dtype)
        except DecodeError as error:
            bad.append(BadSample(shown(shard.path), key, str(error)))
            return None
        label = read_label(self._index, self._files, shard, row, key) if self._labels else None
        signed = identity - (1 << 64) if identity >= 1 << 63 else identity
        made = self._transform(pixels, generator)
        picture, mirrored = made if isinstance(made, tuple) else (made, None)
        shared = mix_hashes(self._seed or 0, step)
        return Sample(picture, signed, seed, label, tuple(bad), shared, key, mirrored)


def too_many(bad: list[BadSample]) -> InputError:
    """The error for too many undecodable samples; it names the first three."""
    first = "; ".join(f"{b.key} in {b.shard}: {b.reason}" for b in bad[:3])
    return InputError(f"{len(bad)} images in a row cannot be decoded: {first}; check the files, or pack them again")
