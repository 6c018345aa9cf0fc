"""What `data=` means: nothing (the embedded set), a folder of images (packed to a cache first), or shards."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from mimsuite.data.index import DataIndex, open_index
from mimsuite.data.sources import is_image_folder
from mimsuite.data.storage import cache_folder

log = logging.getLogger("mimsuite")

EMBEDDED = Path(__file__).parent / "emoji-64"


def open_data(data: str | None) -> DataIndex:
    """Opens a data set and says what it took where that is not obvious.

    Args:
        data: a packed folder, a folder of tar shards, a brace pattern, an image folder, or None for `emoji-64`.

    Raises:
        InputError: nothing usable there; the message names it.
    """
    if data is None:
        log.info("no data= given: using the embedded emoji-64")
        return open_index(str(EMBEDDED))
    if is_image_folder(data):
        return open_index(str(packed(Path(data))))
    return open_index(str(data))


def packed(source: Path) -> Path:
    """The shards of an image folder in the user's cache; packed on first use and when a file changed."""
    from mimsuite.data.packing.pack import pack

    folder = cache_folder() / "packed" / fingerprint(source)
    if not (folder / "index.json").is_file():
        log.info(
            "data=%s is a folder of images: packing it to %s (once; `mimsuite pack` chooses the place)",
            source,
            folder,
        )
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            pack(source, part)
            part.rename(folder)
        except OSError:
            if not (folder / "index.json").is_file():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def fingerprint(source: Path) -> str:
    """A name that changes when a file below `source` is added, removed or changed."""
    digest = hashlib.sha256(str(source.resolve()).encode())
    for folder, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files):
            stat = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
