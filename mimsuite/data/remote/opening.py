"""Opens a data set on another machine: by its index, or by a scan of its headers, which the user's cache keeps."""

from __future__ import annotations

import hashlib
import http
import logging
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mimsuite.data.fetching.retry import persistently
from mimsuite.data.index import DataIndex
from mimsuite.data.index_json import CLASSES, INDEX, as_packed, read_index, write_index
from mimsuite.data.remote.listing import find_remote, find_stats, is_folder_like
from mimsuite.data.remote.scanning import alone, scan_remote
from mimsuite.data.scan import SCAN, build_index
from mimsuite.data.sources import INFO, ShardList
from mimsuite.data.storage import cache_folder, move_folder
from mimsuite.data.stores.address import read_if_there, remote_store
from mimsuite.data.stores.fault import StoreError, is_absent
from mimsuite.data.stores.names import bare, check_address, join, scheme_of, shown
from mimsuite.data.stores.remote import TIMEOUT
from mimsuite.data.stores.store import Stat
from mimsuite.data.tables import KEYS, ROWS
from mimsuite.errors import InputError
from mimsuite.words import Alpha

log = logging.getLogger("mimsuite")


def open_remote(data: str, cache: Path | None, alpha: Alpha) -> DataIndex:
    """Opens a packed folder, a folder of shards, a brace pattern or one .tar on another machine.

    With an `index.json` no shard is looked at: sizes are checked when a shard is fetched. Arguments are those of
    `open_index`.

    Raises:
        InputError: nothing usable there, or no access; the message names it without passwords and signatures.
    """
    check_address(data)
    if (index := read_packed(data)) is not None:
        return index
    found = find_remote(data)
    packed = None if is_folder_like(data) else read_packed(found.root, needed=False)  # of a pattern in its folder
    alpha = packed.alpha if packed else alpha
    index = read_index(_scanned_entry(data, found, cache or cache_folder(), alpha), found.root)
    return as_packed(index, packed) if packed else index


def read_packed(data: str, *, needed: bool = True) -> DataIndex | None:
    """The index beside the shards of a folder; None where there is none, or it is not `needed` and may not be read.

    Raises:
        InputError: it cannot be read.
    """
    if not is_folder_like(data):
        return None
    try:
        return persistently(lambda: read_index(data.rstrip("/")), TIMEOUT)
    except StoreError as error:
        hidden = not needed or scheme_of(data) not in ("http", "https")  # so buckets say that there is none
        if is_absent(error) or (hidden and error.status == http.HTTPStatus.FORBIDDEN):
            return None
        raise InputError(f"data={data} cannot be read: {error.filename}: {error.strerror}") from error


def _scanned_entry(data: str, found: ShardList, cache: Path, alpha: Alpha) -> Path:
    """The folder of the cache with the index of shards that have none; it is made by a scan on first use.

    What a scan finds of each shard is kept until all are scanned, so one that was stopped goes on where it was.
    """
    stats = find_stats(data, found)
    entry = cache / "index" / _hash_of(found, stats, alpha)
    scans = cache / "index" / f".scan-{hashlib.sha256(bare(found.root).encode()).hexdigest()[:32]}"
    try:
        with alone(scans.with_suffix(".lock")):
            if not (entry / INDEX).is_file():
                made = scans / "entry"
                shutil.rmtree(made, ignore_errors=True)
                index = build_index(found.root, scan_remote(stats, scans), alpha)
                made.mkdir()
                write_index(made, index, found.root)
                move_folder(made, entry, INDEX)
                shutil.rmtree(scans, ignore_errors=True)
    except StoreError as error:
        raise InputError(f"data={data} cannot be read: {error.filename}: {error.strerror}") from error
    except OSError as error:
        raise InputError(
            f"the index of {data} cannot be kept in {entry.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return entry


def index_remote(data: str, out: Path, alpha: Alpha) -> str:
    """Writes `index.json` and the tables beside remote shards, or into a local folder where that is not possible.

    Args:
        data: a folder of shards, a pattern, or one .tar.
        out: the local folder. What is written there names the address of the shards, without what may be secret, and
            is a data set of its own: `data=OUT`.
        alpha: what becomes of transparency.

    Returns:
        Where it was written.

    Raises:
        InputError: there is an index already; see `open_remote`.
    """
    check_address(data)
    if read_packed(data) is not None:
        raise InputError(f"index=true, but data={data} has an index.json; move it away to have a new one written")
    found = find_remote(data)
    entry = _scanned_entry(data, found, cache_folder(), alpha)
    index, store = read_index(entry, found.root), remote_store(data)
    if is_folder_like(data):
        try:
            with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".beside-") as made:
                write_index(Path(made), index, found.root, beside=True)
                for name in (ROWS, KEYS, INDEX):  # the index last: with it the others are whole
                    store.put(Path(made, name), join(found.root, name))
        except StoreError as error:
            log.info("the index cannot be written beside the shards (%s): it goes to out=", error.strerror)
        else:
            return shown(found.root)
    if bare(found.root) != found.root:
        log.warning("the index names %s alone: give the credentials in the environment", bare(found.root))
    out.mkdir(parents=True, exist_ok=True)
    write_index(out, index, found.root)
    return str(out)


def _hash_of(found: ShardList, stats: Mapping[str, Stat], alpha: Alpha) -> str:
    """Changes with the shards, and with what is said of them beside them."""
    digest = hashlib.sha256(f"{SCAN} alpha={alpha} {bare(found.root)}".encode())
    for path, (size, version) in stats.items():
        digest.update(f"{bare(path)}\0{size}\0{version}\0".encode("utf-8", "surrogateescape"))
    for file in (join(found.root, INFO), join(found.root, CLASSES)):
        try:
            held = persistently(partial(read_if_there, file), TIMEOUT)
        except StoreError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
        digest.update(held or b"\0")
    return digest.hexdigest()[:32]
