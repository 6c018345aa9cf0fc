"""Tensors in files: safetensors and torch archives, single or in shards, read without running anything they hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import Tensor

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError
from mimsuite.weights.containers.safetensors_file import open_safetensors, write_safetensors
from mimsuite.weights.containers.torch_file import open_state_dict
from mimsuite.weights.formats.format import Found
from mimsuite.weights.source import DECODER, FRAMEWORK_FILES, MissingFileError, read_config, read_json
from mimsuite.weights.tensors import Tensors

SAFETENSORS, TORCH = SHARDED = "model.safetensors", "pytorch_model.bin"


def read_folder(folder: Path, variant: str | None = None, source: str | None = None) -> Tensors:
    """Opens the tensors of a Hugging Face folder, named as in its safetensors whatever file they are in.

    Args:
        folder: the folder.
        variant: of the files, as in `model.fp16.safetensors`.
        source: of `SOURCES`: which files are read; None: the first that are there, in that order.

    Raises:
        MissingFileError: no weights, or a shard is missing.
        InputError: damaged or unsafe files.
    """
    formats = {"safetensors": SAFETENSORS, "torch": TORCH, **FRAMEWORK_FILES}
    wanted = list(formats.values()) if source is None else [formats[source]]
    for name in wanted:
        file, index = (folder / of_variant(one, variant) for one in (name, f"{name}.index.json"))
        if file.is_file():
            return _read_framework(file) if name in FRAMEWORK_FILES.values() else read_tensors(file)
        if index.is_file() and name in SHARDED:
            return _read_shards(index)
    others = [name for name in formats.values() if (folder / name).is_file()]
    raise MissingFileError(
        f"{folder} has no weights that can be read"
        + (f" (only {', '.join(others)})" if others else "")
        + f"; expected {' or '.join(of_variant(name, variant) for name in wanted)}"
        + (", single or with an .index.json" if set(wanted) & set(SHARDED) else "")
    )


def _read_framework(path: Path) -> Tensors:
    """Opens a file of Hugging Face's TensorFlow or Flax classes, with the `config.json` beside it."""
    from mimsuite.weights.containers.recognised import open_file
    from mimsuite.weights.formats.known import read_foreign

    config = path.parent / "config.json"
    return read_foreign(Found(str(path), open_file(path), read_config(path.parent) if config.is_file() else {})).tensors


def read_decoder(folder: Path, variant: str | None = None) -> Tensors:
    """Opens the tensors that lie beside an encoder's, `decoder....`; none where there is no such file.

    Raises:
        InputError: a damaged file.
    """
    path = folder / of_variant(DECODER, variant)
    return read_tensors(path) if path.is_file() else Tensors({})


def of_variant(name: str, variant: str | None) -> str:
    """The name of a file of a variant: `model.fp16.safetensors`."""
    stem, _, suffix = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{suffix}"


def read_tensors(path: Path) -> Tensors:
    """Opens the tensors of one file, by its suffix: safetensors, else a torch archive that holds nothing else.

    Raises:
        MissingFileError: no such file.
        InputError: a damaged file, or a torch archive that holds more than tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; download or copy the folder again")
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    return open_state_dict(path)


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
        write_safetensors(folder / name, shard)
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
        write_safetensors(path, state)
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


def _read_shards(index: Path) -> Tensors:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise InputError(f"{index} has no weight_map; download or write it again")
    state = Tensors({})
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise InputError(f"{index} names the shard {name!r}; expected a file name in the same folder")
        state = state | read_tensors(index.parent / name)
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
