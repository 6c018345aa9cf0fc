"""Files that `torch.save` wrote, read without running anything they hold and without more memory than they need."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mimsuite.errors import InputError, cause_of
from mimsuite.weights.containers.held import check_growth
from mimsuite.weights.tensors import Tensors, in_memory

# Where files of this field keep their tensors; the first that is there. Beside them lie optimizers and settings.
PLACES = ("model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict", "module", "teacher", "student")


class _Settings:
    """Stands in for the settings of a training program in its files: what is made is a plain map, used for nothing."""

    def __new__(cls, *_: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        """Makes one of the few types that torch's reader fills."""
        return OrderedDict()


SETTINGS = ("argparse.Namespace", "yacs.config.CfgNode")


def open_torch(path: Path) -> Tensors:
    """Opens a file of tensors by name, bare or under one of `PLACES`; what lies beside them is not used.

    Raises:
        InputError: a damaged file, one that holds objects other than tensors and plain values, or no tensors.
    """
    try:
        state = tensors_in(load_torch(path, mapped=True))
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be used
        raise InputError(f"{path} cannot be read: {_reason(error)}") from None
    if state is None:
        raise InputError(
            f"{path} has no tensors by name; expected a state dict, bare or under {', '.join(PLACES[:-1])} or "
            f"{PLACES[-1]}"
        )
    found = _dense(path, state)
    check_growth(path, found)
    return found


def open_state_dict(path: Path) -> Tensors:
    """Opens a file that holds tensors by name and nothing else; errors as `open_torch`."""
    try:
        state = load_torch(path, mapped=True)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be used
        raise InputError(f"{path} cannot be read: {_reason(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{path} is not a flat map of names to tensors; expected a state dict")
    return _dense(path, state)


def _dense(path: Path, state: dict[str, Tensor]) -> Tensors:
    """The tensors, all of which are plain arrays of numbers."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(
                f"{path}: {name} is sparse or quantized; save it with plain tensors (to_dense, dequantize)"
            )
    return in_memory(state)


def tensors_in(content: Any) -> dict[str, Tensor] | None:
    """The tensors of a state dict, or of the first of `PLACES` in it; None where there are none."""
    if not isinstance(content, Mapping):
        return None
    inner = [content[name] for name in PLACES if isinstance(content.get(name), Mapping)]
    for found in [*inner, content]:
        state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if state:
            return state
    return None


def load_torch(path: Path, map_location: Any = "cpu", *, mapped: bool = False) -> Any:
    """Reads an archive with `weights_only=True`; settings of a training program (`SETTINGS`) come back empty.

    Args:
        path: the file.
        map_location: as of `torch.load`.
        mapped: tensors of a zip archive stay in the file until they are used.

    Raises:
        ValueError: its parts are compressed, or a tensor is larger than the file, as torch writes neither. A damaged
            file raises whatever torch raises for it.
    """
    size, is_zip = path.stat().st_size, zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        stored = sum(part.file_size for part in parts)
        if stored > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its parts are compressed, or overlap; torch writes neither")
    allowed: list[Any] = [(_Settings, name) for name in SETTINGS]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")  # it warns of what it then refuses, without the name of the file
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mapped and is_zip)
    large = next((t for t in _all_tensors(loaded) if t.numel() * t.element_size() > size), None)
    if large is not None:
        raise ValueError(f"a tensor of shape {tuple(large.shape)} in a file of {size} bytes")
    return loaded


def _reason(error: Exception) -> str:
    """Why a file is refused: the object in it that would have to run, by name, or what is damaged."""
    found = re.search(
        r"GLOBAL ([\w.]+) (?:was not an allowed global|whose module)|Unsupported (?:global|class) ([\w.]+)", str(error)
    )
    if found is not None:
        name = found[1] or found[2]
        return f"it holds {name}, which could run code; save its state dict alone, or as safetensors"
    told = re.search(r"WeightsUnpickler error: (.+)", str(error))
    cause = cause_of(error) if told is None else told[1]
    return (
        f"it is damaged, or holds more than tensors, which could run code ({cause}); download it again or convert it "
        "to safetensors"
    )


def _all_tensors(content: Any) -> Iterator[Tensor]:
    """The tensors of a value and of what it holds."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
