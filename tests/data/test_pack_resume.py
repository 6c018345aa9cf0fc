"""A pack that was stopped: the same command goes on, and ends with the bytes of one that was not."""

import fcntl
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mimsuite.data.index_json import JOURNAL
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError, RunError

OPTIONS = {"val_fraction": 0.2, "shard_size": 12_000}


class StoppedError(Exception):
    pass


def picture(seed, size=(24, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Sixty images in two classes; two of them are broken."""
    for i in range(60):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i) if i not in (7, 40) else b"\xff\xd8\xff broken")
    return tmp_path / "photos"


def content(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(os.listdir(folder))}


def stop_after(images):
    def progress(done, total):
        if done >= images:
            raise StoppedError

    return progress


def stopped(src, out, images, **options):
    with pytest.raises(StoppedError):
        pack(src, out, progress=stop_after(images), **(OPTIONS | options))


@pytest.fixture
def whole(photos, tmp_path):
    pack(photos, tmp_path / "whole", **OPTIONS)
    return content(tmp_path / "whole")


@pytest.mark.parametrize("images", [1, 13, 14, 30, 49, 59, 60])
def test_a_stopped_pack_goes_on_to_the_same_bytes(images, photos, whole, tmp_path):
    stopped(photos, tmp_path / "out", images)
    assert JOURNAL in os.listdir(tmp_path / "out")
    pack(photos, tmp_path / "out", **OPTIONS)
    assert content(tmp_path / "out") == whole


def test_several_stops_are_one_pack(photos, whole, tmp_path):
    for images in (20, 35, 36, 50):
        stopped(photos, tmp_path / "out", images)
    pack(photos, tmp_path / "out", **OPTIONS)
    assert content(tmp_path / "out") == whole


def test_finished_shards_are_not_made_again(photos, whole, tmp_path):
    out = tmp_path / "out"
    stopped(photos, out, 50)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(before) > 2
    seen = []
    pack(photos, out, **OPTIONS, progress=lambda done, total: seen.append(done))
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert 1 < seen[0] <= 50
    assert seen[-1] == 60


def test_images_that_were_left_out_are_counted_over_all_calls(photos, tmp_path, caplog):
    stopped(photos, tmp_path / "out", 55)
    pack(photos, tmp_path / "out", **OPTIONS)
    assert "2 of 60 images were skipped" in caplog.text


@pytest.mark.parametrize("damage", ["shard cut", "shard changed", "shard gone", "line cut", "header cut", "old part"])
def test_what_is_not_whole_is_made_again(damage, photos, whole, tmp_path):
    out = tmp_path / "out"
    stopped(photos, out, 50)
    shard, journal = sorted(out.glob("*.tar"))[1], out / JOURNAL
    data = shard.read_bytes()
    if damage == "shard cut":
        shard.write_bytes(data[:-100])
    elif damage == "shard changed":
        shard.write_bytes(data[:2000] + b"XXXX" + data[2004:])
    elif damage == "shard gone":
        shard.unlink()
    elif damage == "line cut":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "header cut":
        journal.write_bytes(journal.read_bytes()[:20])
    else:
        (out / "train-000003.tar.part").write_bytes(b"old")
    pack(photos, out, **OPTIONS)
    assert content(out) == whole


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"val_fraction": 0.3}, "val_fraction: 0.2 then, 0.3 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"image_size": 16}, "image_size: None then, 16 now"),
        ({"labels": "none"}, "labels: auto then, none now"),
        ({"shard_size": 9000}, "shard_size: 12000 then, 9000 now"),
    ],
)
def test_other_options_are_refused_with_the_difference(options, says, photos, tmp_path):
    stopped(photos, tmp_path / "out", 30)
    before = content(tmp_path / "out")
    with pytest.raises(InputError) as error:
        pack(photos, tmp_path / "out", **(OPTIONS | options))
    assert f"holds a half-finished pack with other options ({says}); give the same ones to go on, or remove" in str(
        error.value
    )
    assert content(tmp_path / "out") == before


def test_another_or_a_changed_source_is_refused(photos, tmp_path):
    stopped(photos, tmp_path / "out", 30)
    (photos / "a" / "0.jpg").write_bytes(picture(99))
    with pytest.raises(InputError, match="have changed since; remove"):
        pack(photos, tmp_path / "out", **OPTIONS)
    photos.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"src: .*photos then, .*moved now"):
        pack(tmp_path / "moved", tmp_path / "out", **OPTIONS)


def test_a_changed_labels_file_is_refused(photos, tmp_path):
    table = tmp_path / "l.csv"
    rows = [f"{'ab'[i % 2]}/{i}.jpg,x" for i in range(60)]
    table.write_text("\n".join(["file,label", *rows]))
    stopped(photos, tmp_path / "out", 30, labels=str(table))
    table.write_text(table.read_text() + " ")
    with pytest.raises(InputError, match="content of the labels file"):
        pack(photos, tmp_path / "out", labels=str(table), **OPTIONS)


def test_half_a_pack_is_no_data_set(photos, tmp_path):
    stopped(photos, tmp_path / "out", 30)
    with pytest.raises(InputError, match="holds a half-finished pack; run the same `mimsuite pack` again"):
        open_index(str(tmp_path / "out"))


def test_two_packs_do_not_write_one_folder(photos, tmp_path):
    stopped(photos, tmp_path / "out", 30)
    with (tmp_path / "out" / JOURNAL).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another pack"):
            pack(photos, tmp_path / "out", **OPTIONS)


def test_a_finished_pack_is_not_written_again(photos, whole, tmp_path):
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        pack(photos, tmp_path / "whole", **OPTIONS)
    assert content(tmp_path / "whole") == whole


def test_a_stop_between_index_and_end_is_repaired(photos, whole, tmp_path, monkeypatch):
    def stop(journal):
        raise StoppedError

    monkeypatch.setattr("mimsuite.data.packing.journal.Journal.remove", stop)
    with pytest.raises(StoppedError):
        pack(photos, tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    assert {"index.json", JOURNAL} <= set(os.listdir(tmp_path / "out"))
    pack(photos, tmp_path / "out", **OPTIONS)
    assert content(tmp_path / "out") == whole


def test_a_full_disk_is_a_run_error_and_the_pack_goes_on_afterwards(photos, whole, tmp_path, monkeypatch):
    calls = []

    def full(stream, data):
        calls.append(data)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        stream._hash.update(data)
        stream._size += len(data)
        return stream._file.write(data)

    monkeypatch.setattr("mimsuite.data.packing.shard_writer._Hashed.write", full)
    with pytest.raises(
        RunError, match=r"cannot be written \(No space left on device\); fix that, and the same command"
    ):
        pack(photos, tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob("*.part"))
    pack(photos, tmp_path / "out", **OPTIONS)
    assert content(tmp_path / "out") == whole


@pytest.mark.slow
def test_kill_9_at_any_instant_leaves_a_pack_that_goes_on(tmp_path):
    """A real process, killed at random moments after its first shard, until one call comes to its end."""
    src = tmp_path / "src"
    for i in range(80):
        path = src / "abc"[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, (400, 500)))
    options = {"val_fraction": 0.1, "image_size": 300}
    pack(src, tmp_path / "whole", shard_size=3 << 19, **options)
    command = [sys.executable, "-m", "mimsuite.tasks.pack", f"src={src}", f"out={tmp_path / 'out'}", "shard_size=1.5"]
    command += [f"{key}={value}" for key, value in options.items()]
    chance, kills = random.Random(0), []
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        known = journal_lines(tmp_path / "out")
        while process.poll() is None and journal_lines(tmp_path / "out") <= known:
            time.sleep(0.002)
        try:
            process.wait(chance.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills.append(journal_lines(tmp_path / "out"))
        assert process.wait() in (0, -9), process.stderr.read()
        process.stderr.close()
        if process.returncode == 0:
            break
    assert len(kills) >= 2
    assert process.returncode == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def journal_lines(out):
    path = out / JOURNAL
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_the_journal_names_options_and_shards(photos, tmp_path):
    stopped(photos, tmp_path / "out", 30)
    first, *lines = map(json.loads, (tmp_path / "out" / JOURNAL).read_text().splitlines())
    assert first["options"]["val_fraction"] == 0.2
    for line in lines:
        assert content(tmp_path / "out")[line["file"]] == line["sha256"]
