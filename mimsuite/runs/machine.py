"""What this machine offers a run: devices, the precision they are fast at, and how much fits into their memory."""

from __future__ import annotations

from mimsuite.models.device import USES_GPUS, Device

IMAGES_PER_GIB = 4  # of 224 x 224 pixels, for a ViT-Base in bfloat16 on a GPU


IMAGES_ON_CPU = 64


def device_count(accelerator: str) -> int:
    """How many devices of this machine a run takes by itself: all GPUs, else one."""
    import torch

    return max(1, torch.cuda.device_count()) if accelerator in USES_GPUS else 1


def is_broken_exchange(error: RuntimeError) -> bool:
    """Whether an error says that the processes of a run cannot reach each other any more."""
    import torch.distributed

    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def choose_precision(asked: str, on: Device) -> tuple[str, str]:
    """Lightning's name of the precision and the reason for it."""
    if asked != "auto":
        return asked, "as given"
    if on.fast_bf16:
        return "bf16-mixed", f"{on.name} is fast at bfloat16"
    return "32-true", f"{on.name} is not fast at bfloat16"


def micro_limit(on: Device, image_size: tuple[int, int]) -> int:
    """The most images that `micro_batch=auto` puts through at once: by memory, for a ViT-Base."""
    images = IMAGES_ON_CPU if on.accelerator == "cpu" else on.memory_gib * IMAGES_PER_GIB
    return max(1, int(images * 224 * 224 / (image_size[0] * image_size[1])))
