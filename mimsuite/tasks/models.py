"""`mimsuite models`: a table of the model configs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.config.instantiate import instantiate
from mimsuite.runs.console import log_to_console
from mimsuite.settings.models import model_node, read_models
from mimsuite.settings.read import read_size
from mimsuite.settings.resolve import with_values

ANY_SIZE, ANY_SIZE_NANO = 224, 64

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Prints the table; returns its rows under `models`."""
    log_to_console()
    rows = model_rows(cfg)
    log.info("GFLOPs of one image count two per multiply-add; papers often count one")
    log.info("%-22s %13s %10s %8s %7s %7s", "model", "parameters", "GFLOPs", "image", "stride", "grid")
    for r in sorted(rows, key=lambda r: (str(r["family"]), int(r["parameters"]))):
        log.info(
            "%-22s %13s %10.2f %8s %7s %7s",
            *(r["name"], f"{r['parameters']:,}", r["gflops"], r["image_size"], r["stride"], r["grid"]),
        )
    return {"models": rows}


def model_rows(cfg: DictConfig, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of the table, in the order of their names."""
    settings = read_models(cfg)
    return [model_row(file, settings.image_size, settings.channels) for file in settings.files]


def model_row(file: Path, image_size: tuple[int, int] | None, channels: int) -> dict[str, Any]:
    """One model's numbers, from the network on torch's meta device: no memory, no arithmetic.

    Parameters are those of the masked image model; FLOPs (two per multiply-add) of one image through the encoder.

    Args:
        file: the model's YAML.
        image_size: `(H, W)` pixels; None: the model's own, or `ANY_SIZE` for one that takes any.
        channels: of the images.
    """
    import torch

    from mimsuite.models import AutoModelForMaskedImageModeling
    from mimsuite.models.flops import FlopCounter

    node = model_node(file)
    if image_size is None:
        image_size = read_size(node.get("image_size", ANY_SIZE_NANO if file.stem.endswith("_nano") else ANY_SIZE))
    own_size = {"image_size": list(image_size)} if "image_size" in node else {}
    config = instantiate(with_values(node, {"num_channels": channels, **own_size}))
    with torch.device("meta"):
        model = AutoModelForMaskedImageModeling.from_config(config)
        pixels = torch.empty(1, channels, *image_size)
    with FlopCounter() as counter, torch.no_grad():
        grid = model.encoder.forward_features(pixels).grid.shape[-2:]
    return {
        "name": file.stem,
        "family": config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": counter.total / 1e9,
        "image_size": "x".join(map(str, image_size)),
        "stride": "x".join(map(str, model.encoder.stride)),
        "grid": "x".join(map(str, grid)),
    }


if __name__ == "__main__":
    app.main("models", run)
