"""The tasks as Python functions: the same configs, the same checks, the same results as on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def pretrain(*, out: str, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Masked image modeling; returns the content of `summary.json`. Keys: `mimsuite pretrain --help`.

    Raises:
        InputError: bad configuration or input.
        RunError: the run had to stop.
    """
    return call("pretrain", {"out": out, "data": data, **overrides})


def probe(*, init: str, out: str, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """kNN and linear probe of a frozen encoder; returns the content of `summary.json`."""
    return call("probe", {"init": init, "out": out, "data": data, **overrides})


def finetune(*, out: str, init: str | None = None, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Supervised fine-tuning, or training from scratch; returns the content of `summary.json`."""
    return call("finetune", {"init": init, "out": out, "data": data, **overrides})


def evaluate(*, init: str, out: str, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Metrics of a trained classifier or of a pretraining run on a split; returns the content of `summary.json`."""
    return call("evaluate", {"init": init, "out": out, "data": data, **overrides})


def embed(*, init: str, out: str, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Writes features of every image of a data set to a file, and a map of them; returns counts and places."""
    return call("embed", {"init": init, "out": out, "data": data, **overrides})


def reconstruct(*, init: str, out: str, images: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Writes a picture of original, masked input, prediction, paste and error; returns masked loss and PSNR."""
    return call("reconstruct", {"init": init, "out": out, "images": images, **overrides})


def plot(*, runs: str | Sequence[str], out: str, **overrides: Any) -> dict[str, Any]:
    """Draws the curves of one or several runs into one picture; returns the last metrics of each run by its name."""
    return call("plot", {"runs": runs, "out": out, **overrides})


def pack(*, src: str, out: str, **overrides: Any) -> dict[str, Any]:
    """Packs an image folder into shards and an index; returns counts."""
    return call("pack", {"src": src, "out": out, **overrides})


def inspect(*, out: str, data: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Counts, classes, sizes and statistics of a data set, with a contact sheet in `out`."""
    return call("inspect", {"out": out, "data": data, **overrides})


def demo(*, out: str, **overrides: Any) -> dict[str, Any]:
    """Every step once, on the embedded data set; returns the metrics that it prints."""
    return call("demo", {"out": out, **overrides})


def doctor(*, data: str | None = None, out: str | None = None, **overrides: Any) -> dict[str, Any]:
    """Versions, devices and traps of this environment; returns the findings, and `exit_code` 1 where one is a fault."""
    return call("doctor", {"data": data, "out": out, **overrides})


def list_models() -> list[dict[str, Any]]:
    """One row per model config: name, parameters, forward FLOPs, stride, grid."""
    return list(call("models", {})["models"])


def load(init: str) -> nn.Module:
    """The model in a run folder, a Hugging Face style folder, `hf:ORG/NAME` or `demo:NAME`, in evaluation mode.

    Raises:
        InputError: `init` holds no weights, or damaged ones.
    """
    from mimsuite.models.load import load_model
    from mimsuite.weights.init import find_weights

    return load_model(find_weights(init)).eval()


def call(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Composes `conf/TASK.yaml` with the given values and runs the task in this process.

    Raises:
        InputError: a key or value that the config does not take.
    """
    from mimsuite.app import call_task

    return call_task(task, importlib.import_module(f"mimsuite.tasks.{task}").run, values)
