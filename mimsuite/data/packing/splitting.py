"""Which training images go to val and to test: a share of each class, or whole groups, chosen by hashes."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mimsuite.data.folders import count_of
from mimsuite.data.hashing import hash_key, mix_hashes
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

_SALTS = {"val": (1, 3), "test": (4, 5)}  # of keys and of groups
_NEAR = 0.03  # a share that differs by more is reported
_FAR = 2.0  # groups may bring at most this many times the wanted share, and at least its inverse


class Part(NamedTuple):
    """The share of the images that a split gets: `fraction` of all that were in train before any was moved."""

    split: str
    fraction: float
    seed: int

    @property
    def key(self) -> str:
        """The key that asks for it."""
        return f"{self.split}_fraction={self.fraction}"


def choose_keys(part: Part, train: Iterable[tuple[str, int]], totals: Mapping[int, int]) -> set[str]:
    """The keys that are moved: those with the smallest hashes.

    Args:
        part: what is wanted.
        train: key and class of each training image; -1 where images are not balanced by class.
        totals: images of each class before any was moved.

    Raises:
        InputError: there is none to move.
    """
    by_class: defaultdict[int, list[str]] = defaultdict(list)
    for key, label in train:
        by_class[label].append(key)
    moved, salt = set[str](), _SALTS[part.split][0]
    for label, keys in by_class.items():
        count = max(1, round(totals[label] * part.fraction)) if len(keys) > 1 else 0
        count = min(count, len(keys) - 1)
        moved.update(sorted(keys, key=lambda key: mix_hashes(part.seed, salt, hash_key(key)))[:count])
    if not moved:
        raise InputError(
            f"{part.key} gives {part.split} no image, because no class has two training images; add images, or use "
            f"labels=none, or {part.split}_fraction=0"
        )
    reached = len(moved) / sum(totals.values())
    if abs(reached - part.fraction) > _NEAR:
        log.info(
            "%s: %s gets %.1f%% of the images, since each class gives whole images", part.key, part.split, 100 * reached
        )
    return moved


def choose_groups(part: Part, train: Iterable[tuple[str, int]], totals: Mapping[int, int], by: str) -> set[str]:
    """The groups that are moved, until each class has about its share.

    Groups are looked at in the order of their hashes; one moves if that brings the counts of its classes nearer. Where
    every class lies in one group (folders that are both), no class can have its share: all images count as one class.
    Arguments are those of `choose_keys`, with groups in place of keys; `by` is what `group_by` was.

    Raises:
        InputError: the share cannot be reached.
    """
    members: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for group, label in train:
        members[group][label] += 1
    places = [label for own in members.values() for label in own]
    if len(totals) > 1 and len(places) == len(set(places)):
        log.warning(
            "each class lies in one group of group_by=%s: train lacks the classes that go to %s", by, part.split
        )
        members = defaultdict(Counter, {group: Counter({-1: own.total()}) for group, own in members.items()})
        totals = {-1: sum(totals.values())}
    wanted = {label: count * part.fraction for label, count in totals.items()}
    have, moved, salt = Counter[int](), set[str](), _SALTS[part.split][1]
    for group in sorted(members, key=lambda name: (mix_hashes(part.seed, salt, hash_key(name)), name)):
        gain = sum(
            abs(have[label] - wanted[label]) - abs(have[label] + count - wanted[label])
            for label, count in members[group].items()
        )
        if gain > 0:
            moved.add(group)
            have += members[group]
    total = sum(totals.values())
    reached = have.total() / max(1, total)
    if not (moved and len(moved) < len(members) and part.fraction / _FAR <= reached <= part.fraction * _FAR):
        shares = [counts.total() / total for counts in members.values()] or [0.0]
        least, largest = min(shares), max(shares)
        use = f"={math.ceil(100 * least) / 100:g}" if len(shares) > 1 and least > part.fraction else ""
        raise InputError(
            f"{part.key} cannot be reached with group_by={by}: {count_of(len(members), 'group')}, the largest "
            f"with {largest:.0%} of the images; {reached:.1%} was reached; choose "
            f"{'' if use else 'another '}{part.split}_fraction{use}, or smaller groups"
        )
    log.info("%d of %d groups go to %s, %.1f%% of the images", len(moved), len(members), part.split, 100 * reached)
    return moved
