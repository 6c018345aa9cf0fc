"""Which group each image belongs to: a folder, or a field of DICOM files; and that no group lies in two splits."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mimsuite.data.folders import count_of, list_names
from mimsuite.data.images.dicom import is_keyword, read_group
from mimsuite.data.images.pixels import DecodeError
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError

_DICOM = "dicom:"


def names_column(group_by: str) -> bool:
    """Whether `group_by` is a column of a table."""
    return not folder_part(group_by) and not dicom_keyword(group_by)


def folder_part(group_by: str) -> str:
    """`folder` or `folder:N`; empty for others."""
    return group_by if re.fullmatch(r"folder(:\d+)?", group_by) else ""


def dicom_keyword(group_by: str) -> str:
    """The field of `dicom:FIELD`; empty for others."""
    return group_by.removeprefix(_DICOM) if group_by.startswith(_DICOM) else ""


def folder_group(name: str, part: str) -> str:
    """The folders of an image, or the N-th of them.

    Raises:
        InputError: it lies in fewer.
    """
    folders = name.split("/")[:-1]
    if part == "folder":
        return "/".join(folders)
    number = int(part.partition(":")[2])
    if not 1 <= number <= len(folders):
        raise InputError(
            f"group_by={part}, but {to_text(name)} lies in {len(folders)} folders below src; parts are counted from 1"
        )
    return folders[number - 1]


def dicom_groups(src: Path, names: Sequence[str], keyword: str) -> list[str]:
    """The group of each image: a hash of one field of its header, which is neither shown nor written anywhere.

    Raises:
        InputError: DICOM has no such field, images are of another kind or have no value, or pydicom is not installed.
    """
    if not is_keyword(keyword):
        raise InputError(
            f"group_by={_DICOM}{keyword}: DICOM has no field {keyword}; use such as dicom:PatientID or "
            "dicom:StudyInstanceUID"
        )
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        groups = list(pool.map(partial(_group_of, src, keyword), names))
    missing = [name for name, group in zip(names, groups, strict=True) if not group]
    if missing:
        raise InputError(
            f"group_by={_DICOM}{keyword}: {count_of(len(missing), 'image')} of {len(names):,} have no such field, or "
            f"are not DICOM ({list_names(missing)}); leave them out with exclude=, or use labels=FILE.csv and a column"
        )
    return groups


def _group_of(src: Path, keyword: str, name: str) -> str:
    path = str(src / name)
    try:
        return read_group(store_of(path).read_all(path), keyword)
    except (OSError, DecodeError):
        return ""


def check_groups(pictures: Sequence[SourceImage], group_by: str) -> None:
    """No group may lie in two folders of splits.

    Raises:
        InputError: one does; of DICOM the error names two files, for the group is a secret.
    """
    first: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for p in pictures:
        first[p.group].setdefault(p.split, p.file)
    for group, files in first.items():
        if len(files) > 1:
            splits = " and ".join(sorted(files))
            named = f"group {to_text(group)!r} lies in {splits}"
            if dicom_keyword(group_by):
                named = (
                    f"{' and '.join(to_text(files[split]) for split in sorted(files))} are of one group, in {splits}"
                )
            raise InputError(f"group_by={group_by}: {named}; move its images into one of these folders")
