"""What Lightning is told about the processes of a run, so that it does not guess from the environment itself."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from mimsuite.settings.team import Team


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
