"""What Lightning is told about the processes of a run, so that it does not guess from the environment itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only

from mimsuite.models.device import Device
from mimsuite.objectives.spreading import ELEMENTWISE, gathered, on_parts, spread_as
from mimsuite.settings.team import Team
from mimsuite.settings.trainer import Spreading


class TeamEnvironment(ClusterEnvironment):
    """A cluster whose processes are all started already: Lightning neither starts any nor asks SLURM for them."""

    def __init__(self, team: Team) -> None:
        self._team = team

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """Host of the first process."""
        return self._team.address

    @property
    def main_port(self) -> int:
        """Its port."""
        return self._team.port

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning."""
        return False

    def world_size(self) -> int:
        """All processes."""
        return self._team.size

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        """This process among all."""
        return self._team.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        """This process on its machine."""
        return self._team.rank % self._team.local

    def node_rank(self) -> int:
        """Its machine."""
        return self._team.rank // self._team.local


def set_rank(team: Team) -> None:
    """Tells Lightning this process's rank; it has guessed it from whatever RANK or SLURM_PROCID says."""
    rank_zero_only.rank = team.rank  # type: ignore[attr-defined]


class AveragedGradients(DDPStrategy):
    """DDP for training; validation does without it.

    DDP exchanges buffers in each forward pass, and processes may have different numbers of validation batches, or none.
    """

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the Lightning module itself."""
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)


class SpreadWeights(ModelParallelStrategy):
    """FSDP2: each process has a part of weights, gradients and moments; `Objective.configure_model` spreads them.

    Checkpoints are those of one process: whole tensors in one file, which the first process writes, so that every
    strategy goes on from them. Validation runs in each process by itself, as with `AveragedGradients`.

    Args:
        size: the processes.
        backend: torch's name; None chooses by the device.
    """

    def __init__(self, size: int, backend: str | None) -> None:
        super().__init__(
            data_parallel_size=size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """As from any checkpoint."""
        return True

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Where gradients of a micro-batch that is not the last of its step stay in this process, whole."""
        module: Any = self.lightning_module
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Steps on this process's parts where that is the same; else on spread tensors, as far as torch can."""
        if type(optimizer) not in ELEMENTWISE:
            return super().optimizer_step(optimizer, closure, model, **kwargs)
        assert self.lightning_module is not None
        found = self.precision_plugin._wrap_closure(model or self.lightning_module, optimizer, closure)
        with on_parts(optimizer):
            optimizer.step(**kwargs)
        return found

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state, whole in the first process, without tensors in others; all call it at once."""
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict(), keep=self.is_global_zero)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's, likewise."""
        return gathered(super(ModelParallelStrategy, self).optimizer_state(optimizer), keep=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the one file; each process does."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this process's part of whole tensors."""
        assert self.lightning_module is not None
        like = self.lightning_module.state_dict()
        state = {name: spread_as(value, like.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of whole moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            spread = {
                place: {
                    name: spread_as(value, parameters[place]) if isinstance(value, torch.Tensor) else value
                    for name, value in values.items()
                }
                for place, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": spread})


def choose_strategy(spreading: Spreading, team: Team, on: Device) -> Any:
    """Lightning's strategy: one device, or one process for each with all weights (DDP) or a part of them (FSDP)."""
    if team.size == 1:
        return "auto"
    backend = "gloo" if on.accelerator == "cpu" else None
    if spreading.spreads_weights:
        return SpreadWeights(team.size, backend)
    return AveragedGradients(process_group_backend=backend)
