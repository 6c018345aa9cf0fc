"""What `data=` means: nothing (the embedded set), a folder of images (packed to a cache first), or shards."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import __version__ as pillow_version

from mimsuite.data.cache import find_copy
from mimsuite.data.folders import Contents, count_of, folder_of, images_of, list_names
from mimsuite.data.images.reading import Reading
from mimsuite.data.index import DataIndex
from mimsuite.data.index_json import INDEX, JOURNAL, as_packed, read_index, write_index
from mimsuite.data.merge import merge
from mimsuite.data.remote.opening import open_remote
from mimsuite.data.scan import SCAN, build_index, scan_files
from mimsuite.data.sources import INFO, find_shards, is_hidden, is_shards
from mimsuite.data.storage import cache_folder, move_folder
from mimsuite.data.stores.address import absolute, store_of
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import join, scheme_of
from mimsuite.errors import InputError
from mimsuite.words import Alpha

log = logging.getLogger("mimsuite")

PACKED = "mimsuite-pack-2"  # of what a pack writes; copies in the cache under another name are not used
_DEPTHS = ("*.tar", "*/*.tar", "*/*/*.tar")
EMBEDDED = Path(__file__).parent / "emoji-64"


def open_data(data: str | Sequence[str] | None, alpha: Alpha = "white") -> DataIndex:
    """Opens a data set; its `reading` tells how a folder of images was read.

    Args:
        data: a packed folder, a folder of tar shards, a brace pattern, or the address of one of them on another
            machine; an image folder, one image; several of these, which become one set; or None for `emoji-64`.
        alpha: what becomes of transparency, where no `index.json` beside the shards says it.

    Raises:
        InputError: nothing usable there; the message names it.
    """
    if data is None:
        log.info("no data= given: using the embedded emoji-64")
        return open_index(str(EMBEDDED))
    if not isinstance(data, str):
        refuse_nested(data)
        return merge([open_data(address, alpha) for address in data])
    if scheme_of(data):
        return open_remote(data, None, alpha)
    contents = images_of(data)
    if contents is None:
        return _open_shards(data, None, alpha)
    return pack_to_cache(Path(absolute(data)), contents, alpha)


def open_index(data: str, cache: Path | None = None, alpha: Alpha = "white") -> DataIndex:
    """Opens a set of shards, and checks the size of each.

    Args:
        data: a packed folder (with `index.json`), any folder of tar shards, a pattern `dir/{000..012}.tar`,
            or a .tar file.
        cache: where the index of shards without one is kept; default: `mimsuite` in the user's cache
            directory. A scan of the headers makes it on first use, and again when a size or time has changed.
        alpha: what becomes of transparency in shards without an index.

    Raises:
        InputError: missing, unreadable, empty, cut or damaged; shard and offset are named.
    """
    if scheme_of(data):
        return open_remote(data, cache, alpha)
    if images_of(data) is not None:
        raise InputError(f"data={data} is a folder of images, not of shards; run `mimsuite pack src={data} out=FOLDER`")
    return _open_shards(data, cache, alpha)


def _open_shards(data: str, cache: Path | None, alpha: Alpha) -> DataIndex:
    """As `open_index`, for what is known not to be a folder of images."""
    folder, store = absolute(data), store_of(data)
    if store.is_file(join(folder, INDEX)):
        index = _check_sizes(read_index(folder))
        _report_left_out(data, [shard.path for shards in index.splits.values() for shard in shards], INDEX)
        return index
    if store.is_file(join(folder, JOURNAL)):
        raise InputError(f"data={data} holds a half-finished pack; run the same `mimsuite pack` again to finish it")
    root, paths, _ = find_shards(data)
    if store.is_folder(folder):
        _report_left_out(data, paths)
    packed = read_index(root) if store.is_file(join(root, INDEX)) else None  # of a pattern in its folder
    alpha = packed.alpha if packed else alpha
    entry = (cache or cache_folder()) / "index" / _hash_of_shards(paths, join(root, INFO), alpha)
    if not store.is_file(str(entry / INDEX)):
        _scan_into(entry, root, paths, alpha)
    index = read_index(entry, root)
    return as_packed(index, packed) if packed else index


def _report_left_out(data: str, taken: Sequence[str], listed_in: str = "") -> None:
    """Warns of shards in a folder that are not taken: they came after its index, or lie deeper than the others."""
    folder, known = absolute(data), set(taken)
    found = [path for depth in _DEPTHS for path in store_of(data).list(folder, depth)]
    others = [path for path in found if path not in known and not is_hidden(os.path.relpath(path, folder))]
    if others:
        fix = "give a list of folders: data=[A,B]"
        if listed_in:
            fix = f"only those in its {listed_in} are read; move that away to have all scanned"
        log.warning(
            "data=%s: %s left out (%s); %s",
            *(data, f"{count_of(len(others), '.tar file')} below it {'is' if len(others) == 1 else 'are'}"),
            *(list_names([os.path.relpath(path, folder) for path in others]), fix),
        )


def refuse_nested(data: Sequence[str]) -> None:
    """Refuses a folder of images beside one that it lies in: its images would count twice.

    Raises:
        InputError: such folders.
    """
    images = {address: os.path.realpath(absolute(address)) for address in data if not scheme_of(address)}
    images = {address: place for address, place in images.items() if not is_shards(address)}
    for inner, place in images.items():
        around = [outer for outer, top in images.items() if Path(top) in Path(place).parents]
        if around:
            raise InputError(
                f"data=[...]: {inner} lies in {around[0]}, so its images would count twice; remove one of them"
            )


def pack_to_cache(source: Path, contents: Contents, alpha: Alpha = "white") -> DataIndex:
    """The shards of an image folder in the user's cache; packed on first use and when an image changed.

    The index has the name of the folder, not of its copy.

    Raises:
        InputError: the folder cannot be read, or in several ways.
    """
    from mimsuite.data.packing.layout import describe_reading, read_layout
    from mimsuite.data.packing.pack import pack

    try:
        reading = describe_reading(read_layout(str(source), contents.images, "auto", "auto"), contents)
        content = hash_of_images(folder_of(source), contents, alpha)
        folder = find_copy(source, content, lambda part: pack(source, part, reading=Reading(alpha)))
    except InputError as error:
        raise InputError(str(error).replace("src=", "data=")) from error
    return replace(_open_shards(str(folder), None, alpha), root=str(source), reading=tuple(reading))


def hash_of_images(source: Path, contents: Contents, alpha: Alpha = "white") -> str:
    """A name that changes when an image below `source` is added, removed or changed, or would be packed otherwise."""
    digest, store = hashlib.sha256(f"{PACKED} {pillow_version}{_mark(alpha)}\n".encode()), store_of(str(source))
    for name in contents.images:
        size, version = store.stat(os.path.join(source, name))
        digest.update(f"{name}\0{size}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _mark(alpha: Alpha) -> str:
    """What distinguishes copies and indexes in the cache; nothing for "white", as before there was a choice."""
    return "" if alpha == "white" else f" alpha={alpha}"


def _hash_of_shards(paths: list[str], info: str, alpha: Alpha) -> str:
    digest, store = hashlib.sha256((SCAN + _mark(alpha)).encode()), store_of(info)
    for path in [*paths, *([info] if store.is_file(info) else [])]:
        try:
            size, version = store.stat(path)
        except OSError as error:
            raise InputError(
                f"shard {path} cannot be read ({error.strerror}); check the path and its rights"
            ) from error
        digest.update(f"{path}\0{size}\0{version}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _check_sizes(index: DataIndex) -> DataIndex:
    """Checks the shards that lie on this machine; others when they are fetched."""
    store = LocalStore()
    for shard in (s for shards in index.splits.values() for s in shards if not scheme_of(s.path)):
        try:
            size = store.stat(shard.path).size
        except OSError as error:
            raise InputError(f"shard {shard.path} cannot be read ({error.strerror}); copy it again") from error
        if size != shard.bytes:
            what = f"cut at offset {size}" if size < shard.bytes else "changed"
            raise InputError(
                f"shard {shard.path} is {what}: {size} bytes, index.json says {shard.bytes}; copy it again"
            )
    return index


def _scan_into(entry: Path, root: str, paths: list[str], alpha: Alpha) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=entry.parent, prefix=".scan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"the index of {root} cannot be kept in {entry.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    with temporary as name:
        made = Path(name) / "entry"
        made.mkdir()
        write_index(made, build_index(root, scan_files(paths, made, {}), alpha))
        move_folder(made, entry, INDEX)
