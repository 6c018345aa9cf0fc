"""The facts of a data set as lines that people read. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    for name, split in facts["splits"].items():
        yield from describe_split(name, split)
    height, width = facts["image_size"]
    yield f"pixels    {facts['channels']} channels {facts['dtype']}, median {height} x {width}"
    mean, std = (", ".join(f"{value:.4f}" for value in facts[key]) for key in ("mean", "std"))
    yield f"mean      [{mean}], std [{std}] (of {facts['stats_samples']} images, chosen by hash, 0 to 1)"
    names = facts["classes"] or []
    shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
    yield f"classes   {f'{len(names)}: {shown}' if names else 'no names'}"
    same = facts["duplicates"]
    yield f"copies    {same['across']} images are in several splits; {same['extra']} copies in all"
    for group in same["first"]:
        yield f"          the same bytes: {', '.join(group)}"


def describe_split(name: str, split: dict[str, Any]) -> Iterator[str]:
    """Yields lines on one split."""
    yield (
        f"{name:9} {split['samples']:,} images in {split['shards']} shards; height {format_range(split['height'])}, "
        f"width {format_range(split['width'])}; kinds {format_counts(split['kinds'])}; "
        f"{format_counts(split['channels'])} channels, {format_counts(split['bits'])} bits; "
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


def format_counts(counts: dict[str, int]) -> str:
    """The keys, most frequent first, each with its count where there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{key} ({count})" for key, count in counts.items()) or "unknown"


def format_range(values: Sequence[int]) -> str:
    """`[smallest, median, largest]` in short."""
    return f"{values[0]}" if values and values[0] == values[-1] else "-".join(map(str, values[::2])) or "unknown"
