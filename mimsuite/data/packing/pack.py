"""How planned images become shards and an index: in parallel, the same bytes each time, and resumable."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import __version__ as pillow_version

from mimsuite.data.folders import count_of
from mimsuite.data.images.bands import BandError
from mimsuite.data.images.decode import DecodeError
from mimsuite.data.images.encode import Content, encode_file
from mimsuite.data.images.pixels import Remark
from mimsuite.data.images.reading import Reading
from mimsuite.data.images.stats import report_remarks
from mimsuite.data.index import DataIndex
from mimsuite.data.index_json import CLASSES, write_index
from mimsuite.data.labels import classes_of
from mimsuite.data.packing.channels import (
    BandsOfSet,
    check_bands,
    find_bands_of_set,
    goes_with,
    lacks_bands,
    mixed_channels,
)
from mimsuite.data.packing.journal import Journal
from mimsuite.data.packing.plan import Choice, PackPlan, plan_pack
from mimsuite.data.packing.shard_plan import read_as_indexed
from mimsuite.data.packing.shard_writer import ShardWriter, label_member
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.scan import build_index, scan_files
from mimsuite.data.storage import write_text
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.store import sha256_of
from mimsuite.data.tar import BLOCK, to_text
from mimsuite.errors import InputError, RunError
from mimsuite.words import LabelKind

log = logging.getLogger("mimsuite")

_PLAIN = Reading()
_AHEAD = 8  # images per thread that are encoded ahead of the writer
_RECORD = 20 * BLOCK  # tar files are padded to this

Progress = Callable[[int, int], None]
Encoded = Iterator[tuple[SourceImage, Content | DecodeError]]


class Forecast(NamedTuple):
    """What a pack would write.

    Attributes:
        images, shards: per split.
        labels: per split, the images of each class; empty without classes.
        classes: their names.
        bytes: of all shards.
        reading: how the folder was read, as lines for people.
    """

    images: dict[str, int]
    shards: dict[str, int]
    labels: dict[str, dict[int, int]]
    classes: list[str]
    bytes: int
    reading: list[str]


def pack(
    src: Path,
    out: Path,
    *,
    labels: str = "auto",
    labels_file: str | None = None,
    labels_column: str | None = None,
    labels_kind: LabelKind | None = None,
    labels_missing: str = "unlabelled",
    group_by: str | None = None,
    val_fraction: float = 0.0,
    test_fraction: float = 0.0,
    splits: str = "auto",
    exclude: Sequence[str] = (),
    channels: int | None = None,
    seed: int = 0,
    shard_size: int = 256 << 20,
    image_size: int | None = None,
    reading: Reading = _PLAIN,
    progress: Progress | None = None,
) -> DataIndex:
    """Writes the images below `src` to shards with an index; the same files and options give the same bytes.

    Images that cannot be decoded are named in the log and skipped. When `out` holds a pack of the same source and
    options that was stopped, this one goes on after its last whole shard. A pack that is refused leaves nothing.

    Args:
        src: folder of images.
        out: folder to write; must be absent, empty, or hold a half-finished pack.
        labels: "folder" (the class is the first sub-folder, numbered by name), "none", a CSV file (see
            `csv_labels`), or "auto": "folder" if every image lies in a sub-folder and there are at least two.
        labels_file, labels_column: columns of the CSV file with paths and labels; None takes the usual names.
        labels_kind: what the labels of the CSV file are; None: see `csv_labels.parse_labels`.
        labels_missing: images that the CSV file does not label are packed without a label ("unlabelled"), left out
            ("skip"), or refused ("error").
        group_by: "folder" (images in one folder stay in one split), "folder:N" (that share the N-th part of the
            path, counted from 1), or a column of the CSV file.
        val_fraction: share of each class, in [0, 1), that goes from train to a split `val`.
        test_fraction: the same for a split `test`.
        splits: "folder" (folders train, val and test at the top are the splits), "none" (all are train), or "auto":
            "folder" where there are such.
        exclude: patterns of images that are left out, see `folders.matches`.
        channels: images with another number of channels are left out; grey ones count as colour, too. None: all must
            go together.
        seed: decides which images go to `val` and `test`, and the order in the shards.
        shard_size: bytes of images after which the next shard begins.
        image_size: see `encode_file`; None keeps all pixels.
        reading: what becomes of transparency, which bands are kept, and which values become 0 and 65535; the index
            keeps it, and the names of the bands.
        progress: called with (images done, images in all).

    Raises:
        InputError: a value, a label or a group is wrong; `out` holds something else; images have channel counts
            that do not go together, or none can be read.
        RunError: `out` cannot be written any more.
    """
    choice = Choice(
        labels=labels,
        labels_file=labels_file,
        labels_column=labels_column,
        labels_kind=labels_kind,
        labels_missing=labels_missing,
        group_by=group_by,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        splits=splits,
        exclude=tuple(exclude),
        channels=channels,
        seed=seed,
    )
    plan = checked_plan(src, choice, shard_size, image_size)
    reading.check()
    reading = reading if plan.source is None else read_as_indexed(plan.source, reading)
    options = _options(src, choice, shard_size, image_size, reading)
    with Journal(Path(os.path.abspath(out)), options, _digest(plan)) as journal:
        try:
            bands = find_bands_of_set(plan.pictures, reading, channels)
            contents = _encode_all(plan.pictures[journal.position :], image_size, reading)
            contents = _of_one_kind(contents, plan, journal, channels, reading, bands)
            _write(plan.pictures, contents, journal, shard_size, progress or (lambda done, total: None))
            return replace(_finish(plan, journal, reading, bands.names), reading=tuple(plan.reading))
        except InputError:
            journal.discard()
            raise
        except OSError as error:
            raise RunError(
                f"out={out} cannot be written ({error.strerror}); fix that, and the same command goes on"
            ) from error


def describe_plan(src: Path, choice: Choice, shard_size: int) -> Forecast:
    """What `pack` would write, from names and file sizes alone.

    It is exact where all files are kept as they are, and their paths are ASCII and shorter than 95 characters.

    Raises:
        InputError: as `pack`, as far as that needs no image.
    """
    plan = checked_plan(src, choice, shard_size, None)
    images: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    labels: dict[str, Counter[int]] = {}
    store = store_of(str(src))
    total = payload = inside = 0  # of all closed shards; of the images, and of all, in the open one
    for picture in plan.pictures:
        classes = labels.setdefault(picture.split, Counter())
        if plan.classes:
            classes.update(classes_of(picture.label))
        size = picture.at[1] if picture.at else store.stat(str(picture.path)).size
        sizes = [size, *map(len, label_member(picture.label).values())]
        if picture.split not in shards or payload >= shard_size:
            total += _tar_bytes(inside)
            shards[picture.split] += 1
            payload = inside = 0
        images[picture.split] += 1
        payload += sum(sizes)
        inside += sum(BLOCK + -(-size // BLOCK) * BLOCK for size in (*sizes, len(os.fsencode(picture.file))))
    counts = {split: dict(sorted(classes.items())) for split, classes in labels.items()}
    return Forecast(dict(images), dict(shards), counts, plan.classes, total + _tar_bytes(inside), plan.reading)


def _tar_bytes(members: int) -> int:
    """With the two blocks at the end, padded to whole records; 0 for no members."""
    return -(-(members + 2 * BLOCK) // _RECORD) * _RECORD if members else 0


def checked_plan(src: Path, choice: Choice, shard_size: int, image_size: int | None) -> PackPlan:
    """The plan of a pack, after the sizes have been checked."""
    if shard_size < 1:
        raise InputError(f"shard_size={shard_size} is not a positive size; use 256 MiB")
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size={image_size} is not a positive size; use a side in pixels (256)")
    return plan_pack(src, choice)


def _options(src: Path, choice: Choice, shard_size: int, image_size: int | None, reading: Reading) -> dict[str, Any]:
    """All that decides the bytes, for the journal."""
    csv = None if choice.csv is None else sha256_of(store_of(str(choice.csv)), str(choice.csv))
    return {
        "src": os.path.realpath(src),
        **choice._asdict(),
        "exclude": list(choice.exclude),
        "shard_size": shard_size,
        "image_size": image_size,
        "alpha": reading.alpha,
        **reading.options(),
        "content of the labels file": csv,
        "Pillow": pillow_version,
    }


def _digest(plan: PackPlan) -> str:
    """Changes when a file is added, removed or changed."""
    digest, store = hashlib.sha256(), store_of(str(plan.pictures[0].path))
    for picture in plan.pictures:
        try:
            size, version = store.stat(str(picture.path))
        except OSError as error:
            raise InputError(f"{_shown(picture)} cannot be read ({error.strerror}); remove it") from error
        name = f"{picture.path}:{picture.at}" if picture.at else str(picture.path)
        digest.update(f"{name}\0{size}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write(
    pictures: Sequence[SourceImage], contents: Encoded, journal: Journal, shard_size: int, progress: Progress
) -> None:
    """Writes the shards that the journal does not know yet."""
    begin = journal.position
    if begin:
        log.info("going on after %d of %d images: %d shards are finished", begin, len(pictures), len(journal.lines))
    shard: ShardWriter | None = None
    bad, remarks, packed = list[str](), list[Remark](), 0
    try:
        for number, (picture, content) in enumerate(contents, start=begin):
            if shard is not None and shard.split != picture.split:
                journal.add(shard.close(number, bad))
                shard, bad = None, []
            if isinstance(content, DecodeError):
                bad.append(_shown(picture))
                log.warning("skipped: %s (%s)", _shown(picture), content)
            else:
                remarks += content.remarks
                packed += 1
                shard = shard or ShardWriter(journal.out, picture.split, journal.count(picture.split))
                shard.write(picture, content)
                if shard.payload >= shard_size:
                    journal.add(shard.close(number + 1, bad))
                    shard, bad = None, []
            progress(number + 1, len(pictures))
        if shard is not None:
            journal.add(shard.close(len(pictures), bad))
            shard, bad = None, []
    finally:
        if shard is not None:
            shard.abandon()
    source = os.path.commonpath([p.path.parent for p in pictures])
    report_remarks(remarks, f"{packed:,}", source)
    skipped = len(bad) + sum(len(line.bad) for line in journal.lines)
    if not journal.lines:
        raise InputError(f"src={source}: none of {len(pictures)} images can be decoded; the log names them")
    if skipped:
        log.warning("%d of %d images were skipped; each was named with its reason", skipped, len(pictures))


def _shown(picture: SourceImage) -> str:
    return to_text(f"{picture.path}:{picture.key}" if picture.at else str(picture.path))


def _of_one_kind(
    contents: Encoded,
    plan: PackPlan,
    journal: Journal,
    channels: int | None,
    reading: Reading,
    bands: BandsOfSet,
) -> Encoded:
    """Leaves out images with other channels than those asked for; else grey and colour go together, others do not."""
    seen = {count for line in journal.lines for count in line.channels}
    for picture, content in contents:
        if isinstance(content, BandError):
            raise lacks_bands(picture, content)
        if isinstance(content, DecodeError):
            yield picture, content
        elif not goes_with(content.channels, channels):
            found = count_of(content.channels, "channel")
            yield picture, DecodeError(f"it has {found}, and channels={channels}")
        else:
            seen.add(content.channels)
            if len(seen) > 1 and not seen <= {1, 3}:
                raise mixed_channels(plan.pictures, reading)
            check_bands(picture, content, bands)
            yield picture, content


def _encode_all(pictures: Sequence[SourceImage], size: int | None, reading: Reading) -> Encoded:
    """Reads, decodes and encodes on all cores, some way ahead of the writer."""
    threads = os.cpu_count() or 1
    waiting: deque[tuple[SourceImage, Future[Content | DecodeError]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for picture in pictures:
            waiting.append((picture, pool.submit(encode_file, picture.path, size, reading, picture.at)))
            if len(waiting) > _AHEAD * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(plan: PackPlan, journal: Journal, reading: Reading, names: tuple[str, ...]) -> DataIndex:
    """Writes classes, tables and, last, the index; then the journal goes."""
    out = journal.out
    if plan.classes:
        write_text(out / CLASSES, "".join(f"{name}\n" for name in plan.classes))
    hashes = {str(out / line.file): line.sha256 for line in journal.lines}
    journal.tables.mkdir(exist_ok=True)
    index = build_index(str(out), scan_files(hashes, journal.tables, hashes), reading.alpha)
    bands = names if len(names) == index.channels else None
    value_range = plan.source.value_range if plan.source else None
    if reading.range is not None:
        value_range = reading.range.low, reading.range.high
    index = write_index(out, replace(index, bands=bands, value_range=value_range))
    shutil.rmtree(journal.tables)
    journal.remove()
    return index
