"""What `reconstruct` reads: one sheet, several settings of masks side by side, or an animation. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import current_name, trusted_targets
from mimsuite.errors import InputError
from mimsuite.settings.channels import read_channels
from mimsuite.settings.hiding import MaskChoice, MaskedModel, choose_mask, load_mask, mask_names, read_masked_model
from mimsuite.settings.outputs import check_file, check_outside, holds_run
from mimsuite.settings.read import is_number, read, read_flag, read_int, read_text

MOST_SETTINGS = 12  # on one sheet
STEP = re.compile(r"step_(\d+)\.png")
NOT_OF_A_GIF = ("images", "seed", "image_size", "mode", "mask", "masks", "ratios", "csv", "channels_shown")


@dataclass(frozen=True)
class ReconstructSettings:
    """A sheet of reconstructions.

    Attributes:
        model: the model.
        images: a file, a folder or a data set; None for the embedded one.
        count: images, at most.
        out: the picture.
        table: a CSV file beside it; None for none.
        seed: decides the masks.
        mode: how predictions become pictures.
        channels: three channel numbers to show, or "pca"; None for the first three.
        masks: ways to hide parts of the images.
        compared: whether the user gave lists of masks or ratios, to be drawn side by side.
        trusted: further targets that a mask may name.
    """

    model: MaskedModel
    images: str | None
    count: int
    out: Path
    table: Path | None
    seed: int
    mode: str
    channels: list[int] | str | None
    masks: tuple[MaskChoice, ...]
    compared: bool
    trusted: tuple[str, ...]


@dataclass(frozen=True)
class AnimationSettings:
    """An animation of the pictures that a run wrote while it trained.

    Attributes:
        out: the GIF.
        frames: step -> picture, in order.
        rows: of each picture, at most; None for all.
    """

    out: Path
    frames: Mapping[int, Path]
    rows: int | None


def read_reconstruct(cfg: DictConfig, overrides: Sequence[str]) -> ReconstructSettings | AnimationSettings:
    """Reads and checks every key.

    Raises:
        InputError: a value that is wrong, contradicts another, or does not fit the model; a file that may not be
            written.
    """
    if read_flag(cfg, "gif"):
        return read_animation(cfg, overrides)
    overwrite, seed = read_flag(cfg, "overwrite"), read_int(cfg, "seed", least=0)
    out, table, images = read_picture(cfg, overwrite=overwrite), read_text(cfg, "csv"), read_text(cfg, "images")
    check_outside(out, images, "images")
    trusted, nodes = trusted_targets(cfg, overrides), read_masks(cfg, overrides)
    count, shown = read_int(cfg, "count"), read(cfg, "channels_shown")
    model = read_masked_model(str(read(cfg, "init")), read(cfg, "image_size"), trusted)
    return ReconstructSettings(
        model=model,
        images=images,
        count=count,
        out=out,
        table=None if table is None else check_file("csv", table, (".csv",), overwrite=overwrite),
        seed=seed,
        mode=model.choose_mode(str(read(cfg, "mode"))),
        channels=read_channels(shown, model.config.num_channels, model.weights.bands),
        masks=tuple(fitted(name, node, model, listed=cfg.ratios is not None) for name, node in nodes),
        compared=cfg.ratios is not None or cfg.masks is not None,
        trusted=trusted,
    )


def read_picture(cfg: DictConfig, *, overwrite: bool) -> Path:
    """Where the sheet goes.

    Raises:
        InputError: it may not be written there; a GIF is explained.
    """
    out = str(read(cfg, "out"))
    if Path(out).suffix.lower() == ".gif":
        raise InputError(f"out={out} is a GIF, which gif=true makes of a run's pictures; add gif=true or use a .png")
    return check_file("out", out, (".png",), overwrite=overwrite)


def read_masks(cfg: DictConfig, overrides: Sequence[str]) -> list[tuple[str, DictConfig]]:
    """Name and config of the mask; or one for each of `masks`, each of `ratios`, or both.

    Raises:
        InputError: wrong values, values that contradict each other, or too many for one sheet.
    """
    given = [override.lstrip("+~") for override in overrides]
    if cfg.masks is None:
        named = {name_of_mask(cfg.mask): cfg.mask}
    else:
        of_mask = (o for o in given if o.startswith(("mask=", "mask.")) and not o.startswith("mask.unit="))
        refuse_keys(of_mask, "masks=", " (ratios=[0.3,0.6] goes with masks=)")
        named = {name: load_mask(name, "masks") for name in read_several(cfg, "masks", "masks=[random,block]")}
    ratios: list[Any] = [None]
    if cfg.ratios is not None:
        refuse_keys((o for o in given if o.startswith("mask.ratio=")), "ratios=")
        ratios = read_ratios(cfg, named)
    if (count := len(named) * len(ratios)) > MOST_SETTINGS:
        raise InputError(f"masks= and ratios= make {count} settings, and a sheet holds {MOST_SETTINGS}; remove some")
    unit = {"unit": cfg.mask.unit}
    values = [unit if ratio is None else unit | {"ratio": ratio} for ratio in ratios]
    return [(name, DictConfig(OmegaConf.merge(node, value))) for name, node in named.items() for value in values]


def refuse_keys(overrides: Iterable[str], key: str, hint: str = "") -> None:
    """Refuses the first of some arguments, which contradict a key."""
    if other := next(iter(overrides), None):
        raise InputError(f"{other} and {key} contradict each other; remove one{hint}")


def read_ratios(cfg: DictConfig, named: Mapping[str, DictConfig]) -> list[Any]:
    """The shares that `ratios` lists.

    Raises:
        InputError: a value that is not a share, or a mask without a ratio.
    """
    ratios = read_several(cfg, "ratios", "ratios=[0.3,0.6,0.9]")
    if wrong := [ratio for ratio in ratios if not is_number(ratio) or not 0 < ratio <= 1]:
        raise InputError(f"ratios: {wrong[0]} is not in (0, 1]; use ratios=[0.3,0.6,0.9]")
    if bare := next((name for name, node in named.items() if "ratio" not in node), None):
        raise InputError(f"mask {bare} has no ratio that ratios= could set; remove {bare} or ratios=")
    return ratios


def read_several(cfg: DictConfig, key: str, example: str) -> list[Any]:
    """A key's values, different from each other; a single one is a list of one.

    Raises:
        InputError: none, or one of them twice.
    """
    value = read(cfg, key)
    values = value if isinstance(value, list) else [value]
    if not values or len(set(map(str, values))) < len(values):
        raise InputError(f"{key}={values} is empty or names a value twice; use different ones, such as {example}")
    return values


def fitted(name: str, node: DictConfig, model: MaskedModel, *, listed: bool) -> MaskChoice:
    """A mask that fits the model; an error names the key that the user gave."""
    try:
        return choose_mask(name, node, model)
    except InputError as error:
        raise InputError(str(error).replace("mask.ratio", "ratios") if listed else str(error)) from error


def name_of_mask(mask: DictConfig) -> str:
    """The choice of `conf/mask` that a node is of; the name of its class where it is of none."""
    target = current_name(str(mask._target_))
    own = next((name for name in mask_names() if load_mask(name, "mask")._target_ == target), None)
    return own or target.rpartition(".")[2]


def read_animation(cfg: DictConfig, overrides: Sequence[str]) -> AnimationSettings:
    """Finds the pictures that a run wrote while it trained: the same images under the same masks.

    Raises:
        InputError: `init` is not a run folder or holds no pictures, or a key is given that cannot change them.
    """
    out = check_file("out", str(read(cfg, "out")), (".gif",), overwrite=read_flag(cfg, "overwrite"))
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if other := next((key for key in keys if key.partition(".")[0] in NOT_OF_A_GIF), None):
        raise InputError(
            f"gif=true shows the pictures that the run wrote; {other}= cannot change them; remove {other}="
        )
    init = str(read(cfg, "init"))
    if not holds_run(init):
        raise InputError(
            f"init={init} is not a run folder, and gif=true shows the pictures that a run wrote; use a run folder, or "
            "gif=false"
        )
    paths = (Path(init) / "pictures").glob("*")
    frames = {int(match[1]): path for path in paths if (match := STEP.fullmatch(path.name))}
    if not frames:
        raise InputError(f"init={init} holds no pictures/step_*.png yet; use gif=false, which draws the run as it is")
    return AnimationSettings(out, dict(sorted(frames.items())), read_int(cfg, "count") if "count" in keys else None)
