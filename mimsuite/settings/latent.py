"""What a latent objective asks for: teacher, layers, predictor, views, momentum. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite.data.folders import count_of
from mimsuite.encoders.predictor_config import PredictorConfig
from mimsuite.errors import InputError
from mimsuite.masked.geometry import Pair
from mimsuite.models.load import config_of
from mimsuite.settings.combinations import MAE_KEYS, is_latent
from mimsuite.settings.geometry import Geometry
from mimsuite.settings.read import is_int, is_number, read, read_choice, read_int, read_number, read_positive
from mimsuite.settings.resolve import with_values
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import COMBINES, MOMENTUM_SCHEDULES, PREDICTORS

__all__ = ["OF_LATENT", "LatentSettings", "is_latent", "read_latent", "with_mask_mode"]

EMA = "ema"
LONG_RUN, MOMENTA = 20_000, (0.99, 0.996)  # steps from which on a teacher may follow slowly; a short and a long run's
OF_LATENT = (
    *("teacher", "layers", "combine", "predictor", "views", "beta", "momentum", "momentum_schedule"),
    *("warm_start", "pixels"),
)
"""Keys of the objective that are read here, not handed on."""


@dataclass(frozen=True)
class FrozenTeacher:
    """A teacher that stays as it is.

    Attributes:
        weights: what `objective.teacher` names.
        config: of its encoder.
        image_size: `(H, W)` pixels of the images that it sees.
        note: how its map comes to the student's grid, in words.
    """

    weights: Weights
    config: EncoderConfig
    image_size: tuple[int, int]
    note: str


@dataclass(frozen=True)
class LatentSettings:
    """A latent objective, read and checked.

    Attributes:
        teacher: a frozen teacher; None for one that follows the student.
        layers: numbers of the teacher's blocks.
        predictor: what predicts their features.
        views: masks of each image.
        beta: of the smooth L1 loss.
        momentum: the share of itself that the teacher keeps in a step, at the first and at the last.
        momentum_schedule: how it gets from one to the other.
        pixels: weight of the loss of pixels.
        warm_steps: first steps that predict pixels alone.
        notes: `key=value (reason)` for every value that was chosen here.
        resolved: the keys that were `auto`, with the values chosen.
    """

    teacher: FrozenTeacher | None
    layers: tuple[int, ...]
    predictor: PredictorConfig
    views: int
    beta: float
    momentum: tuple[float, float]
    momentum_schedule: str
    pixels: float
    warm_steps: int
    notes: tuple[str, ...]
    resolved: dict[str, Any]

    def describe(self, loss: str) -> str:
        """In one line."""
        made, p = self.predictor.combine, self.predictor
        blocks = f"block {self.layers[0]}" if len(self.layers) == 1 else f"the {made} of blocks {list(self.layers)}"
        whose = "a teacher that follows" if self.teacher is None else f"the teacher {self.teacher.weights.init}"
        return (
            f"{loss} of the features of {whose} ({blocks}), {self.views} masks of each image; predictor {p.kind}, "
            f"{p.num_hidden_layers} blocks of width {p.hidden_size}"
        )


def with_mask_mode(cfg: DictConfig, config: EncoderConfig) -> DictConfig:
    """A copy of the config in which `objective.mask_mode=auto` is decided; a config of another objective as it is."""
    if not is_latent(cfg) or read(cfg, "objective.mask_mode") != "auto":
        return cfg
    return with_values(cfg, {"objective.mask_mode": "drop" if config.can_drop else "replace"})


def read_latent(
    cfg: DictConfig, config: EncoderConfig, geometry: Geometry, steps: int, trusted: Sequence[str]
) -> LatentSettings:
    """Reads and checks the keys of a latent objective.

    Args:
        cfg: read are `objective` and `head`.
        config: the student's, at the run's image size.
        geometry: sizes of the run.
        steps: of the run.
        trusted: classes of the user's own that configs may name.

    Raises:
        InputError: a value that the objective, the student or the teacher does not take.
    """
    given = str(read(cfg, "objective.teacher"))
    frozen = None if given == EMA else read_teacher(given, config, geometry.image_size, trusted)
    shown = config if frozen is None else frozen.config
    if not shown.num_features:
        raise InputError(
            f"objective=latent: the config of a {shown.model_type} has no num_features, the width of what is "
            "predicted; add it as docs/extending.md says, or use another objective="
        )
    layers = read_layers(cfg, shown)
    combine = read_choice(cfg, "objective.combine", COMBINES)
    kind = read_kind(cfg, geometry.drops)
    pixels = read_number(cfg, "objective.pixels", use="0.1, say, or 0 for none")
    warm = read_number(cfg, "objective.warm_start", below=1, use="0.05, or 0 for none")
    start, end = read_momentum(cfg, steps)
    sizes = {key: read_int(cfg, f"head.{key}") for key in MAE_KEYS}
    predictor = PredictorConfig(
        kind=kind,
        **sizes,
        features=shown.num_features * (len(layers) if combine == "stack" else 1),
        layers=layers,
        combine=combine,
        pixels=pixels > 0 or warm > 0,
    )
    why = "may rise in a sound run" if frozen is None else "says how near the teacher is"
    notes = [f"the loss {why} and selects nothing: judge the features by the online probe"]
    asked = read(cfg, "objective.momentum")
    if frozen is not None:
        notes.append(frozen.note)
        notes += [] if asked == "auto" else [f"objective.momentum={asked} is not used: the teacher stays as it is"]
    elif asked == "auto":
        reason = f"a run of at least {LONG_RUN:,} steps" if steps >= LONG_RUN else f"less than {LONG_RUN:,} steps"
        notes.append(f"objective.momentum={start} (rises to {end}; {reason})")
    return LatentSettings(
        teacher=frozen,
        layers=layers,
        predictor=predictor,
        views=read_int(cfg, "objective.views"),
        beta=read_positive(cfg, "objective.beta"),
        momentum=(start, end),
        momentum_schedule=read_choice(cfg, "objective.momentum_schedule", MOMENTUM_SCHEDULES),
        pixels=pixels,
        warm_steps=round(warm * steps),
        notes=tuple(notes),
        resolved={
            "objective.teacher": str(Path(given).absolute()) if frozen and Path(given).exists() else given,
            "objective.layers": list(layers),
            "objective.predictor": kind,
            "objective.momentum": asked if frozen else start if end == 1.0 else [start, end],
        },
    )


def read_teacher(given: str, config: EncoderConfig, image_size: Pair, trusted: Sequence[str]) -> FrozenTeacher:
    """A teacher that stays as it is.

    Args:
        given: what `objective.teacher` names.
        config: the student's, for the images' channels.
        image_size: `(H, W)` pixels of what the student sees.
        trusted: classes of the user's own that its config may name.

    Raises:
        InputError: no such weights, or weights for another number of channels.
    """
    try:
        weights = find_weights(given).trusting(trusted)
    except InputError as error:
        raise InputError(str(error).replace("init=", "objective.teacher=")) from error
    own = config_of(weights)
    if own.num_channels != config.num_channels:
        raise InputError(
            f"objective.teacher={given} takes {count_of(own.num_channels, 'channel')} but the images have "
            f"{config.num_channels}; use another teacher, or objective.teacher=ema"
        )
    grid = tuple(side // cell for side, cell in zip(image_size, config.stride, strict=True))
    size = (grid[0] * own.stride[0], grid[1] * own.stride[1])
    if takes_size(own, size):
        note = f"objective.teacher sees images of {size[0]}x{size[1]} px: its grid is then the student's"
        return FrozenTeacher(weights, own, size, note)
    native = own.fixed_size or image_size
    note = (
        f"objective.teacher takes images of {native[0]}x{native[1]} px only: its map is resized (bilinearly) to the "
        f"student's {grid[0]}x{grid[1]} cells"
    )
    return FrozenTeacher(weights, own, native, note)


def takes_size(config: EncoderConfig, size: tuple[int, int]) -> bool:
    """Whether an encoder takes images of `(H, W)` pixels."""
    if config.fixed_grid:
        return config.fixed_size == size
    try:
        config.with_image_size(size).check_fit()
    except InputError:
        return False
    return True


def read_layers(cfg: DictConfig, config: EncoderConfig) -> tuple[int, ...]:
    """Numbers of the teacher's blocks, in order.

    Raises:
        InputError: blocks that there are not, or whose maps are not those of the last block.
    """
    value, own = read(cfg, "objective.layers"), config.latent_blocks
    if value == "auto":
        return tuple(own)
    numbers = value if isinstance(value, list) else [value]
    allowed = config.alike_blocks
    if not numbers or not all(is_int(n) and n in allowed for n in numbers) or len(set(numbers)) < len(numbers):
        raise InputError(
            f"objective.layers={value}: the teacher's blocks with maps like its last one's are {allowed[0]} to "
            f"{allowed[-1]}; give some of them, or auto ({', '.join(map(str, own))})"
        )
    return tuple(sorted(numbers))


def read_kind(cfg: DictConfig, drops: bool) -> str:
    """The kind of predictor; a transformer where the encoder drops hidden patches, by default."""
    if read(cfg, "objective.predictor") == "auto":
        return "transformer" if drops else "conv"
    return read_choice(cfg, "objective.predictor", PREDICTORS)


def read_momentum(cfg: DictConfig, steps: int) -> tuple[float, float]:
    """The share of itself that the teacher keeps in the first and in the last step.

    Raises:
        InputError: not one or two numbers from 0 to 1.
    """
    value = read(cfg, "objective.momentum")
    if value == "auto":
        return MOMENTA[steps >= LONG_RUN], 1.0
    values = value if isinstance(value, list) else [value, 1.0]
    if len(values) != 2 or not all(is_number(v) and 0 <= v <= 1 for v in values):
        raise InputError(
            f"objective.momentum={value} is not a share from 0 to 1; use 0.996, which rises to 1, two such as "
            "[0.999,0.9999], or auto"
        )
    return float(values[0]), float(values[1])
