"""How a Trainer computes: the keys of the group `trainer` that are not Lightning's, and `optim.master_weights`."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from mimsuite.errors import InputError
from mimsuite.settings.latent import EMA, is_latent
from mimsuite.settings.read import is_number, read, read_choice, read_flag
from mimsuite.words import STRATEGIES, Strategy

OF_THE_TRAINER = (
    *("clip", "accelerator", "num_nodes", "compile"),
    *("strategy", "checkpoint_activations", "sync_batchnorm"),
)
"""Keys that are read, not handed on."""
WITH_FSDP = ("auto", "32-true", "bf16-mixed", "bf16-true")
"""Precisions of weights that are spread: float16 needs a factor on the loss, which torch does not offer for them."""


@dataclass(frozen=True)
class Spreading:
    """How several devices share the work, and what each keeps.

    Attributes:
        strategy: whether each has all weights ("ddp") or a part of them ("fsdp"); "auto" is "ddp".
        checkpoint_activations: whether blocks are computed again in the backward pass.
        sync_batchnorm: whether BatchNorm's statistics are those of all devices.
    """

    strategy: Strategy = "auto"
    checkpoint_activations: bool = False
    sync_batchnorm: bool = False

    @property
    def spreads_weights(self) -> bool:
        """Whether several processes have a part of the weights each."""
        return self.strategy == "fsdp"


def read_spreading(cfg: DictConfig, precision: str, master_weights: bool) -> Spreading:
    """Reads it; runs from before these keys, and groups of a user's own, have none of them.

    Raises:
        InputError: a word that is not known, or values that do not work together.
    """
    flags = [
        name in cfg.trainer and read_flag(cfg, f"trainer.{name}")
        for name in ("checkpoint_activations", "sync_batchnorm")
    ]
    found = Spreading(read_choice(cfg, "trainer.strategy", STRATEGIES) if "strategy" in cfg.trainer else "auto", *flags)
    if not found.spreads_weights:
        return found
    if master_weights:
        raise InputError(
            "trainer.strategy=fsdp spreads weights in one type, optim.master_weights=true has two of them; use "
            "trainer.strategy=ddp, or optim.master_weights=false"
        )
    if precision not in WITH_FSDP:
        raise InputError(
            f"trainer.strategy=fsdp does not work with precision={precision}; use trainer.strategy=ddp, or one of "
            f"precision={', '.join(WITH_FSDP)}"
        )
    return found


def check_followers(cfg: DictConfig, precision: str) -> None:
    """Refuses weights in bfloat16 where others follow them: a thousandth of a difference is lost in such a sum.

    Args:
        cfg: read are `objective.ema`, which some objectives have, and `objective.teacher` of a latent one.
        precision: Lightning's name.

    Raises:
        InputError: averaged weights or a teacher would hardly move.
    """
    ema = OmegaConf.select(cfg, "objective.ema")
    followers = {f"objective.teacher={EMA}": is_latent(cfg) and read(cfg, "objective.teacher") == EMA}
    followers[f"objective.ema={ema}"] = ema is not None
    for key in (key for key, follows in followers.items() if follows and precision == "bf16-true"):
        raise InputError(
            f"{key} follows the weights in steps that are too small for bfloat16, in which precision=bf16-true keeps "
            "them all; use precision=bf16-mixed"
        )


def read_clip(cfg: DictConfig) -> float | None:
    """The largest global gradient norm.

    Raises:
        InputError: neither a number above 0 nor null.
    """
    value = read(cfg, "trainer.clip")
    if value is not None and (not is_number(value) or value <= 0):
        raise InputError(f"trainer.clip={value} is not a number above 0; use 5.0, or null for no clipping")
    return None if value is None else float(value)


def read_compile(cfg: DictConfig) -> bool | None:
    """Whether blocks are compiled; None for auto. Runs from before this key were not compiled.

    Raises:
        InputError: neither true, false nor auto.
    """
    value = read(cfg, "trainer.compile") if "compile" in cfg.trainer else False
    if value != "auto" and not isinstance(value, bool):
        raise InputError(f"trainer.compile={value} is unknown; trainer.compile takes auto, true, false")
    return None if value == "auto" else value


def read_master_weights(cfg: DictConfig, precision: str) -> bool:
    """Whether weights are in bfloat16 beside float32 originals; runs from before this key, and own groups, have none.

    Raises:
        InputError: another precision was given.
    """
    wanted = "master_weights" in cfg.optim and read_flag(cfg, "optim.master_weights")
    if wanted and precision not in ("auto", "bf16-mixed"):
        raise InputError(
            f"optim.master_weights=true keeps weights in bfloat16, which precision={precision} does not; use "
            "precision=bf16-mixed, or optim.master_weights=false"
        )
    return wanted
