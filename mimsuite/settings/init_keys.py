"""What `init_channels=` and `init_position=` make of the weights that `init=` names. Imports no torch."""

from __future__ import annotations

from omegaconf import DictConfig

from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.models.load import config_of
from mimsuite.settings.read import read, read_choice
from mimsuite.weights.channels import Statistics
from mimsuite.weights.init import Weights
from mimsuite.words import CHANNEL_RULES, POSITION_RULES, ChannelRule


def fit_weights(cfg: DictConfig, weights: Weights, index: DataIndex) -> Weights:
    """The weights for the channels of the data, and with the way in which their positions are resized.

    Args:
        cfg: read are `init_position` and `init_channels`.
        weights: what `init=` names.
        index: the data.

    Raises:
        InputError: an unknown word; other channels than the weights take, and no rule that leads there; a way to resize
            positions for an encoder that has none.
    """
    position = read_choice(cfg, "init_position", POSITION_RULES)
    if position != "bicubic" and config_of(weights).fixed_size is None:
        raise InputError(
            f"init_position={position}: init={weights.init} is a {weights.config.get('model_type')}, which has no "
            "table of positions; remove init_position="
        )
    return weights.fitted(position, read_channel_rule(cfg), index.channels, Statistics(index.mean, index.std))


def read_channel_rule(cfg: DictConfig) -> ChannelRule | None:
    """The value of `init_channels`; None for null."""
    return None if read(cfg, "init_channels") is None else read_choice(cfg, "init_channels", CHANNEL_RULES)


def refuse_init_keys(cfg: DictConfig) -> None:
    """Refuses keys that change weights where there are none.

    Raises:
        InputError: `init_channels` or `init_position` without `init`.
    """
    for key, unset in (("init_channels", None), ("init_position", "bicubic")):
        if (value := read(cfg, key)) != unset:
            raise InputError(
                f"{key}={value} changes the weights of init=, and there are none; remove it, or give init="
            )
