"""The masks under which a pretraining run was validated, for a task that looks at it again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mimsuite import build, build_model
from mimsuite.combinations import LOSSES, NO_MASK, check_ratio, mask_cell
from mimsuite.errors import InputError
from mimsuite.instantiate import trusted_targets
from mimsuite.run import holds_run
from mimsuite.settings import mask_unit, whole

if TYPE_CHECKING:
    from mimsuite.masking import MaskSampler

log = logging.getLogger("mimsuite")


@dataclass(frozen=True)
class Masking:
    """What is hidden from a masked image model, and how its prediction is judged.

    Attributes:
        sampler: draws the masks.
        units: side of a mask unit in pixels, for each image size.
        loss: kind of the error.
    """

    sampler: MaskSampler
    units: tuple[int, ...]
    loss: str


def stored_config(init: str) -> DictConfig | None:
    """The config of the pretraining run that `init` names; None where it names weights alone."""
    if not holds_run(init):
        return None
    file = Path(init) / "config.yaml"
    try:
        stored = OmegaConf.load(file)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{file} cannot be read: {error}; use init={Path(init) / 'weights'}") from error
    found = isinstance(stored, DictConfig) and {"mask", "objective", "micro_batch", "loader"} <= set(stored)
    return stored if found and isinstance(stored, DictConfig) else None


def masking_of(
    cfg: DictConfig, overrides: Sequence[str], stored: DictConfig | None, config: Any, sizes: Sequence[tuple[int, int]]
) -> Masking:
    """The masks of the run's validation, or those of `mask` where there is no run or the command line names a mask.

    Raises:
        InputError: masks that do not fit the images or the model, or that hide nothing.
    """
    node = cfg.mask
    if stored is not None and not any(o.lstrip("+~").startswith("mask=") for o in overrides):
        said = [o.lstrip("+~").partition("=")[0] for o in overrides if o.lstrip("+~").startswith("mask.")]
        node = OmegaConf.merge(stored.mask, {key.partition(".")[2]: OmegaConf.select(cfg, key) for key in said})
    made = OmegaConf.create({"mask": node})
    if made.mask.get("_target_") == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    loss = "l1" if stored is None else str(stored.objective.get("loss"))
    if loss not in LOSSES:
        raise InputError(f"the config of init={cfg.init} has objective.loss={loss}; known are {', '.join(LOSSES)}")
    drops, units = build_model.drops(config), []
    for size in sizes:
        cell = mask_cell(config.mask_stride, config.mim_target)
        units.append(mask_unit(made, size, config.stride, cell, drops))
        check_ratio(made, (size[0] // units[-1]) * (size[1] // units[-1]), drops)
    return Masking(build.mask_samplers(made, trusted_targets(cfg, overrides), drops)[0], tuple(units), loss)


def validation_batch(stored: DictConfig, images: int) -> int:
    """The size of a run's validation batches; says so where it validated on fewer images than these."""
    limit = whole(stored.loader, "val_limit", name="loader.val_limit")
    if limit < images:
        log.info("          of %s images the run validated on %s, so its own figures differ", f"{images:,}", limit)
    return whole(stored, "micro_batch", auto=64)
