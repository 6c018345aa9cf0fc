"""What lies below a folder: the images that are read, and all that is left out, counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from mimsuite.data.images.dicom import HEADER, is_dicom
from mimsuite.data.index_json import INDEX, JOURNAL
from mimsuite.data.stores.address import absolute, store_of
from mimsuite.data.tar import IMAGE_ENDINGS, OTHER_ENDINGS, to_text
from mimsuite.errors import InputError

#: Endings of image files; what they hold is told by their first bytes.
PICTURE_ENDINGS = tuple(f".{ending}" for ending in (*IMAGE_ENDINGS, *OTHER_ENDINGS))
#: A folder that holds all of these was written by a training, a probe or an evaluation.
RUN_MARKS = {"config.yaml", "overrides.txt", "environment.json"}
_SHEET_MARKS = {"inspect.json", "contact_sheet.png"}  # written by `mimsuite inspect`
_THUMBNAILS = ("@eadir", "__macosx", "#recycle", "$recycle.bin")
_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".xml", ".mat")
_NO_TABLES = ("readme", "license", "licence", "requirements")
_SHOWN, _CLASSES = 3, 8  # names that a line lists


@dataclass
class Contents:
    """What was found below a folder; names are relative to it, with `/`.

    Attributes:
        images: image files, sorted by path.
        shards: `.tar` files in the folder or one level below.
        others: files that are not read, by their ending.
        tables: those of them that may hold labels.
        excluded: images that a pattern left out.
        broken: links that lead nowhere, and what is neither a file nor a folder.
        links: links to folders, and folders behind links, that are read under another name, or that lead back.
        runs: folders that a task of this package wrote.
        thumbnails: folders of thumbnails and bins, which a system made.
        empty: folders that hold no image at any depth, without those inside of them.
    """

    images: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    tables: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def read_contents(folder: str, key: str = "src", exclude: Sequence[str] = ()) -> Contents:
    """Walks a folder; hidden files and folders are passed over.

    Args:
        folder: the folder.
        key: what errors call it.
        exclude: patterns of images that are left out, see `matches`.

    Raises:
        InputError: not a folder, one below it cannot be read, or a pattern matches nothing.
    """
    store, found = store_of(folder), Contents()
    if not store.is_folder(folder):
        raise InputError(f"{key}={folder} is not a folder; give a folder of images")

    def name_of(path: str) -> str:
        return os.path.relpath(path, folder).replace(os.sep, "/")

    def refuse(error: OSError) -> None:
        raise InputError(f"{key}={folder}: {error.filename} cannot be read ({error.strerror}); check its rights")

    def skip(here: str, names: Sequence[str]) -> bool:
        if os.path.basename(here).lower() in _THUMBNAILS:
            found.thumbnails.append(name_of(here))
        elif is_output(names):
            found.runs.append(name_of(here))
        else:
            return False
        return True

    walk = store.walk(
        folder, hidden=False, on_error=refuse, skip=skip, on_link=lambda path: found.links.append(name_of(path))
    )
    folders = list[str]()
    for here, names in walk:
        folders.append(name_of(here))
        for name in names:
            path = os.path.join(here, name)
            is_file = store.is_file(path)
            _sort(found, name_of(path), is_file, is_file and _is_scan(path), exclude)
    unused = [pattern for pattern in exclude if not any(matches(name, pattern) for name in found.excluded)]
    if unused:
        raise InputError(
            f"exclude={unused[0]} matches no image below {key}={folder}; * stands for any characters, and the pattern "
            "for a whole name, a folder, or a path below it"
        )
    found.empty = _without_images(folders, found)
    found.images.sort(key=lambda name: name.split("/"))
    return found


def _without_images(folders: Sequence[str], found: Contents) -> list[str]:
    """The outermost folders below which no image lies, whether it is read or left out."""
    filled = {"."}
    for name in (*found.images, *found.excluded, *found.shards, *found.broken, *found.runs, *found.thumbnails):
        filled.update(map(str, PurePosixPath(name).parents))
    return [name for name in folders if name not in filled and str(PurePosixPath(name).parent) in filled]


def _sort(found: Contents, name: str, is_file: bool, is_scan: bool, exclude: Sequence[str]) -> None:
    """Puts a file where it belongs; scanners give files no ending, or the last part of a number."""
    ending = os.path.splitext(name)[1].lower()
    if not is_file:
        found.broken.append(name)
    elif (ending in PICTURE_ENDINGS and not name.endswith(".idx.npy")) or is_scan:  # else a table beside a shard
        out = any(matches(name, pattern) for pattern in exclude)
        (found.excluded if out else found.images).append(name)
    else:
        found.others[ending or "no ending"] += 1
        if ending == ".tar" and name.count("/") < 2:
            found.shards.append(name)
        if ending in _TABLES and not os.path.basename(name).lower().startswith(_NO_TABLES):
            found.tables.append(name)


def _is_scan(path: str) -> bool:
    """Whether a file without the ending of an image is one of DICOM; a DICOMDIR lists others, and is none."""
    ending, name = os.path.splitext(path)[1][1:], os.path.basename(path)
    if (ending and not ending.isdecimal()) or name.upper() == "DICOMDIR":
        return False
    try:
        return is_dicom(store_of(path).read(path, 0, HEADER))
    except OSError:
        return False


def matches(name: str, pattern: str) -> bool:
    """Whether a glob pattern matches a path, a folder above it, or, without `/`, any part of the path."""
    parts = name.split("/")
    if "/" not in pattern:
        return any(fnmatchcase(part, pattern) for part in parts)
    wanted = pattern.strip("/")
    return any(fnmatchcase("/".join(parts[:end]), wanted) for end in range(1, len(parts) + 1))


def is_output(names: Sequence[str]) -> bool:
    """Whether a folder with files of these names was written by a task of this package."""
    held = set(names)
    return held >= RUN_MARKS or held >= _SHEET_MARKS


def run_around(folder: str) -> Path | None:
    """The run folder that a folder lies in, or is; None for others."""
    store, place = store_of(folder), Path(os.path.realpath(folder))
    around = (place, *place.parents)
    return next((p for p in around if all(store.is_file(str(p / mark)) for mark in RUN_MARKS)), None)


def is_picture(data: str) -> bool:
    """Whether this is one image file, by its ending, or as DICOM without one."""
    place = absolute(data)
    return store_of(data).is_file(place) and (data.lower().endswith(PICTURE_ENDINGS) or _is_scan(place))


def folder_of(source: Path) -> Path:
    """The folder that the names in `Contents` are relative to: that of a single image, else `source` itself."""
    return source.parent if is_picture(str(source)) else source


def images_of(data: str, key: str = "data", exclude: Sequence[str] = ()) -> Contents | None:
    """What a folder of images holds, or one image; None for anything else: shards, an unfinished pack, or no folder.

    Raises:
        InputError: it holds both shards and images, only files that are not read, or lies in a run folder.
    """
    store, place = store_of(data), absolute(data)
    if is_picture(data):
        return Contents(images=[os.path.basename(place)])
    if not store.is_folder(place) or any(store.is_file(os.path.join(place, name)) for name in (INDEX, JOURNAL)):
        return None
    found = read_contents(place, key, exclude)
    if found.images and found.shards:
        raise InputError(
            f"{key}={data} holds both {len(found.shards)} .tar files (the first is {to_text(found.shards[0])}) and "
            f"{len(found.images)} images (the first is {to_text(found.images[0])}); give the folder of one of them"
        )
    if found.images and (run := run_around(place)) is not None:
        raise InputError(
            f"{key}={data} lies in the run folder {run}, whose pictures are not data; move the images out of it"
        )
    return found if found.images else None


def no_images(key: str, folder: str, found: Contents, nor: str = "") -> InputError:
    """The error for a folder without images (`nor` says what else it lacks), with what is there instead."""
    there = "".join(f"{line}; " for line in describe_left_out(found))
    return InputError(f"{key}={folder} holds {nor}no image ({', '.join(PICTURE_ENDINGS)}); {there}check the path")


def describe_left_out(found: Contents) -> Iterator[str]:
    """Yields a sentence for each reason why files are not read."""
    if found.others:
        counts = ", ".join(f"{count} {ending}" for ending, count in found.others.most_common(8))
        more = len(found.others) - 8
        yield f"not read, by their ending: {counts}" + (f", and {more} more endings" if more > 0 else "")
    for names, reason in (
        (found.empty, "folders without images"),
        (found.excluded, "left out by exclude="),
        (found.broken, "not read, because they lead nowhere"),
        (found.links, "not followed, because these folders are read under another name"),
        (found.runs, "not read, because mimsuite wrote these folders"),
        (found.thumbnails, "not read, because a system keeps thumbnails or removed files there"),
    ):
        if names:
            yield f"{reason}: {list_names(names)}"


def list_names(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(to_text(name) for name in names[:most]) + more


def count_of(count: float, thing: str) -> str:
    """A number with its thing: `1 image`, `2,000 classes`, `0.5 epochs`."""
    plural = thing + ("es" if thing.endswith(("s", "x", "tch")) else "s")
    return f"{count:,} {thing if count == 1 else plural}"


def count_classes(counts: Mapping[int, int], names: Sequence[str]) -> str:
    """How many images each class has: `2 classes: cat 3, dog 4`."""
    shown = ", ".join(f"{names[number]} {counts[number]:,}" for number in sorted(counts)[:_CLASSES])
    more = f" and {len(counts) - _CLASSES:,} more" if len(counts) > _CLASSES else ""
    return f"{count_of(len(counts), 'class')}: {shown}{more}"
