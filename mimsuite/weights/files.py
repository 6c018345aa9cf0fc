"""Tensors in files: safetensors and torch archives, single or in shards, read without running anything they hold."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mimsuite.data.storage import replacing, write_text
from mimsuite.errors import InputError, cause_of, reading
from mimsuite.weights.source import MissingFileError, read_json
from mimsuite.weights.torch_files import load_torch

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
DECODER = "decoder.safetensors"  # of a model whose other file is the bare encoder
OTHER_FORMATS = ("flax_model.msgpack", "tf_model.h5")


def read_folder(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a Hugging Face folder, on the CPU: safetensors, else `pytorch_model.bin`.

    Args:
        folder: the folder.
        variant: of the files, as in `model.fp16.safetensors`.
        use_safetensors: True: only they are read, False: only torch archives; None: what is there.

    Raises:
        MissingFileError: no weights, or a shard is missing.
        InputError: damaged or unsafe files, or only formats that are not read.
    """
    formats = {None: (SAFETENSORS, TORCH), True: (SAFETENSORS,), False: (TORCH,)}[use_safetensors]
    for name in formats:
        file, index = (folder / of_variant(one, variant) for one in (name, f"{name}.index.json"))
        if file.is_file():
            return read_tensors(file)
        if index.is_file():
            return _read_shards(index)
    others = [name for name in (SAFETENSORS, TORCH, *OTHER_FORMATS) if (folder / name).is_file()]
    raise MissingFileError(
        f"{folder} has no weights that can be read"
        + (f" (only {', '.join(others)})" if others else "")
        + f"; expected {' or '.join(of_variant(name, variant) for name in formats)}, single or with an .index.json"
    )


def read_decoder(folder: Path, variant: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors that lie beside an encoder's, `decoder....`; none where there is no such file.

    Raises:
        InputError: a damaged file.
    """
    path = folder / of_variant(DECODER, variant)
    return read_tensors(path) if path.is_file() else {}


def of_variant(name: str, variant: str | None) -> str:
    """The name of a file of a variant: `model.fp16.safetensors`."""
    stem, _, suffix = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{suffix}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of one file, by its suffix.

    Raises:
        MissingFileError: no such file.
        InputError: a damaged file, or a torch archive that holds more than tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; download or copy the folder again")
    if path.suffix == ".safetensors":
        with reading(f"{path} is damaged and", "download or write it again"), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    try:
        state = load_torch(path)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be used
        raise InputError(
            f"{path} cannot be read: it is damaged, or holds more than tensors, which could run code "
            f"({cause_of(error)}); download it again or convert it to safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{path} is not a flat map of names to tensors; expected a state dict")
    return state


def write_folder(folder: Path, state: dict[str, Tensor], max_shard_bytes: int, variant: str | None = None) -> None:
    """Writes `model.safetensors`, or shards with an index if the tensors are larger than `max_shard_bytes`.

    Each file is written beside its place and moved there whole; weights of other shards are removed at the
    end, those of other variants stay.
    """
    shards = _split(state, max_shard_bytes)
    single, index = of_variant(SAFETENSORS, variant), of_variant(f"{SAFETENSORS}.index.json", variant)
    stem, count = single.removesuffix(".safetensors"), len(shards)
    names = [single] if count == 1 else [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard)
    if count > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(t.nbytes for t in state.values())
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / index, json.dumps(content, indent=2, sort_keys=True) + "\n")
    keep = {*names, *([index] if count > 1 else [])}
    for old in [*folder.glob(f"{stem}-*-of-*.safetensors"), folder / single, folder / index]:
        if old.name not in keep:
            old.unlink(missing_ok=True)


def write_decoder(folder: Path, state: dict[str, Tensor], variant: str | None = None) -> None:
    """Writes `decoder.safetensors`, or removes an old one if there is nothing to write."""
    path = folder / of_variant(DECODER, variant)
    if state:
        _write_shard(path, state)
    else:
        path.unlink(missing_ok=True)


def read_shard_size(size: int | str) -> int:
    """Returns the bytes of `"5GB"`, as `max_shard_size` is given, or of a number of them.

    Raises:
        InputError: another value.
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    found = re.fullmatch(rf"(\d+) ?({'|'.join(units)})", size.upper()) if isinstance(size, str) else None
    if found is not None:
        return int(found[1]) * units[found[2]]
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise InputError(f"max_shard_size={size!r} is not a size; use a number of bytes, or '5GB', '200MB'")


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(path) as part:
        try:
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, part, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise InputError(f"{index} has no weight_map; download or write it again")
    state: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise InputError(f"{index} names the shard {name!r}; expected a file name in the same folder")
        state |= read_tensors(index.parent / name)
    absent = sorted(weight_map.keys() - state.keys())
    if absent:
        raise InputError(f"{index} names {absent[0]!r}, which its shard does not hold; download or write it again")
    return state


def _split(state: dict[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    """In order, each shard as full as `max_bytes` allows, at least one tensor each."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    return shards
