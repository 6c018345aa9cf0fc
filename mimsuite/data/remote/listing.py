"""Which shards an address on another machine stands for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mimsuite.data.fetching.retry import persistently
from mimsuite.data.folders import PICTURE_ENDINGS
from mimsuite.data.index_json import INDEX, JOURNAL
from mimsuite.data.sources import INFO, ShardList, expand_braces, read_info, refuse_missing
from mimsuite.data.stores.address import remote_store
from mimsuite.data.stores.backend import Entry
from mimsuite.data.stores.fault import StoreError, is_absent
from mimsuite.data.stores.names import below, join, last_name, parent_of, scheme_of, shown, split_query
from mimsuite.data.stores.remote import TIMEOUT
from mimsuite.data.stores.store import Stat
from mimsuite.errors import InputError

AT_ONCE = 32  # requests that wait for an answer
_SHAPES = "a folder of `mimsuite pack`, a pattern {000..012}.tar or one .tar"


def is_folder_like(data: str) -> bool:
    """Whether an address is meant as that of a folder: neither a pattern nor one shard.

    Raises:
        InputError: it names an image.
    """
    name = last_name(data).lower()
    if name.endswith(PICTURE_ENDINGS):
        raise InputError(f"data={data} is an image on another machine; copy it here, or pack it: give {_SHAPES}")
    return "{" not in split_query(data)[0] and not name.endswith(".tar")


def find_remote(data: str) -> ShardList:
    """The shards of a folder without an index, of a brace pattern, or one .tar.

    Raises:
        InputError: nothing there, not readable, or no shard in it.
    """
    if not is_folder_like(data):
        pattern, query = split_query(data)
        paths = [path + query for path in expand_braces(pattern)]
        return ShardList(_root_of(paths), paths, {})
    root = data.rstrip("/")
    if scheme_of(data) in ("http", "https"):
        names = read_info(root).names
        if not names:
            raise InputError(
                f"data={data} is a folder of a web server, which cannot be listed, and neither {INDEX} nor {INFO} can "
                f"be read in it; give {_SHAPES}"
            )
        return ShardList(root, sorted(join(root, name) for name in names), {})
    try:
        entries = persistently(lambda: _list(root), TIMEOUT)
    except StoreError as error:
        raise _unreadable(data, error) from error
    if any(entry.stat is not None and last_name(entry.address) == JOURNAL for entry in entries):
        raise InputError(f"data={data} holds a half-finished pack; finish it there, and upload the packed folder")
    found = {entry.address: entry.stat for entry in entries if entry.stat is not None and _is_shard(entry.address)}
    if not found:
        images = sum(last_name(entry.address).lower().endswith(PICTURE_ENDINGS) for entry in entries)
        there = f" and {images} images: a folder of images is read on this machine alone" if images else ""
        raise InputError(f"data={data} holds no .tar shard{there}; pack it, upload the packed folder, and give that")
    return ShardList(root, list(found), found)


def find_stats(data: str, shards: ShardList) -> dict[str, Stat]:
    """Size and version of each shard: what the listing said, or one request for each.

    Raises:
        InputError: some are missing or cannot be read.
    """
    store = remote_store(data)

    def look(path: str) -> Stat | None:
        if (known := shards.stats.get(path)) is not None:
            return known
        try:
            return persistently(lambda: store.stat(path), TIMEOUT)
        except StoreError as error:
            if is_absent(error):
                return None
            raise

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(shards.paths, pool.map(look, shards.paths), strict=True))
    except StoreError as error:
        raise _unreadable(data, error) from error
    missing = [path for path, stat in found.items() if stat is None]
    if missing and len(shards.paths) == 1:
        raise InputError(f"data={data} does not exist (HTTP 404); check the address")
    refuse_missing(data, shards.paths, missing)
    return {path: stat for path, stat in found.items() if stat is not None}


def _list(root: str) -> Sequence[Entry]:
    """The entries of a folder, or, where it holds no shards, those of its sub-folders."""
    store = remote_store(root)
    entries = store.entries(root)
    if any(entry.stat is not None and _is_shard(entry.address) for entry in entries):
        return entries
    inner = [entry.address for entry in entries if entry.stat is None]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*entries, *(entry for part in pool.map(store.entries, inner) for entry in part)]


def _is_shard(address: str) -> bool:
    name = last_name(address)
    return name.endswith(".tar") and not name.startswith(".")


def _root_of(paths: Sequence[str]) -> str:
    """The folder that all shards lie in, or below."""
    root = parent_of(paths[0])
    while any(below(root, path) is None for path in paths) and parent_of(root) != root:
        root = parent_of(root)
    return root


def _unreadable(data: str, error: StoreError) -> InputError:
    why = "does not exist" if is_absent(error) else "cannot be read"
    return InputError(f"data={data} {why}: {shown(str(error.filename))}: {error.strerror}")
