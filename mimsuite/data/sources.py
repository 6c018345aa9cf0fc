"""Which shards `data=` stands for, and which splits their names give."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.folders import no_images, read_contents
from mimsuite.data.index_json import INDEX, JOURNAL
from mimsuite.data.stores.address import absolute, read_if_there, store_of
from mimsuite.data.stores.names import bare, below, join, last_name, parent_of, scheme_of
from mimsuite.data.stores.store import Stat
from mimsuite.errors import InputError, reading

INFO = "_info.json"
_FIX = "give a folder, a pattern such as train-{000..012}.tar, or a .tar file"
_MOST_SHARDS = 1_000_000
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ShardList(NamedTuple):
    """Shards without an index.

    Attributes:
        root: the folder they lie in; of several, the first, or on another machine the one above.
        paths: their absolute paths or addresses, in order.
        stats: what a listing says of them, by path; empty where there was none.
    """

    root: str
    paths: list[str]
    stats: Mapping[str, Stat]


def expand_braces(pattern: str) -> list[str]:
    """Expands `{000..012}` (the zeros set the width) and `{a,b}`, also nested, from left to right."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    head, body, tail = pattern[: match.start()], match.group(1), pattern[match.end() :]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if numbers:
        first, last = numbers.groups()
        if int(last) < int(first):
            raise InputError(f"data={pattern}: the range {{{body}}} runs backwards; use {{{last}..{first}}}")
        if int(last) - int(first) >= _MOST_SHARDS:
            raise InputError(f"data={pattern}: {{{body}}} is more than {_MOST_SHARDS} shards; fix the range")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts = [f"{i:0{width}d}" for i in range(int(first), int(last) + 1)]
    elif "," in body:
        parts = body.split(",")
    else:
        raise InputError(f"data={pattern}: {{{body}}} is neither a range {{000..012}} nor a list {{a,b}}")
    names = dict[str, None]()
    for part in parts:
        names |= dict.fromkeys(expand_braces(head + part + tail))
        if len(names) > _MOST_SHARDS:
            raise InputError(f"data={pattern} stands for more than {_MOST_SHARDS} shards; fix the ranges")
    return list(names)


def find_shards(data: str) -> ShardList:
    """The tar shards of this machine that `data` (a folder, a brace pattern or one .tar) stands for.

    A folder without shards of its own may keep them in sub-folders (`train/000.tar`). Links are not followed, for
    their names say more than those of the files (a download cache names files by hashes).

    Raises:
        InputError: nothing there, not readable, or no shard in it.
    """
    store, place = store_of(data), absolute(data)
    is_file, is_folder = store.is_file(place), store.is_folder(place)
    if not is_file and not is_folder and "{" in data:
        paths = expand_braces(place)
        refuse_missing(data, paths, [path for path in paths if not store.is_file(path)])
        return ShardList(parent_of(paths[0]), paths, {})
    if not is_file and not is_folder:
        raise InputError(f"data={data} does not exist or cannot be accessed; {_FIX}")
    if is_file:
        if not place.endswith(".tar"):
            raise InputError(f"data={data} does not end in .tar; {_FIX}")
        return ShardList(parent_of(place), [place], {})
    try:
        names = _list_shards(place)
    except OSError as error:
        raise InputError(f"data={data} cannot be read ({error.strerror}); check its rights") from error
    if not names:
        raise no_images("data", data, read_contents(place, "data"), "no .tar shard and ")
    return ShardList(place, names, {})


def refuse_missing(data: str, paths: list[str], missing: list[str]) -> None:
    """Refuses a pattern some of whose shards are not there.

    Raises:
        InputError: with their number, and the first.
    """
    if missing:
        raise InputError(
            f"data={data}: {len(missing)} of {len(paths)} shards are missing, the first is {missing[0]}; fix the range"
        )


def is_shards(data: str) -> bool:
    """Whether `data` names shards: a .tar file, a pattern of them, or a folder that holds some or their index."""
    store, place = store_of(data), absolute(data)
    if store.is_folder(place):
        held = any(store.is_file(os.path.join(place, name)) for name in (INDEX, JOURNAL))
        return held or bool(_list_shards(place))
    return "{" in data or (store.is_file(place) and place.endswith(".tar"))


def _list_shards(place: str) -> list[str]:
    """The shards of a folder, or else of its sub-folders; macOS leaves a ._NAME.tar on other disks."""
    store = store_of(place)
    for pattern in ("*.tar", "*/*.tar"):
        if names := [name for name in store.list(place, pattern) if not is_hidden(Path(name).name)]:
            return names
    return []


def is_hidden(path: str) -> bool:
    """Whether a part of a path begins with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def split_of(shard: str, root: str) -> str:
    """The split that a shard's name gives: `train`, `val` or `test`; `train` where it gives none.

    It is the last word of the name that is one (`cats-validation-000012.tar`, `val-shard-01.tar`,
    `test-00003-of-00064.tar`), else the folder (`val/000012.tar`).
    """
    words = re.split(r"[-_.\d]+", os.path.splitext(last_name(shard))[0])
    around = parent_of(shard)
    folder = "" if bare(around).rstrip("/") == bare(root).rstrip("/") else last_name(around)
    named = next((split for word in reversed(words) if (split := split_name_of(word))), None)
    return named or split_name_of(folder) or "train"


class StatedShards:
    """What the `_info.json` of timm's tools says of shards.

    Attributes:
        names: their paths below the folder of the file, in its order.
    """

    def __init__(self, facts: Mapping[str, tuple[str, int | None]]) -> None:
        """Takes split, and number of samples where given, by the names in the file."""
        self.names = [name if _is_inside(name) else last_name(name) for name in facts]
        self._by_path = dict(zip(self.names, facts.values(), strict=True))
        self._by_name: dict[str, set[tuple[str, int | None]]] = {}
        for name, fact in facts.items():
            self._by_name.setdefault(last_name(name), set()).add(fact)

    def find(self, shard: str, root: str) -> tuple[str | None, int | None]:
        """Split and number of samples of a shard below `root`; None where nothing, or nothing clear, is said.

        Its path counts; where the file has others, its name, unless two shards of that name differ.
        """
        found = self._by_path.get(below(root, shard) or "")
        several = self._by_name.get(last_name(shard), set())
        return found or (next(iter(several)) if len(several) == 1 else (None, None))


def _is_inside(name: str) -> bool:
    """Whether a name in such a file is a path below its folder."""
    return not (os.path.isabs(name) or scheme_of(name) or ".." in name.split("/"))


def read_info(root: str) -> StatedShards:
    """What the `_info.json` in a folder says of its shards; nothing without such a file, or where it names no splits.

    Raises:
        InputError: the file cannot be read.
    """
    file = join(root, INFO)
    with reading(file, "fix it or move it away"):
        held = read_if_there(file)
        content = None if held is None else json.loads(held.decode())
    found: dict[str, tuple[str, int | None]] = {}
    splits = content.get("splits") if isinstance(content, dict) else None
    with reading(f"{file} is not as timm writes it and", "fix it or move it away"):
        for name, facts in dict(splits or {}).items():
            files = [file.removeprefix("./") for pattern in facts["filenames"] for file in expand_braces(pattern)]
            counts = facts.get("shard_lengths") or [None] * len(files)
            split = split_name_of(re.split(r"[-_.]", name)[0]) or "train"
            if (twice := next((f for f in files if found.get(f, (split,))[0] != split), None)) is not None:
                raise ValueError(f"{twice} is in two splits")
            found |= {f: (split, n and int(n)) for f, n in zip(files, counts, strict=True)}
    return StatedShards(found)


def split_name_of(word: str) -> str | None:
    """The split that a word, such as the name of a folder, stands for; None for other words."""
    return _SPLITS.get(word.lower())
