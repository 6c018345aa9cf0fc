"""Where the members of a tar shard lie: a scan of its headers. Nothing is ever extracted."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import hash_key
from mimsuite.data.stores.forward import Reader, open_reader
from mimsuite.errors import InputError

BLOCK = 512
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
OTHER_ENDINGS = (
    *("jpe", "jfif", "mpo", "bmp", "gif", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "avif"),
    *("dcm", "dicom"),
)
"""Of images that `mimsuite pack` reads from folders, and that are not read from shards."""

FILE_ENDING = "file.txt"  # `KEY.file.txt` holds the path of the image below the folder that it was packed from

#: One row per sample, in the shard's order. `*_offset` is where a payload begins, `*_size` its bytes,
#: `*_header` the bytes of header blocks in front of it (0: no such member). `key` is `hash_key(KEY)`.
RECORD = np.dtype(
    [
        ("key", "<u8"),
        ("image_offset", "<u8"),
        ("image_size", "<u4"),
        ("image_header", "<u4"),
        ("label_offset", "<u8"),
        ("label_size", "<u4"),
        ("label_header", "<u4"),
        ("file_offset", "<u8"),
        ("file_size", "<u4"),
        ("file_header", "<u4"),
    ]
)
FIRST_RECORD = np.dtype(RECORD.descr[:7])  # of tables that were written before paths were kept


class SampleRow(NamedTuple):
    """A row of `RECORD` in Python's integers."""

    key: int
    image_offset: int
    image_size: int
    image_header: int
    label_offset: int
    label_size: int
    label_header: int
    file_offset: int = 0
    file_size: int = 0
    file_header: int = 0


_EXTENSIONS = (b"x", b"g", b"L", b"K")  # headers that belong to the next member
_NO_PAYLOAD = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders: their size field means nothing
_FILES = (b"0", b"\0", b"7")
_NAMED = re.compile(rf"[a-z][a-z_-]*\.({'|'.join(IMAGE_ENDINGS)})")
_INPUTS = ("input", "image", "img")

Read = Callable[[int, int], bytes]


class NoImageError(InputError):
    """A shard that is whole, and holds no image: other shards of the set may have some."""


class Member(NamedTuple):
    """One regular file of an archive; offsets and sizes in bytes, `header` counts all its header blocks."""

    name: str
    offset: int
    size: int
    header: int


def split_name(name: str) -> tuple[str, str]:
    """Splits a member's name at the first dot of its last path component, as webdataset does.

    Returns:
        The key and the lower-case ending; both empty for names that webdataset passes over.
    """
    match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name, re.DOTALL)
    if match is None or re.match(r"__[^/]*__($|/)", name):
        return "", ""
    return match.group(1), match.group(2).lower()


def scan_shard(
    path: str, reader: Reader | None = None, unread: Callable[[str], None] | None = None
) -> NDArray[np.void]:
    """Reads the headers of a shard.

    Args:
        path: where it lies.
        reader: reads it; None: one that is made for it.
        unread: called with the name of each image that is left out for its name.

    Returns:
        One `RECORD` per sample that has an image, in the order of the file.

    Raises:
        NoImageError: it is whole, and holds no image.
        InputError: the file cannot be read, is not a plain tar file, is cut or damaged.
    """
    if reader is None:
        with _opened(path) as opened:
            return scan_shard(path, opened, unread)
    rows, hidden, named = list[SampleRow](), "", _named_ending(path, reader)
    for key, group in _groups(path, reader):
        image = image_of(group, named)
        if image is not None:
            label = label_of(group)
            if label is not None and label.name.lower().endswith(".json"):
                with _faults_named(path):
                    label = label if holds_label(reader.read(label.offset, label.size)) else None
            rows.append(_row(key, image, label, _find(group, FILE_ENDING), path))
        elif unread is not None and (name := hidden_image(group, named, (*IMAGE_ENDINGS, *OTHER_ENDINGS))):
            unread(name)
        hidden = hidden or hidden_image(group, named)
    if not rows:
        why = f"no member ends in {', '.join('.' + e for e in IMAGE_ENDINGS)}"
        if hidden:
            why = f"the ending of {to_text(hidden)} begins at its first dot; put _ for the dots of the keys"
        raise NoImageError(f"shard {path} holds no image: {why}; remove it, or write it again with `mimsuite pack`")
    return np.array(rows, dtype=RECORD)


def read_groups(path: str) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """The `group_members` of a shard.

    Raises:
        InputError: the file cannot be read, is not a plain tar file, is cut or damaged.
    """
    with _opened(path) as reader:
        yield from _groups(path, reader)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Reader]:
    with _faults_named(path):
        reader = open_reader(path)
    try:
        yield reader
    finally:
        reader.close()


@contextlib.contextmanager
def _faults_named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"shard {path} cannot be read ({error.strerror}); check the path and its rights") from error


def _groups(path: str, reader: Reader) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    with _faults_named(path):
        yield from group_members(walk_headers(reader.read, reader.size, path))


def walk_headers(read: Read, total: int, name: str) -> Iterator[Member]:
    """Yields the regular files of an archive.

    Args:
        read: `read(offset, size)` gives bytes of the archive, fewer at its end.
        total: its size in bytes.
        name: what errors call it.

    Raises:
        InputError: not a plain tar file, cut, or damaged; with the offset.
    """
    if total == 0:
        raise InputError(f"shard {name} is empty (0 bytes); copy it again or remove it")
    offset = start = 0
    long_name: str | None = None
    long_size: int | None = None
    while True:
        block = read(offset, BLOCK)
        if len(block) == BLOCK == block.count(0):
            return
        kind = block[156:157]
        size = _payload_size(block, offset, name)
        if kind not in _EXTENSIONS and long_size is not None:
            size = long_size
        payload = offset + BLOCK
        if payload + size > total:
            raise InputError(
                f"shard {name} is cut inside the payload of {to_text(_text(block[:100]))} at offset {payload}: "
                f"{size} bytes should follow, {max(0, total - payload)} are there; copy it again"
            )
        offset = payload + -(-size // BLOCK) * BLOCK
        if kind == b"L":
            long_name = _text(read(payload, size))
        elif kind == b"x":
            fields = _pax(read(payload, size), name, payload)
            long_name = fields.get("path", long_name)
            long_size = int(fields["size"]) if fields.get("size", "").isdecimal() else long_size
        elif kind not in _EXTENSIONS:
            if kind in _FILES:
                yield Member(long_name or _name(block), payload, size, payload - start)
            long_name = long_size = None
            start = offset


def group_members(members: Iterator[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Yields what webdataset takes as samples: a key, and the adjacent members of this key with their endings."""
    current, group = "", list[tuple[str, Member]]()
    for member in members:
        key, ending = split_name(member.name)
        if not key:
            continue
        if key != current and group:
            yield current, group
            group = []
        current = key
        group.append((ending, member))
    if group:
        yield current, group


def named_ending(path: str) -> str:
    """What follows the keys of a shard's images where that is a word and an ending, as in `KEY.input.jpg`.

    Empty for a shard with plain images (`KEY.jpg`). Of several, that of the input counts.

    Raises:
        InputError: several, and none or more than one is called an input.
    """
    with _opened(path) as reader:
        return _named_ending(path, reader)


def _named_ending(path: str, reader: Reader) -> str:
    """As `named_ending`, of a shard that is open."""
    found = dict[str, str]()
    for _, group in _groups(path, reader):
        if image_of(group) is not None:
            return ""
        found = {ending: member.name for ending, member in group if _NAMED.fullmatch(ending)} | found
    inputs = [ending for ending in found if ending.partition(".")[0] in _INPUTS]
    if len(found) > 1 and len(inputs) != 1:
        names = " and ".join(to_text(name) for name in list(found.values())[:2])
        raise InputError(
            f"shard {path} has several images of a sample ({names}), and none is KEY.jpg or KEY.input.jpg; rename the "
            "one to learn from"
        )
    return next(iter(inputs or found), "")


def image_of(group: list[tuple[str, Member]], named: str = "") -> Member | None:
    """The image among the members of a sample: the first, or the one with the `named_ending` of its shard."""
    endings = (named,) if named else IMAGE_ENDINGS
    return next((member for ending, member in group if ending in endings), None)


def hidden_image(group: list[tuple[str, Member]], named: str = "", endings: Sequence[str] = IMAGE_ENDINGS) -> str:
    """The name of the image that a sample would have if its key held no dot; empty where it has one, or none.

    With more `endings` also of an image of another kind than those that are read from shards.
    """
    if image_of(group, named) is not None:
        return ""
    return next((m.name for ending, m in group if ending.rpartition(".")[2] in endings), "")


def label_of(group: list[tuple[str, Member]]) -> Member | None:
    """The label among the members of a sample: `.cls`, else the first `.json`."""
    return _find(group, "cls") or _find(group, "json")


def holds_label(payload: bytes) -> bool:
    """Whether a `.json` member is meant as a label; False for other facts about the image, and for `"label": null`."""
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        return True  # named as a wrong label when it is read
    return not isinstance(content, dict) or content.get("label") is not None


def _find(group: list[tuple[str, Member]], ending: str) -> Member | None:
    return next((member for own, member in group if own == ending), None)


def _row(key: str, image: Member, label: Member | None, file: Member | None, path: str) -> SampleRow:
    if image.size >= 1 << 32:
        raise InputError(f"shard {path}: {to_text(image.name)} has {image.size} bytes; at most 4 GiB are allowed")
    tail = [(m.offset, m.size, m.header) if m is not None else (0, 0, 0) for m in (label, file)]
    return SampleRow(hash_key(key), image.offset, image.size, image.header, *tail[0], *tail[1])


def _payload_size(block: bytes, offset: int, name: str) -> int:
    """Checks the header block that was read at `offset`, and returns how many bytes belong to it."""
    foreign = _foreign_kind(block) if offset == 0 else None
    if foreign is not None:
        raise InputError(f"shard {name} is {foreign}, not a plain tar file (offset 0)")
    if len(block) < BLOCK:
        where = "inside the header at" if block else "before its end blocks, at"
        raise InputError(f"shard {name} is cut {where} offset {offset}; copy it again")
    if not _checksum_holds(block):
        what = "is damaged: no tar header" if offset else f"is not a tar file: {block[:24]!r}"
        raise InputError(f"shard {name} {what} at offset {offset}; copy it again")
    if block[156:157] in _NO_PAYLOAD:
        return 0
    size = _number(block[124:136])
    if size < 0:
        raise InputError(f"shard {name} is damaged: bad size in the header at offset {offset}; copy it again")
    return size


def _checksum_holds(block: bytes) -> bool:
    stored = block[148:156].strip(b" \0")
    if not _is_octal(stored):
        return False
    return int(stored, 8) == sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256, for sizes from 8 GiB on
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if _is_octal(digits) else -1


def _is_octal(digits: bytes) -> bool:
    return digits.isdigit() and b"8" not in digits and b"9" not in digits


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(block: bytes) -> str:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(payload: bytes, name: str, offset: int) -> dict[str, str]:
    fields: dict[str, str] = {}
    while payload.strip(b"\0"):
        match = re.match(rb"(\d{1,10}) ([^=]+)=", payload)
        if match is None or not match.end() < int(match.group(1)) <= len(payload):
            raise InputError(f"shard {name} is damaged: bad extended header at offset {offset}; copy it again")
        length = int(match.group(1))
        value = payload[match.end() : length - 1]
        fields[match.group(2).decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        payload = payload[length:]
    return fields


def _foreign_kind(block: bytes) -> str | None:
    """What the first bytes of a file show it to be, and the remedy, if it is a usual mistake."""
    packers = {
        b"\x1f\x8b": "gzip-compressed",
        b"BZh": "bzip2-compressed",
        b"\xfd7zXZ": "xz-compressed",
        b"\x28\xb5\x2f\xfd": "zstd-compressed",
        b"PK\3\4": "a zip file",
    }
    for magic, kind in packers.items():
        if block.startswith(magic):
            return f"{kind} (unpack it first)"
    if block.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (download it again)"
    return None


def header_name(header: bytes, name: str) -> str:
    """The member's name that these header blocks hold; empty where they are not a whole header."""
    blocks = header + bytes(2 * BLOCK)
    total = 1 << 62  # the payload lies outside
    try:
        member = next(walk_headers(lambda offset, size: blocks[offset : offset + size], total, name), None)
    except InputError:
        return ""
    return member.name if member is not None and member.offset == len(header) else ""


def to_text(name: str) -> str:
    r"""A name from a file system or an archive for people: bytes that are not UTF-8 become `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
