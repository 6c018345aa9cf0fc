"""Which encoder, objective, head, mask and target go together; a misfit is refused by name. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite.errors import InputError
from mimsuite.masked.geometry import HOG_CELL, Pair, around, hidden_units
from mimsuite.settings.read import read_choice, read_int
from mimsuite.words import LOSSES, MASK_MODES, TARGETS

SIMMIM_HEAD, MAE_HEAD = "mimsuite.heads.simmim.SimMIMHead", "mimsuite.heads.mae.MAEDecoder"
NO_MASK = "mimsuite.masked.samplers.NoMask"
MAE_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
HEAD_KEYS: dict[str, tuple[str, ...]] = {SIMMIM_HEAD: (), MAE_HEAD: MAE_KEYS}


def check_combination(cfg: DictConfig, config: Any) -> None:
    """Checks everything but sizes.

    Args:
        cfg: the task's config; read are `objective`, `head`, `mask`.
        config: the model's config object.

    Raises:
        InputError: parts that do not go together; the message names some that do.
    """
    read_choice(cfg, "objective.loss", LOSSES)
    target = read_choice(cfg, "objective.target", TARGETS)
    drops = read_choice(cfg, "objective.mask_mode", MASK_MODES) == "drop"
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
            f"head {head} is for dropped patches, and objective.mask_mode=replace keeps them; use head=simmim, or "
            "objective=mae with objective.mask_mode=drop"
        )
    check_head(cfg.head, HEAD_KEYS.get(head))
    if drops and config.use_shared_relative_position_bias:
        positions = "" if config.use_absolute_position_embeddings else " model.use_absolute_position_embeddings=true"
        raise InputError(
            "model.use_shared_relative_position_bias=true knows whole grids of patches only, and objective=mae drops "
            f"some; use model.use_shared_relative_position_bias=false{positions}, or objective=simmim"
        )
    if cfg.mask.get("_target_") == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    if target == "hog":
        check_hog(cfg, family, config.stride)


def check_head(head: DictConfig, keys: tuple[str, ...] | None) -> None:
    """Checks that the head has the keys that are set, and that heads of attention divide the decoder's width.

    Args:
        head: the group's config.
        keys: what the head takes; None: a head of the user's own, which speaks for itself.

    Raises:
        InputError: an unknown key, or a value of the wrong kind.
    """
    if keys is None:
        return
    for key in (str(name) for name in head if not str(name).startswith("_")):
        if key not in keys:
            takes = ", ".join(keys) or "no keys"
            raise InputError(f"head.{key} is unknown; {head._target_} takes {takes}; leave head.{key} out")
    if not keys:
        return
    width, _, heads, _ = (read_int(head, key, name=f"head.{key}") for key in keys)
    if width % heads or width % 4:
        fits = " or ".join(str(size) for size in around(width, math.lcm(heads, 4)))
        raise InputError(
            f"head.hidden_size={width} is not a multiple of 4 and of head.num_attention_heads={heads}; "
            f"use head.hidden_size={fits}"
        )


def check_hog(cfg: DictConfig, family: str, stride: Pair) -> None:
    """Checks that the model's cells, and the mask's units where they are given, are whole cells of HOG."""
    if any(side % HOG_CELL for side in stride):
        fix = "model.patch_size=8" if family == "vit" else "a model with a larger stride"
        raise InputError(
            f"objective.target=hog has cells of {HOG_CELL} pixels, of which the model's stride "
            f"{stride[0]}x{stride[1]} is no multiple; use {fix}, or objective.target=pixels"
        )
    unit = cfg.mask.unit
    if isinstance(unit, int) and unit % HOG_CELL:
        raise InputError(
            f"objective.target=hog has cells of {HOG_CELL} pixels, of which mask.unit={unit} is no multiple; "
            "use mask.unit=auto"
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
    if "ratio" not in cfg.mask:
        return 0, 0
    ratio = cfg.mask.ratio
    listed = isinstance(ratio, ListConfig)
    values = list(ratio) if listed else [ratio]
    numbers = bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or not all(0 < v <= 1 for v in values):
        uses = "MAE uses mask.ratio=0.75" if drops else "SimMIM uses mask.ratio=0.6"
        raise InputError(f"mask.ratio={plain(ratio)} is not in (0, 1]; {uses}")
    if listed and not drops and (len(values) != 2 or values[0] > values[1]):
        raise InputError(f"mask.ratio={plain(ratio)} is no range; use low and high, such as mask.ratio=[0.4,0.8]")
    counts = [hidden_units(units, v) for v in values]
    if drops and max(counts) == units:
        most = math.floor((units - 1) / units * 1000) / 1000
        fix = f"mask.ratio={most:g} or less" if units > 1 else "mask.unit=auto, or a larger image_size"
        raise InputError(
            f"mask.ratio={plain(ratio)} hides all {units} units of an image, and objective=mae needs one to see; "
            f"use {fix}"
        )
    return min(counts), max(counts)


def plain(value: Any) -> Any:
    """A config value as it prints: lists without OmegaConf's wrapper."""
    return OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
