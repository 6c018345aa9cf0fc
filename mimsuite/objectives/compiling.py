"""torch.compile for training: blocks one by one, for batches of the run's own size; most else runs as it is.

The blocks of a model are alike, so that one graph per phase (training, validation) and shape serves them all. A batch
of another size, such as the last one of validation, a picture or the online probe's, is not worth a graph of its own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from mimsuite.errors import RunError, cause_of

BACKEND = "inductor"
MOST_GRAPHS = 128  # of one function, before torch would give up: rates of stochastic depth and MAE's ratios differ


class CompiledBlocks:
    """Compiles blocks, and runs them compiled inside `phase` only.

    Args:
        blocks: modules that are alike; compiled when they are first called.
        batch: images of the batches that are run compiled.
    """

    def __init__(self, blocks: Sequence[nn.Module], batch: int) -> None:
        self.batch = batch
        self.add(blocks)

    def add(self, blocks: Sequence[nn.Module]) -> None:
        """Compiles further blocks."""
        for block in blocks:
            block.compile(backend=BACKEND, dynamic=False, fullgraph=True)

    def phase(self, batch: int) -> contextlib.AbstractContextManager[Any]:
        """Where the blocks run compiled, if `batch` is the number of images."""
        stance = "default" if batch == self.batch else "force_eager"
        return cast(contextlib.AbstractContextManager[Any], torch.compiler.set_stance(stance))

    @contextlib.contextmanager
    def run(self) -> Any:
        """A training run, in which the blocks run as they are outside of `phase`.

        Raises:
            RunError: the blocks cannot be compiled.
        """
        import torch._dynamo

        warnings.filterwarnings(
            "ignore", "The .grad attribute of a Tensor that is not a leaf"
        )  # torch looks, we do not
        limits = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": 4 * MOST_GRAPHS}
        try:
            with torch._dynamo.config.patch(limits), torch.compiler.set_stance("force_eager"):
                yield
        except torch._dynamo.exc.TorchDynamoException as error:
            raise RunError(f"the model cannot be compiled ({cause_of(error)}); use trainer.compile=false") from error


def why_not_compile(device: str) -> str | None:
    """Why torch.compile does not work on a device, in a few words; None where it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch's own modules say when they are imported
            torch.compile(_double, backend=BACKEND, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # a compiler, a library or a driver is missing: each fails in its own way
        return cause_of(getattr(error, "inner_exception", error))  # of a backend that fails
    finally:
        torch.compiler.reset()
    return None


def _double(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * 2
