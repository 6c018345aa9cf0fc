"""Hugging Face folders: the model's class with its files, read back by transformers where that computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from mimsuite.models.exporting.check import Call, Opened
from mimsuite.models.exporting.exported import MASK, Exported
from mimsuite.models.exporting.others import files_of, open_ours
from mimsuite.weights.source import read_json

# How names of classes end -> the output that is compared.
OUTPUTS = {"ForImageClassification": "logits", "ForMaskedImageModeling": "reconstruction"}
OTHERWISE = "last_hidden_state"


def write_hf(exported: Exported, folder: Path, preprocessor: str) -> bool:
    """Writes `config.json` and `model.safetensors`."""
    exported.model.write_files(folder, files_of(exported)[0])
    return exported.any_size


def open_hf(exported: Exported, folder: Path, part: str) -> Opened:
    """The folder, read by transformers if that is installed and has the class, else by this package."""
    name = str(read_json(folder / "config.json")["architectures"][0])
    whole = name == type(exported.model).__name__  # not an encoder with a decoder beside, or one of another library
    if not whole or not _runs_in_transformers(name, exported):
        return open_ours(exported, folder, part)
    import transformers

    with _quiet():
        theirs = getattr(transformers, name).from_pretrained(folder, trust_remote_code=False).float().eval()
    output = next((field for end, field in OUTPUTS.items() if name.endswith(end)), OTHERWISE)
    return Opened(f"transformers {transformers.__version__}", _caller(theirs, output), _caller(exported.model, output))


def _runs_in_transformers(name: str, exported: Exported) -> bool:
    """Whether it is installed, has the class, and can run it: its masked image models take square grids only."""
    if find_spec("transformers") is None:
        return False
    import transformers

    sides = {size // cell for size, cell in zip(exported.image_size, exported.model.network().stride, strict=True)}
    return hasattr(transformers, name) and (MASK not in exported.inputs or len(sides) == 1)


def _caller(model: Any, output: str) -> Call:
    def call(pixels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        found = model(pixels) if mask is None else model(pixels, bool_masked_pos=mask.flatten(1))
        return (getattr(found, output),)

    return call


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what transformers tells about a head that it adds, and its progress bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
