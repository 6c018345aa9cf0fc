"""What models compute on here: the device, its memory, and whether it is fast at bfloat16."""

from __future__ import annotations

import dataclasses

from mimsuite.errors import InputError
from mimsuite.words import ACCELERATORS

USES_GPUS = ("auto", "gpu", "cuda")  # accelerators that take a GPU where there is one


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run computes on: Lightning's accelerator (`cpu`, `gpu`, `mps`) and a name for people."""

    accelerator: str
    name: str
    memory_gib: float
    fast_bf16: bool


def find_device(accelerator: str) -> Device:
    """The device that `trainer.accelerator` means here."""
    import torch

    if accelerator not in ACCELERATORS:
        raise InputError(f"trainer.accelerator={accelerator} is unknown; it takes {', '.join(ACCELERATORS)}")
    if accelerator in USES_GPUS and torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return Device(
            "gpu",
            facts.name,
            facts.total_memory / 2**30,
            torch.cuda.is_bf16_supported(including_emulation=False),
        )
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", 8.0, False)
    if accelerator not in ("auto", "cpu"):
        raise InputError(f"trainer.accelerator={accelerator}, but this machine has none; use trainer.accelerator=cpu")
    amx = torch.backends.cpu.get_cpu_capability() == "AMX" or torch.cpu._is_amx_tile_supported()
    threads = torch.get_num_threads()
    return Device("cpu", f"CPU, {threads} thread{'s' * (threads != 1)}{', AMX' if amx else ''}", 0.0, amx)


def torch_device() -> str:
    """The name by which torch knows the device that `auto` means here."""
    return {"gpu": "cuda"}.get(found := find_device("auto").accelerator, found)
