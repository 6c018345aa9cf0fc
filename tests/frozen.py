"""What tests of stored results need: whether this machine must give the stored bits, and names without their module."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import torch

CPUINFO = Path("/proc/cpuinfo")
OF_THE_CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


def machine():
    """What decides the last bits of a result on one thread: where it is the same, tensors are, too."""
    lines = CPUINFO.read_text().split("\n\n")[0].splitlines() if CPUINFO.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    cpu = "\n".join(facts.get(name, "unknown") for name in OF_THE_CPU)
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": hashlib.sha256(cpu.encode()).hexdigest()[:16],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "cuda": torch.cuda.is_available(),
    }


def bare(text):
    """A signature without the modules of names and without quotes: `models.vit.ViTConfig` is `ViTConfig`."""
    return MODULES.sub("", text).replace("'", "")


def bare_targets(value):
    """A config as plain values, each `_target_` as its class name."""
    if isinstance(value, dict):
        return {
            k: v.rpartition(".")[2] if k == "_target_" and isinstance(v, str) else bare_targets(v)
            for k, v in value.items()
        }
    return [bare_targets(v) for v in value] if isinstance(value, list) else value
