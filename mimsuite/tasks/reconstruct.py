"""`mimsuite reconstruct`: a picture of original, masked input, prediction, paste and error."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite import app, build, build_model
from mimsuite.combinations import check_ratio, mask_cell
from mimsuite.confdir import conf_dir
from mimsuite.data.decode import DecodeError
from mimsuite.data.open import open_data
from mimsuite.data.sources import PICTURE_ENDINGS, is_image_folder
from mimsuite.errors import InputError
from mimsuite.init_weights import find_weights
from mimsuite.instantiate import trusted_targets
from mimsuite.pictures import choose_mode
from mimsuite.run import check_picture, speak
from mimsuite.settings import FALLBACK_SIZE, check_flag, mask_unit, sides, whole

if TYPE_CHECKING:
    from torch import Tensor

    from mimsuite.reconstruction import Reconstruction

log = logging.getLogger("mimsuite")

Named = tuple[str, bytes]


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Draws one sheet; returns the masked loss (L1) and, of pixels, the mean PSNR."""
    speak()
    overwrite = check_flag(cfg, "overwrite")
    out = check_picture(cfg.out, overwrite=overwrite)
    table = None if cfg.csv is None else check_file("csv", cfg.csv, ".csv", overwrite=overwrite)
    count, seed = whole(cfg, "count"), whole(cfg, "seed", least=0)
    trusted = trusted_targets(cfg, overrides)
    weights = find_weights(cfg.init)
    config = build_model.config_of(weights)
    mode = choose_mode(config.mim_target, str(cfg.mode))
    size = weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE) if cfg.image_size == "auto" else sides(cfg.image_size)
    drops = build_model.drops(config)
    cell = mask_cell(config.mask_stride, config.mim_target)
    unit = mask_unit(cfg, size, config.stride, cell, drops)
    check_ratio(cfg, (size[0] // unit) * (size[1] // unit), drops)
    (sampler, *_) = build.mask_samplers(cfg, trusted, drops)
    found = find_images(cfg.images, count)
    import torch

    from mimsuite.data.hashing import hash_key, mix
    from mimsuite.objectives.mim import predict
    from mimsuite.reconstruction import reconstruct

    normalize = build_model.normalizer_of(weights)
    dtype = "uint16" if normalize.maximum > 255 else "uint8"
    images = torch.stack([picture(name, data, size, config.num_channels, dtype) for name, data in found])
    generator = torch.Generator()
    grid = (size[0] // unit, size[1] // unit)
    mask = torch.stack([sampler(grid, generator.manual_seed(mix(seed, hash_key(name)))) for name, _ in found])
    device = build.torch_device()
    model = build_model.trained_model(weights, config, size).to(device)
    normalize = normalize.to(device)
    result = reconstruct(
        partial(predict, model),
        model.target,
        model.head_stride,
        normalize,
        images.to(device),
        mask.to(device),
        mode=mode,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    result.sheet(f"{cfg.init}: {cfg.images or 'emoji-64'}").save(out)
    if table is not None:
        ratio = None if isinstance(cfg.mask.get("ratio"), ListConfig) else cfg.mask.get("ratio")
        write_csv(table, [name for name, _ in found], mask_name(cfg.mask), ratio, result)
    figures = {"masked_loss": result.loss}
    if result.psnr is not None:
        figures["psnr"] = float(result.psnr.mean())
    text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    log.info("%s over %d images; picture in %s%s", text, len(found), out, f", table in {table}" if table else "")
    return figures | {"out": str(out)}


def check_file(key: str, value: Any, ending: str, *, overwrite: bool) -> Path:
    """Says whether a file may be written beside the picture; changes nothing.

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


def write_csv(path: Path, names: Sequence[str], mask: str, ratio: float | None, result: Reconstruction) -> None:
    """Writes a line per image: its name, mask ratio and kind, masked loss, and PSNR in dB (empty where there is none).

    The ratio is the one that was asked for; without one (a range, no mask) the share that is hidden.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "ratio", "mask", "masked_loss", "psnr"])
        for i, name in enumerate(names):
            psnr = math.nan if result.psnr is None else float(result.psnr[i])
            share = float(result.mask[i].mean()) if ratio is None else ratio
            writer.writerow([name, share, mask, float(result.losses[i]), "" if math.isnan(psnr) else psnr])


def mask_name(mask: DictConfig) -> str:
    """The name of a kind of mask in `conf/mask`, or of the class where it stands in none of its files."""
    for file in sorted((conf_dir() / "mask").glob("*.yaml")):
        known = OmegaConf.load(file)
        if isinstance(known, DictConfig) and known._target_ == mask._target_:
            return file.stem
    return str(mask._target_).rpartition(".")[2]


def find_images(images: str | None, count: int) -> list[Named]:
    """The first `count` encoded images, by name: of a file, a folder, or a data set's validation part.

    Raises:
        InputError: nothing there.
    """
    path = Path(images) if images is not None else None
    if path is not None and path.is_file() and path.suffix.lower() in PICTURE_ENDINGS:
        return [(path.name, path.read_bytes())]
    if path is not None and path.is_dir() and is_image_folder(str(path)):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS)
        return [(str(p.relative_to(path)), p.read_bytes()) for p in files[:count]]
    from mimsuite.data.inspect import raw_samples

    try:
        index = open_data(images)
    except InputError as error:
        raise InputError(str(error).replace("data=", "images=", 1)) from error
    return [(s.key, s.data) for s in raw_samples(index, index.select("curve"), count)]


def picture(name: str, data: bytes, size: tuple[int, int], channels: int, dtype: str) -> Tensor:
    """Decodes an image and takes the largest central part with the right proportions.

    Returns:
        `(C, H, W)` uint8, or int32 where `dtype` is "uint16".

    Raises:
        InputError: the image cannot be decoded.
    """
    import torch

    from mimsuite.data.augment import CenterCrop
    from mimsuite.data.decode import conform, open_image

    crop, generator = CenterCrop(size), torch.Generator()
    try:
        image = open_image(data)
        pixels = image.pixels(crop.box(image.height, image.width, generator), size)
        return crop(conform(pixels, channels, dtype), generator)
    except DecodeError as error:
        raise InputError(f"image {name} cannot be decoded: {error}; leave it out or mend it") from error


if __name__ == "__main__":
    app.main("reconstruct", run)
