"""`mimsuite reconstruct`: a picture of original, masked input, prediction, paste and error."""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite import app
from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import trusted_targets
from mimsuite.errors import InputError
from mimsuite.masked.modes import choose_mode
from mimsuite.pictures.saving import save_animation
from mimsuite.pictures.scene import Scene, known_mask
from mimsuite.runs.folder import check_picture, holds_run, speak
from mimsuite.settings.channels import check_channels
from mimsuite.settings.combinations import check_ratio, plain
from mimsuite.settings.read import read_flag, read_int

if TYPE_CHECKING:
    from mimsuite.pictures.reconstruction import Reconstruction

log = logging.getLogger("mimsuite")

MOST_SETTINGS = 12  # on one sheet
STEP = re.compile(r"step_(\d+)\.png")
NOT_OF_A_GIF = ("images", "count", "seed", "image_size", "mode", "mask", "masks", "ratios", "csv", "channels_shown")


@dataclass(frozen=True)
class Setting:
    """One way to hide parts of all images.

    Attributes:
        kind: name of the mask in `conf/mask`.
        ratio: the share to hide; None where it is a range or nothing.
        cfg: `mask` alone, as a task's config has it.
    """

    kind: str
    ratio: float | None
    cfg: DictConfig

    @property
    def name(self) -> str:
        """What stands above its columns."""
        return self.kind if self.ratio is None else f"{self.kind} {self.ratio:g}"


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Draws one sheet, or with `gif` an animation of the sheets that a run wrote.

    Returns:
        The masked loss (L1) and, of pixels, the mean PSNR; with `ratios` or `masks` a list of these, one per setting;
        with `gif` the steps of the frames.
    """
    speak()
    overwrite = read_flag(cfg, "overwrite")
    if read_flag(cfg, "gif"):
        return animate(cfg, overrides, overwrite=overwrite)
    out = check_sheet(cfg.out, overwrite=overwrite)
    table = None if cfg.csv is None else check_file("csv", cfg.csv, ".csv", overwrite=overwrite)
    seed = read_int(cfg, "seed", least=0)
    trusted = trusted_targets(cfg, overrides)
    settings = mask_settings(cfg, overrides)
    scene = Scene(cfg.init, cfg.images, count=cfg.count, image_size=plain(cfg.image_size))
    channels = plain(cfg.channels_shown)
    if channels is not None:
        check_channels(channels, scene.config.num_channels)
    mode = choose_mode(scene.config.mim_target, str(cfg.mode))
    grid = scene.grid(cfg)
    for setting in settings:
        check_share(setting, grid[0] * grid[1], scene.drops, listed=cfg.ratios is not None)
    from mimsuite.masked.samplers import make_samplers

    samplers = [make_samplers(setting.cfg.mask, trusted, scene.drops)[0] for setting in settings]
    results = scene.show(scene.masks(samplers, grid, seed), mode=mode, channels=channels)
    by_name = {setting.name: result for setting, result in zip(settings, results, strict=True)}
    compared = cfg.ratios is not None or cfg.masks is not None
    save_sheet(out, by_name, scene.title, compared=compared)
    if table is not None:
        write_csv(table, scene.names, settings, results)
    for name, result in by_name.items():
        text = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures(result).items())
        log.info("%s%s over %d images", f"{name}: " if compared else "", text, len(scene.names))
    log.info("picture in %s%s", out, f", table in {table}" if table else "")
    return summary(settings, results, compared=compared) | {"out": str(out)}


def save_sheet(out: Path, results: Mapping[str, Reconstruction], title: str, *, compared: bool) -> None:
    """Writes the sheet of the one setting, or that of all side by side."""
    from mimsuite.pictures.reconstruction import compare

    out.parent.mkdir(parents=True, exist_ok=True)
    (compare(results, title) if compared else next(iter(results.values())).sheet(title)).save(out)


def summary(settings: Sequence[Setting], results: Sequence[Reconstruction], *, compared: bool) -> dict[str, Any]:
    """The figures of the one setting, or a list of those of all."""
    if not compared:
        return dict(figures(results[0]))
    pairs = zip(settings, results, strict=True)
    return {"settings": [{"mask": one.kind, "ratio": one.ratio, **figures(result)} for one, result in pairs]}


def animate(cfg: DictConfig, overrides: Sequence[str], *, overwrite: bool) -> dict[str, Any]:
    """Makes a GIF of the pictures that a run wrote while it trained: the same images under the same masks.

    Raises:
        InputError: `init` is no run folder or holds no pictures, or a key is given that the pictures cannot obey.
    """
    out = check_file("out", cfg.out, ".gif", overwrite=overwrite)
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if other := next((key for key in keys if key.partition(".")[0] in NOT_OF_A_GIF), None):
        raise InputError(f"gif=true shows the pictures that the run wrote, whatever {other}= says; leave {other}= out")
    if not holds_run(cfg.init):
        raise InputError(
            f"init={cfg.init} is no run folder, and gif=true shows the pictures that a run wrote; use a run, "
            "or gif=false"
        )
    found = [
        (int(match[1]), path)
        for path in (Path(cfg.init) / "pictures").glob("*")
        if (match := STEP.fullmatch(path.name))
    ]
    if not found:
        raise InputError(
            f"init={cfg.init} holds no pictures/step_*.png yet; use gif=false, which draws the run as it is"
        )
    steps = [step for step, _ in sorted(found)]
    save_animation([path for _, path in sorted(found)], out)
    log.info("%d pictures, steps %d to %d; animation in %s", len(steps), steps[0], steps[-1], out)
    return {"steps": steps, "out": str(out)}


def figures(result: Reconstruction) -> dict[str, float]:
    """Masked loss over all images and, of pixels, mean PSNR."""
    found = {"masked_loss": result.loss}
    return found if result.psnr is None else found | {"psnr": float(result.psnr.mean())}


def mask_settings(cfg: DictConfig, overrides: Sequence[str]) -> list[Setting]:
    """The mask of the config; or one for each of `masks`, each of `ratios`, or both.

    Raises:
        InputError: values that are none, contradict each other, or are too many for one sheet.
    """
    nodes = {mask_name(cfg.mask): cfg.mask}
    said = [o.lstrip("+~") for o in overrides]
    if cfg.masks is not None:
        if other := next(
            (o for o in said if o.startswith(("mask=", "mask.")) and not o.startswith("mask.unit=")), None
        ):
            raise InputError(
                f"{other} and masks= contradict each other; leave one out (ratios=[0.3,0.6] goes with masks=)"
            )
        nodes = {kind: known_mask(kind) for kind in several(cfg, "masks", "masks=[random,block]")}
    if cfg.ratios is None:
        given = {kind: node.get("ratio") for kind, node in nodes.items()}
        made = [(kind, None if isinstance(r, ListConfig) else r, nodes[kind]) for kind, r in given.items()]
    else:
        if other := next((o for o in said if o.startswith("mask.ratio=")), None):
            raise InputError(f"{other} and ratios= contradict each other; leave one out")
        ratios = several(cfg, "ratios", "ratios=[0.3,0.6,0.9]")
        if wrong := [r for r in ratios if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r <= 1]:
            raise InputError(f"ratios: {wrong[0]} is not in (0, 1]; use ratios=[0.3,0.6,0.9]")
        if bare := next((kind for kind, node in nodes.items() if "ratio" not in node), None):
            raise InputError(f"mask {bare} has no ratio that ratios= could set; leave {bare} or ratios= out")
        made = [
            (kind, ratio, OmegaConf.merge(node, {"ratio": ratio})) for kind, node in nodes.items() for ratio in ratios
        ]
    if len(made) > MOST_SETTINGS:
        raise InputError(
            f"masks= and ratios= make {len(made)} settings, and a sheet holds {MOST_SETTINGS}; leave some out"
        )
    return [Setting(kind, ratio, OmegaConf.create({"mask": node})) for kind, ratio, node in made]


def several(cfg: DictConfig, key: str, example: str) -> list[Any]:
    """A key's values, different from each other; a single one is a list of one."""
    values: list[Any] = list(cfg[key]) if isinstance(cfg[key], ListConfig) else [cfg[key]]
    if not values or len({str(value) for value in values}) < len(values):
        raise InputError(f"{key}={values} is empty or names a value twice; use different ones, such as {example}")
    return values


def mask_name(mask: DictConfig) -> str:
    """The name of a kind of mask in `conf/mask`, or of its class where none of the choices is of it."""
    for file in sorted((conf_dir() / "mask").glob("*.yaml")):
        if known_mask(file.stem)._target_ == mask._target_:
            return file.stem
    return str(mask._target_).rpartition(".")[2]


def check_share(setting: Setting, units: int, drops: bool, *, listed: bool) -> None:
    """Checks the ratio of a setting, by the key that the user gave."""
    try:
        check_ratio(setting.cfg, units, drops)
    except InputError as error:
        raise InputError(str(error).replace("mask.ratio", "ratios") if listed else str(error)) from error


def check_sheet(out: str, *, overwrite: bool) -> Path:
    """Says whether the sheet may be written; changes nothing.

    Raises:
        InputError: it may not; of an animation, what it takes.
    """
    if Path(out).suffix.lower() == ".gif":
        raise InputError(f"out={out} is a GIF, which gif=true makes of a run's pictures; add gif=true or use a .png")
    return check_picture(out, overwrite=overwrite)


def check_file(key: str, value: Any, ending: str, *, overwrite: bool) -> Path:
    """Says whether a task may write a file; changes nothing.

    Raises:
        InputError: it exists and `overwrite` is not set, is a folder, or has another ending.
    """
    path = Path(str(value))
    if path.suffix.lower() != ending:
        raise InputError(f"{key}={value} does not end in {ending}; use {key}={path.with_suffix(ending)}")
    if path.is_dir():
        raise InputError(f"{key}={value} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise InputError(f"{key}={value} exists; use another {key}=, or overwrite=true")
    return path


def write_csv(path: Path, names: Sequence[str], settings: Sequence[Setting], results: Sequence[Reconstruction]) -> None:
    """Writes a line per image and setting: mask ratio and kind, masked loss, PSNR in dB (empty where there is none).

    The ratio is the one that was asked for; without one (a range, no mask) the share of the image that is hidden.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "ratio", "mask", "masked_loss", "psnr"])
        for setting, result in zip(settings, results, strict=True):
            psnr = [math.nan] * len(names) if result.psnr is None else result.psnr.tolist()
            for i, name in enumerate(names):
                share = float(result.mask[i].mean()) if setting.ratio is None else setting.ratio
                loss = float(result.losses[i])
                writer.writerow([name, share, setting.kind, loss, "" if math.isnan(psnr[i]) else psnr[i]])


if __name__ == "__main__":
    app.main("reconstruct", run)
