"""Warnings of Lightning and torch that tell nothing about a run of ours."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_known_warnings() -> Iterator[None]:
    """Trains without them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")  # a process without validation images
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # float16: the first step overflowed
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks")  # online_probe=false now
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")  # Lightning against torch 2.13
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")  # where nothing is validated
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # a teacher is meant to be
        warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.all_gather is deprecated")
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP, 1x1 convolutions
        yield
