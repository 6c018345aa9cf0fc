"""A plan as lines for people, at most 96 columns wide but for the command."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mimsuite.data.folders import count_of
from mimsuite.runs.planning.outcome import WORDS
from mimsuite.settings.budget import DEFAULT_EPOCHS

WIDTH, MARGIN = 96, 12

Outcome = Mapping[str, Any]


def lines_of(outcome: Outcome) -> Iterator[str]:
    """The lines of what `outcome_of` made."""
    for title, part in (
        ("data", data_lines(outcome["data"])),
        ("machine", [machine_line(outcome)]),
        ("candidates", candidate_lines(outcome)),
        ("recipe", recipe_lines(outcome)),
        ("speed", [speed_line(outcome)]),
        ("time", [time_line(outcome)]),
        ("memory", [memory_line(outcome)]),
        ("disk", [disk_line(outcome)]),
        ("loss", [loss_line(outcome)]),
        ("expect", expect_lines(outcome)),
        ("note", outcome["notes"]),
    ):
        for number, line in enumerate(part):
            yield from wrapped(title if number == 0 or title == "note" else "", line)
    yield ""
    yield "run it:"
    yield f"  {outcome['command']}"
    yield "and then:"
    yield f"  {outcome['next']}"


def wrapped(title: str, line: str) -> Iterator[str]:
    """A line behind a title, broken where it is too long; one that begins with a space is a row and stays."""
    first, rest = f"{title:{MARGIN}}", " " * MARGIN
    if line.startswith(" "):
        yield f"{first}{line[1:]}".rstrip()
    else:
        yield from textwrap.wrap(
            line, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )


def data_lines(data: Outcome) -> Iterator[str]:
    """Counts, pixels, labels, and what the sample shows."""
    height, width = data["image_size"]
    pixels = f"{count_of(data['channels'], 'channel')} {data['dtype']}, median {height} x {width}"
    yield (
        f"{data['name']}: {count_of(data['train'], 'training image')}, {data['validation']:,} for validation "
        f"({data['validation_split']}); {pixels}"
    )
    if data["labels"]:
        classes = f", {data['classes']} classes with names" if data["classes"] else ""
        counted = f" on {data['labelled']:,} training images" if data["labelled"] else ""
        yield f"labels: {' and '.join(data['labels'])}{counted}{classes}; pretraining does not use them"
    else:
        yield "no labels; pretraining needs none, `mimsuite probe` does"
    alike = f"{data['alike']} look" if data["alike"] else "none looks"
    pairs = f", such as {' and '.join(data['alike_first'][0])}" if data["alike_first"] else ""
    yield f"of {data['looked_at']} looked at, {alike} nearly like another one{pairs}" + (
        f"; {data['broken']} cannot be decoded" if data["broken"] else ""
    )
    if data["correlation_length"] is not None:
        yield f"grey values correlate over {data['correlation_length']:.2f} of the side (to 1/e)"


def machine_line(outcome: Outcome) -> str:
    """What was timed on."""
    several = f"{outcome['devices']} of these: " if outcome["devices"] > 1 else ""
    return (
        f"{several}{outcome['device']}, {outcome['precision']}, {count_of(outcome['workers'], 'loader worker')}; "
        f"looked and timed for {outcome['planned_in']:.0f} s"
    )


def candidate_lines(outcome: Outcome) -> Iterator[str]:
    """A table, where there are several."""
    if len(outcome["candidates"]) < 2:
        return
    yield f" {'recipe':16} {'parameters':>12} {'img/s':>8} {f'{DEFAULT_EPOCHS} epochs':>12}"
    for row in outcome["candidates"]:
        mark = "  <- this one" if row["name"] == outcome["recipe"]["name"] else ""
        if row["img_per_s"] is None:
            yield f" {row['name']:16} {'not timed: no time was left':>34}"
            continue
        hours = "" if row["hours"] is None else format_time(3600 * row["hours"])
        guess = "" if row["timed"] else "  (a guess)"
        yield f" {row['name']:16} {row['parameters']:12,} {row['img_per_s']:8.4g} {hours:>12}{guess}{mark}"


def recipe_lines(outcome: Outcome) -> Iterator[str]:
    """What is recommended, each with its reason."""
    recipe, why = outcome["recipe"], outcome["reasons"]
    height, width = recipe["image_size"]
    low, high = recipe["hidden_units"]
    hidden = f"{low}" if low == high else f"{low} to {high}"
    masks = f"units of {recipe['mask_unit']} px, {hidden} of {recipe['mask_units']} hidden"
    if not high:
        masks = f"units of {recipe['mask_unit']} px"
    steps = f"{recipe['steps']:,} steps"
    for what, value in (
        ("model", f"{recipe['model']}, {recipe['parameters']:,} parameters with its head"),
        ("objective", recipe["objective"]),
        ("size", f"{height} x {width} px"),
        ("mask", masks),
        ("epochs", f"{recipe['epochs']:g} ({steps})"),
        ("batch", str(recipe["batch"])),
        ("lr", f"{recipe['lr']:.3g}"),
    ):
        yield f"{what + ':':10} {value}"
        yield f"- {why.get(what, 'the default')}"


def speed_line(outcome: Outcome) -> str:
    """Images a second, and what limits them."""
    loading = outcome["img_per_s_of_loading"]
    parts = [f"steps {outcome['img_per_s_of_steps']:.4g}"]
    parts += [] if loading is None else [f"the loader alone {loading:.4g}"]
    parts.append(f"validation {outcome['img_per_s_of_validation']:.4g}")
    return f"{outcome['img_per_s']:.4g} img/s ({', '.join(parts)})"


def time_line(outcome: Outcome) -> str:
    """How long, and of what."""
    parts = outcome["seconds_of"]
    words = [f"start {format_time(parts['start'])}", f"steps {format_time(parts['steps'])}"]
    images = count_of(outcome["validation_images"], "image")
    words.append(f"{outcome['validations']} validations of {images} {format_time(parts['validations'])}")
    if parts["online_probe"]:
        words.append(f"probe during the run {format_time(parts['online_probe'])}")
    words.append(f"checkpoints and results {format_time(parts['saving'])}")
    return f"{format_time(3600 * outcome['hours'])} from the command to its end ({', '.join(words)})"


def memory_line(outcome: Outcome) -> str:
    """Peak memory."""
    return f"{outcome['memory_gib']:.2f} GiB at micro_batch={outcome['micro_batch']}, {outcome['memory_of']}"


def disk_line(outcome: Outcome) -> str:
    """Bytes of checkpoints and weights."""
    saved, kept = outcome["checkpoint_bytes"], outcome["weights_bytes"]
    return f"a checkpoint {format_bytes(saved)} (two are kept), weights {format_bytes(kept)}"


def loss_line(outcome: Outcome) -> str:
    """The losses between which the curve begins."""
    if outcome["loss_start"] is None:
        return "not measured"
    line, images = outcome["loss_line"], count_of(outcome["loss_images"], "validation image")
    text = f"val/loss begins near {outcome['loss_start']:.4g}"
    if line is not None:
        flat = (
            "one colour for each image"
            if outcome["loss_line_name"].endswith("colour")
            else "the mean target everywhere"
        )
        text += f"; {flat} has {line:.4g} ({outcome['loss_line_name']}), and it must fall below that line"
    return f"{text} (of {images})"


def expect_lines(outcome: Outcome) -> Iterator[str]:
    """What the ledger knows of such data."""
    if not outcome["known"]:
        yield "nothing measured yet for such data (of as many channels, bits and pixels)"
    for known in outcome["known"]:
        score = known["score"]
        low, high = (ranged(known[key]) for key in ("low", "high"))
        text = (
            f"{score} {low} to {high} in {count_of(known['probes'], 'probe')}"
            if known["probes"] > 1
            else f"{score} {low}"
        )
        least, most = known["epochs"]
        text += f" after {least:g} to {most:g} epochs" if least != most else f" after {most:g} epochs"
        if known["random"]:
            text += f"; random weights {' to '.join(dict.fromkeys(map(ranged, known['random'])))}"
        if known["pixels"]:
            text += f"; 8x8 pixels {ranged(known['pixels'])}"
        where = "these data" if known["same"] else known["data"]
        yield f"on {where} ({known['what']}, {known['images']:,}): {text}"
        yield f"- ledger: {', '.join(known['names'])}"
    if outcome["known"] and not any(known["same"] for known in outcome["known"]):
        yield "whether your pictures are alike is for you to judge; other pictures give other accuracies"
    if outcome["known"] and outcome["data"]["labels"] and WORDS["class"] not in outcome["data"]["labels"]:
        yield f"these are accuracies of {WORDS['class']}; nothing measured yet with labels like yours"


def ranged(value: float) -> str:
    """An accuracy in per cent."""
    return f"{100 * value:.1f} %"


def format_time(seconds: float) -> str:
    """Seconds as people say it."""
    for least, unit, word in ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.3g} {word}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def format_bytes(count: int) -> str:
    """Bytes in MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
