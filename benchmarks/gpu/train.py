"""What does pretraining of 200 epochs reach? Probe and fine-tuning, beside random initialisation and raw pixels.

python benchmarks/gpu/train.py PART [--dry] [--minutes 7]

A part is a row of stages. What time is left for is done; the same command goes on, in the middle of a training run too.
Every finished stage is entered into a ledger of its own; `collect.py` brings its entries to benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger
from common import Place, Results, StopWhen, free_memory, machine, read_place

import mimsuite
from mimsuite.data.storage import write_json
from mimsuite.errors import InputError

Values = dict[str, Any]
MACHINE = "G"  # until `collect.py` gives it a letter
NEEDED = 20.0  # seconds that a stage should have, or it is left to the next call
FILES = ("config.yaml", "overrides.txt", "environment.json", "metrics.csv", "summary.json", "train.log")


@dataclass(frozen=True)
class Stage:
    """One run.

    Attributes:
        name: of its folder.
        task: pretrain, probe or finetune.
        values: keys of the task.
        start: the stage whose weights it starts from.
    """

    name: str
    task: str
    values: Values = field(default_factory=dict)
    start: str | None = None


# --- recipes ----------------------------------------------------------------------------------------------------------

FIXED = {"model.position": "sincos2d", "model.init_scheme": "mae"}
CIFAR = {"data": "cifar10-jpeg", "image_size": 32, "model": "vit_tiny", "model.patch_size": 4, **FIXED}
IMAGENETTE = {"data": "imagenette-128", "image_size": 128, "model": "vit_small", "model.patch_size": 8, **FIXED}
SMALL_DECODER = {
    "head": "dec8",
    **{"head.num_hidden_layers": 4, "head.hidden_size": 192, "head.num_attention_heads": 3},
    "head.intermediate_size": 768,
}
MAE = {"objective": "mae", "optim.betas": [0.9, 0.95]}
LATENT = {
    "objective": "latent",
    **{key: value for key, value in SMALL_DECODER.items() if key != "head"},
    **{"mask.unit": 4, "mask.ratio": 0.8, "optim.betas": [0.9, 0.98]},
}
LENGTH = {"epochs": 200, "batch": 512, "lr": 1e-3}
TUNED = {"experiment": "finetune_small", "epochs": 100, "batch": 256, "lr": 1e-3}
TUNED_NETTE = TUNED | {"epochs": 50, "batch": 128, "lr": 5e-4}


def rows(name: str, data: Values, pretraining: Values, tuned: Values, *, beside: bool = True) -> list[Stage]:
    """Pretraining, probe and fine-tuning; with `beside`, also training from scratch, and the probe's baselines."""
    short = name.partition("_")[0]
    found = [
        Stage(name, "pretrain", data | pretraining),
        Stage(f"{name}_probe", "probe", {"data": data["data"], "baselines": beside}, name),
        Stage(f"{name}_finetune", "finetune", {"data": data["data"]} | tuned, name),
    ]
    return [*found, Stage(f"{short}_random_finetune", "finetune", data | tuned)] if beside else found


def mae_cifar(ratio: float) -> Values:
    """MAE of CIFAR-10."""
    return MAE | SMALL_DECODER | LENGTH | {"mask.ratio": ratio, "mask.unit": 4}


PARTS: dict[str, list[Stage]] = {
    "mae_cifar": [
        *rows("cifar_mae_75", CIFAR, mae_cifar(0.75), TUNED),
        *rows("cifar_mae_90", CIFAR, mae_cifar(0.9), TUNED, beside=False),
    ],
    "simmim_cifar": rows("cifar_simmim", CIFAR, LENGTH | {"mask.ratio": 0.6, "mask.unit": 8}, TUNED),
    "latent_cifar": rows("cifar_latent", CIFAR, LATENT | LENGTH, TUNED),
    "mae_imagenette": rows(
        "imagenette_mae",
        IMAGENETTE,
        MAE
        | {"epochs": 200, "batch": 128, "lr": 5e-4, "mask.ratio": 0.75, "mask.unit": 8, "augment.scale": [0.2, 1.0]},
        TUNED_NETTE,
    ),
}
DRY = {"data": None, "epochs": None, "batch": 8, "workers": 0}
DRY_TRAINING = {"steps": 2, "loader.val_limit": 8}
DRY_PROBE = {"layers": "last", "preset.epochs": 1, "preset.lrs": [0.1]}
DRY_FRESH = {"model": "vit_nano", "model.patch_size": 8, "image_size": 32}


# --- doing them -------------------------------------------------------------------------------------------------------


def runs(place: Place) -> Path:
    """The folder of the run folders."""
    return place.work / ("runs-dry" if place.dry else "runs")


def values_of(stage: Stage, place: Place) -> Values:
    """The keys that a stage is called with.

    Raises:
        InputError: the data set is not there.
    """
    values = {"workers": max(1, len(os.sched_getaffinity(0)) - 1)} | stage.values
    values["data"] = str(place.work / "data" / stage.values["data"])
    if stage.task != "probe":
        values["logger"] = "null"
    if stage.start is not None:
        values["init"] = str(runs(place) / stage.start)
    if place.dry:
        values |= (
            DRY | (DRY_PROBE if stage.task == "probe" else DRY_TRAINING) | (DRY_FRESH if "model" in values else {})
        )
        values |= {"mask.unit": 8} if "mask.unit" in values else {}
    elif not Path(values["data"]).is_dir():
        raise InputError(
            f"{values['data']} is not there; run prepare.sh {stage.values['data']}, and carry what it wrote"
        )
    return {key: value for key, value in values.items() if value is not None}


def do(stage: Stage, place: Place) -> Values:
    """Starts a stage, or goes on with it; returns its summary."""
    out, values = runs(place) / stage.name, values_of(stage, place)
    known = ledger.read(out / "summary.json") if (out / "summary.json").is_file() else {}
    if known.get("status") == "done":
        return known
    free_memory()
    if stage.task == "probe":
        return mimsuite.probe(out=out, overwrite=True, **values)
    if (out / "config.yaml").is_file():
        values = {"resume": True, "workers": values["workers"]}
    deadline = StopWhen(lambda trainer: place.left < 0)
    return getattr(mimsuite, stage.task)(out=out, callbacks=[deadline], **values)


def enter(stage: Stage, place: Place) -> Values:
    """The ledger's entry of a finished stage."""
    root = place.work / ("ledger-dry" if place.dry else "ledger")
    root.mkdir(exist_ok=True)
    write_json(root / "machines.json", {MACHINE: "of this call"})
    entry: Values = ledger.read(ledger.add(runs(place) / stage.name, root, MACHINE, f"{stage.name}_seed0"))
    return entry


def keep_files(stages: list[Stage], place: Place, part: str) -> None:
    """Packs what the runs wrote about themselves, and their last pictures."""
    with tarfile.open(place.out / f"{part}-runs.tar.gz", "w:gz") as archive:
        for stage in stages:
            out = runs(place) / stage.name
            pictures = [out / "pictures" / "curves.png", *sorted(out.glob("pictures/step_*.png"))[-1:]]
            for file in [*(out / name for name in FILES), *pictures]:
                if file.is_file():
                    archive.add(file, f"{stage.name}/{file.name}")


def run(place: Place, part: str) -> str:
    """Does what is left of a part; returns its status."""
    results, stages = Results(part, place), PARTS[part]
    if place.again:
        for stage in stages:
            shutil.rmtree(runs(place) / stage.name, ignore_errors=True)
    for number, stage in enumerate(stages, 1):
        if place.left < NEEDED:
            break
        summary = do(stage, place)
        print(f"TRAIN {part} {number} of {len(stages)} {stage.name}: {summary['status']}", flush=True)
        if summary["status"] != "done":
            break
        results.put(stage.name, {"metrics": summary["metrics"], "ledger": enter(stage, place)})
    left = [stage.name for stage in stages if stage.name not in results.found]
    status = "unfinished" if left else "done"
    results.write(status, left=left)
    keep_files(stages, place, part)
    print(f"TRAIN {part} {status}; left: {left}; {machine(place)['device']}", flush=True)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    at, given = read_place(parser)
    run(at, given.part)
