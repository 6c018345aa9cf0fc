"""`mimsuite demo`: every step once, on the embedded data set, with the metrics that matter."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.open import EMBEDDED
from mimsuite.data.storage import write_json
from mimsuite.models.load import load_model
from mimsuite.runs.console import log_to_console
from mimsuite.settings.demo import PARTS, read_demo
from mimsuite.tasks import inspect, pack, pretrain, probe, reconstruct, report
from mimsuite.weights.init import find_weights

log = logging.getLogger("mimsuite")

STEPS = {
    **{"pack": pack, "inspect": inspect, "pretrain": pretrain, "probe": probe, "reconstruct": reconstruct},
    "report": report,
}

IMAGES, REPORT = 200, "report.html"


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs every step; returns the metrics that it prints, or the exit code of a run that came to no end."""
    log_to_console()
    settings, began = read_demo(cfg), time.perf_counter()
    out, seed, workers = settings.out, settings.seed, settings.workers
    remove_parts(out)
    log.info("At the end open %s and look at two things: does the loss fall below that of one colour", out / REPORT)
    log.info("per image, and do the pictures become shapes when you move their slider?")
    announce_step(1, f"{IMAGES} emoji as PNG files, packed into shards: how your own images get in")
    write_images(out / "images", IMAGES)
    call("pack", src=str(out / "images"), out=str(out / "shards"), val_fraction=0.1)
    announce_step(2, "a look at the embedded data set, emoji-64")
    call("inspect", out=str(out / "inspect"))
    announce_step(3, "masked image modeling: hide 60 % of each picture, predict the hidden pixels")
    pretrained = call(
        "pretrain",
        out=str(out / "pretrain"),
        model="vit_nano",
        experiment="emoji_nano",
        steps=settings.steps,
        batch=settings.batch,
        seed=seed,
        precision=settings.precision,
        workers=workers,
    )
    if code := pretrained.get("exit_code"):  # a signal has stopped it, or one of several processes failed
        return {"exit_code": code}
    announce_step(4, "how good the features are: kNN and linear probe of the frozen encoder")
    probed = call("probe", init=str(out / "pretrain"), out=str(out / "probe"), seed=seed, workers=workers)
    announce_step(5, "a picture of what the model predicts for images it never saw")
    unit = {"mask.unit": 16}
    drawn = call("reconstruct", init=str(out / "pretrain"), out=str(out / "reconstruct.png"), **unit)
    announce_step(6, "the weights, loaded again")
    model = load_model(find_weights(str(out / "pretrain"))).eval()
    log.info("%s with %s parameters", type(model).__name__, f"{sum(p.numel() for p in model.parameters()):,}")
    announce_step(7, "all of it on one page")
    call("report", runs=[str(out / "pretrain"), str(out / "probe")], out=str(out / REPORT))
    results = report_results(out, pretrained, probed, drawn, time.perf_counter() - began)
    write_json(out / "demo.json", results)
    return results


def call(name: str, **values: Any) -> dict[str, Any]:
    """Runs a task with some values, as its command does."""
    return app.call_task(name, STEPS[name].run, values)


def announce_step(number: int, text: str) -> None:
    """Announces a step."""
    log.info("\n--- %d. %s", number, text)


def remove_parts(out: Path) -> None:
    """Removes what an earlier demo wrote."""
    for name in PARTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_images(folder: Path, count: int) -> None:
    """Writes embedded validation and training pictures as PNG files, a sub-folder per class."""
    import io

    from PIL import Image

    from mimsuite.data.checks.inspect import raw_samples
    from mimsuite.data.open import open_index

    index = open_index(str(EMBEDDED))
    assert index.classes is not None
    for sample in raw_samples(index, "train", count):
        assert isinstance(sample.label, int)
        place = folder / index.classes[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(sample.data)).save(place / f"{sample.key}.png")


def report_results(
    out: Path, pretrained: dict[str, Any], probed: dict[str, Any], drawn: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Prints and returns the metrics of the demo."""
    from mimsuite.pictures.curves import read_metrics

    series, metrics = read_metrics(out / "pretrain" / "metrics.csv"), probed["metrics"]
    losses = series["val/loss"][1]
    results = {
        "seconds": round(seconds, 1),
        "steps": pretrained["steps"],
        "loss_first": float(losses[0]),
        "loss_last": float(losses[-1]),
        "loss_mean_colour": float(series["val/loss_mean_colour"][1][-1]),
        "psnr": drawn["psnr"],
        **metrics,
    }
    log.info("\n--- done in %.0f s", seconds)
    log.info(
        "masked validation loss   %.3f at the start, %.3f after %d steps",
        losses[0],
        losses[-1],
        results["steps"],
    )
    log.info(
        "                         %.3f for predicting each image's visible mean colour",
        results["loss_mean_colour"],
    )
    for name, text in (("", "pretrained"), ("random/", "random init"), ("8x8/", "8x8 pixels")):
        log.info(
            "%-12s             kNN top-1 %5.1f %%, linear probe top-1 %5.1f %%",
            *(text, 100 * metrics[f"{name}knn/top1"], 100 * metrics[f"{name}probe/top1"]),
        )
    log.info("Reconstruction is learned at once; good features take far longer than a demo.")
    log.info("pictures: %s and %s", out / "reconstruct.png", out / "pretrain" / "pictures")
    log.info("open this: %s", out / REPORT)
    return results


if __name__ == "__main__":
    app.main("demo", run)
