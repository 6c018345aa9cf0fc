"""The facts of a data set as lines that people read. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mimsuite.data.folders import count_classes, count_of
from mimsuite.data.label_table import FROM_ONE
from mimsuite.data.tar import to_text

FAULTS = {
    "unlabelled": "have no label",
    "wrong_labels": "have a wrong label",
    "keys_twice": "have a key that another sample of the split has, too",
    "keys_not_utf8": "have a key that is not UTF-8",
    "no_sample": "are not samples: the ending of a file begins at the first dot of its name",
}
"""Counts of faults in `checks.inspect.summary` -> words."""


def describe_facts(facts: dict[str, Any]) -> Iterator[str]:
    """Yields lines on what `checks.inspect.summary` found."""
    yield f"data      {to_text(facts['root'])}, {facts['bytes'] / 1e6:.1f} MB"
    for line in facts["reading"]:
        yield f"          {line}"
    for name, split in facts["splits"].items():
        yield from describe_split(name, split)
        yield from describe_labels(split, facts["classes"] or ())
    height, width = facts["image_size"]
    yield f"pixels    {count_of(facts['channels'], 'channel')} {facts['dtype']}, median {height} x {width}"
    if facts["bands"]:
        yield f"bands     {', '.join(facts['bands'])}"
    if facts["value_range"]:
        low, high = (str(value).removesuffix(".0") for value in facts["value_range"])
        yield f"          {low} of the files is 0, and {high} is 65,535"
    mean, std = (", ".join(f"{value:.4f}" for value in facts[key]) for key in ("mean", "std"))
    measured = f"{count_of(facts['stats_samples'], 'image')}; 1 = largest value of {facts['dtype']}"
    yield f"mean      [{mean}], std [{std}] ({measured})"
    names = facts["classes"] or []
    shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
    yield f"classes   {f'{len(names)}: {shown}' if names else 'no names'}"
    numbers = [number for split in facts["splits"].values() for number in split["labels"]]
    if numbers and not names and "0" not in numbers:
        yield f"          {FROM_ONE}"
    same = facts["duplicates"]
    across, extra = (format(same[key], ",") if same[key] else "none" for key in ("across", "extra"))
    yield f"duplicates: {across} across splits, {extra} in all"
    for group in same["first"]:
        yield f"          the same bytes: {', '.join(group)}"


def describe_split(name: str, split: dict[str, Any]) -> Iterator[str]:
    """Yields lines on one split."""
    yield (
        f"{name:9} {count_of(split['samples'], 'image')} in {count_of(split['shards'], 'shard')}; "
        f"height {format_range(split['height'])}, width {format_range(split['width'])}; "
        f"kinds {format_counts(split['kinds'])}; "
        f"{format_unit(split['channels'], 'channel')}, {format_unit(split['bits'], 'bit')}; "
        f"{len(split['broken'])} of {sum(split['kinds'].values())} broken"
    )
    for line in split["broken"][:3]:
        yield f"          broken: {line}"
    if split["label_range"]:
        least, mean, most = split["label_range"]
        yield f"          numbers from {least:g} to {most:g}, mean {mean:g}"
    for fault, text in FAULTS.items():
        if split[fault]["count"]:
            yield f"          {split[fault]['count']} {text}: {'; '.join(split[fault]['first'])}"


def describe_labels(split: dict[str, Any], classes: Sequence[str]) -> Iterator[str]:
    """Yields the images of each class, and what lies beside the images of a split without labels."""
    counts = {int(number): count for number, count in split["labels"].items()}
    if counts:
        names = [classes[number] if number < len(classes) else str(number) for number in range(max(counts) + 1)]
        yield f"          {count_classes(counts, names)}"
    elif not split["label_range"] and split["beside"]:
        fields = f"; the .json of the first has {', '.join(split['fields'])}" if split["fields"] else ""
        yield (
            f'          no labels are read (KEY.cls, or "label" in KEY.json); beside the images lie '
            f"{format_counts({f'.{ending}': count for ending, count in split['beside'].items()})}{fields}"
        )


def format_counts(counts: dict[str, int]) -> str:
    """The keys, most frequent first, each with its count where there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{key} ({count})" for key, count in counts.items()) or "unknown"


def format_unit(counts: dict[str, int], unit: str) -> str:
    """The same with a unit: `1 channel`, `3 (20), 1 (4) channels`."""
    return f"{format_counts(counts)} {unit}{'' if list(counts) == ['1'] else 's'}"


def format_range(values: Sequence[int]) -> str:
    """`[smallest, median, largest]` in short."""
    return f"{values[0]}" if values and values[0] == values[-1] else "-".join(map(str, values[::2])) or "unknown"
