"""Which parts of images are hidden from a given masked image model: its sizes, and masks that fit them.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.folder import conf_dir
from mimsuite.errors import InputError
from mimsuite.masked.geometry import Pair
from mimsuite.masked.modes import choose_mode
from mimsuite.models.load import config_of
from mimsuite.settings.combinations import hidden_range, mask_cell
from mimsuite.settings.geometry import mask_unit
from mimsuite.settings.images import read_image_size
from mimsuite.settings.past_run import loss_of, pretraining_config
from mimsuite.settings.read import read_int
from mimsuite.settings.taught import LatentTeacher, find_teacher
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights, find_weights


@dataclass(frozen=True)
class MaskedModel:
    """A masked image model that is not loaded yet, at an image size.

    Attributes:
        weights: where they lie.
        config: the model's config.
        image_size: `(H, W)` pixels.
        teacher: of a model that predicts features; None of one that predicts pixels or what is made of them.
        loss: the error of a prediction of pixels: that of the run, or l1 where there are weights alone.
    """

    weights: Weights
    config: EncoderConfig
    image_size: Pair
    teacher: LatentTeacher | None = None
    loss: str = "l1"

    def choose_mode(self, mode: str) -> str:
        """How a prediction of this model becomes a picture, see `mimsuite.masked.modes.choose_mode`.

        Raises:
            InputError: an unknown mode, one of another target, or one for features, which are shown in one way.
        """
        if self.teacher is None:
            return choose_mode(self.config.mim_target, mode)
        if mode != "auto":
            raise InputError(f"mode={mode} is for pixels, and this model predicts features of a teacher; use mode=auto")
        return mode


@dataclass(frozen=True)
class MaskChoice:
    """One way to hide parts of all images, checked against a model.

    Attributes:
        mask_name: a choice of `conf/mask`.
        ratio: the share to hide; None for a range of shares, or for none.
        node: the config of the mask, for `masked.samplers.make_samplers`.
        grid: rows and columns of units.
    """

    mask_name: str
    ratio: float | None
    node: DictConfig
    grid: Pair

    @property
    def title(self) -> str:
        """Mask and ratio in words."""
        return self.mask_name if self.ratio is None else f"{self.mask_name} {self.ratio:g}"


def read_masked_model(init: str, image_size: int | Sequence[int] | str, trusted: Collection[str] = ()) -> MaskedModel:
    """Finds a masked image model.

    Args:
        init: what names it.
        image_size: pixels: a side or `[height, width]`; "auto": the model's.
        trusted: classes of the user's own that its config may name.

    Raises:
        InputError: no such weights, weights that predict nothing, a wrong size, or features of a teacher that is not
            there.
    """
    weights = find_weights(init).trusting(trusted)
    config = config_of(weights)
    size = read_image_size(image_size, weights.image_size)
    teacher = None if config.mim_predictor is None else find_teacher(weights, config, size, tuple(trusted))
    return MaskedModel(weights, config, size, teacher, loss_of(pretraining_config(init), init))


def mask_names() -> list[str]:
    """The choices of `conf/mask`."""
    return sorted(file.stem for file in (conf_dir() / "mask").glob("*.yaml"))


def load_mask(mask_name: Any, key: str) -> DictConfig:
    """A choice of `conf/mask` with its own defaults.

    Args:
        mask_name: the choice.
        key: what the user calls it.

    Raises:
        InputError: no such choice.
    """
    if mask_name not in (names := mask_names()):
        raise InputError(f"{key}: {mask_name} is unknown; {key} takes {', '.join(names)}")
    node = OmegaConf.load(conf_dir() / "mask" / f"{mask_name}.yaml")
    assert isinstance(node, DictConfig)
    return node


def choose_mask(mask_name: str, node: DictConfig, model: MaskedModel) -> MaskChoice:
    """Checks that a mask fits a model.

    Args:
        mask_name: as in `MaskChoice`.
        node: the config of the mask; its `unit` is the side of a unit in pixels, or "auto".
        model: the model.

    Raises:
        InputError: units that do not fit the images, with some that do; a ratio that is not a share, or that leaves
            nothing to see where hidden patches are dropped.
    """
    (height, width), ratio = model.image_size, node.get("ratio")
    unit = fitted_unit(node, model.config, model.image_size)
    grid = height // unit, width // unit
    return MaskChoice(mask_name, ratio if isinstance(ratio, (int, float)) else None, node, grid)


def fitted_unit(node: DictConfig, config: EncoderConfig, image_size: Pair) -> int:
    """Side of the units of a mask in pixels, checked against a model at an image size.

    Args:
        node: the config of the mask.
        config: the model's.
        image_size: `(H, W)` pixels.

    Raises:
        InputError: as of `choose_mask`.
    """
    cfg, (height, width), drops = OmegaConf.create({"mask": node}), image_size, config.drops_patches
    cell = mask_cell(config.mask_stride, config.mim_target)
    unit = mask_unit(read_int(cfg, "mask.unit", auto=0), image_size, config.stride, cell, drops)
    hidden_range(cfg, (height // unit) * (width // unit), drops)
    return unit


def choose_mask_by_name(
    mask_name: str, model: MaskedModel, *, ratio: float | None = None, unit: int | str = "auto"
) -> MaskChoice:
    """A choice of `conf/mask` with a ratio (None: its own) and a unit; errors as of `choose_mask`, without `mask.`."""
    node = load_mask(mask_name, "mask")
    if ratio is not None and "ratio" not in node:
        raise InputError(f"mask={mask_name} has no ratio, and ratio={ratio} is given; remove ratio")
    values = {"unit": unit} | ({} if ratio is None else {"ratio": ratio})
    try:
        return choose_mask(mask_name, DictConfig(OmegaConf.merge(node, values)), model)
    except InputError as error:
        raise InputError(str(error).replace("mask.", "")) from error
