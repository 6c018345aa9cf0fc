"""A masked image model and some images, loaded once: what the model makes of them under any mask.

The task `reconstruct` and the notebooks draw with it. It imports torch only when something is drawn.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from mimsuite.data.hashing import hash_key, mix_hashes
from mimsuite.data.images.bands import band_names_of
from mimsuite.data.images.decode import open_image
from mimsuite.errors import InputError
from mimsuite.models.device import torch_device
from mimsuite.models.load import (
    HALF,
    load_masked_model,
    load_normalizer,
    warn_of_other_values,
    warn_of_preprocessing,
)
from mimsuite.pictures.display import Components, principal_components
from mimsuite.pictures.source import NamedBytes, decode_image, find_images
from mimsuite.settings.channels import read_channels
from mimsuite.settings.hiding import MaskChoice, MaskedModel, choose_mask_by_name, read_masked_model
from mimsuite.settings.read import read_int

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mimsuite.masked.normalization import Normalize
    from mimsuite.models.composed import ForMaskedImageModeling
    from mimsuite.objectives.taught import TaughtModel
    from mimsuite.pictures.latent import FeaturePicture
    from mimsuite.pictures.reconstruction import Reconstruction

    Drawing = Reconstruction | FeaturePicture

log = logging.getLogger("mimsuite")


class DrawnMasks(NamedTuple):
    """The masks of some images.

    Attributes:
        hidden: `(N, rows, columns)` bool, True = hidden.
        targets: `(N, T, rows, columns)` bool, True = to be predicted; None: all that is hidden.
    """

    hidden: Tensor
    targets: Tensor | None

    def to(self, device: torch.device) -> DrawnMasks:
        """The same on another device."""
        return DrawnMasks(self.hidden.to(device), None if self.targets is None else self.targets.to(device))


class Scene:
    """A model and images. Both are loaded when they are needed first, and stay.

    Args:
        init: masked image model: a run folder, a Hugging Face folder, `hf:ORG/NAME` or `demo:NAME`; or one that
            `mimsuite.settings.hiding` has found, which has its own size.
        images: an image file, a folder of images, or a data set, of which validation images are taken; None: the
            embedded emoji-64.
        count: images, at most.
        image_size: pixels: a side or `[height, width]`; "auto": the model's.

    Attributes:
        config: the model's config object.
        size: `(H, W)` of the images in pixels.
        drops: whether the model drops hidden patches (MAE).
        title: what stands above its pictures.

    Raises:
        InputError: no such weights, or a wrong value. Images that cannot be read, and weights without a decoder, are
            found when they are needed first.
    """

    def __init__(
        self,
        init: str | MaskedModel,
        images: str | None = None,
        *,
        count: int = 8,
        image_size: int | Sequence[int] | str = "auto",
    ) -> None:
        self._source, self._count = images, read_value("count", count)
        self._found = init if isinstance(init, MaskedModel) else read_masked_model(init, image_size)
        self.config, self.size = self._found.config, self._found.image_size
        self.drops = self.config.drops_patches
        self.title = f"{self._found.weights.init}: {images or 'emoji-64'}"

    @cached_property
    def names(self) -> list[str]:
        """Of every image, by which its masks are drawn."""
        return [image.name for image in self._encoded]

    @cached_property
    def images(self) -> Tensor:
        """`(N, C, H, W)` uint8, or int32 of 16-bit images, on the device."""
        import torch

        dtype = "uint16" if self._normalize.maximum > 255 else "uint8"
        channels = self.config.num_channels
        decoded = [decode_image(image, self.size, channels, dtype) for image in self._encoded]
        first = self._encoded[0]
        bands = band_names_of(first.data, channels) if first.bands is None else first.bands
        warn_of_other_values(self._source or "emoji-64", bands, first.value_range, self._found.weights)
        deep = 0 if dtype == "uint16" else sum(open_image(image.data).deep for image in self._encoded)
        if deep:
            log.warning(
                "%s of %d images %s 16 bits, and the model was trained on 8: 65,535 is white to it, and images of low "
                "values are black; spread their values to 8 bits, or pretrain on them",
                *(deep, len(decoded), "has" if deep == 1 else "have"),
            )
        return torch.stack(decoded).to(torch_device())

    @cached_property
    def model(self) -> ForMaskedImageModeling:
        """The model in evaluation mode at the size of the images, on the device."""
        return load_masked_model(self._found.weights, self.config, self.size).to(torch_device())

    def draw(
        self,
        mask: str = "random",
        ratio: float | None = None,
        *,
        unit: int | str = "auto",
        seed: int = 0,
        mode: str = "auto",
    ) -> Drawing:
        """Hides parts of every image, and has the model predict them: pixels, or the features of its teacher.

        Args:
            mask: a choice of `conf/mask`.
            ratio: the share to hide, in (0, 1]; None: the mask's own.
            unit: side of what is hidden or left as one piece, in pixels; "auto": as in pretraining.
            seed: decides, with an image's name, which parts are hidden.
            mode: how the prediction becomes a picture, one of the target's modes; "auto": the first.

        Raises:
            InputError: a wrong value, or images that cannot be read.
        """
        self._found.choose_mode(mode)
        choice = choose_mask_by_name(mask, self._found, ratio=without_numpy(ratio), unit=without_numpy(unit))
        drawn = self.masks([choice], seed=read_value("seed", seed, least=0))
        return self.show(drawn, mode=mode)[0]

    def with_images(self, images: Tensor) -> Scene:
        """The same model and names, hence the same masks, over other pixels.

        Args:
            images: of the shape and type of `images`.

        Raises:
            InputError: of another shape or type.
        """
        if (images.shape, images.dtype) != (self.images.shape, self.images.dtype):
            raise InputError(
                f"images of shape {list(images.shape)} and type {images.dtype}, and the scene has "
                f"{list(self.images.shape)} and {self.images.dtype}; give the same"
            )
        other = copy.copy(self)
        other.images = images.to(self.images.device)
        return other

    def masks(self, choices: Sequence[MaskChoice], *, seed: int, trusted: Sequence[str] = ()) -> list[DrawnMasks]:
        """Draws masks for all images, once per choice.

        Args:
            choices: ways to hide parts of the images.
            seed: decides, with an image's name, which parts are hidden.
            trusted: further targets that a choice may name.
        """
        seeds = [
            mix_hashes(seed, hash_key(name)) for name in self.names
        ]  # an error of images comes before torch is imported
        import torch

        from mimsuite.masked.samplers import MaskWithTargets, make_samplers

        generator, found = torch.Generator(), []
        for choice in choices:
            sampler = make_samplers(choice.node, trusted, self.drops)[0]
            drawn = [sampler(choice.grid, generator.manual_seed(each)) for each in seeds]
            hidden = torch.stack([each.hidden if isinstance(each, MaskWithTargets) else each for each in drawn])
            targets = [each.targets for each in drawn if isinstance(each, MaskWithTargets)]
            found.append(DrawnMasks(hidden, torch.stack(targets) if targets else None))
        return found

    def show(
        self,
        masks: Sequence[DrawnMasks],
        *,
        mode: str = "auto",
        channels: Sequence[int | str] | str | None = None,
    ) -> list[Drawing]:
        """What the model makes of the images under each of the masks.

        Args:
            masks: what is hidden, see `masks`.
            mode: as in `draw`.
            channels: numbers or names of three channels that are shown as red, green and blue; "pca": three principal
                components of what is visible under all masks; None: the first three.

        Raises:
            InputError: a wrong value, or images that cannot be read.
        """
        chosen = read_channels(channels, self.config.num_channels, self._found.weights.bands)
        images = self.images
        import torch

        anywhere = torch.stack([mask.hidden for mask in masks]).any(0)
        shown = self._components(anywhere) if isinstance(chosen, str) else chosen
        placed = [mask.to(images.device) for mask in masks]
        if self._found.teacher is not None:
            from mimsuite.pictures.latent import picture_features, predict_each

            return [picture_features(predict_each(self.taught, images, *mask), shown) for mask in placed]
        from mimsuite.pictures.reconstruction import reconstruct

        model = self.model
        draw = partial(reconstruct, model.predict, model.target, model.head_stride, self._normalize, images)
        return [draw(mask.hidden, mode=mode, loss=self._found.loss, shown=shown) for mask in placed]

    @cached_property
    def taught(self) -> TaughtModel:
        """The model and the teacher whose features it predicts."""
        from mimsuite.objectives.taught import TaughtModel
        from mimsuite.objectives.teacher import load_teacher

        own = self._found.teacher
        assert own is not None
        teacher = load_teacher(
            own.weights, own.config, own.image_size, own.predictor, self._normalize, frozen=own.frozen
        )
        return TaughtModel(self.model, teacher.to(torch_device()), self._normalize, own.loss, own.beta)

    @cached_property
    def _encoded(self) -> list[NamedBytes]:
        return find_images(self._source, self._count, self._found.weights.alpha)

    @cached_property
    def _normalize(self) -> Normalize:
        warn_of_preprocessing(self._found.weights, HALF)
        return load_normalizer(self._found.weights).to(torch_device())

    def _components(self, hidden: Tensor) -> Components:
        mean, std = self._normalize.mean.flatten().tolist(), self._normalize.std.flatten().tolist()
        return principal_components(self._normalize(self.images).cpu().numpy(), mean, std, hidden.cpu().numpy())


def read_value(key: str, value: Any, *, least: int = 1) -> int:
    """A whole number that Python code gives; errors as of the command line."""
    return read_int(OmegaConf.create({key: without_numpy(value)}), key, least=least)


def without_numpy(value: Any) -> Any:
    """A value as Python has it, also where numpy made it."""
    return value.item() if isinstance(value, np.generic) else value
