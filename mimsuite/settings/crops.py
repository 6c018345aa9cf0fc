"""Where training pictures are resized and mirrored: `augment.device`, read and checked. Imports no torch."""

from __future__ import annotations

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.objects import Objects
from mimsuite.settings.read import read, read_choice
from mimsuite.words import CROP_DEVICES

OFF = {"rand_augment": None, "erasing": 0}  # what the loader alone can do, and the value for not doing it
OF_THE_LOADER = ("device",)  # keys of the group augment that are read, not handed on


def read_crops_on_device(cfg: DictConfig, objects: Objects) -> bool:
    """Whether the device of the run makes training pictures; an augmentation without this key leaves none to it.

    Raises:
        InputError: neither cpu nor gpu; gpu with an augmentation that does more than crop and mirror.
    """
    augment = cfg.get("augment") or {}
    if "device" not in augment or read_choice(cfg, "augment.device", CROP_DEVICES) == "cpu":
        return False
    more = [f"augment.{key}={read(cfg, f'augment.{key}')}" for key, off in OFF.items() if augment.get(key, off) != off]
    more += ["an augmentation of your own"] if objects.augment is not None else []
    if more:
        raise InputError(
            f"augment.device=gpu only crops and mirrors, and would leave out {more[0]}; use augment.device=cpu, or "
            "remove it"
        )
    return True
