"""The most images that fit into the memory of a GPU at once, found by trying."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mimsuite.config.instantiate import instantiate
from mimsuite.errors import RunError
from mimsuite.runs.cost import BLANK
from mimsuite.runs.machine import is_out_of_memory
from mimsuite.runs.objects import Compute, trainer_arguments
from mimsuite.runs.quiet import without_known_warnings
from mimsuite.settings.team import Team
from mimsuite.settings.training import TrainingSettings

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective
    from mimsuite.types import Batch

SHARE = 0.9  # of the memory that is free at the start; the rest is for validation, pictures and fragments
ACCUMULATED = 2  # micro-batches of a step: gradients of the first lie beside the activations of the second
STEPS = 2  # the second has the optimizer's state, too

WITHOUT_OUTPUT = {
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of a Trainer that only trains."""


def largest_fitting(fits: Callable[[int], bool], first: int, most: int) -> int:
    """The largest power of two of images that fits, or `most` itself; 0 where not even one image does.

    Sizes are doubled until one does not fit, or halved until one does, so no more than needed are tried. The result
    does not depend on `first`, as long as what is smaller than a size that fits fits, too.

    Args:
        fits: whether a number of images fits.
        first: what is tried first, made a power of two.
        most: the largest number of interest.
    """
    size = min(power_below(first + 1), most)
    if fits(size):
        while size < most and fits(min(2 * size, most)):
            size = min(2 * size, most)
        return size
    while size > 1:
        size = power_below(size)
        if fits(size):
            return size
    return 0


def power_below(number: int) -> int:
    """The largest power of two below a number of at least 2; 1 for smaller ones."""
    return 1 << max(0, (number - 1).bit_length() - 1)


def find_limit(settings: TrainingSettings, compute: Compute, objective: Objective, data: ImageData, most: int) -> int:
    """The most images that a training step of this process's GPU can put through at once.

    Each try trains a copy of the module for two steps on black images, by a Trainer with the run's own arguments.
    Nothing of it is left: neither in the module, nor in the random numbers, nor in the memory of the GPU.

    Args:
        settings: of the run.
        compute: how it computes; its `micro_batch` is tried first.
        objective: of the run, neither compiled nor attached to a trainer yet.
        data: its loaders.
        most: the largest number of interest.

    Raises:
        RunError: not even one image fits.
    """
    import torch

    place = torch.device("cuda", compute.team.rank % compute.team.local)
    gradients = sum(p.nbytes for p in objective.parameters() if p.requires_grad) if compute.team.size > 1 else 0
    free, total = torch.cuda.mem_get_info(place)
    usable = SHARE * (free + torch.cuda.memory_reserved(place)) - gradients  # processes exchange copies of them

    def fits(images: int) -> bool:
        torch.cuda.set_per_process_memory_fraction(max(0.0, usable / total), place)
        try:
            train_on_blank(settings, compute, copy.deepcopy(objective), data, images)
            done = True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            done = False  # the error holds the tensors of its frames; they are gone only after this block
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place)
        gc.collect()
        torch.cuda.empty_cache()
        return done

    with torch.random.fork_rng([place]):
        found = largest_fitting(fits, compute.micro_batch, most)
    torch.cuda.reset_peak_memory_stats(place)
    if not found:
        raise RunError(
            f"not even one image fits into the memory of {compute.device.name} ({usable / 2**30:.1f} GiB of it are "
            "free); use a smaller model= or image_size=, or end other programs that use this GPU"
        )
    return found


def train_on_blank(
    settings: TrainingSettings, compute: Compute, objective: Objective, data: ImageData, images: int
) -> None:
    """Trains a module for a few steps on black images, as a run would, and writes nothing.

    Args:
        settings: of the run.
        compute: how it computes.
        objective: changed by it.
        data: makes the images.
        images: of a micro-batch.
    """
    from mimsuite.runs.cluster import TeamEnvironment

    objective.skip_start()
    blank = data.blank(images, BLANK.get(objective.label_kind))
    accumulated = 1 if objective.compares_images else ACCUMULATED
    rounds = -(-accumulated * STEPS // len(blank))  # every sampler of masks has its turn
    batches = blank * rounds
    arguments = trainer_arguments(settings, compute)
    arguments |= {
        "num_nodes": 1,
        "devices": [compute.team.rank % compute.team.local] if compute.device.accelerator == "gpu" else 1,
        "strategy": "auto",
        "plugins": [*arguments.get("plugins", ()), TeamEnvironment(Team(0, 1, 1))],
        "max_steps": len(batches) // accumulated,
        "accumulate_grad_batches": accumulated,
    }
    trainer = instantiate(settings.groups.trainer, settings.inputs.trusted, **(arguments | WITHOUT_OUTPUT))
    with without_known_warnings():
        trainer.fit(objective, train_dataloaders=blank_loader(batches))


def blank_loader(batches: list[Batch]) -> Any:
    """A loader of batches that are there already."""
    from torch.utils.data import DataLoader

    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def agree(limit: int, team: Team, store: Store | None) -> int:
    """The smallest limit of all processes of a run; each calls it with its own.

    Args:
        limit: of this process.
        team: the processes.
        store: what they share; None for one process alone.
    """
    if store is None:
        return limit
    store.set(f"mimsuite/limit/{team.rank}", str(limit))
    return min(int(store.get(f"mimsuite/limit/{rank}")) for rank in range(team.size))
