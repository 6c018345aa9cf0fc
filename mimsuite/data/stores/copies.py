"""Copies of small remote files (tables, indexes) in the user's cache, for what has to be mapped into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mimsuite.data.storage import cache_folder, replacing
from mimsuite.data.stores.fault import LARGEST, StoreError, too_large
from mimsuite.data.stores.names import bare, last_name

if TYPE_CHECKING:
    from mimsuite.data.stores.remote import RemoteStore


def copy_of(store: RemoteStore, name: str) -> Path:
    """The copy of a file, made unless there is one of this address, size and version (where the server tells one).

    Raises:
        StoreError: it cannot be read.
    """
    size, version = store.stat(name)
    if size > LARGEST:
        raise too_large(name)
    mark = hashlib.sha256(f"{bare(name)}\0{size}\0{version}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    place = cache_folder() / "remote" / mark[:2] / f"{mark}-{last_name(name)[-60:]}"
    if not version or place.is_symlink() or not place.is_file() or place.stat().st_size != size:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as part, part.open("wb") as file:
            for block in store.stream(name):
                file.write(block)
                if file.tell() > size:
                    break
            if file.tell() != size:
                raise StoreError(name, f"{file.tell()} bytes came, {size} were promised", passes=True)
    return place
