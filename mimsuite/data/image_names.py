"""Which image a cell of a user's table means: by its path, its path without the ending, or its key."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mimsuite.data.tar import to_text
from mimsuite.errors import InputError


class ImageNames:
    """The names under which a table may speak of images."""

    def __init__(self, files: Sequence[str], keys: Sequence[str] = (), *, src: Path | None = None) -> None:
        """Takes the images in their order.

        Args:
            files: their paths, relative to the folder that they came from, with `/`.
            keys: their keys in the shards; empty where they are not packed yet.
            src: the folder that they came from, where it is known.
        """
        self.files, self._src = files, src
        self._exact: dict[str, list[int]] = {}
        for number, file in enumerate(files):
            self._exact.setdefault(file, []).append(number)
        self._loose: dict[str, list[int]] = {}
        for names in (keys, [os.path.splitext(file)[0] for file in files], files):
            for number, name in enumerate(map(_composed, names)):
                known = name.isascii() and name in self._exact
                if not known and number not in self._loose.setdefault(name, []):
                    self._loose[name].append(number)

    def match(self, cells: Sequence[str]) -> list[int | None]:
        """The number of the image that each cell means; None where it means none.

        Paths may be absolute, dotted or from Windows. Where the folder they came from is not known, they may begin with
        any folders, if these are the same in all cells that are not found without, whether these name an image or not.

        Raises:
            InputError: a cell that fits several images.
        """
        found = [self._find(cell.strip()) for cell in cells]
        lost = [number for number, place in enumerate(found) if place is None]
        if self._src is None and lost:
            texts = [_plain(cells[number].strip()) for number in lost]
            before = self._folders_before(texts)
            if before:
                for number, text in zip(lost, texts, strict=True):
                    found[number] = self._find(text[len(before) :])
        return found

    def similar(self, cell: str) -> str:
        """A question that names the first image with the same name in another folder, case or ending; else empty."""
        name = _stem(_plain(cell.strip()))
        found = next((file for file in self.files if _stem(file) == name), None)
        return "" if found is None else f" (did you mean {to_text(found)!r}?)"

    def _find(self, text: str) -> int | None:
        names = [text, _relative(text, self._src), _plain(_relative(text, self._src))]
        for table, form in ((self._exact, str), (self._loose, _composed)):
            for name in names:
                if places := table.get(form(name)):
                    if len(places) > 1:
                        fits = " and ".join(to_text(self.files[place]) for place in places[:2])
                        raise InputError(
                            f"{text!r} fits {len(places)} images ({fits}); name each image by its whole path"
                        )
                    return places[0]
        return None

    def _folders_before(self, texts: Sequence[str]) -> str:
        """The folders that all paths begin with, and without which one of them names an image; empty for none.

        Of several the first ones, which leave the longest ends.
        """
        pairs = zip(min(texts).split("/")[:-1], max(texts).split("/")[:-1], strict=False)  # all others lie between
        parts = [one for one, other in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        starts = ("/".join(parts[:number]) + "/" for number in range(1, len(parts) + 1))
        named = (start for start in starts if any(self._find(text[len(start) :]) is not None for text in texts))
        return next(named, "")


def _relative(text: str, src: Path | None) -> str:
    if src is not None and os.path.isabs(text):
        return os.path.relpath(text, os.path.abspath(src))
    return str(PurePosixPath(os.path.normpath(text)))


def _composed(text: str) -> str:
    """A name with each letter as one sign: macOS writes an umlaut as two, most programs that write tables as one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _stem(path: str) -> str:
    return _composed(os.path.splitext(os.path.basename(path))[0]).casefold()


def _plain(text: str) -> str:
    """A path as we write it, also from Windows."""
    return str(PurePosixPath(os.path.normpath(text.replace("\\", "/"))))
