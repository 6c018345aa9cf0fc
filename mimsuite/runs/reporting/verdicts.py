"""What the figures of a run mean, in sentences: each names the figures that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mimsuite.data.folders import count_of
from mimsuite.metrics.quality import COLLAPSED
from mimsuite.runs.reporting.facts import RunFacts

MAIN_SCORES = ("top1", "map", "r2")  # of a probe; it has one of them
FALLING, RISEN = 0.01, 0.02  # parts of a loss that count as still falling, and as risen again
ENDED = {
    "running": ("note", "the run goes on"),
    "interrupted": ("note", "the run was stopped"),
    "diverged": ("bad", "the run ended because its loss was not finite"),
    "failed": ("bad", "the run was killed, or ended with an error"),
    "damaged": ("bad", "files of this run are damaged"),
}


class Verdict(NamedTuple):
    """A sentence, and whether it is good news ("good"), bad news ("bad") or neither ("note")."""

    kind: str
    text: str


def judge_run(run: RunFacts) -> list[Verdict]:
    """All that can be said of a run; nothing of figures that it has not."""
    return [*judge_end(run), *judge_loss(run), *judge_features(run), *judge_probe(run), *judge_training(run)]


def judge_end(run: RunFacts) -> Iterator[Verdict]:
    """How the run ended, where it did not come to its end."""
    status, done, planned = (run.row[key] for key in ("status", "steps", "of"))
    if status in ENDED:
        kind, text = ENDED[status]
        where = "" if done is None else f" at step {done:,}" + ("" if planned is None else f" of {planned:,}")
        over = status in ("running", "damaged") or done is None
        go_on = "" if over else "; resume=true goes on from the last checkpoint"
        yield Verdict(kind, f"{text}{where}{go_on}")
    elif early := run.summary.get("stopped_early_of"):
        yield Verdict("note", f"the run stopped early, at step {done:,} of {early:,}")
    if run.skipped:
        yield Verdict("bad", f"{count_of(run.skipped, 'step')} changed nothing, as loss or gradient was not finite")
    if run.bad:
        yield Verdict("note", f"{count_of(run.bad, 'image')} could not be decoded; bad_samples.jsonl names them")


def judge_loss(run: RunFacts) -> Iterator[Verdict]:
    """The masked loss against the loss of one colour per image, and whether it still falls."""
    if "val/loss" not in run.series:
        return
    steps, losses = run.series["val/loss"]
    if "val/loss_mean_colour" in run.series:
        flat = float(run.series["val/loss_mean_colour"][1][-1])
        below = np.flatnonzero(losses < flat)
        if len(below):
            yield Verdict(
                "good",
                f"the masked loss fell below the mean-colour line at step {steps[below[0]]:,}: it is {losses[-1]:.4g}, "
                f"and one colour per image has {flat:.4g}",
            )
        else:
            yield Verdict(
                "bad",
                f"the masked loss never fell below the mean-colour line: it is {losses[-1]:.4g}, and one colour per "
                f"image has {flat:.4g}; train longer, or look at the learning rate",
            )
    if len(losses) < 5 or not np.isfinite(losses).all() or "selection" in run.summary:
        return
    best, before = int(losses.argmin()), losses[-1 - max(1, len(losses) // 5)]
    if best < len(losses) - 1 and losses[-1] > losses[best] * (1 + RISEN):
        yield Verdict("note", f"val/loss was lowest at step {steps[best]:,} ({losses[best]:.4g}) and has risen since")
    elif before - losses[-1] > FALLING * abs(before):
        fell = (before - losses[-1]) / abs(before)
        yield Verdict(
            "note", f"val/loss still fell, by {fell:.1%} in the last fifth of the run: longer training may pay"
        )


def judge_features(run: RunFacts) -> Iterator[Verdict]:
    """Collapse, and what the probe during the run measured."""
    if "quality/cosine" in run.series and (cosine := float(run.series["quality/cosine"][1][-1])) > COLLAPSED:
        yield Verdict(
            "bad", f"all images have nearly the same features (mean cosine {cosine:.3f} at the end): the run collapsed"
        )
    for name in ("probe/top1", "probe/map", "probe/r2"):
        if name in run.series and len(run.series[name][1]) > 1:
            steps, values = run.series[name]
            best = int(values.argmax())
            text = f"{name} went from {shown(name, values[0])} at step {steps[0]:,} to {shown(name, values[-1])}"
            if best < len(values) - 1:
                text += f"; it was highest at step {steps[best]:,}, {shown(name, values[best])}"
            yield Verdict("good" if values[-1] > values[0] else "bad", text)


def judge_probe(run: RunFacts) -> Iterator[Verdict]:
    """A probe against the same network with random weights, and against the pixels."""
    name = next((f"probe/{score}" for score in MAIN_SCORES if f"probe/{score}" in run.summary.get("metrics", {})), None)
    if run.row["task"] != "probe" or name is None:
        return
    metrics = run.metrics
    value, low = metrics[name], interval_of(run.probe)
    between = "" if low is None else f" (95 % interval {shown(name, low[0])} to {shown(name, low[1])})"
    if (random := metrics.get(f"random/{name}")) is None:
        yield Verdict(
            "note", f"{name} is {shown(name, value)}{between}; baselines=true says what random weights would reach"
        )
        return
    better = value > random if low is None else low[0] > random
    text = f"{name} is {shown(name, value)}{between}, random initialisation reaches {shown(name, random)}"
    yield Verdict(
        "good" if better else "bad",
        f"features better than random initialisation: {text}"
        if better
        else f"features no better than random initialisation: {text}; train longer, or try another objective",
    )
    pixels = {key: metrics[key] for key in metrics if key.endswith(f"/{name}") and not key.startswith("random/")}
    for key, reached in pixels.items():
        if reached >= value:
            size = key.split("/")[0]
            yield Verdict("bad", f"the pixels of {size} pictures are no worse: {shown(name, reached)}")


def judge_training(run: RunFacts) -> Iterator[Verdict]:
    """Supervised training: the step of the weights that were kept, and its scores."""
    if run.row["task"] != "finetune":
        return
    summary = run.summary
    if "best_step" in summary and "best_value" in summary:
        yield Verdict(
            "note", f"the weights are those of step {summary['best_step']:,}, chosen by {summary['best_value']:.4g}"
        )
    for score in MAIN_SCORES:
        if (name := f"test/{score}") in run.metrics:
            yield Verdict("good", f"{name} is {shown(name, run.metrics[name])}")


def interval_of(probe: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of the linear probe's score, where `probe.json` has one."""
    rows = probe.get("rows")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else {}
    linear = first.get("linear")
    found = linear.get("interval") if isinstance(linear, Mapping) else None
    return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def shown(metric: str, value: float) -> str:
    """A score for people: accuracies and precisions in per cent."""
    share = metric.rpartition("/")[2] in ("top1", "top5", "map")
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%") if share else f"{value:.4g}"
