"""What this machine offers a run: devices, the precision they are fast at, and how much fits into their memory."""

from __future__ import annotations

from mimsuite.errors import InputError
from mimsuite.models.device import USES_GPUS, Device, torch_device
from mimsuite.settings.team import current_team

COMPILE_PAYS = 5_000  # steps of a run for which compiling, about a minute, is worth it on a GPU
IMAGES_PER_GIB = 4  # of 224 x 224 pixels, for a ViT-Base in bfloat16 on a GPU
IMAGES_ON_CPU = 64


def device_count(accelerator: str) -> int:
    """How many devices of this machine a run takes by itself: all GPUs, else one."""
    import torch

    return max(1, torch.cuda.device_count()) if accelerator in USES_GPUS else 1


def own_device() -> str:
    """The device of this process: of several on a machine with GPUs each has its own."""
    device, team = torch_device(), current_team()
    return f"cuda:{team.rank % team.local}" if device == "cuda" and team is not None else device


def is_broken_exchange(error: RuntimeError) -> bool:
    """Whether an error says that the processes of a run cannot reach each other any more."""
    import torch.distributed

    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the memory of the device is full; libraries below torch have words of their own."""
    import torch

    words = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def choose_precision(asked: str, on: Device, master_weights: bool = False) -> tuple[str, str]:
    """Lightning's name of the precision and the reason for it."""
    if asked != "auto":
        return asked, "as given"
    if master_weights:
        return "bf16-mixed", "for optim.master_weights=true"
    if on.fast_bf16:
        return "bf16-mixed", f"{on.name} is fast at bfloat16"
    return "32-true", f"{on.name} is not fast at bfloat16"


def choose_compile(asked: bool | None, on: Device, steps: int) -> tuple[bool, str]:
    """Whether the blocks of a run are compiled, and the reason.

    Raises:
        InputError: they must be, and torch cannot compile here.
    """
    from mimsuite.objectives.compiling import why_not_compile

    if asked is False:
        return False, "as given"
    if asked is None and on.accelerator != "gpu":
        return False, f"{on.name}: it pays on GPUs"
    if asked is None and steps < COMPILE_PAYS:
        return False, f"it pays from {COMPILE_PAYS:,} steps on"
    obstacle = why_not_compile("cuda" if on.accelerator == "gpu" else on.accelerator)
    if obstacle is None:
        return True, "as given" if asked else f"a GPU, and at least {COMPILE_PAYS:,} steps"
    if asked:
        raise InputError(f"trainer.compile=true, but torch cannot compile here: {obstacle}; use trainer.compile=false")
    return False, f"torch cannot compile here: {obstacle}"


def micro_limit(on: Device, image_size: tuple[int, int]) -> int:
    """The most images that `micro_batch=auto` puts through at once where nothing is tried: a guess, for a ViT-Base."""
    images = IMAGES_ON_CPU if on.accelerator == "cpu" else on.memory_gib * IMAGES_PER_GIB
    return max(1, int(images * 224 * 224 / (image_size[0] * image_size[1])))
