"""`mimsuite models`: a table of the model configs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite import app
from mimsuite.confdir import conf_dir
from mimsuite.errors import InputError
from mimsuite.hints import unknown_choice
from mimsuite.instantiate import instantiate
from mimsuite.run import speak
from mimsuite.settings import sides, whole

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Prints the table; returns its rows under `models`."""
    speak()
    size, channels = sides(cfg.image_size), whole(cfg, "channels")
    files = sorted((conf_dir() / "model").glob("*.yaml"))
    names = [file.stem for file in files]
    if cfg.name is not None and cfg.name not in names:
        raise InputError(unknown_choice(f"model/{cfg.name}", names).replace("model=", "name="))
    rows = [row(file, size, channels) for file in files if cfg.name in (None, file.stem)]
    log.info("%-12s %13s %12s %8s %7s %7s", "model", "parameters", "GFLOPs", "image", "stride", "grid")
    for r in sorted(rows, key=lambda r: (str(r["family"]), int(r["parameters"]))):
        log.info(
            "%-12s %13s %12.2f %8s %7s %7s",
            *(r["name"], f"{r['parameters']:,}", r["gflops"], r["image_size"], r["stride"], r["grid"]),
        )
    return {"models": rows}


def row(file: Path, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
    """One model's numbers, from the network on torch's meta device: no memory, no arithmetic.

    Parameters are those of the masked image model; FLOPs (two per multiply-add) of one image through the encoder.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mimsuite.models import AutoModelForMaskedImageModeling

    node = OmegaConf.load(file)
    assert isinstance(node, DictConfig)
    if file.stem.endswith("_nano"):
        image_size = sides(node.get("image_size", 64))
    config = instantiate(
        node, num_channels=channels, **({"image_size": list(image_size)} if "image_size" in node else {})
    )
    with torch.device("meta"):
        model = AutoModelForMaskedImageModeling.from_config(config)
        pixels = torch.empty(1, channels, *image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        grid = model.encoder.forward_features(pixels).grid.shape[-2:]
    return {
        "name": file.stem,
        "family": config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": counter.get_total_flops() / 1e9,
        "image_size": "x".join(map(str, image_size)),
        "stride": "x".join(map(str, model.encoder.stride)),
        "grid": "x".join(map(str, grid)),
    }


if __name__ == "__main__":
    app.main("models", run)
