"""Shards that are damaged, exchanged or out of reach: found, and named with shard, offset and what to do."""

import bz2
import errno
import gc
import io
import lzma
import os
import shutil
import tarfile
import time
import zipfile

import numpy as np
import pytest

from mimsuite import app
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.index import Shard
from mimsuite.data.index_json import write_index
from mimsuite.data.open import open_index
from mimsuite.data.scan import build_index, scan_files
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.tar import scan_shard
from mimsuite.errors import InputError, RunError

pytestmark = pytest.mark.slow


def ends(path):
    """The offset behind each member's payload, as tarfile tells it."""
    with tarfile.open(path) as archive:
        return [m.offset_data + -(-m.size // 512) * 512 for m in archive]


def refused(path):
    with pytest.raises(InputError) as error:
        scan_shard(str(path))
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def shard(tmp_path, tar, members):
    return tar(tmp_path / "train-000000.tar", members(0, 4))


# ---- at start: shards without an index


@pytest.mark.parametrize("number", range(8))
def test_a_cut_at_a_member_boundary_is_found_where_tarfile_sees_a_clean_end(number, shard):
    end = ends(shard)[number]
    shard.write_bytes(shard.read_bytes()[:end])
    with tarfile.open(shard) as archive:
        assert len(archive.getnames()) == number + 1  # no error at all
    assert f"is cut before its end blocks, at offset {end}; copy it again" in refused(shard)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_inside_a_payload_names_the_member(share, shard):
    with tarfile.open(shard) as archive:
        member = archive.getmembers()[4]
    there = int(member.size * share)
    shard.write_bytes(shard.read_bytes()[: member.offset_data + there])
    message = refused(shard)
    assert f"is cut inside the payload of s0002.jpg at offset {member.offset_data}: " in message
    assert f"{member.size} bytes should follow, {there} are there; copy it again" in message


@pytest.mark.parametrize("there", [1, 100, 511])
def test_a_cut_inside_a_header_names_its_offset(there, shard):
    end = ends(shard)[3]
    shard.write_bytes(shard.read_bytes()[: end + there])
    assert f"is cut inside the header at offset {end}; copy it again" in refused(shard)


FIELDS = {"name": 0, "mode": 100, "size": 130, "mtime": 140, "checksum": 150, "type": 156, "magic": 257, "unused": 505}


@pytest.mark.parametrize("field", FIELDS)
def test_a_flipped_byte_in_any_field_of_a_header_is_found(field, shard):
    end, content = ends(shard)[2], bytearray(shard.read_bytes())
    content[end + FIELDS[field]] ^= 0x04
    shard.write_bytes(content)
    assert f"is damaged: no tar header at offset {end}; copy it again" in refused(shard)


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train-000000.tar", content)
    return stream.getvalue()


PACKED = {
    "bzip2": (bz2.compress, "is bzip2-compressed (unpack it first), not a plain tar file (offset 0)"),
    "xz": (lzma.compress, "is xz-compressed (unpack it first), not a plain tar file (offset 0)"),
    "zip": (zipped, "is a zip file (unpack it first), not a plain tar file (offset 0)"),
    "HTML": (lambda _: b"\r\n<HTML><body>Sign in</body>", "is a web page (download it again)"),
    "empty": (lambda _: b"", "is empty (0 bytes); copy it again or remove it"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_another_kind_of_file_with_the_name_of_a_shard_is_named(kind, shard):
    make, words = PACKED[kind]
    shard.write_bytes(make(shard.read_bytes()))
    assert words in refused(shard)


# ---- at start: a packed folder


@pytest.fixture
def packed(tmp_path, tar, members):
    """Two training shards of 12 samples and a test shard, with an index beside them."""
    folder = tmp_path / "packed"
    for number in range(2):
        tar(folder / f"train-{number:06d}.tar", members(12 * number, 12))
    tar(folder / "test-000000.tar", members(24, 8))
    write_index(folder, build_index(str(folder), scan_files(sorted(map(str, folder.glob("*.tar"))), folder, {})))
    return folder


@pytest.mark.parametrize(("change", "words"), [(-512, "cut at offset"), (512, "changed: ")])
def test_an_exchanged_shard_of_another_size_is_found_at_start(change, words, packed):
    path = packed / "train-000001.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes().ljust(size + 512, b"\0")[: size + change])
    with pytest.raises(InputError, match=words) as error:
        open_index(str(packed))
    assert f"{path} is" in str(error.value)
    assert f"{size + change} bytes, index.json says {size}; copy it again" in str(error.value)


# ---- during the run


def batches(index, workers):
    return iter(eval_loader(index, "train", image_size=(16, 16), batch=4, workers=workers, labels=True))


def stopped(iterator):
    """The one line of the `RunError` that ends the epoch; `mimsuite` exits with 1 for it."""
    with pytest.raises(RunError) as error:
        list(iterator)
    assert "\n" not in str(error.value)
    assert app.run_guarded(lambda: (_ for _ in ()).throw(error.value), "pretrain") == 1
    return str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exchanged_shard_of_the_same_size_is_found_by_its_keys(workers, packed, tar, members):
    path = packed / "train-000001.tar"
    size = path.stat().st_size
    shutil.move(tar(packed.parent / "other.tar", members(900, 12)), path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    index = open_index(str(packed))  # nothing to see from outside
    message = stopped(batches(index, workers))
    assert f"shard {path} is not the one that was indexed: another member lies at offset 512" in message
    assert "pack the data again" in message


def test_a_key_in_front_of_another_members_bytes_is_not_enough(packed):
    """The same keys in another order: each lies elsewhere, and its offset then shows another header or none."""
    path = packed / "train-000001.tar"
    with tarfile.open(path) as archive:
        entries = [(m, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(path, "w") as archive:
        for member, data in entries[2:] + entries[:2]:
            archive.addfile(member, io.BytesIO(data))
    assert f"{path} is not the one that was indexed" in stopped(batches(open_index(str(packed)), 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_disappears_during_an_epoch_stops_the_run_and_is_no_bad_sample(workers, packed):
    index = open_index(str(packed))
    iterator = batches(index, workers)
    path = packed / "train-000001.tar"
    if workers == 0:
        assert next(iterator).bad == []
    path.unlink()  # the second shard is not open yet
    message = stopped(iterator)
    assert f"shard {path} cannot be read at offset " in message
    assert "No such file or directory; put it back, and resume the run" in message


def test_a_shard_that_shrinks_during_an_epoch_stops_the_run(packed):
    iterator = batches(open_index(str(packed)), 0)
    assert next(iterator).bad == []  # the first shard is open now
    path = packed / "train-000000.tar"
    end = ends(path)[-4]
    os.truncate(path, end - 100)
    message = stopped(iterator)
    assert f"shard {path} ends before offset " in message
    assert "it was cut during the run; copy it again, and resume the run" in message


def test_a_shard_that_is_zeroed_during_an_epoch_stops_the_run(packed):
    iterator = batches(open_index(str(packed)), 0)
    next(iterator)
    path = packed / "train-000000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    assert f"shard {path} is not the one that was indexed" in stopped(iterator)


# ---- I/O errors that may pass


class Disk:
    """Stands for `os` and `time`: reads fail as told; sleeping moves a clock, and takes no time."""

    def __init__(self, monkeypatch, faults):
        self.faults, self.now, self.pauses, self.opened = list(faults), 1000.0, [], 0
        real_pread, real_open = os.pread, os.open

        def pread(fd, size, offset):
            if self.faults and (fault := self.faults.pop(0)):
                raise OSError(fault, os.strerror(fault))
            return real_pread(fd, size, offset)

        def opened(path, flags):
            self.opened += 1
            return real_open(path, flags)

        monkeypatch.setattr(os, "pread", pread)
        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train-000000.tar"
    path.write_bytes(bytes(range(200)))
    return Shard(str(path), 1, 200, None, "")


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_a_fault_that_passes_is_not_noticed(fault, file, monkeypatch):
    files = ShardFiles()
    disk = Disk(monkeypatch, [None, fault, fault, fault])
    assert files.read(file, 0, 2) == bytes([0, 1])
    assert files.read(file, 5, 3) == bytes([5, 6, 7])
    assert all(half / 2 <= pause <= half for pause, half in zip(disk.pauses, [0.1, 0.2, 0.4], strict=True))
    assert disk.opened == 4  # opened anew after each: ESTALE never passes otherwise
    assert files.read(file, 5, 3) == bytes([5, 6, 7])
    assert len(disk.pauses) == 3


def test_a_fault_that_lasts_is_given_up_after_twenty_seconds(file, monkeypatch):
    disk = Disk(monkeypatch, [errno.EIO] * 1000)
    with pytest.raises(RunError) as error:
        ShardFiles().read(file, 7, 3)
    assert str(error.value) == (
        f"shard {file.path} cannot be read at offset 7: Input/output error; tried for 20 s; "
        "check the disk or the connection, and resume the run"
    )
    assert 18 < sum(disk.pauses) <= 20
    assert 1.8 < max(disk.pauses) <= 2


@pytest.mark.parametrize("fault", [errno.ENOENT, errno.EACCES, errno.EINVAL], ids=errno.errorcode.get)
def test_a_fault_that_cannot_pass_is_told_at_once(fault, file, monkeypatch):
    disk = Disk(monkeypatch, [fault])
    with pytest.raises(RunError, match=f"at offset 7: {os.strerror(fault)}; put it back"):
        ShardFiles().read(file, 7, 3)
    assert disk.pauses == []


def test_a_file_that_became_shorter_is_not_read_again(file, monkeypatch):
    disk = Disk(monkeypatch, [])
    with pytest.raises(RunError, match="ends before offset 300"):
        ShardFiles().read(file, 100, 200)
    assert disk.pauses == []


def test_a_fault_between_two_parts_of_a_long_read_loses_no_byte(file, monkeypatch):
    files = ShardFiles()
    Disk(monkeypatch, [None, errno.EIO])
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: whole(fd, min(size, 60), offset))
    assert files.read(file, 10, 150) == bytes(range(10, 160))


def test_faults_leave_no_file_open(file, monkeypatch):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")
    gc.collect()  # files of earlier tests must not close in the middle of this one
    before = len(os.listdir("/proc/self/fd"))
    files = ShardFiles()
    Disk(monkeypatch, [errno.EIO] * 20)
    with pytest.raises(RunError):
        files.read(file, 0, 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fails_for_good_is_no_bad_sample(packed, monkeypatch):
    index = open_index(str(packed))
    index.records("train").keys()
    Disk(monkeypatch, [errno.EIO] * 1000)
    assert "Input/output error; tried for 20 s" in stopped(batches(index, 0))


# ---- tables


def test_a_table_that_points_outside_its_shard_is_named(packed):
    """Nothing is allocated for a size that the shard cannot hold."""
    table = packed / "samples.idx.npy"
    rows = np.load(table)
    for field, value in (("image_size", 0xFFFFFFFF), ("image_offset", 1 << 63), ("image_header", 0xFFFFFFFF)):
        changed = rows.copy()
        changed[field][0] = value
        np.save(table, changed)
        with pytest.raises(InputError, match=r"samples.idx.npy .*pack the data again") as error:
            list(batches(open_index(str(packed)), 0))
        assert "\n" not in str(error.value)
