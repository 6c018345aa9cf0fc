"""The masks under which a pretraining run was validated, for a task that looks at it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mimsuite.config.instantiate import current_config, trusted_targets
from mimsuite.errors import InputError
from mimsuite.models.load import drops_patches
from mimsuite.runs.folder import holds_run
from mimsuite.settings.combinations import NO_MASK, check_ratio, mask_cell
from mimsuite.settings.read import mask_unit, read_int
from mimsuite.words import LOSSES

if TYPE_CHECKING:
    from mimsuite.masked.samplers import MaskSampler

BATCH = 64  # images per forward pass, where no run says it


@dataclass(frozen=True)
class Masking:
    """What is hidden from a masked image model, and how its prediction is judged.

    Attributes:
        sampler: draws the masks.
        mask: what made it: a choice of `conf/mask` with its values.
        units: side of a mask unit in pixels, for each image size.
        loss: kind of the error.
        batch: images per forward pass; of a run as in its validation.
        note: all this in words.
    """

    sampler: MaskSampler
    mask: dict[str, Any]
    units: tuple[int, ...]
    loss: str
    batch: int
    note: str


def stored_config(init: str) -> DictConfig | None:
    """The config of the pretraining run that `init` names; None where it names weights alone."""
    if not holds_run(init):
        return None
    file = Path(init) / "config.yaml"
    try:
        stored = OmegaConf.load(file)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read ({said}); mend it, or use init={Path(init) / 'weights'}") from error
    if not isinstance(stored, DictConfig) or not {"mask", "objective", "micro_batch", "loader"} <= set(stored):
        return None
    return current_config(stored)


def masking_of(
    cfg: DictConfig, overrides: Sequence[str], config: Any, sizes: Sequence[tuple[int, int]], images: int
) -> Masking:
    """The masks of a run's validation, or those of `mask` where there is no run or the command line names a mask.

    Args:
        cfg: the task's config; read are `init`, `mask` and `trusted_targets`.
        overrides: the command line's `key=value` arguments.
        config: the model's config object.
        sizes: `(H, W)` pixels.
        images: how many will be looked at.

    Raises:
        InputError: masks that do not fit the images or the model, or that hide nothing.
    """
    stored, node, whose = stored_config(cfg.init), cfg.mask, "as the command line has it"
    keys = [o.lstrip("+~").partition("=")[0] for o in overrides]
    if stored is not None and "mask" not in keys:
        changed = {k.partition(".")[2]: OmegaConf.select(cfg, k) for k in keys if k.startswith("mask.")}
        node = OmegaConf.merge(stored.mask, changed)
        whose = f"as the run validated{' but for ' + ', '.join(changed) if changed else ''}"
    made = OmegaConf.create({"mask": node})
    if made.mask.get("_target_") == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    loss = "l1" if stored is None else str(stored.objective.get("loss"))
    if loss not in LOSSES:
        raise InputError(f"the config of init={cfg.init} has objective.loss={loss}; known are {', '.join(LOSSES)}")
    drops, units = drops_patches(config), []
    for size in sizes:
        cell = mask_cell(config.mask_stride, config.mim_target)
        units.append(mask_unit(made, size, config.stride, cell, drops))
        check_ratio(made, (size[0] // units[-1]) * (size[1] // units[-1]), drops)
    values = OmegaConf.to_container(made.mask, resolve=True)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    kind, ratio = str(plain["_target_"]).rpartition(".")[2], plain.get("ratio")
    note = f"{kind} of {ratio}, units of {', '.join(map(str, units))} px, {whose}"
    limit = images if stored is None else read_int(stored.loader, "val_limit", name="loader.val_limit")
    if limit < images:
        note += f"; it validated on {limit:,} images, these are {images:,}, so its own figures differ"
    from mimsuite.masked.samplers import make_samplers

    sampler = make_samplers(made.mask, trusted_targets(cfg, overrides), drops)[0]
    batch = BATCH if stored is None else read_int(stored, "micro_batch", auto=BATCH)
    return Masking(sampler, plain, tuple(units), loss, batch, note)
