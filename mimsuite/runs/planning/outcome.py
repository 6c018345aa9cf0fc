"""A plan as plain values for JSON: facts of the data, recipe, reasons, hours, memory, expectations, the command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mimsuite.data.members import find_labelled
from mimsuite.data.tar import to_text
from mimsuite.runs.machine import choose_compile
from mimsuite.runs.planning.duration import validation_images
from mimsuite.runs.planning.evidence import known_of
from mimsuite.runs.planning.planner import Candidate, Plan, free_folder
from mimsuite.settings.pretrain import PretrainSettings

FEW = 1_000  # images below which nothing was measured, by far
MANY_ALIKE = 0.05  # share of the sample
NEARLY = 1.1  # times the speed of the steps up to which loading limits it
WEEK = 168.0  # hours
WORDS = {"class": "one class per image", "classes": "several classes per image", "number": "a number per image"}


def outcome_of(plan: Plan, name: str, typed: Sequence[str], folders: Sequence[str]) -> dict[str, Any]:
    """All that is printed and written.

    Args:
        plan: what is recommended.
        name: of the data.
        typed: the user's keys, as one types them.
        folders: config folders of the user's.
    """
    settings, timing, duration, index = plan.settings, plan.timing, plan.duration, plan.index
    budget, geometry = settings.budget, settings.geometry
    changes = {**plan.chosen.recipe.keys, **plan.length}
    word = re.sub(r"[^A-Za-z0-9]+", "_", plan.chosen.recipe.name).strip("_")
    out = free_folder("-".join(filter(None, (re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-"), word))))
    keys = [*typed, *(f"{key}={shown(value)}" for key, value in changes.items())]
    flags = [f"--config-dir={folder}" for folder in folders]
    parts = {"start": duration.start, "steps": duration.steps, "validations": duration.validations}
    task, end = ("probe", "probe") if plan.sample.kinds else ("evaluate", "test")  # a probe needs labels
    parts |= {"online_probe": duration.rounds, "saving": duration.saving}
    return {
        "data": describe_data(plan, name),
        "device": timing.compute.device.name,
        "precision": timing.compute.precision,
        "devices": timing.devices,
        "workers": settings.inputs.loading.workers,
        "candidates": [describe_candidate(candidate) for candidate in plan.candidates],
        "recipe": {
            "name": plan.chosen.recipe.name,
            "model": describe_model(settings),
            "parameters": timing.parameters,
            "image_size": list(geometry.image_size),
            "objective": describe_objective(settings),
            "mask_unit": geometry.mask_unit,
            "mask_units": geometry.units,
            "hidden_units": list(settings.hidden),
            "epochs": round(budget.epochs, 2),
            "steps": budget.steps,
            "batch": budget.batch,
            "lr": budget.lr,
        },
        "reasons": {**plan.chosen.recipe.why, "epochs": plan.why_length, **given_reasons(plan)},
        "img_per_s": timing.rate * timing.devices,
        "img_per_s_of_steps": timing.steps * timing.devices,
        "img_per_s_of_loading": timing.loading,
        "img_per_s_of_validation": timing.validating * timing.devices,
        "timed": timing.timed,
        "hours": duration.total / 3600,
        "seconds_of": {key: round(value, 2) for key, value in parts.items()},
        "validations": duration.count,
        "validation_images": validation_images(settings),
        "micro_batch": timing.compute.micro_batch,
        "memory_gib": timing.memory,
        "memory_of": timing.memory_of,
        "checkpoint_bytes": timing.checkpoint,
        "weights_bytes": timing.weights,
        "loss_start": timing.loss,
        "loss_line": timing.line,
        "loss_line_name": timing.line_name,
        "loss_images": timing.loss_images,
        "known": [
            asdict(known) for known in known_of(name, budget.samples, index.image_size, index.channels, index.dtype)
        ],
        "notes": list(notes_of(plan)),
        "planned_in": round(plan.spent, 1),
        "command": shlex.join(["mimsuite", "pretrain", *flags, *keys, f"out={out}"]),
        "next": shlex.join(["mimsuite", task, *data_of(typed), f"init={out}", f"out={out}-{end}"]),
        "overrides": [*keys, f"out={out}"],
    }


def shown(value: Any) -> str:
    """A value of a key as one types it."""
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list) else str(value)


def data_of(typed: Sequence[str]) -> list[str]:
    """The key of the data, where the user gave one."""
    return [key for key in typed if key.startswith("data=")]


def describe_data(plan: Plan, name: str) -> dict[str, Any]:
    """What the data are."""
    index, sample = plan.index, plan.sample
    train = index.records(index.select("train"))
    labelled = int(find_labelled(train).sum()) if index.has_labels and index.given is None else 0
    return {
        "name": name,
        "root": to_text(index.root),
        "train": len(train),
        "validation": index.num_samples(index.select("curve")),
        "validation_split": str(index.select("curve")),
        "channels": index.channels,
        "dtype": index.dtype,
        "image_size": list(index.image_size),
        "labelled": labelled,
        "labels": [WORDS[kind] for kind in sample.kinds],
        "classes": len(index.classes) if index.classes else None,
        "looked_at": sample.images,
        "broken": sample.broken,
        "alike": sample.alike,
        "alike_first": [list(pair) for pair in sample.first],
        "correlation_length": sample.correlation,
    }


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """A row of the table."""
    timing, full = candidate.timing, candidate.full
    return {
        "name": candidate.recipe.name,
        "model": describe_model(candidate.settings),
        "parameters": None if timing is None else timing.parameters,
        "img_per_s": None if timing is None else timing.rate * timing.devices,
        "hours": None if full is None else full / 3600,
        "timed": timing is not None and timing.timed,
    }


def describe_model(settings: PretrainSettings) -> str:
    """Width and depth of the encoder."""
    config = settings.model
    values = config.to_dict()
    if {"num_hidden_layers", "hidden_size", "patch_size"} <= values.keys():
        blocks = f"{values['num_hidden_layers']} blocks of width {values['hidden_size']}"
        return f"ViT of {blocks}, patch {values['patch_size']}"
    pairs = ("depths", "depth"), ("hidden_sizes", "embed_dim")
    depths, widths = (values.get(one, values.get(other)) for one, other in pairs)
    if isinstance(depths, list) and isinstance(widths, list):
        name = {"cvt": "CvT", "bit": "BiT"}.get(config.model_type, config.title)
        return f"{name} of {'-'.join(map(str, depths))} blocks of width {'-'.join(map(str, widths))}"
    return config.title


def describe_objective(settings: PretrainSettings) -> str:
    """What is predicted, from what."""
    if settings.latent is not None:
        return settings.latent.describe(settings.loss)
    mode = {"drop": "MAE", "sparse": "sparse convolutions"}.get(mask_mode(settings), "SimMIM")
    return f"{mode}: {settings.loss} of {settings.target}"


def mask_mode(settings: PretrainSettings) -> str:
    """What becomes of hidden cells."""
    return str(settings.model.to_dict().get("mask_mode", ""))


def given_reasons(plan: Plan) -> dict[str, str]:
    """What the user has fixed."""
    given = {override.partition("=")[0] for override in plan.settings.inputs.given} - set(plan.chosen.recipe.keys)
    keys = {
        "batch": "batch",
        "optim.base_lr": "lr",
        "lr": "lr",
        "image_size": "size",
        "mask": "mask",
        "mask.unit": "mask",
        "mask.ratio": "mask",
    }
    derived = {"optim.base_lr": "from optim.base_lr, as given"}
    return {what: derived.get(key, "as given") for key, what in keys.items() if key in given}


def notes_of(plan: Plan) -> list[str]:
    """What somebody should know before the hours are spent."""
    timing, settings, sample = plan.timing, plan.settings, plan.sample
    found = list[str]()
    if (count := settings.budget.samples) < FEW:
        found.append(
            f"{count:,} training images are few: the smallest data of the ledger have 7,000. Weights that others "
            "pretrained (init=hf:ORG/NAME) may serve better; nothing measured here on so few"
        )
    if sample.alike > MANY_ALIKE * max(1, sample.images):
        found.append(
            f"{sample.alike} of {sample.images} pictures look nearly like another one: they count as fewer images, and "
            "across splits they make validation look better; `mimsuite inspect` finds those with the same bytes"
        )
    if sample.correlation is not None and settings.latent is None and mask_mode(settings) != "drop":
        unit, pixels = settings.geometry.mask_unit, sample.correlation * min(settings.geometry.image_size)
        if unit < pixels:
            found.append(
                f"mask units of {unit} px are shorter than the pictures' correlation length of {pixels:.0f} px at this "
                "size: much of a hidden unit can be guessed from its neighbours; try a larger mask.unit="
            )
    if timing.loading is not None and timing.loading < NEARLY * timing.steps:
        found.append(
            f"loading limits the speed: {timing.loading:.4g} images a second with workers="
            f"{settings.inputs.loading.workers}; use more, or smaller images (`mimsuite pack image_size=`)"
        )
    if choose_compile(settings.inputs.compile, timing.compute.device, settings.budget.steps)[0]:
        found.append("the run compiles its blocks (trainer.compile), which was not timed: it may be faster")
    if not timing.timed:
        found.append("a pass of one image would take too long to be timed: speed and hours are a guess from its FLOPs")
    if plan.duration.total / 3600 > WEEK:
        found.append("this takes more than a week here; hours= finds what fits into a time")
    return found
