"""A masked image model and some images, loaded once: what the model makes of them under any mask.

The task `reconstruct` and the notebooks draw with it. It imports torch only when something is drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mimsuite.config.folder import conf_dir
from mimsuite.data.images.decode import DecodeError
from mimsuite.data.open import open_data
from mimsuite.data.sources import PICTURE_ENDINGS, is_image_folder
from mimsuite.errors import InputError
from mimsuite.masked.modes import choose_mode
from mimsuite.models.device import torch_device
from mimsuite.models.load import config_of, drops_patches, normalizer_of, trained_model
from mimsuite.pictures.display import Components, principal_components
from mimsuite.settings.channels import check_channels
from mimsuite.settings.combinations import check_ratio, mask_cell
from mimsuite.settings.read import FALLBACK_SIZE, mask_unit, read_int, read_size
from mimsuite.weights.init import find_weights

if TYPE_CHECKING:
    from torch import Tensor

    from mimsuite.masked.normalization import Normalize
    from mimsuite.masked.samplers import MaskSampler
    from mimsuite.models.composed import ForMaskedImageModeling
    from mimsuite.pictures.reconstruction import Reconstruction

NamedBytes = tuple[str, bytes]


class Scene:
    """A model and images. Both are read when they are needed first, and stay.

    Args:
        init: masked image model: a run folder, a Hugging Face folder, `hf:ORG/NAME` or `demo:NAME`.
        images: an image file, a folder of images, or a data set, of which validation images are taken; None: the
            embedded emoji-64.
        count: images, at most.
        image_size: pixels: a side or `[height, width]`; "auto": the model's.

    Attributes:
        config: the model's config object.
        size: `(H, W)` of the images in pixels.
        drops: whether the model leaves hidden patches out (MAE).
        title: what stands above its pictures.

    Raises:
        InputError: no such weights, or a wrong value. Images that cannot be read, and weights without a decoder, are
            met when they are needed first.
    """

    def __init__(
        self, init: str, images: str | None = None, *, count: int = 8, image_size: int | Sequence[int] | str = "auto"
    ) -> None:
        self._source, self._count = images, read_int(OmegaConf.create({"count": count}), "count")
        self._weights = find_weights(init)
        self.config: Any = config_of(self._weights)
        native = self._weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE)
        self.size = native if image_size == "auto" else read_size(image_size)
        self.drops = drops_patches(self.config)
        self.title = f"{init}: {images or 'emoji-64'}"

    @cached_property
    def names(self) -> list[str]:
        """Of every image, by which its masks are drawn."""
        return [name for name, _ in self._found]

    @cached_property
    def images(self) -> Tensor:
        """`(N, C, H, W)` uint8, or int32 of 16-bit images, on the device."""
        import torch

        dtype = "uint16" if self._normalize.maximum > 255 else "uint8"
        channels = self.config.num_channels
        read = [picture(name, data, self.size, channels, dtype) for name, data in self._found]
        return torch.stack(read).to(torch_device())

    @cached_property
    def model(self) -> ForMaskedImageModeling:
        """The model in evaluation mode at the size of the images, on the device."""
        return trained_model(self._weights, self.config, self.size).to(torch_device())

    def draw(
        self,
        mask: str = "random",
        ratio: float | None = None,
        *,
        unit: int | str = "auto",
        seed: int = 0,
        mode: str = "auto",
    ) -> Reconstruction:
        """Hides parts of every image, and has the model predict them.

        Args:
            mask: kind, a choice of `conf/mask`.
            ratio: the share to hide, in (0, 1]; None: the kind's own.
            unit: side of what is hidden or left as one piece, in pixels; "auto": as in pretraining.
            seed: decides, with an image's name, which parts are hidden.
            mode: how the prediction becomes a picture, one of the target's modes; "auto": the first.

        Raises:
            InputError: a wrong value, or images that cannot be read.
        """
        node = known_mask(mask, "mask")
        if ratio is not None and "ratio" not in node:
            raise InputError(f"mask={mask} has no ratio, and ratio={ratio} is given; leave ratio out")
        given = {"unit": bare(unit)} | ({} if ratio is None else {"ratio": bare(ratio)})
        cfg = OmegaConf.create({"mask": OmegaConf.merge(node, given), "seed": bare(seed)})
        choose_mode(self.config.mim_target, mode)
        try:
            rows, columns = self.grid(cfg)
            check_ratio(cfg, rows * columns, self.drops)
        except InputError as error:
            raise InputError(str(error).replace("mask.", "")) from error
        from mimsuite.masked.samplers import make_samplers

        samplers = make_samplers(cfg.mask, [], self.drops)[:1]
        return self.show(self.masks(samplers, (rows, columns), read_int(cfg, "seed", least=0)), mode=mode)[0]

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

    def grid(self, cfg: DictConfig) -> tuple[int, int]:
        """Rows and columns of a mask whose side of a unit `cfg.mask.unit` says.

        Raises:
            InputError: sizes that do not fit, with sizes that would.
        """
        cell = mask_cell(self.config.mask_stride, self.config.mim_target)
        unit = mask_unit(cfg, self.size, self.config.stride, cell, self.drops)
        return self.size[0] // unit, self.size[1] // unit

    def masks(self, samplers: Sequence[MaskSampler], grid: tuple[int, int], seed: int) -> list[Tensor]:
        """A batch of masks per sampler, `(N, *grid)` bool, True = hidden; the seed and the image's name decide each."""
        names = self.names  # which are sought before torch is imported
        import torch

        from mimsuite.data.hashing import hash_key, mix

        generator = torch.Generator()
        return [
            torch.stack([sampler(grid, generator.manual_seed(mix(seed, hash_key(name)))) for name in names])
            for sampler in samplers
        ]

    def show(
        self, masks: Sequence[Tensor], *, mode: str = "auto", channels: Sequence[int] | str | None = None
    ) -> list[Reconstruction]:
        """What the model makes of the images under each of the masks.

        Args:
            masks: each `(N, rows, columns)` bool, True = hidden.
            mode: as in `draw`.
            channels: three channel numbers that are shown as red, green and blue; "pca": three principal components
                of what is visible under all masks; None: the first three.

        Raises:
            InputError: a wrong value, or images that cannot be read.
        """
        if channels is not None:
            check_channels(channels, self.config.num_channels)
        images = self.images
        import torch

        from mimsuite.pictures.reconstruction import reconstruct

        shown = self._components(torch.stack(list(masks)).any(0)) if isinstance(channels, str) else channels
        model = self.model
        draw = partial(reconstruct, model.predict, model.target, model.head_stride, self._normalize, images)
        return [draw(mask.to(images.device), mode=mode, shown=shown) for mask in masks]

    @cached_property
    def _found(self) -> list[NamedBytes]:
        return find_images(self._source, self._count)

    @cached_property
    def _normalize(self) -> Normalize:
        return normalizer_of(self._weights).to(torch_device())

    def _components(self, hidden: Tensor) -> Components:
        mean, std = self._normalize.mean.flatten().tolist(), self._normalize.std.flatten().tolist()
        return principal_components(self._normalize(self.images).cpu().numpy(), mean, std, hidden.cpu().numpy())


def bare(value: Any) -> Any:
    """A value as Python has it, also where numpy made it."""
    return value.item() if isinstance(value, np.generic) else value


def known_mask(kind: Any, key: str = "masks") -> DictConfig:
    """A choice of `conf/mask` with its own defaults.

    Args:
        kind: its name.
        key: what the user calls it.

    Raises:
        InputError: no such choice.
    """
    names = sorted(file.stem for file in (conf_dir() / "mask").glob("*.yaml"))
    if kind not in names:
        raise InputError(f"{key}: {kind} is unknown; {key} takes {', '.join(names)}")
    node = OmegaConf.load(conf_dir() / "mask" / f"{kind}.yaml")
    assert isinstance(node, DictConfig)
    return node


def find_images(images: str | None, count: int) -> list[NamedBytes]:
    """The first `count` encoded images, by name: of a file, a folder, or a data set's validation part.

    Raises:
        InputError: nothing there.
    """
    path = Path(images) if images is not None else None
    if path is not None and path.is_file() and path.suffix.lower() in PICTURE_ENDINGS:
        return [(path.name, path.read_bytes())]
    if path is not None and path.is_dir() and is_image_folder(str(path)):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS)
        return [(str(p.relative_to(path)), p.read_bytes()) for p in files[:count]]
    from mimsuite.data.checks.inspect import raw_samples

    try:
        index = open_data(images)
    except InputError as error:
        raise InputError(str(error).replace("data=", "images=", 1)) from error
    return [(s.key, s.data) for s in raw_samples(index, index.select("curve"), count)]


def picture(name: str, data: bytes, size: tuple[int, int], channels: int, dtype: str) -> Tensor:
    """Decodes an image and takes the largest central part with the right proportions.

    Returns:
        `(C, H, W)` uint8, or int32 where `dtype` is "uint16".

    Raises:
        InputError: the image cannot be decoded.
    """
    import torch

    from mimsuite.data.augment.crop import CenterCrop
    from mimsuite.data.images.decode import conform, open_image

    crop, generator = CenterCrop(size), torch.Generator()
    try:
        image = open_image(data)
        pixels = image.pixels(crop.box(image.height, image.width, generator), size)
        return crop(conform(pixels, channels, dtype), generator)
    except DecodeError as error:
        raise InputError(f"image {name} cannot be decoded: {error}; leave it out or mend it") from error
