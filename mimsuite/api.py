"""The tasks as Python functions: the same configs, the same checks, the same results as on the command line."""

from __future__ import annotations

import importlib
import os
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
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mimsuite.cli import PATH_KEYS
    from mimsuite.config.folder import conf_dir
    from mimsuite.config.hints import explain
    from mimsuite.errors import InputError

    overrides = [f"{k}={hydra_value(v, path=k in PATH_KEYS)}" for k, v in values.items() if v is not None]
    outer = GlobalHydra.instance().hydra  # ours in `demo`, or the caller's own application
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            cfg = compose(config_name=task, overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, task)) from error
    finally:
        GlobalHydra.instance().hydra = outer
    os.environ.pop("MIMSUITE_STARTED", None)  # from here on the command's start says nothing about this task
    module = importlib.import_module(f"mimsuite.tasks.{task}")
    result: dict[str, Any] = module.run(cfg, overrides)
    return result


def hydra_value(value: Any, *, path: bool = False) -> str:
    """A Python value in Hydra's override grammar; as a `path`, `2024_01_05` is not a number."""
    from mimsuite.cli import quote

    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(hydra_value(item, path=path) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{hydra_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, (int, float)):
        return repr(value)
    bare = not path and str(value).replace("_", "").isalnum()
    return str(value) if bare else quote(str(value))
