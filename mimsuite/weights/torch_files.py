"""Files that `torch.save` wrote, read without running anything they hold and without more memory than they need."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load_torch(path: Path, map_location: Any = "cpu") -> Any:
    """Reads an archive with `weights_only=True`.

    Raises:
        ValueError: its parts are compressed, or a tensor is larger than the file, as torch writes neither. A damaged
            file raises whatever torch raises for it.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        stored = sum(part.file_size for part in parts)
        if stored > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its parts are compressed, or overlap; torch writes neither")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it then refuses, without the name of the file
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    large = next((t for t in _tensors(loaded) if t.numel() * t.element_size() > size), None)
    if large is not None:
        raise ValueError(f"a tensor of shape {tuple(large.shape)} in a file of {size} bytes")
    return loaded


def _tensors(content: Any) -> list[Tensor]:
    """The tensors of a value and of what it holds."""
    found, waiting, seen = [], [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return found
