"""What `from_pretrained` is asked for beside the config's fields: the keywords of code written for Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.models.device import torch_device
from mimsuite.weights.folder import FolderTensors, read_weights
from mimsuite.weights.source import HubOptions, take_files
from mimsuite.weights.tensors import Tensors, in_memory

# They change how other software reads files, and nothing here: no pickle is ever run, and no file is read twice.
WITHOUT_EFFECT = (
    *("low_cpu_mem_usage", "weights_only", "_fast_init", "disable_mmap", "max_memory", "offload_buffers"),
    *("offload_folder", "offload_state_dict", "use_kernels"),
)
REFUSED = {
    "gguf_file": "mimsuite reads safetensors, torch archives, and files of Flax and TensorFlow",
    "load_in_4bit": "mimsuite does not quantize",
    "load_in_8bit": "mimsuite does not quantize",
    "quantization_config": "mimsuite does not quantize",
    "tp_plan": "mimsuite does not split a model over devices",
}


@dataclass(frozen=True)
class Loading:
    """How a model is read.

    Attributes:
        hub: which files of a hub repository or folder.
        variant: of the files, as in `model.fp16.safetensors`.
        files: of `mimsuite.weights.source.SOURCES`: which files are read; None: what is there.
        state_dict: tensors that are used instead of files.
        device: where the model is put; None: where torch makes it.
        wants_info: also return which parameters were missing, unexpected and of other shapes.
    """

    hub: HubOptions
    variant: str | None
    files: str | None
    state_dict: Mapping[str, Tensor] | None
    device: torch.device | None
    wants_info: bool

    @classmethod
    def take(cls, keywords: dict[str, Any]) -> Self:
        """Removes from `keywords` all that is not a field of a config.

        Raises:
            InputError: what mimsuite does not do.
        """
        for name, reason in REFUSED.items():
            if keywords.pop(name, None):
                raise InputError(f"{name} cannot be used: {reason}; remove it")
        for name in WITHOUT_EFFECT:
            keywords.pop(name, None)
        if keywords.get("attn_implementation", "") is None:
            del keywords["attn_implementation"]
        return cls(
            HubOptions.take(keywords),
            read_variant(keywords.pop("variant", None)),
            take_files(keywords),
            keywords.pop("state_dict", None),
            read_device_map(keywords.pop("device_map", None)),
            bool(keywords.pop("output_loading_info", False)),
        )

    def tensors(self, folder: Path | None, with_decoder: bool) -> FolderTensors:
        """The weights of a folder, or of `state_dict`; errors as `mimsuite.weights.folder.read_weights`."""
        if folder is None:
            return FolderTensors(in_memory(self.state_dict or {}), False)
        return read_weights(folder, self.variant, self.files, with_decoder=with_decoder)


def read_variant(variant: str | None) -> str | None:
    """The variant of files, which is a part of their names."""
    if variant is not None and not (isinstance(variant, str) and variant.isidentifier()):
        raise InputError(
            f"variant={variant!r} is not a part of a file's name; use one as in model.fp16.safetensors: fp16"
        )
    return variant


def read_device_map(device_map: Any) -> torch.device | None:
    """The one device that a `device_map` names; None for None.

    Raises:
        InputError: several devices, or a name that torch does not know.
    """
    named = list(dict.fromkeys(device_map.values())) if isinstance(device_map, Mapping) else [device_map]
    if len(named) > 1:
        raise InputError(
            f"device_map={dict(device_map)} names several devices, and mimsuite puts a model on one; "
            f"use device_map={named[0]!r}"
        )
    if not named or named[0] is None:
        return None
    if named[0] in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device(torch_device())
    try:
        return torch.device(named[0])
    except (RuntimeError, TypeError):
        raise InputError(
            f"device_map={named[0]!r} is not a device of torch; use auto, cpu, cuda:0, or {{'': device}}"
        ) from None


def read_dtype(dtype: torch.dtype | str | None, named: torch.dtype | str | None, state: Tensors) -> torch.dtype:
    """The type of a model's parameters.

    Args:
        dtype: what was asked for; None and "auto": that of the weights.
        named: what the config says of the weights, such as "bfloat16".
        state: the weights, which tell it where the config does not.

    Raises:
        InputError: a type that is not a floating type.
    """
    if dtype in (None, "auto"):
        of_files = (t.dtype for t in state.metas().values() if t.is_floating_point())
        dtype = named or next(of_files, torch.get_default_dtype())
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype={dtype!r} is not a floating type; use float32, bfloat16, float16, float64 or auto")
    return found
