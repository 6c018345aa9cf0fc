"""`mimsuite finetune`: supervised training of a pretrained or fresh encoder with a linear classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.index import DataIndex
from mimsuite.data.label_table import read_labels
from mimsuite.errors import InputError
from mimsuite.evaluation.judging.answers import Answers
from mimsuite.evaluation.judging.trained import find_trained, scorer
from mimsuite.models.load import classifier, keeps_head, normalizer, save_weights
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.life import TrainingTask, begin, carry_out, native_size, processes
from mimsuite.runs.trainer import Compute, Job, Parts, classify_objective, labelled_data
from mimsuite.settings.hyperrule import hyper_rule
from mimsuite.settings.labels import check_objective, decide_labels
from mimsuite.settings.model import classifier_config, frozen_depth, model_config
from mimsuite.settings.read import budget, plain_geometry, read_positive
from mimsuite.weights.init import Weights

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.classify import ClassifyObjective

log = logging.getLogger("mimsuite")

LAYER_DECAY = 0.75  # of pretrained weights (He et al. 2022, table 9)
SMOOTHING = 0.1  # of classes (Szegedy et al. 2016)


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Fine-tunes, or trains from scratch; returns the content of `summary.json`, and the exit code after a signal.

    Everything that can be wrong with the input is looked at before torch is imported and before `out` is touched.
    """
    return carry_out(decide(cfg, overrides), TrainingTask("finetune", make, banner, finish))


def decide(cfg: DictConfig, overrides: Sequence[str]) -> Job:
    """Checks every key.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    begun = begin(cfg, overrides)
    cfg, index, weights, given, trusted = begun.cfg, begun.index, begun.weights, begun.given, begun.trusted
    labelled = decide_labels(cfg, index)
    rule = apply_rule(cfg, len(labelled.train), index)
    draft = model_config(cfg, weights, given, trusted)
    native = (weights.image_size if weights else None) or native_size(draft)
    geo = plain_geometry(cfg, index, native=native, stride=draft.stride if draft.model_type == "vit" else (1, 1))
    config = model_config(cfg, weights, given, trusted, geo.image_size, geo.channels)
    config = classifier_config(config, cfg, weights, labelled)
    notes = [*labelled.notes, *rule, layer_decay(cfg, weights)]
    if cfg.objective.smoothing == "auto":
        cfg.objective.smoothing = SMOOTHING if labelled.facts.kind == "classes" else 0.0
        notes.append(f"objective.smoothing={cfg.objective.smoothing:g} (the labels are {labelled.facts.kind})")
    check_objective(cfg, labelled.facts)
    pace = budget(cfg, len(labelled.train))
    team = processes(cfg)
    return Job(
        cfg, overrides, trusted, index, weights, config, geo, pace, begun.workers, team, tuple(notes), labelled=labelled
    )


def apply_rule(cfg: DictConfig, images: int, index: DataIndex) -> list[str]:
    """Fills in what `schedule=hyperrule` decides from the data (Kolesnikov et al. 2020, section 3.3); returns a note.

    That is the schedule's marks and warm-up, and, where they are `auto`, steps, mixup, image size and the crop's share.

    Raises:
        InputError: a key that says `auto` where nothing decides it.
    """
    ruled = cfg.schedule.get("marks") == "auto"
    rule = hyper_rule(images, index.image_size)
    if ruled:
        cfg.schedule.marks = list(rule.milestones)
        cfg.schedule.warmup = rule.warmup if cfg.schedule.warmup == "auto" else cfg.schedule.warmup
        cfg.steps = rule.steps if cfg.steps is None and cfg.epochs is None else cfg.steps
        cfg.image_size = rule.crop if cfg.image_size == "auto" else cfg.image_size
    for group, key, value in (("objective", "mixup", rule.mixup), ("augment", "share", rule.share)):
        if cfg[group].get(key) == "auto":
            if not ruled:
                raise InputError(f"{group}.{key}=auto needs schedule=hyperrule, which decides it; give a number")
            cfg[group][key] = value
    if not ruled:
        return []
    sizes = f"crops of {rule.crop} of {rule.resize} pixels"
    return [f"schedule=hyperrule (for {images:,} images: {rule.steps} steps, mixup {rule.mixup:g}, {sizes})"]


def layer_decay(cfg: DictConfig, weights: Weights | None) -> str:
    """Decides `layer_decay=auto` and says why; checks a number.

    Raises:
        InputError: a number that is not above 0 and at most 1.
    """
    reason = "as asked"
    if cfg.layer_decay == "auto":
        cfg.layer_decay, reason = (LAYER_DECAY, "pretrained weights") if weights else (1.0, "fresh weights")
    if read_positive(cfg, "layer_decay", auto=1.0) > 1:
        raise InputError(f"layer_decay={cfg.layer_decay} is above 1; use 1 for none, or 0.75")
    return f"layer_decay={cfg.layer_decay:g} ({reason})"


def make(job: Job, compute: Compute) -> tuple[ClassifyObjective, ImageData]:
    """The Lightning module and the loaders."""
    model = classifier(
        job.config, job.weights, std=job.cfg.head.std, frozen=frozen_depth(job.cfg, job.config.num_blocks)
    )
    normalize = normalizer(job.index, job.weights)
    return classify_objective(job, model, normalize), labelled_data(job, compute.micro_batch, normalize)


def banner(job: Job, compute: Compute, objective: ClassifyObjective) -> None:
    """Says what is about to happen: labels, model, and whether other libraries will read the result."""
    cfg, labelled = job.cfg, job.labelled
    assert labelled is not None
    parameters = list(objective.model.parameters())
    log.info(
        "labels    %s, %d outputs; %s images to learn from; best weights by %s",
        *(labelled.facts.kind, labelled.facts.outputs, f"{len(labelled.train):,}", labelled.chosen_on),
    )
    log.info(
        "model     %s from %s, %s parameters, %s of them trained; image %dx%d",
        *(job.config.model_type, cfg.init or "scratch", f"{sum(p.numel() for p in parameters):,}"),
        f"{sum(p.numel() for p in parameters if p.requires_grad):,}",
        *job.geo.image_size,
    )
    if job.weights is not None and not keeps_head(job.weights, job.config):
        log.info("          the classifier is fresh (head.std=%g)", cfg.head.std)
    if strange := objective.model.config.not_in_transformers:
        log.info(
            "          transformers will not compute the same from weights/: it knows no %s; mimsuite.load does",
            ", ".join(strange),
        )


def finish(
    job: Job, folder: RunFolder, objective: ClassifyObjective, parts: Parts
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes the last weights, and judges the best ones on the images that nothing was chosen on."""
    from mimsuite.callbacks.best_weights import BestWeights

    best = next((c for c in parts.callbacks if isinstance(c, BestWeights)), None)
    size, place = job.geo.image_size, folder.path / "weights"
    save_weights(folder.path / "weights-last", objective.evaluated_model, objective.normalize, size)
    if best is None or best.value is None:
        save_weights(place, objective.evaluated_model, objective.normalize, size)
    more = {} if best is None or best.value is None else {"best_step": best.step, "best_value": best.value}
    figures = last_figure(job, folder) if "test" in job.index.splits else {}
    shown = figures or {k: v for k, v in (parts.files.last if parts.files else {}).items() if k.startswith("val/")}
    text = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    log.info("done: %d steps; %s; best weights in %s", job.pace.steps, text, place)
    return figures, more


def last_figure(job: Job, folder: RunFolder) -> dict[str, float]:
    """What the best weights, as they lie in `weights/`, are worth on `test`."""
    from mimsuite.evaluation.judging.classifier import judge, label_tensor

    index, labelled, size = job.index, job.labelled, job.geo.image_size
    assert labelled is not None
    trained, samples = find_trained(str(folder.path)), index.records("test")
    answers = Answers(labelled.facts.kind, labelled.facts.outputs, names=None, order=None, note="")
    judged = judge(
        scorer(trained, index, answers, size, flip=False),
        index,
        samples,
        label_tensor(read_labels(index, samples), answers.kind, answers.outputs),
        image_size=size,
        batch=job.cfg.micro_batch,
        workers=job.workers,
    )
    return {f"test/{name}": value for name, value in (judged.worth.figures | {"loss": judged.loss}).items()}


if __name__ == "__main__":
    app.main("finetune", run)
