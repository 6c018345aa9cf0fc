"""Which masks a masked image model is evaluated under: those of its run's validation, or those of `mask`.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import current_name, trusted_targets
from mimsuite.errors import InputError
from mimsuite.settings.combinations import NO_MASK
from mimsuite.settings.hiding import fitted_unit
from mimsuite.settings.past_run import loss_of, pretraining_config
from mimsuite.settings.read import read, read_int
from mimsuite.settings.resolve import plain_values
from mimsuite.types import EncoderConfig

BATCH = 64  # images per forward pass, where no run names a number


@dataclass(frozen=True)
class Masking:
    """What is hidden from a masked image model, and how its prediction is scored.

    Attributes:
        node: a choice of `conf/mask` with its values, as plain values.
        trusted: further targets that it may name.
        drops: whether the encoder drops hidden patches.
        units: side of a mask unit in pixels, for each image size.
        loss: name of the error.
        batch: images per forward pass; of a run as in its validation.
        note: all this in words.
    """

    node: dict[str, Any]
    trusted: tuple[str, ...]
    drops: bool
    units: tuple[int, ...]
    loss: str
    batch: int
    note: str


def read_masking(
    cfg: DictConfig, overrides: Sequence[str], config: EncoderConfig, sizes: Sequence[tuple[int, int]], images: int
) -> Masking:
    """The masks of a run's validation, or those of `mask` where there is no run or the command line names a mask.

    Args:
        cfg: the task's config; read are `init`, `mask` and `trusted_targets`.
        overrides: the command line's `key=value` arguments.
        config: the model's config object.
        sizes: `(H, W)` pixels.
        images: how many will be evaluated.

    Raises:
        InputError: masks that do not fit the images or the model, or that hide nothing.
    """
    init = str(read(cfg, "init"))
    stored = pretraining_config(init)
    node, origin = chosen_masks(cfg, overrides, stored)
    if current_name(str(node.get("_target_"))) == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    loss = loss_of(stored, init)
    units = tuple(fitted_unit(node, config, size) for size in sizes)
    plain = plain_values(OmegaConf.create({"mask": node}))["mask"]
    name, ratio = str(plain["_target_"]).rpartition(".")[2], plain.get("ratio")
    share = "" if ratio is None else f" of {ratio}"
    note = f"{name}{share}, units of {', '.join(map(str, units))} px, {origin}"
    limit = images if stored is None else read_int(stored, "loader.val_limit")
    if limit < images:
        note += f"; it validated on {limit:,} images, these are {images:,}, so its own metrics differ"
    batch = BATCH if stored is None else read_int(stored, "micro_batch", auto=BATCH)
    return Masking(plain, trusted_targets(cfg, overrides), config.drops_patches, units, loss, batch, note)


def chosen_masks(cfg: DictConfig, overrides: Sequence[str], stored: DictConfig | None) -> tuple[DictConfig, str]:
    """The node of the masks, and where it comes from, in words."""
    keys = [o.lstrip("+~").partition("=")[0] for o in overrides]
    if stored is None or "mask" in keys:
        return cfg.mask, "as the command line has it"
    changed = {k.partition(".")[2]: OmegaConf.select(cfg, k) for k in keys if k.startswith("mask.")}
    merged = OmegaConf.merge(stored.mask, changed)
    assert isinstance(merged, DictConfig)
    return merged, f"as the run validated{' but for ' + ', '.join(changed) if changed else ''}"
