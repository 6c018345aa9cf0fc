"""What the figures of a run mean, in sentences: each names the figures that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.folders import count_of
from mimsuite.metrics.quality import COLLAPSED, CONSTANT, as_score
from mimsuite.metrics.scores import wilson_interval
from mimsuite.runs.reporting.facts import RunFacts
from mimsuite.settings.latent import EMA
from mimsuite.settings.read import is_int, is_number

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
    parts = (judge_end, judge_loss, judge_features, judge_choice, judge_probe, judge_training, judge_evaluation)
    return [verdict for part in parts for verdict in part(run)]


def judge_end(run: RunFacts) -> Iterator[Verdict]:
    """How the run ended, where it did not come to its end."""
    status, done, planned = (run.row[key] for key in ("status", "steps", "of"))
    if status in ENDED:
        kind, text = ENDED[status]
        where = "" if done is None else f" at step {done:,}" + ("" if planned is None else f" of {planned:,}")
        over = status in ("running", "damaged") or done is None
        repeats = "; use a smaller lr" if status == "diverged" else "; resume=true goes on from the last checkpoint"
        go_on = "" if over else repeats
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
        if "train/loss" in run.series:
            yield Verdict(
                "note", "nothing was validated: the loss is of training images, and has no line to fall below"
            )
        return
    steps, losses = run.series["val/loss"]
    if steps[-1] == 0:
        yield Verdict("note", "val/loss was measured before the first step alone, so it says nothing of the training")
    elif "val/loss_mean_colour" in run.series:
        yield compare_with_flat(steps, losses, float(run.series["val/loss_mean_colour"][1][-1]))
    elif "val/loss_mean_target" in run.series:
        same = float(run.series["val/loss_mean_target"][1][-1])
        better = losses[-1] < same
        yield Verdict(
            "good" if better else "bad",
            f"at the end val/loss is {losses[-1]:.4g}, {'below' if better else 'not below'} that of one prediction for "
            f"all cells, the mean target ({same:.4g}); "
            + ("the targets move, so " if has_moving_teacher(run) else "it says how near the teacher is, and ")
            + "only a probe compares runs",
        )
        return
    elif not np.isfinite(losses[-1]):
        yield Verdict("bad", f"val/loss is {losses[-1]} at the end")
    if len(losses) < 5 or not np.isfinite(losses).all():
        return
    place = len(losses) - 1 - max(1, len(losses) // 5)
    best, before = int(losses.argmin()), losses[place]
    if best < len(losses) - 1 and losses[-1] > losses[best] * (1 + RISEN):
        yield Verdict("note", f"val/loss was lowest at step {steps[best]:,} ({losses[best]:.4g}) and has risen since")
    elif before - losses[-1] > FALLING * abs(before):
        fell = (before - losses[-1]) / abs(before)
        yield Verdict(
            "note", f"val/loss still fell, by {fell:.1%} since step {steps[place]:,}: longer training may pay"
        )


def compare_with_flat(steps: NDArray[np.int64], losses: NDArray[np.float64], flat: float) -> Verdict:
    """The masked loss against that of one colour per image: where it fell below, and whether it stayed there."""
    end = f"it is {losses[-1]:.4g}, and one colour per image has {flat:.4g}"
    below = np.flatnonzero(losses < flat)
    if losses[-1] < flat and below[0] == 0:
        when = "before the first step" if steps[0] == 0 else f"at step {steps[0]:,}, where it was first measured"
        return Verdict(
            "note", f"the masked loss was below the mean-colour line {when}, so this line says nothing here: {end}"
        )
    if losses[-1] < flat:
        return Verdict("good", f"the masked loss fell below the mean-colour line at step {steps[below[0]]:,}: {end}")
    if len(below):
        last = steps[below[-1]]
        return Verdict(
            "bad",
            f"the masked loss was below the mean-colour line until step {last:,}, and is not at the end: {end}; use a "
            "lower learning rate",
        )
    return Verdict(
        "bad",
        f"the masked loss never fell below the mean-colour line: {end}; train longer, or look at the learning rate",
    )


def has_moving_teacher(run: RunFacts) -> bool:
    """Whether the run has a teacher that follows its student."""
    return run.config.get("objective.teacher") == EMA


def sign_of_collapse(run: RunFacts) -> str | None:
    """What says that all images look alike at the end, as the run itself judges.

    The features of a teacher that follows are a steadier sign than the student's; one that stays says nothing of it.
    """
    if "quality/teacher_deviation" in run.series and has_moving_teacher(run):
        deviation = float(run.series["quality/teacher_deviation"][1][-1])
        return f"the teacher's have a deviation of {deviation:.3f}" if deviation < CONSTANT else None
    cosine = float(run.series["quality/cosine"][1][-1]) if "quality/cosine" in run.series else 0.0
    return f"mean cosine {cosine:.3f}" if cosine > COLLAPSED else None


def judge_features(run: RunFacts) -> Iterator[Verdict]:
    """Collapse, and what the probe during the run measured."""
    if sign := sign_of_collapse(run):
        yield Verdict("bad", f"all images have nearly the same features ({sign} at the end): the run collapsed")
    for name in ("probe/top1", "probe/map", "probe/r2"):
        if name in run.series and len(run.series[name][1]) > 1:
            yield Verdict(*describe_probes(name, *run.series[name]))


def describe_probes(name: str, steps: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[str, str]:
    """Whether the probe during a run rose, and where it was highest: kind and words of a verdict."""
    best, first, last = int(values.argmax()), shown(name, values[0]), shown(name, values[-1])
    if first == last:
        text = f"{name} is {last} at the end, as at step {steps[0]:,}"
    else:
        text = f"{name} went from {first} at step {steps[0]:,} to {last}"
    if 0 < best < len(values) - 1:
        text += f"; it was highest at step {steps[best]:,}, {shown(name, values[best])}"
    return "good" if values[-1] > values[0] else "bad", text


def judge_choice(run: RunFacts) -> Iterator[Verdict]:
    """Which weights of pretraining the online probe has kept, and whether they are better than untrained ones."""
    summary = run.summary
    name = summary.get("best_metric")
    if name is None or not is_number(summary.get("best_value")):
        return
    value, kind = summary["best_value"], "note"
    text = (
        f"weights-best/ has the weights of step {summary['best_step']:,}, where {name} was best: {shown(name, value)}"
    )
    if name in run.series and run.series[name][0][0] == 0:
        start = float(run.series[name][1][0])
        text += f" ({shown(name, start)} before the first step)"
        if as_score(name, start) >= as_score(name, value):
            kind, text = "bad", f"{text}: no weights of the run are better by it than untrained ones"
    if name.startswith("quality/"):
        text += "; it needs no labels, and may choose badly"
    yield Verdict(kind, text)


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
    text = f"{name} is {shown(name, value)}{between}, random initialisation reaches {shown(name, random)}"
    if value <= random:
        text = f"features no better than random initialisation: {text}; train longer, or try another objective"
        yield Verdict("bad", text)
    elif low is not None and low[0] <= random:
        yield Verdict(
            "note", f"features not clearly better than random initialisation, which is in the interval: {text}"
        )
    else:
        yield Verdict("good", f"features better than random initialisation: {text}")
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
    name = next((f"val/{score}" for score in MAIN_SCORES if f"val/{score}" in run.metrics), None)
    if "best_step" in summary and "best_value" in summary and name is not None:
        best = shown(name, summary["best_value"])
        yield Verdict("note", f"the weights are those of step {summary['best_step']:,}, where {name} was best: {best}")
    tested = next((f"test/{score}" for score in MAIN_SCORES if f"test/{score}" in run.metrics), None)
    if tested is not None:
        yield Verdict("note", f"{tested} of these weights is {shown(tested, run.metrics[tested])}")
    elif name is not None and run.row["status"] == "done":
        yield Verdict("note", f"no test images: {name} is of the images by which the weights were chosen, and too high")


def judge_evaluation(run: RunFacts) -> Iterator[Verdict]:
    """An evaluation against what needs no model: the most frequent class, the mean of numbers, one colour per image."""
    if run.row["task"] != "evaluate":
        return
    split, images, metrics = run.summary.get("split", ""), run.summary.get("images"), run.metrics
    if f"{split}/loss_mean_colour" in metrics and f"{split}/loss" in metrics:
        loss, flat = metrics[f"{split}/loss"], metrics[f"{split}/loss_mean_colour"]
        place = "below" if loss < flat else "not below"
        yield Verdict(
            "good" if loss < flat else "bad",
            f"{split}/loss is {loss:.4g}, {place} that of one colour per image ({flat:.4g})",
        )
    name = next((f"{split}/{score}" for score in MAIN_SCORES if f"{split}/{score}" in metrics), None)
    if name is None or not is_int(images) or not images:
        return
    value, text = metrics[name], f"{name} is {shown(name, metrics[name])} of {count_of(images, 'image')}"
    if name.endswith("/top1"):
        low, high = wilson_interval(value, images)
        text += f" (95 % interval {shown(name, low)} to {shown(name, high)})"
        usual = largest_class(run.per_class)
        if usual is None:
            yield Verdict("note", text)
        else:
            better = low > usual
            yield Verdict(
                "good" if better else "bad",
                f"{text}; always the most frequent class would reach {shown(name, usual)}",
            )
    elif name.endswith("/r2"):
        yield Verdict("good" if value > 0 else "bad", f"{text}; always the mean would reach 0")
    else:
        yield Verdict("note", text)


def largest_class(rows: Sequence[Mapping[str, str]]) -> float | None:
    """The share of the most frequent class among an evaluation's images; None where its table does not say it."""
    counts = [int(row["images"]) for row in rows if row.get("images", "").isdigit()]
    return max(counts) / sum(counts) if sum(counts) else None


def interval_of(probe: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of the linear probe's score, where `probe.json` has one."""
    rows = probe.get("rows")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else {}
    linear = first.get("linear")
    found = linear.get("interval") if isinstance(linear, Mapping) else None
    if not isinstance(found, list) or len(found) != 2 or not all(map(is_number, found)):
        return None
    return float(found[0]), float(found[1])


def shown(metric: str, value: float) -> str:
    """A score for people: accuracies and precisions in per cent."""
    share = metric.rpartition("/")[2] in ("top1", "top5", "map")
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%") if share else f"{value:.4g}"
