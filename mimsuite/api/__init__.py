"""The tasks as Python functions: the same configs, the same checks, the same results as on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mimsuite.api.calls import call, compose_and
from mimsuite.api.data import demo, doctor, inspect, pack, plot, report
from mimsuite.api.tasks import embed, evaluate, export, predict, probe, reconstruct
from mimsuite.api.training import bench, finetune, plan, pretrain

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective

__all__ = [
    "Built",
    "bench",
    "build",
    "call",
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "list_models",
    "list_runs",
    "load",
    "pack",
    "plan",
    "plot",
    "predict",
    "pretrain",
    "probe",
    "reconstruct",
    "report",
]


class Built(NamedTuple):
    """The parts of a run, for a Trainer of one's own.

    Attributes:
        module: the LightningModule; `module.model` is the model, `module.save_pretrained(folder)` writes its weights.
        data: the LightningDataModule.
        trainer: arguments of `lightning.Trainer` that give the numbers of the command; loggers, callbacks and places
            to write are not among them.
    """

    module: Objective
    data: ImageData
    trainer: dict[str, Any]


def build(task: Literal["pretrain", "finetune"] = "pretrain", **overrides: Any) -> Built:
    """Builds what a run trains and on what, and writes nothing.

    `module, data, arguments = mimsuite.build("pretrain", data="shards/", steps=1000)`, then
    `lightning.Trainer(**arguments, callbacks=[...]).fit(module, data)`.

    Args:
        task: which run.
        overrides: as of `mimsuite.pretrain` or `mimsuite.finetune`, but for `out`, `callbacks` and `logger`.

    Raises:
        InputError: a key or value that the config does not take.
    """
    from mimsuite.errors import InputError

    if task not in ("pretrain", "finetune"):
        raise InputError(f"build({task!r}): only pretrain and finetune train something; use one of them")
    for key in ("out", "callbacks", "logger"):
        if key in overrides:
            raise InputError(f"build takes no {key}=; give it to your own Trainer")
    return Built(*compose_and("build", task, {"out": "unused", **overrides}))


def list_models(
    *, name: str | None = None, image_size: int | list[int] | None = None, channels: int | None = None
) -> list[dict[str, Any]]:
    """One row per model config: name, parameters, forward FLOPs, stride, grid. Prints nothing.

    Args:
        name: of one config (default: all).
        image_size: pixels: a side or [height, width] (default: each model's own).
        channels: of the images (default: 3).
    """
    values = {"name": name, "image_size": image_size, "channels": channels}
    rows: list[dict[str, Any]] = compose_and("model_rows", "models", values)
    return rows


def list_runs(
    *,
    path: str | Path | None = None,
    sort: str | None = None,
    best: str | None = None,
    task: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """One row per run below a folder, the newest first: what it is, its state, steps, metrics, hours. Prints nothing.

    Keys of a row: name, folder, task, status, model, init, data, loss, steps, of (steps planned), hours, updated (local
    time), metrics (the last value of each), problem (what is damaged, else None). What is not known is None.

    Args:
        path: folder with runs at any depth (default: runs).
        sort: updated, name, task, model, status, steps or hours (default: updated).
        best: a metric such as probe/top1: runs that have it, the best first.
        task: pretrain, finetune, probe, evaluate, or a list of them (default: all).
        status: running, done, interrupted, diverged, failed, damaged, or a list of them (default: all).

    Raises:
        InputError: a folder that does not exist, an unknown word, a metric that no run has or that names no quality.
    """
    values = {"path": path, "sort": sort, "best": best, "task": task, "status": status}
    rows: list[dict[str, Any]] = compose_and("run_rows", "runs", values)
    return rows


def load(init: str, *, trusted_targets: Sequence[str] = ()) -> nn.Module:
    """The model in a run folder, a Hugging Face style folder, `hf:ORG/NAME` or `demo:NAME`, in evaluation mode.

    Args:
        init: what names it.
        trusted_targets: classes of your own that its config may name (`model=external`).

    Raises:
        InputError: `init` holds no weights, or damaged ones.
    """
    from mimsuite.models.load import load_model
    from mimsuite.weights.init import find_weights

    return load_model(find_weights(init).trusting(trusted_targets)).eval()
