"""Which encoder, objective, head, mask and target go together; a misfit is refused by name. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite.errors import InputError
from mimsuite.geometry import Pair, hidden_units
from mimsuite.settings import check_choice

LOSSES = ("l1", "mse", "smooth_l1")
TARGETS = ("pixels", "norm_pixels", "hog")
MASK_MODES = ("replace", "drop")
HOG_CELL = 8  # pixels
SIMMIM_HEAD, MAE_HEAD = "mimsuite.heads.simmim.SimMIMHead", "mimsuite.heads.mae.MAEDecoder"
NO_MASK = "mimsuite.masking.NoMask"


def check_combination(cfg: DictConfig, config: Any) -> None:
    """Checks everything but sizes.

    Args:
        cfg: the task's config; read are `objective`, `head`, `mask`.
        config: the model's config object.

    Raises:
        InputError: parts that do not go together; the message names some that do.
    """
    check_choice(cfg, "objective.loss", LOSSES)
    target = check_choice(cfg, "objective.target", TARGETS)
    drops = check_choice(cfg, "objective.mask_mode", MASK_MODES) == "drop"
    family, head = config.model_type, str(cfg.head.get("_target_"))
    if drops and family != "vit":
        raise InputError(
            f"objective.mask_mode=drop (objective=mae) leaves hidden patches out, which a {family} cannot: its "
            "convolutions need whole maps; use objective=simmim, or a ViT"
        )
    if drops and head != MAE_HEAD:
        raise InputError(
            f"head {head} cannot fill the places of dropped patches (objective=mae); use head=dec8 or head=dec1"
        )
    if not drops and head == MAE_HEAD:
        raise InputError(
            f"head {head} is for dropped patches, and objective=simmim replaces them; use head=simmim or objective=mae"
        )
    if drops and config.use_shared_relative_position_bias:
        raise InputError(
            "model.use_shared_relative_position_bias=true knows whole grids of patches only, and objective=mae drops "
            "some; use model.use_shared_relative_position_bias=false model.use_absolute_position_embeddings=true, or "
            "objective=simmim"
        )
    if cfg.mask.get("_target_") == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    if target == "hog" and any(side % HOG_CELL for side in config.stride):
        fix = "model.patch_size=8" if family == "vit" else "a model with a larger stride"
        raise InputError(
            f"objective.target=hog has cells of {HOG_CELL} pixels, of which the model's stride "
            f"{config.stride[0]}x{config.stride[1]} is no multiple; use {fix}, or objective.target=pixels"
        )


def mask_cell(mask_stride: Pair, target: str) -> Pair:
    """`(h, w)` pixels that divide every mask unit: the encoder's finest cell, and HOG's where it is used."""
    step = HOG_CELL if target == "hog" else 1
    return math.lcm(mask_stride[0], step), math.lcm(mask_stride[1], step)


def check_ratio(cfg: DictConfig, units: int, drops: bool) -> tuple[int, int]:
    """Checks `mask.ratio` and tells how many of `units` a mask hides at least and at most.

    A number, or in `[low, high]` a range; where hidden patches are dropped a list is one of choices.

    Raises:
        InputError: a value that is no share, or masks that leave nothing to see where patches are dropped.
    """
    ratio = cfg.mask.get("ratio")
    if ratio is None:
        return 0, 0
    values = list(ratio) if isinstance(ratio, ListConfig) else [ratio]
    numbers = bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or not all(0 < v <= 1 for v in values):
        raise InputError(f"mask.ratio={plain(ratio)} is not in (0, 1]; SimMIM uses mask.ratio=0.6, MAE mask.ratio=0.75")
    if not drops and len(values) > 1 and (len(values) != 2 or values[0] > values[1]):
        raise InputError(f"mask.ratio={plain(ratio)} is no range; use mask.ratio=[low,high], such as [0.4,0.8]")
    counts = [hidden_units(units, v) for v in values]
    if drops and max(counts) == units:
        most = (units - 1) / units
        raise InputError(
            f"mask.ratio={plain(ratio)} hides all {units} units of an image, and objective=mae needs one to see; "
            f"use mask.ratio={math.floor(most * 1000) / 1000:g} or less"
        )
    return min(counts), max(counts)


def plain(value: Any) -> Any:
    """A config value as it prints: lists without OmegaConf's wrapper."""
    return OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
