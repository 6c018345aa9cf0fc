"""`mimsuite probe`: kNN, linear, attentive and few-shot probes of a frozen encoder, beside two baselines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.checks.duplicates import find_duplicates
from mimsuite.data.folders import count_of
from mimsuite.data.index import Selection
from mimsuite.data.label_table import count_labelled
from mimsuite.runs.console import report_next
from mimsuite.runs.folder import RunFolder, summary_after
from mimsuite.runs.heartbeat import AGAIN
from mimsuite.runs.life import prepare_process
from mimsuite.runs.machine import own_device
from mimsuite.runs.meeting import CACHE, check_shared, joined
from mimsuite.runs.processes import read_in_processes
from mimsuite.settings.given_labels import given_label_keys
from mimsuite.settings.probe import ProbeSettings, read_probe
from mimsuite.settings.read import format_size
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

MOST_COMPARED = 50_000  # images among which the same ones are looked for


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Probes an encoder; returns the content of `summary.json`."""
    settings = read_probe(cfg, overrides, leads=prepare_process())
    team, code = read_in_processes("probe", overrides, settings.devices)
    if code is not None:
        return summary_after(settings.out, code)
    with RunFolder(settings.out, overwrite=settings.overwrite, leads=team.rank == 0) as folder:
        folder.log_to_file()
        folder.describe(settings.config, overrides, {"processes": team.size})
        report_settings(settings)
        if folder.leads:
            warn_of_known_images(settings)

        from mimsuite.evaluation.features.passes import features_folder
        from mimsuite.evaluation.probes.measure import read_features, run_probes
        from mimsuite.evaluation.probes.report import summary_facts, summary_metrics, text_table, write_report

        device = own_device()
        with joined(team, "gloo", task="probe", fix=AGAIN) as store:
            check_shared(features_folder(), team, store, CACHE)
            compared = read_features(settings, device)
        if not folder.leads:
            return {"exit_code": 0}
        results = [run_probes(settings, features, device) for features in compared]
        write_report(folder.path, settings, results)
        log.info("%s", text_table(results))
        init, data = settings.weights.init, settings.config.get("data")
        labels = given_label_keys(settings.config)
        report_next("train a classifier", "finetune", init=init, data=data, **labels, out=f"{settings.out}-finetune")
        return folder.summary("probe", "done", 0, summary_metrics(results), **summary_facts(settings, results))


def report_settings(settings: ProbeSettings) -> None:
    """Logs what is about to happen."""
    recipe = settings.recipe
    heads = len(settings.views) * len(recipe.norms) * len(recipe.lrs)
    log.info("mimsuite %s probe of %s -> %s", __version__, settings.weights.init, settings.out)
    log.info(
        "data      %s: fit on %s, report on %s",
        *(settings.index.root, format_count(settings, settings.train), format_count(settings, settings.test)),
    )
    if settings.test.part == "held":
        log.info(
            "          there is only train: a part of %s; for more images, pack it again with val_fraction=0.1",
            "it is held out by a hash of the keys, as in training"
            if settings.index.chosen is None
            else "its labelled images is held out by a hash of the keys; pretraining held out a part of all images, so "
            "it may have learned from these, without labels",
        )
    if labelled := count_labelled(settings.index):
        log.info("labels    %s", labelled)
    for warning in settings.warnings:
        log.warning("%s", warning)
    log.info(
        "image     %s px; %d heads: layers %s, pool %s, %s, %d rates, %d epochs",
        *(format_size(settings.image_size), heads, format_list(view.layer for view in settings.views)),
        *(format_list(view.pool for view in settings.views), format_list(recipe.norms), len(recipe.lrs), recipe.epochs),
    )


def warn_of_known_images(settings: ProbeSettings) -> None:
    """Warns of images that lie in both parts; in large sets it would take too long, and `inspect` looks for them."""
    index = settings.index
    parts = {"train": index.records(settings.train), "report": index.records(settings.test)}
    if sum(map(len, parts.values())) > MOST_COMPARED:
        return
    if across := find_duplicates(index, parts).across:
        log.warning(
            "%s of %s the same bytes as a training image, which overestimates the accuracy; `mimsuite inspect` names "
            "them",
            *(count_of(across, "image"), f"{settings.test} {'has' if across == 1 else 'have'}"),
        )


def format_count(settings: ProbeSettings, part: Selection) -> str:
    """Images in words, with their number."""
    return f"{part} ({settings.index.num_samples(part):,})"


def format_list(values: Iterable[Any]) -> str:
    """Each value once."""
    return ", ".join(dict.fromkeys(map(str, values)))


if __name__ == "__main__":
    app.main("probe", run)
