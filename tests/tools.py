"""Tools of others in tests: what they keep for the whole process does not outlive a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

OF_PROCESSES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "PMI_",
    "MPI_",
    "OMPI_",
    "MV2_",
    "SLURM_",
    "NODE_RANK",
    "GROUP_",
)


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """accelerate, also below Trainer, sees no other process, and leaves no process group behind."""
    state = pytest.importorskip("accelerate.state")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OF_PROCESSES)]:
            patch.delenv(name)
        state.AcceleratorState._reset_state(reset_partial_state=True)
        yield
    state.AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
