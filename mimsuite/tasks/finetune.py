"""`mimsuite finetune`: supervised training of a pretrained or fresh encoder with a linear classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.data.label_table import FROM_ONE, count_labelled
from mimsuite.models.load import keeps_head, make_classifier, make_normalizer, report_difference, save_weights
from mimsuite.runs.console import report_next
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.life import TrainingTask, assemble, prepare_process, train_run
from mimsuite.runs.objects import Compute, Parts, classify_objective, labelled_data
from mimsuite.settings.finetune import FinetuneSettings, read_finetune
from mimsuite.settings.given_labels import given_label_keys
from mimsuite.settings.objects import NO_OBJECTS, Objects

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.classify import ClassifyObjective

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = (), objects: Objects = NO_OBJECTS) -> dict[str, Any]:
    """Fine-tunes, or trains from scratch; returns the content of `summary.json`, and the exit code after a signal.

    Everything that can be wrong with the input is checked before torch is imported and before `out` is touched.
    """
    settings = read_finetune(cfg, overrides, leads=prepare_process(), objects=objects)
    return train_run(settings, training_task())


def build(
    cfg: DictConfig, overrides: Sequence[str] = (), objects: Objects = NO_OBJECTS
) -> tuple[Any, Any, dict[str, Any]]:
    """The Lightning module, the loaders and the Trainer's arguments of such a run; writes nothing."""
    return assemble(read_finetune(cfg, overrides, leads=False, objects=objects), training_task())


def training_task() -> TrainingTask[FinetuneSettings]:
    """What this task adds to the life of a run."""
    return TrainingTask("finetune", make_objects, report_settings, write_weights)


def make_objects(settings: FinetuneSettings, compute: Compute) -> tuple[ClassifyObjective, ImageData]:
    """The Lightning module and the loaders."""
    inputs = settings.inputs
    model = make_classifier(
        settings.model,
        inputs.weights,
        std=settings.head_std,
        frozen=settings.frozen_depth,
        from_source=not inputs.goes_on,
    )
    normalize = make_normalizer(inputs.index, inputs.weights, settings.model)
    return classify_objective(settings, model, normalize), labelled_data(settings, compute, normalize)


def report_settings(settings: FinetuneSettings, objective: ClassifyObjective) -> None:
    """Reports labels, model, and whether other libraries will read the result."""
    inputs, labels, model = settings.inputs, settings.labels, settings.model
    parameters = list(objective.trained_model.parameters())
    log.info(
        "labels    %s, %d outputs; %s training images; best weights by %s",
        *(labels.facts.kind, labels.facts.outputs, f"{len(labels.train):,}", labels.chosen_on),
    )
    if len(labels.choose) > (limit := inputs.loading.val_limit):
        log.info(
            "          val metrics, and the choice by them, are of %s of %s images (loader.val_limit)",
            *(f"{limit:,}", f"{len(labels.choose):,}"),
        )
    if labels.facts.from_one:
        log.warning("          %s", FROM_ONE)
    if labelled := count_labelled(inputs.index):
        log.info("          %s", labelled)
    for warning in labels.warnings:
        log.warning("%s", warning)
    log.info(
        "model     %s from %s, %s parameters, %s of them trained; image %dx%d",
        *(
            model.title,
            inputs.weights.init if inputs.weights else "its weights" if model.is_trained else "scratch",
            f"{sum(p.numel() for p in parameters):,}",
        ),
        f"{sum(p.numel() for p in parameters if p.requires_grad):,}",
        *settings.geometry.image_size,
    )
    if inputs.weights is not None and not keeps_head(inputs.weights, model):
        log.info("          the classifier is fresh (head.std=%g)", settings.head_std)
    report_difference(objective.model)


def write_weights(
    settings: FinetuneSettings, compute: Compute, folder: RunFolder, objective: ClassifyObjective, parts: Parts
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes the last weights, and evaluates the best ones on the images that nothing was chosen on."""
    from mimsuite.callbacks.best_weights import BestWeights

    best = next((c.best for c in parts.callbacks if isinstance(c, BestWeights)), None)
    size, place = settings.geometry.image_size, folder.path / "weights"
    save_weights(folder.path / "weights-last", objective.evaluated_model, objective.normalize, size)
    chosen = None if best is None or best.value is None else best
    if chosen is None:
        save_weights(place, objective.evaluated_model, objective.normalize, size)
    more = {} if chosen is None else {"best_step": chosen.step, "best_value": chosen.value}
    metrics = test_metrics(settings, compute, folder) if "test" in settings.inputs.index.splits else {}
    last = objective.trainer.global_step
    step, found = (last, objective.last_metrics) if chosen is None else (chosen.step, chosen.metrics)
    text = ", ".join(f"{name} {value:.4f}" for name, value in (metrics or found).items())
    log.info(
        "done: %s; %s weights, of step %d: %s; in %s",
        count_of(last, "step"),
        "last" if chosen is None else "best",
        step,
        text,
        place,
    )
    run = folder.path
    labels = given_label_keys(settings.config)
    report_next("see the mistakes", "evaluate", init=run, data=settings.inputs.data, **labels, out=f"{run}-evaluation")
    return metrics, more


def test_metrics(settings: FinetuneSettings, compute: Compute, folder: RunFolder) -> dict[str, float]:
    """The metrics of the best weights, as they lie in `weights/`, on the test split."""
    from mimsuite.data.label_table import read_labels
    from mimsuite.evaluation.judging.classifier import evaluate_classifier, label_tensor
    from mimsuite.evaluation.judging.load import load_classifier
    from mimsuite.models.device import torch_device
    from mimsuite.settings.class_match import MatchedOutputs
    from mimsuite.settings.trained import find_trained

    index, facts, size = settings.inputs.index, settings.labels.facts, settings.geometry.image_size
    trained, samples = find_trained(str(folder.path), settings.inputs.trusted), index.records("test")
    outputs = MatchedOutputs(facts.kind, facts.outputs, names=None, order=None, note="")
    found = evaluate_classifier(
        load_classifier(trained, index, outputs, size, torch_device(), flip=False),
        index,
        samples,
        label_tensor(read_labels(index, samples), outputs.kind, outputs.outputs),
        image_size=size,
        batch=compute.micro_batch,
        workers=settings.inputs.loading.workers,
    )
    return {f"test/{name}": value for name, value in (found.scores.metrics | {"loss": found.scores.loss}).items()}


if __name__ == "__main__":
    app.main("finetune", run)
