"""The index of a data set: how it is made, kept and read, and what is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from opening import refused

from mimsuite.data.checks.verify import verify
from mimsuite.data.folders import images_of
from mimsuite.data.hashing import hash_key
from mimsuite.data.index import Samples, Shard
from mimsuite.data.index_json import read_index, write_index
from mimsuite.data.members import read_files, read_key
from mimsuite.data.open import open_index
from mimsuite.data.scan import build_index, scan_files
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.sources import expand_braces
from mimsuite.data.stores.local import LocalStore
from mimsuite.errors import InputError, RunError


def test_a_folder_of_shards_is_scanned(shards, tmp_path):
    index = open_index(str(shards), tmp_path)
    assert [s.samples for s in index.splits["train"]] == [30, 20, 14]
    assert (index.num_samples("train"), index.num_samples("val")) == (64, 21)
    assert index.classes == ("a", "b", "c")
    assert (index.channels, index.dtype, index.image_size, index.has_labels) == (3, "uint8", (24, 32), True)
    assert np.allclose(index.mean, 0.5, atol=0.02)
    assert sorted(os.listdir(shards)) == [
        "classes.txt",
        *(f"train-00000{i}.tar" for i in range(3)),
        "val-000000.tar",
    ]


def test_records_point_at_the_bytes_that_tarfile_finds(shards, tmp_path):
    records = open_index(str(shards), tmp_path).records("train")
    files, number = ShardFiles(), 0
    for shard in records.shards:
        with tarfile.open(shard.path) as archive:
            found = [(m.name, archive.extractfile(m).read()) for m in archive]
        for (image, pixels), (label, text) in zip(found[::2], found[1::2], strict=True):
            where, row = records[number]
            assert where == shard
            assert files.read(where, int(row["image_offset"]), int(row["image_size"])) == pixels
            assert files.read(where, int(row["label_offset"]), int(row["label_size"])) == text
            assert row["key"] == hash_key(image[:-4]) == hash_key(label[:-4])
            number += 1
    assert number == len(records) == 64
    assert records.keys().tolist() == [hash_key(f"s{i:04d}") for i in range(64)]


def test_faults_of_the_folder_are_named(tmp_path, tar, members):
    cache = tmp_path / "cache"
    assert "does not exist or cannot be accessed" in refused(tmp_path / "nowhere", cache)
    (tmp_path / "empty").mkdir()
    assert "holds no .tar shard and no image" in refused(tmp_path / "empty", cache)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("words")
    assert "holds no .tar shard and no image" in refused(tmp_path / "notes", cache)
    assert "does not end in .tar" in refused(tmp_path / "notes" / "a.txt", cache)
    tar(tmp_path / "texts" / "a.tar", [("a.txt", b"words"), ("a.cls", b"1")])
    assert "holds no image" in refused(tmp_path / "texts", cache)
    tar(tmp_path / "some" / "000.tar", members(0, 2))
    assert "2 of 3 shards are missing" in refused(f"{tmp_path}/some/{{000..002}}.tar", cache)
    assert "runs backwards" in refused(f"{tmp_path}/some/{{003..001}}.tar", cache)


def test_what_cannot_be_read_is_named(tar, members):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = tar(folder / "shards" / "a.tar", members(0, 2))
        path.chmod(0)
        for inner in ("locked", "cache"):
            (folder / inner).mkdir()
        folder.chmod(0o755)
        (folder / "cache").chmod(0o777)
        (folder / "locked").chmod(0)
        user = os.geteuid()
        if user == 0:  # root reads everything
            os.seteuid(65534)
        try:
            for data in ("locked", "shards", "shards/a.tar"):
                assert "cannot be read (Permission denied)" in refused(folder / data, folder / "cache")
            assert "does not exist or cannot be accessed" in refused(folder / "locked" / "a.tar", folder / "cache")
        finally:
            os.seteuid(user)


def test_images_that_are_all_broken_are_refused(tmp_path, tar):
    tar(tmp_path / "a.tar", [(f"{i}.jpg", b"\xff\xd8\xff broken") for i in range(5)])
    message = refused(tmp_path, tmp_path / "cache")
    assert "none of 5 sampled images can be decoded" in message
    assert "a.tar:" in message


def test_a_cache_that_cannot_be_written_is_named(tmp_path, tar, members):
    tar(tmp_path / "a.tar", members(0, 2))
    (tmp_path / "file").write_text("")
    assert "set XDG_CACHE_HOME" in refused(tmp_path / "a.tar", tmp_path / "file")


def test_the_scan_is_cached_until_a_shard_changes(tmp_path, tar, members, monkeypatch):
    data, cache = tmp_path / "data", tmp_path / "cache"
    path = tar(data / "train-0.tar", members(0, 4))
    first = open_index(str(data), cache)
    monkeypatch.setattr("mimsuite.data.scan.scan_shard", None)
    assert open_index(str(data), cache) == first
    monkeypatch.undo()
    tar(path, members(0, 5))
    assert open_index(str(data), cache).num_samples("train") == 5


def test_a_packed_folder_is_refused_when_a_shard_has_another_size(packed):
    path = packed / "train-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-512])
    assert f"train-000001.tar is cut at offset {len(content) - 512}" in refused(packed, None)
    path.write_bytes(content + bytes(512))
    assert "train-000001.tar is changed" in refused(packed, None)
    path.unlink()
    assert "train-000001.tar cannot be read" in refused(packed, None)


@pytest.fixture
def packed(shards, tmp_path):
    """The shards with an index.json beside them."""
    folder = tmp_path / "packed"
    shutil.copytree(shards, folder)
    write_index(folder, build_index(str(folder), scan_files(sorted(map(str, folder.glob("*.tar"))), folder, {})))
    return folder


def test_an_index_is_read_as_it_was_written(packed):
    index = open_index(str(packed))
    write_index(packed, index)
    assert read_index(packed) == index
    assert index.num_samples("train") == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: "{", "cannot be read"),
        (lambda c: "[]", "has format None"),
        (lambda c: json.dumps(c | {"format": "other-2"}), "has format 'other-2', 'mimsuite-2' is expected"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "mean"}), "damaged"),
        (
            lambda c: json.dumps(c).replace("train-000000.tar", "../train-000000.tar"),
            "lies outside the folder",
        ),
        (lambda c: json.dumps(c).replace("train-000000.tar", "/etc/passwd"), "lies outside the folder"),
        (lambda c: json.dumps(c | {"splits": c["splits"] | {"test": []}}), "split test that holds no images; remove"),
        (lambda c: json.dumps(c).replace('"samples": 21', '"samples": 0'), "split val that holds no images; remove"),
        (lambda c: json.dumps(c | {"splits": {}}), "names no splits; pack the data again"),
    ],
)
def test_a_damaged_index_is_refused(packed, change, words):
    file = packed / "index.json"
    file.write_text(change(json.loads(file.read_text())))
    message = refused(packed, None)
    assert words in message
    assert "index.json" in message


@pytest.mark.parametrize("name", ["samples.idx.npy", "keys.idx.npy"])
@pytest.mark.parametrize("change", [lambda rows: rows[:-30], lambda rows: rows.view(f"V{rows.dtype.itemsize}")])
def test_a_table_of_another_data_set_is_refused(packed, name, change):
    np.save(packed / name, change(np.load(packed / name)))
    records = open_index(str(packed)).records("train")
    with pytest.raises(InputError, match=rf"{name} does not belong to .*train-00000"):
        records.keys() if name == "keys.idx.npy" else [records[number] for number in range(len(records))]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000000.tar", "train"),
        ("val-000000.tar", "val"),
        ("validation-0001.tar", "val"),
        ("imagenet1k-validation-07.tar", "val"),
        ("test_3.tar", "test"),
        ("00000.tar", "train"),
        ("cats.tar", "train"),
        ("val/00000.tar", "val"),
        ("photos/test-0.tar", "test"),
        ("imagenet-validation-00003-of-00064.tar", "val"),
        ("test-shard-01.tar", "test"),
        ("val2017_07.tar", "val"),
        ("test-train-01.tar", "train"),
    ],
)
def test_the_name_of_a_shard_tells_its_split(name, split, tmp_path, tar, members):
    tar(tmp_path / "d" / name, members(0, 2))
    assert list(open_index(str(tmp_path / "d"), tmp_path / "cache").splits) == [split]


def test_braces_expand_as_in_a_shell():
    assert expand_braces("a/{008..011}.tar") == [f"a/{n}.tar" for n in ("008", "009", "010", "011")]
    assert expand_braces("{8..11}") == ["8", "9", "10", "11"]
    assert expand_braces("{x,y{1..2}}-{a,b}") == ["x-a", "x-b", "y1-a", "y1-b", "y2-a", "y2-b"]
    assert expand_braces("plain") == ["plain"]


def test_a_pattern_takes_the_shards_that_it_names(shards, tmp_path):
    index = open_index(f"{shards}/train-{{000000..000001}}.tar", tmp_path)
    assert index.num_samples("train") == 50
    assert list(index.splits) == ["train"]
    assert open_index(f"{shards}/val-000000.tar", tmp_path).num_samples("val") == 21


def test_links_keep_their_names(shards, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "val-000000.tar").symlink_to(shards / "train-000000.tar")
    assert list(open_index(str(tmp_path / "d"), tmp_path / "cache").splits) == ["val"]


def test_image_folders_are_told_from_shards(shards, tmp_path, jpeg):
    assert images_of(str(shards)) is None
    assert images_of(str(tmp_path)) is None
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "A.JPG").write_bytes(jpeg(0))
    assert images_of(str(tmp_path)).images == ["deep/er/A.JPG"]
    assert "is a folder of images" in refused(tmp_path, tmp_path / "cache")


def test_a_shard_that_shrinks_or_vanishes_during_the_run_is_a_run_error(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(1000))
    with pytest.raises(RunError, match="ends before offset 1200"):
        ShardFiles().read(Shard(str(path), 1, 1000, None, ""), 900, 300)
    path.unlink()
    with pytest.raises(RunError, match=r"a.tar cannot be read at offset 0: No such file"):
        ShardFiles().read(Shard(str(path), 1, 1000, None, ""), 0, 10)


def test_few_files_stay_open(tmp_path):
    files = LocalStore(limit=3)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(10):
        (tmp_path / f"{i}").write_bytes(b"abc")
        assert files.read(str(tmp_path / f"{i}"), 1, 2) == b"bc"
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    files.close()


def test_samples_survive_a_pickle_without_their_tables(shards, tmp_path):
    records = open_index(str(shards), tmp_path).records("train")
    records.keys()
    assert len(pickle.dumps(records)) < 3000
    assert isinstance(pickle.loads(pickle.dumps(records)), Samples)
    assert pickle.loads(pickle.dumps(records)).keys().tolist() == records.keys().tolist()


def test_opening_data_imports_no_torch():
    code = (
        "import sys, mimsuite.data.index, mimsuite.data.order, mimsuite.data.checks.inspect, mimsuite.masked.geometry\n"
    )
    code += "assert not {'torch', 'lightning', 'webdataset'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "train", "test"), [("tiny-imagenet-mini", 400, 100), ("imagenette-224", 7000, 2500)])
def test_real_shards_are_read_with_the_statistics_that_they_state(name, train, test, tmp_path):
    folder = Path(__file__).parents[2] / "../shared/data" / name
    if not folder.is_dir():
        pytest.skip(f"data set {name} is not beside the project")
    index = open_index(str(folder), tmp_path)
    stated = json.loads((folder / "dataset.json").read_text())
    assert (index.num_samples("train"), index.num_samples("test")) == (train, test)
    assert np.allclose(index.mean, stated["train_mean"], atol=0.01)
    assert np.allclose(index.std, stated["train_std"], atol=0.01)
    assert index.has_labels
    assert len(index.classes) == 10


def test_more_shards_than_files_may_be_open(tmp_path, tar, members):
    import resource

    folder = tmp_path / "many"
    for number in range(150):
        tar(folder / f"train-{number:06d}.tar", members(number, 1))
    index = open_index(str(folder), tmp_path / "cache")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, limits[1]))
    try:
        samples = index.records("train")
        assert len(set(samples.keys().tolist())) == 150
        assert samples[0][0].path.endswith("train-000000.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_images_with_a_word_before_their_ending_are_read_where_it_is_plain_which_one(tar, jpeg, tmp_path):
    def opened(name, endings):
        content = [(f"{n}.{end}", jpeg(n) if end != "cls" else b"1") for n in range(3) for end in endings]
        tar(tmp_path / name / "train-0.tar", content)
        return open_index(str(tmp_path / name), tmp_path / "cache")

    index = opened("a", ["input.jpg", "cls"])
    assert index.has_labels
    assert index.num_samples("train") == 3
    index, samples = (found := opened("b", ["target.png", "input.jpg"])), found.records("train")
    files = ShardFiles(index.fetching)
    assert read_files(files, samples) == ["0.input.jpg", "1.input.jpg", "2.input.jpg"]
    assert [read_key(files, *samples[n]) for n in range(3)] == ["0", "1", "2"]
    assert read_files(files, opened("c", ["jpg", "target.png"]).records("train")) == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(
        InputError, match=r"several images of a sample \(0.left.jpg and 0.right.jpg\), and none is KEY.jpg"
    ):
        opened("d", ["left.jpg", "right.jpg"])
    assert list(verify(index, lambda done, total: None)) == []
