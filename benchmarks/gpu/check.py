"""Does everything that a user runs on a GPU work there? Each check is a short run or a task on the embedded data.

python benchmarks/gpu/check.py [--dry] [--again] [--only NAME ...]

A check passes, or fails with what was raised. Passed ones are not repeated. The exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from common import Place, Results, StopWhen, free_memory, read_place
from lightning import Callback, Trainer
from safetensors.torch import load_file

import mimsuite
from mimsuite.errors import RunError

Facts = dict[str, Any]
STEPS = 20
SMALL_MEMORY = 0.02  # share of the device's memory in which a large batch of ViT-Base does not fit
AGREE = 1e-3  # largest difference of losses in bfloat16, relative
AGREE_WITH_CPU = 0.03  # the same against float32 on the CPU; rates of drop path are drawn differently there
MASKED_PASS = "mimsuite.models.composed.ForMaskedImageModeling.masked_pass"
GREY_LEVELS = 3  # largest difference of pictures that the device and the loader make
LEFT_OVER = 128 * 2**20  # bytes that may stay on the device after all: the libraries' own workspaces

MODELS = {
    "vit": {"model": "vit_tiny", "model.patch_size": 8},
    "cvt": {"model": "cvt_13"},
    "bit": {"model": "bit_50x1"},
}
DRY_MODELS = {family: {"model": f"{family}_nano"} for family in MODELS}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "simmim": {},
    "norm_pixels": {"objective.target": "norm_pixels", "objective.loss": "mse"},
    "maskfeat": {"objective.target": "hog", "objective.loss": "mse", "mask": "block", "mask.ratio": 0.4},
    "mae": {"objective": "mae", "head": "dec1"},
    "mae_ratios": {"objective": "mae", "head": "dec1", "mask.ratio": [0.6, 0.9]},
    "latent": {"objective": "latent"},
    "finetune": {},
}
DROPS = ("mae", "mae_ratios")  # of ViT alone


# --- runs -------------------------------------------------------------------------------------------------------------


def settings(place: Place, family: str, **changes: Any) -> dict[str, Any]:
    """Keys of a short run."""
    values: dict[str, Any] = {"steps": STEPS, "batch": 64, "image_size": 64, "precision": "bf16-mixed"}
    values |= {"loader.val_limit": 64, **MODELS[family]}
    if place.dry:
        values |= {
            "steps": 2,
            "batch": 8,
            "image_size": 32,
            "precision": "32-true",
            "workers": 0,
            "loader.val_limit": 8,
        }
        values |= DRY_MODELS[family]
    return values | changes


def train(place: Place, name: str, values: dict[str, Any], task: str = "pretrain", **objects: Any) -> Facts:
    """Trains in a folder of its own; returns the losses of all steps, time and memory."""
    out = folder(place, name)
    values = {"callbacks.monitor.log_every": 1, "logger": "null", "overwrite": True, **values}
    if values.get("resume"):
        del values["overwrite"]
    free_memory()
    began = time.perf_counter()
    summary = getattr(mimsuite, task)(out=str(out), **objects, **values)
    facts: Facts = {"status": summary["status"], "seconds": round(time.perf_counter() - began, 1)}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    facts["losses"] = [row["train/loss"] for row in rows if "train/loss" in row]
    facts["img_per_s"] = round(rows[-1].get("perf/img_per_s", 0))
    if not place.dry:
        facts["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    assert all(map(math.isfinite, facts["losses"])), f"a loss is not finite: {facts['losses']}"
    return facts


def folder(place: Place, name: str) -> Path:
    """Of a check's run."""
    return place.work / f"check{'-dry' if place.dry else ''}" / name


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two rows of losses, relative.

    Raises:
        AssertionError: they are not equally long.
    """
    assert len(one) == len(other) > 0, f"{len(one)} and {len(other)} losses"
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


class Losses(Callback):
    """Keeps the loss of every micro-batch, on the device."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.backend = ""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].detach().clone())
        if torch.distributed.is_initialized():
            self.backend = torch.distributed.get_backend()


class Watch(Callback):
    """Lets torch warn of every wait for the device between two steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.first:
            set_sync_warnings("warn")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.last:
            set_sync_warnings("default")


def set_sync_warnings(mode: str) -> None:
    """Nothing without a GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_objective(place: Place, family: str, objective: str) -> Facts:
    """Trains; the first loss is that of float32 on the CPU."""
    task = "finetune" if objective == "finetune" else "pretrain"
    values = settings(place, family, **OBJECTIVES[objective])
    facts = train(place, f"{family}-{objective}", values, task)
    if objective not in ("latent", "finetune"):
        facts["first_loss_on_cpu"] = first_loss(values)
        off = largest_difference(facts["losses"][:1], [facts["first_loss_on_cpu"]])
        assert off < AGREE_WITH_CPU, f"first loss {facts['losses'][0]}, on the CPU {facts['first_loss_on_cpu']}"
    return facts


def first_loss(values: dict[str, Any]) -> float:
    """The first loss of a pretraining run, in float32 on the CPU."""
    module, data, _ = mimsuite.build("pretrain", **values | {"precision": "32-true", "workers": 0})
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        pixels = module.normalize(batch.images)
        return float(module.model.train().masked_loss(pixels, batch.mask, batch.hidden, module.loss))


def check_float16(place: Place) -> Facts:
    """float16 with a factor on the loss."""
    return train(place, "float16", settings(place, "vit", precision="16-mixed"))


def check_ddp(place: Place) -> Facts:
    """DDP in a team of one: the losses are those without it."""
    from mimsuite.runs.cluster import AveragedGradients

    backend = "gloo" if place.dry else "nccl"
    found = {}
    for name, changes in {"alone": {}, "ddp": {"strategy": AveragedGradients(process_group_backend=backend)}}.items():
        losses = Losses()
        module, data, arguments = mimsuite.build("pretrain", **settings(place, "cvt"))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(**arguments | changes | quiet, enable_model_summary=False, callbacks=[losses]).fit(module, data)
        found[name] = torch.stack(losses.values).tolist()
    try:
        assert losses.backend == backend
        off = largest_difference(found["ddp"], found["alone"])
        assert off < AGREE, f"losses differ by {off}: {found}"
    finally:
        torch.distributed.destroy_process_group()
    return {"backend": backend, "largest_difference": off}


def check_resume(place: Place, family: str, **changes: Any) -> Facts:
    """A run that is stopped and goes on has the weights of one that is not, bit by bit."""
    values = settings(place, family, **changes) | {"+trainer.deterministic": True}
    half = StopWhen(lambda trainer: trainer.global_step + 1 == values["steps"] // 2)
    try:
        whole = train(place, f"{family}-whole", values)
        stopped = train(place, f"{family}-stopped", values, callbacks=[half])
        assert stopped["status"] == "interrupted", stopped
        train(place, f"{family}-stopped", {"resume": True})
    finally:
        torch.use_deterministic_algorithms(False)  # Lightning switches it on for the whole process
    one, other = (
        load_file(folder(place, f"{family}-{name}") / "weights" / "model.safetensors") for name in ("whole", "stopped")
    )
    differ = [key for key in one if not torch.equal(one[key], other[key])]
    assert one.keys() == other.keys()
    assert not differ, f"{len(differ)} of {len(one)} tensors differ: {differ[:3]}"
    return {"tensors": len(one), "seconds": whole["seconds"] + stopped["seconds"]}


def check_copies(place: Place) -> Facts:
    """Batches that are copied beside a busy device arrive as they were, and what reads them is not overtaken."""
    _, data, _ = mimsuite.build("pretrain", **settings(place, "vit", workers=2))
    side = 64 if place.dry else 4096
    busy = torch.rand(side, side, device=place.device)
    wanted, found = [], []
    for batch in data.train_dataloader():
        moved = data.transfer_batch_to_device(batch, torch.device(place.device), 0)
        for _ in range(5):
            busy = (busy @ busy).div_(side)
        wanted.append((batch.images.double().mean(), batch.mask.double().mean()))
        found.append((moved.images.double().mean(), moved.mask.double().mean()))
        del moved
    differ = [n for n, (a, b) in enumerate(zip(wanted, found, strict=True)) if not close(a, b)]
    assert not differ, f"batches {differ} of {len(wanted)} arrived with other values"
    return {"batches": len(wanted)}


def close(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Whether means are the same but for rounding."""
    return all(abs(float(a) - float(b)) < 1e-9 * (1 + abs(float(a))) for a, b in zip(one, other, strict=True))


def check_crops_on_device(place: Place) -> Facts:
    """The device makes almost the pictures that the loader makes; a run with them repeats bit by bit."""
    pictures = {}
    for where in ("cpu", "gpu"):
        values = settings(place, "vit") | {"augment.device": where, "workers": 0}
        _, data, _ = mimsuite.build("pretrain", **values)
        batch = next(iter(data.train_dataloader()))
        moved = data.transfer_batch_to_device(batch, torch.device(place.device), 0)
        pictures[where] = data.on_after_batch_transfer(moved, 0).images.cpu().int()
    off = (pictures["gpu"] - pictures["cpu"]).abs()
    facts = {"largest_difference": int(off.max()), "mean_difference": float(off.double().mean())}
    assert facts["largest_difference"] <= GREY_LEVELS, facts
    return facts | check_resume(place, "vit", **{"augment.device": "gpu"})


def check_no_waiting(place: Place, family: str) -> Facts:
    """Between two log points no step waits for the device."""
    values = settings(place, family) | {"callbacks.monitor.log_every": 1000, "val_every": 1000}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(place, f"{family}-no_waiting", values, callbacks=[Watch(values["steps"] // 4, values["steps"] - 2)])
    set_sync_warnings("default")
    waits = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    assert not waits, f"{len(waits)} waits for the device: {sorted(set(waits))}"
    return {"steps": values["steps"] - 2 - values["steps"] // 4}


def check_compile(place: Place, family: str) -> Facts:
    """Compiled blocks give the losses of those that are not."""
    found = {}
    with cheap_compiler() if place.dry else contextlib.nullcontext():
        for compiled in (False, True):
            values = settings(place, family) | {"trainer.compile": compiled}
            found[compiled] = train(place, f"{family}-compile-{compiled}".lower(), values)
    off = largest_difference(found[True]["losses"], found[False]["losses"])
    assert off < AGREE, f"losses differ by {off}: {found[True]['losses']}, {found[False]['losses']}"
    seconds = {
        f"seconds_{name}": found[compiled]["seconds"] for name, compiled in (("eager", False), ("compiled", True))
    }
    return {"largest_difference": off} | seconds


def cheap_compiler() -> Any:
    """Traces without generating code."""
    return mock.patch("mimsuite.objectives.compiling.BACKEND", "eager")


def check_fused_adamw(place: Place) -> Facts:
    """The optimizer's fused kernel gives the losses of the one that is not."""
    module, _, _ = mimsuite.build("pretrain", **settings(place, "vit"))
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["fused"], optimizer.defaults
    found = [
        train(place, f"fused-{on}", settings(place, "vit") | {"optim.fused": on})["losses"] for on in (True, False)
    ]
    off = largest_difference(*found)
    assert off < AGREE, f"losses differ by {off}: {found}"
    return {"largest_difference": off}


def check_out_of_memory(place: Place) -> Facts:
    """A batch that does not fit ends the run with one line that says what to do; the next run is as always."""
    values = settings(place, "vit") | {"micro_batch": 8 if place.dry else 256, "batch": 8 if place.dry else 256}
    if not place.dry:
        values |= {"model": "vit_base", "model.patch_size": 16, "image_size": 224}
    message = ""
    with little_memory(place):
        try:
            train(place, "out_of_memory", values)
        except RunError as error:
            message = str(error)
    micro = values["micro_batch"]
    assert message == f"the device is out of memory at micro_batch={micro}; use micro_batch={micro // 2}", message
    after = train(place, "after_out_of_memory", settings(place, "vit"))
    return {"message": message, "status": after["status"]}


@contextlib.contextmanager
def little_memory(place: Place) -> Iterator[None]:
    """Leaves a small part of the device's memory; on the CPU, a step says that there is none."""
    if place.dry:
        with mock.patch(MASKED_PASS, side_effect=torch.OutOfMemoryError("")):
            yield
        return
    free_memory()
    torch.cuda.set_per_process_memory_fraction(SMALL_MEMORY)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        free_memory()


def check_task(place: Place, task: str, of: str, **values: Any) -> Facts:
    """A task on the weights of a run that an earlier check made."""
    if place.dry:
        values |= {"workers": 0} | ({"layers": "last", "preset.epochs": 1} if task == "probe" else {})
    out = folder(place, f"{task}-{of}")
    summary = getattr(mimsuite, task)(init=folder(place, of), out=out, overwrite=True, **values)
    metrics = {key: value for key, value in summary["metrics"].items() if "/" in key}
    assert metrics, summary
    assert all(math.isfinite(value) for value in metrics.values()), summary
    return {"metrics": metrics}


def check_memory(place: Place) -> Facts:
    """Nothing of the runs before stays on the device."""
    free_memory()
    left = 0 if place.dry else torch.cuda.memory_allocated()
    assert left < LEFT_OVER, f"{left / 2**20:.0f} MiB are still allocated"
    return {"mib": left / 2**20}


def all_checks(place: Place) -> dict[str, Callable[[], Facts]]:
    """By name, in the order in which they are made."""
    found: dict[str, Callable[[Place], Facts]] = {}
    for family in MODELS:
        for objective in OBJECTIVES:
            if family == "vit" or objective not in DROPS:
                found[f"{family}-{objective}"] = functools.partial(check_objective, family=family, objective=objective)
    found |= {
        "probe": functools.partial(check_task, task="probe", of="vit-simmim", image_size=32),
        "evaluate-classifier": functools.partial(check_task, task="evaluate", of="vit-finetune"),
        "evaluate-masked": functools.partial(check_task, task="evaluate", of="vit-mae"),
        "float16": check_float16,
        "ddp": check_ddp,
        **{f"resume-{family}": functools.partial(check_resume, family=family) for family in MODELS},
        **{f"no_waiting-{family}": functools.partial(check_no_waiting, family=family) for family in MODELS},
        "copies": check_copies,
        "crops_on_device": check_crops_on_device,
        "fused_adamw": check_fused_adamw,
        "out_of_memory": check_out_of_memory,
        **{f"compile-{family}": functools.partial(check_compile, family=family) for family in MODELS},
        "memory": check_memory,
    }
    return {name: functools.partial(check, place) for name, check in found.items()}


def made(check: Callable[[], Facts]) -> Facts:
    """The outcome of a check: its status, what it found, or what was raised."""
    began = time.perf_counter()
    try:
        facts = {"status": "passed", "facts": check()}
    except Exception as error:  # the other checks are to be made, whatever failed
        text = "".join(traceback.format_exception(error)[-6:])
        facts = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:2000], "traceback": text[-4000:]}
    return facts | {"took": round(time.perf_counter() - began, 1)}


def run(place: Place, only: Sequence[str] = ()) -> dict[str, Any]:
    """Makes the checks that have not passed yet; returns the outcomes by name."""
    results, checks = Results("check", place), all_checks(place)
    for name, check in checks.items():
        if (only and name not in only) or results.found.get(name, {}).get("status") == "passed":
            continue
        if place.left < 0:
            break
        results.put(name, made(check))
        print(f"CHECK {name:24} {results.found[name]['status']} {results.found[name].get('reason', '')}", flush=True)
    outcomes = {
        status: [n for n, o in results.found.items() if o["status"] == status] for status in ("failed", "passed")
    }
    missing = [name for name in checks if name not in results.found]
    results.write("failed" if outcomes["failed"] else "unfinished" if missing else "done", missing=missing)
    print(f"CHECK {len(outcomes['passed'])} passed, failed: {outcomes['failed']}, not made: {missing}", flush=True)
    return results.found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=())
    at, given = read_place(parser)
    sys.exit(any(outcome["status"] == "failed" for outcome in run(at, given.only).values()))
