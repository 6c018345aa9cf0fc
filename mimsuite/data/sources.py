"""Which files `data=` stands for, and how their bytes are read. Only local files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections import OrderedDict
from pathlib import Path

from mimsuite.errors import InputError, RunError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".npy", ".bmp", ".gif", ".ppm", ".pgm")
INFO = "_info.json"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


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
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts = [f"{i:0{width}d}" for i in range(int(first), int(last) + 1)]
    elif "," in body:
        parts = body.split(",")
    else:
        raise InputError(f"data={pattern}: {{{body}}} is neither a range {{000..012}} nor a list {{a,b}}")
    return list(dict.fromkeys(name for part in parts for name in expand_braces(head + part + tail)))


def find_shards(data: str) -> tuple[Path, list[Path]]:
    """The tar shards that `data` (a folder, a brace pattern or one .tar) stands for.

    Returns:
        The folder they lie in (of several, the first), and their absolute paths in order of name. A folder
        without shards of its own may keep them in sub-folders (`train/000.tar`). Links are not followed, for
        their names say more than those of the files (a download cache names files by hashes).

    Raises:
        InputError: nothing there, not readable, or no shard in it.
    """
    path = Path(os.path.abspath(Path(data).expanduser()))
    if not os.path.exists(path) and "{" in data:
        paths = [Path(name) for name in expand_braces(str(path))]
        missing = [p for p in paths if not os.path.isfile(p)]
        if missing:
            raise InputError(
                f"data={data}: {len(missing)} of {len(paths)} shards are missing, the first is {missing[0]}; "
                "mend the range"
            )
        return paths[0].parent, paths
    if not os.path.exists(path):
        raise InputError(f"data={data} is not there (or hidden from you); give a folder, a pattern or a .tar file")
    if os.path.isfile(path):
        if path.suffix != ".tar":
            raise InputError(f"data={data} does not end in .tar; give a folder, a pattern or a .tar file")
        return path.parent, [path]
    try:
        paths = sorted(p for p in path.iterdir() if p.suffix == ".tar")
        paths = paths or sorted(path.glob("*/*.tar"))
    except OSError as error:
        raise InputError(f"data={data} cannot be read ({error.strerror}); check its rights") from error
    if not paths:
        raise InputError(
            f"data={data} holds no .tar shard and no image ({', '.join(PICTURE_ENDINGS)}); check the path, "
            "or write shards with `mimsuite pack src=IMAGES out=FOLDER`"
        )
    return path, paths


def is_image_folder(data: str) -> bool:
    """True for a folder that holds images, at any depth, and neither shards nor an `index.json`."""
    path = Path(data).expanduser()
    if not os.path.isdir(path) or os.path.exists(path / "index.json"):
        return False
    for _, folders, names in os.walk(path):
        folders.sort()
        if any(name.endswith(".tar") for name in names):
            return False
        if any(name.lower().endswith(PICTURE_ENDINGS) and not name.startswith(".") for name in names):
            return True
    return False


def split_of(shard: Path, root: Path) -> str:
    """The split that a shard's name tells: `train`, `val` or `test`; `train` where it tells none.

    It is the last word before the number (`cats-validation-000012.tar`), else the folder (`val/000012.tar`).
    """
    words = [word for word in re.split(r"[-_.]", shard.stem) if not word.isdecimal()]
    folder = shard.parent.name if shard.parent != root else ""
    for word in (words[-1] if words else "", folder):
        if word.lower() in _SPLITS:
            return _SPLITS[word.lower()]
    return "train"


def read_info(root: Path) -> dict[str, tuple[str, int | None]]:
    """The split of each shard, and its samples if they are told, by the `_info.json` that timm's tools write.

    Returns:
        By the names of the shards; empty without such a file, or where it tells no splits.

    Raises:
        InputError: the file cannot be read.
    """
    file = root / INFO
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); mend it or move it away") from error
    found: dict[str, tuple[str, int | None]] = {}
    splits = content.get("splits") if isinstance(content, dict) else None
    try:
        for name, facts in dict(splits or {}).items():
            files = [Path(file).name for pattern in facts["filenames"] for file in expand_braces(pattern)]
            counts = facts.get("shard_lengths") or [None] * len(files)
            split = split_name_of(re.split(r"[-_.]", name)[0]) or "train"
            found |= {f: (split, n and int(n)) for f, n in zip(files, counts, strict=True)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is not as timm writes it ({error!r}); mend it or move it away") from error
    return found


def split_name_of(folder: str) -> str | None:
    """The split that a folder of images stands for by its name, or None."""
    return _SPLITS.get(folder.lower())


# What a disk, a network file system or FUSE reports when it may work again in a moment.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EAGAIN", "EBUSY", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ENOMEM"),
    )
    if hasattr(errno, name)
)
_PATIENCE, _PAUSES = 20.0, (0.1, 2.0)  # seconds: in all; the first and the longest pause


class ShardFiles:
    """Reads ranges of local shards; keeps at most `limit` files open. A fork does them no harm."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Returns the `size` bytes of `path` from `offset` on.

        An I/O error that may pass is tried again, on a file opened anew, for 20 seconds in all.

        Raises:
            RunError: the file vanished, cannot be read, or has become shorter.
        """
        pause, longest = _PAUSES
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                data = self._read_once(path, offset, size)
                break
            except OSError as error:
                self._forget(path)
                passing = error.errno in _PASSING
                if passing and time.monotonic() + pause <= end:
                    time.sleep(pause)
                    pause = min(2 * pause, longest)
                    continue
                fix = f"tried for {_PATIENCE:.0f} s; check the disk or the connection" if passing else "put it back"
                raise RunError(
                    f"shard {path} cannot be read at offset {offset}: {error.strerror}; {fix}, and resume the run"
                ) from error
        if len(data) < size:
            raise RunError(
                f"shard {path} ends before offset {offset + size}: it was cut during the run; copy it again, "
                "and resume the run"
            )
        return data

    def _read_once(self, path: str, offset: int, size: int) -> bytes:
        data = os.pread(self._file(path), size, offset)
        while 0 < len(data) < size:  # at most 2 GiB come at a time
            more = os.pread(self._file(path), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def _forget(self, path: str) -> None:
        fd = self._open.pop(path, None)
        if fd is not None:
            with contextlib.suppress(OSError):  # closing may report the same fault once more
                os.close(fd)

    def _file(self, path: str) -> int:
        fd = self._open.pop(path, None)
        if fd is None:
            fd = os.open(path, os.O_RDONLY)
            if len(self._open) >= self._limit:
                os.close(self._open.popitem(last=False)[1])
        self._open[path] = fd
        return fd

    def close(self) -> None:
        """Closes all files; the next read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return {"_limit": self._limit, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()
