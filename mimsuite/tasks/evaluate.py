"""`mimsuite evaluate`: metrics of a classifier, a probe or a pretraining run on a split, and its mistakes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.fingerprint import DATA, difference, fingerprint
from mimsuite.data.label_table import count_labelled
from mimsuite.models.device import torch_device
from mimsuite.runs.folder import RunFolder, read_summary, summary_after
from mimsuite.runs.heartbeat import AGAIN
from mimsuite.runs.life import prepare_process
from mimsuite.runs.machine import own_device
from mimsuite.runs.meeting import joined
from mimsuite.runs.processes import read_in_processes
from mimsuite.runs.reporting.facts import read_json
from mimsuite.settings.evaluate import EvaluateSettings, read_evaluate
from mimsuite.settings.read import format_size
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

FLAT = {"loss_mean_colour": "one colour per image", "loss_mean_target": "the mean target everywhere"}


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluates; returns the content of `summary.json`."""
    settings = read_evaluate(cfg, overrides, leads=prepare_process())
    team, code = read_in_processes("evaluate", overrides, settings.devices)
    if code is not None:
        return summary_after(settings.out, code)

    from mimsuite.evaluation.judging.load import check_probe
    from mimsuite.evaluation.judging.sizes import evaluate_sizes, make_sampler

    check_probe(settings.trained)  # what is wrong is refused before `out` is touched
    sampler = make_sampler(settings.masking)
    with RunFolder(settings.out, overwrite=settings.overwrite, leads=team.rank == 0) as folder:
        folder.log_to_file()
        folder.describe(settings.config, overrides, {"device": torch_device(), "processes": team.size})
        report_settings(settings)
        with joined(team, "gloo", task="evaluate", fix=AGAIN):
            rows, more = evaluate_sizes(settings, sampler, folder.path, own_device())
        if not folder.leads:
            return {"exit_code": 0}
        for size, row in zip(settings.sizes, rows, strict=True):
            log.info("%-9s %s", format_size(size), format_row(row))
        metrics = {f"{settings.split}/{name}": value for name, value in rows[0].items()}
        more |= {"split": settings.split, "image_size": list(settings.sizes[0])}
        log.info("next      look at the tables and pictures in %s", settings.out)
        return folder.summary("evaluate", "done", 0, metrics, **more)


def format_row(row: Mapping[str, float]) -> str:
    """Metrics in words; beside the loss under masks what a prediction that is always the same would reach."""
    flat = "".join(f" ({words}: {row[name]:.4f})" for name, words in FLAT.items() if name in row)
    return ", ".join(f"{name} {v:.4f}{flat if name == 'loss' else ''}" for name, v in row.items() if name not in FLAT)


def report_settings(settings: EvaluateSettings) -> None:
    """Logs what is about to happen."""
    log.info("mimsuite %s evaluate of %s -> %s", __version__, settings.trained.init, settings.out)
    log.info(
        "data      %s: %s (%s images) at %s px",
        *(settings.index.root, settings.split, f"{settings.images:,}", ", ".join(map(format_size, settings.sizes))),
    )
    if settings.part.part == "held":
        log.info(
            "          held out from %s: there is no test and no val",
            "train by a hash of the keys, as in training"
            if settings.index.chosen is None
            else "the labelled images of train by a hash of the keys; with other labels than in training, the model "
            "may have been trained on some of them",
        )
    if settings.split == "train" and settings.masking is None:
        log.warning("split=train: metrics of images that the model was trained on say nothing about new ones")
    elif chose_weights(settings):
        log.warning(
            "split=%s: the best weights of %s were chosen by these images, so the metrics are too high for new ones",
            *(settings.split, settings.trained.init),
        )
    if labelled := count_labelled(settings.index):
        log.info("labels    %s", labelled)
    if settings.masking is not None:
        log.info("masks     %s", settings.masking.note)
    if settings.teachers:
        log.info("features  of the teacher are predicted and no pixels: there is no PSNR, and no loss of one colour")


def chose_weights(settings: EvaluateSettings) -> bool:
    """Whether the images that are evaluated are those by which a fine-tuned run chose its weights."""
    run = Path(settings.trained.init)
    if settings.split not in ("val", "held_out") or not (run / DATA).is_file():
        return False
    summary = read_summary(run)
    if summary.get("task") != "finetune" or "best_step" not in summary:
        return False
    return difference(read_json(run / DATA, []), fingerprint(settings.index)) is None


if __name__ == "__main__":
    app.main("evaluate", run)
