"""One shard as it is written: the same bytes for the same samples, hashed on the way, and put in place at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mimsuite.data.images.encode import Content
from mimsuite.data.labels import Label
from mimsuite.data.packing.journal import ShardLine
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.storage import Replacement
from mimsuite.data.tar import FILE_ENDING


def label_member(label: Label | None) -> dict[str, bytes]:
    """The ending and the content of the member that holds a label; nothing for none."""
    if label is None:
        return {}
    if isinstance(label, int):
        return {"cls": str(label).encode()}
    return {"json": json.dumps({"label": label}).encode()}


class ShardWriter:
    """Writes one `SPLIT-NNNNNN.tar` with webdataset's writer; owner and time of all members are fixed."""

    def __init__(self, out: Path, split: str, number: int) -> None:
        from webdataset.writer import TarWriter

        self.split, self.payload = split, 0
        self._path, self._samples = out / f"{split}-{number:06d}.tar", 0
        self._channels: dict[int, str] = {}
        self._file = Replacement(self._path, durable=True)
        self._stream = _Hashed(self._file.part)
        self._tar = TarWriter(self._stream, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False)

    def write(self, picture: SourceImage, content: Content) -> None:
        """Writes one sample."""
        sample: dict[str, str | bytes] = {"__key__": picture.key, content.ending: content.data}
        file = os.fsencode(picture.file)
        written = self._tar.write(sample | label_member(picture.label) | {FILE_ENDING: file})
        self.payload += written - len(file)
        self._channels.setdefault(content.channels, str(picture.path))
        self._samples += 1

    def close(self, after: int, bad: Sequence[str]) -> ShardLine:
        """Puts the shard in its place; `after` is the number of the first image behind it."""
        self._tar.close()
        size, digest = self._stream.close()
        self._file.commit()
        return ShardLine(self._path.name, self.split, digest, size, self._samples, after, tuple(bad), self._channels)

    def abandon(self) -> None:
        """Removes what was written; a full disk fails here again, and was reported already."""
        for close in (self._tar.close, self._stream.close):
            with contextlib.suppress(OSError):
                close()
        self._file.discard()


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file, self._hash, self._size = path.open("wb"), hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Writes and hashes."""
        self._hash.update(data)
        self._size += len(data)
        return self._file.write(data)

    def close(self) -> tuple[int, str]:
        """Closes the file; the bytes and the sha256 of what was written."""
        self._file.close()
        return self._size, self._hash.hexdigest()
