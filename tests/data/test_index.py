"""The index: what a scan finds, what is refused, and which samples play which role."""

import gzip
import io
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

from mimsuite.data.checks.verify import verify
from mimsuite.data.folders import images_of
from mimsuite.data.hashing import hash_key
from mimsuite.data.index import Samples, Selection, held_out
from mimsuite.data.index_json import read_index, write_index
from mimsuite.data.members import read_files, read_key
from mimsuite.data.open import open_index
from mimsuite.data.scan import build_index
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.sources import expand_braces
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.tar import header_name, scan_shard
from mimsuite.errors import InputError, RunError


def refused(data, cache):
    with pytest.raises(InputError) as error:
        open_index(str(data), cache)
    message = str(error.value)
    assert "\n" not in message
    return message


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
    files, number = ShardFiles(LocalStore()), 0
    for shard in records.shards:
        with tarfile.open(shard.path) as archive:
            found = [(m.name, archive.extractfile(m).read()) for m in archive]
        for (image, pixels), (label, text) in zip(found[::2], found[1::2], strict=True):
            where, row = records[number]
            assert where == shard
            assert files.read(where.path, int(row["image_offset"]), int(row["image_size"])) == pixels
            assert files.read(where.path, int(row["label_offset"]), int(row["label_size"])) == text
            assert row["key"] == hash_key(image[:-4]) == hash_key(label[:-4])
            number += 1
    assert number == len(records) == 64
    assert records.keys().tolist() == [hash_key(f"s{i:04d}") for i in range(64)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_are_found(form, tmp_path, tar, jpeg):
    names = ["short", "d" * 60 + "/" + "k" * 80, "ünï cöde"]
    if form != tarfile.USTAR_FORMAT:
        names += ["x" * 150, "folder/" * 40 + "y" * 90]
    path = tar(tmp_path / "a.tar", [(f"{n}.jpg", jpeg(0)) for n in names], format=form)
    rows = scan_shard(str(path))
    assert rows["key"].tolist() == [hash_key(name) for name in names]
    content = path.read_bytes()
    for name, row in zip(names, rows, strict=True):
        start, end = int(row["image_offset"] - row["image_header"]), int(row["image_offset"])
        assert header_name(content[start:end], "a") == f"{name}.jpg"
        assert content[end : end + int(row["image_size"])] == jpeg(0)
    assert header_name(content[512:1024], "a") == ""


def test_members_that_are_no_samples_are_passed_over(tmp_path, tar, jpeg):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("folder/link.jpg")
        link.type, link.linkname, link.size = tarfile.SYMTYPE, "other", 0
        for info in (folder, link):
            archive.addfile(info)
        contents = {
            "README": b"no ending",
            "__meta__/x.jpg": b"webdataset passes over this",
            "folder/a.jpg": jpeg(0),
            "folder/a.txt": b"caption",
            "folder/a.seg.png": b"a mask",
            "folder/a.json": b'{"label": 1}',
            "b.cls": b"3",
            "c.d.jpg": b"the ending is d.jpg",
            "e.PNG": jpeg(1, kind="PNG"),
        }
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    rows = scan_shard(str(tmp_path / "a.tar"))
    assert rows["key"].tolist() == [hash_key("folder/a"), hash_key("e")]
    assert (rows["label_header"] > 0).tolist() == [True, False]


def damage(kind, content, folder):
    path = folder / "train-000000.tar"
    if kind == "cut inside a payload":
        path.write_bytes(content[: 512 + 300])
    elif kind == "cut inside a header":
        path.write_bytes(content[: first_end(content) + 100])
    elif kind == "cut between members":
        path.write_bytes(content[: first_end(content)])
    elif kind == "damaged header":
        at = first_end(content)
        path.write_bytes(content[: at + 10] + b"XXXX" + content[at + 14 :])
    elif kind == "empty shard":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"not a tar at all\n" * 200)
    elif kind == "gzip":
        path.write_bytes(gzip.compress(content))
    elif kind == "web page":
        path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 50)
    elif kind == "short web page":
        path.write_bytes(b"<html>404</html>")


def first_end(content):
    size = int(content[124:135], 8)
    return 512 + -(-size // 512) * 512


FAULTS = {
    "cut inside a payload": ["cut inside the payload", "offset 512", "copy it again"],
    "cut inside a header": ["cut inside the header", "offset 2", "copy it again"],
    "cut between members": ["cut before its end blocks", "offset 2", "copy it again"],
    "damaged header": ["damaged", "no tar header at offset 2"],
    "empty shard": ["is empty (0 bytes)"],
    "text": ["is not a tar file", "offset 0", "not a tar at all"],
    "gzip": ["gzip-compressed (unpack it first)", "offset 0"],
    "web page": ["web page", "offset 0", "download it again"],
    "short web page": ["web page", "offset 0"],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_damaged_shard_is_named_with_offset_and_fix(kind, tmp_path, tar, members):
    content = tar(tmp_path / "train-000000.tar", members(0, 3)).read_bytes()
    damage(kind, content, tmp_path)
    message = refused(tmp_path, tmp_path / "cache")
    for words in [*FAULTS[kind], "train-000000.tar"]:
        assert words in message


def test_every_cut_of_a_shard_is_noticed(tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", members(0, 2))
    content = path.read_bytes()
    end = max(i for i, byte in enumerate(content) if byte) // 512 * 512 + 512
    for length in [*range(0, end, 97), *range(0, end + 1, 512)]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a.tar is (cut|empty|not)"):
            scan_shard(str(path))
    path.write_bytes(content[: end + 512])
    assert len(scan_shard(str(path))) == 2


@pytest.mark.parametrize("length", [*range(1, 40), 511])
def test_a_stump_of_a_header_is_an_input_error(length, tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", members(0, 1))
    path.write_bytes(path.read_bytes()[:length])
    assert "offset 0" in refused(path, tmp_path / "cache")


def test_no_single_flipped_byte_of_a_header_breaks_the_scan_in_another_way(tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", [("k" * 120 + ".jpg", b"x"), *members(0, 1)], format=tarfile.PAX_FORMAT)
    content = path.read_bytes()
    for at in range(0, 2048, 11):
        for value in (0, 0xFF, ord("9")):
            path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                assert len(scan_shard(str(path))) in (1, 2)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


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
    write_index(folder, build_index(folder, sorted(folder.glob("*.tar")), folder, {}))
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
        (lambda c: json.dumps(c | {"format": "other-2"}), "has format 'other-2', 'mimsuite-1' is expected"),
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


def test_a_table_of_another_shard_is_refused(packed):
    os.replace(packed / "train-000002.idx.npy", packed / "train-000000.idx.npy")
    with pytest.raises(InputError, match="does not belong to"):
        open_index(str(packed)).records("train").keys()


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


def test_roles_use_the_splits_that_exist(shards, tmp_path, tar, members):
    index = open_index(str(shards), tmp_path)
    assert index.select("train") == Selection("train")
    assert index.select("curve") == index.select("test") == Selection("val")
    tar(tmp_path / "two" / "train-0.tar", members(0, 40))
    tar(tmp_path / "two" / "test-0.tar", members(40, 5))
    two = open_index(str(tmp_path / "two"), tmp_path)
    assert two.select("curve") == two.select("test") == Selection("test")
    only = open_index(str(tmp_path / "two" / "test-0.tar"), tmp_path)
    with pytest.raises(InputError, match="has no split train, only test;"):
        only.select("train")
    with pytest.raises(InputError, match=r"split=val is not in .*; it has test"):
        only.num_samples("val")


def test_supervised_training_chooses_on_val_or_a_part_of_train_and_never_on_test(shards, tmp_path, tar, members):
    index = open_index(str(shards), tmp_path)
    assert (index.select("fit"), index.select("choose")) == (Selection("train"), Selection("val"))
    tar(tmp_path / "two" / "train-0.tar", members(0, 40))
    tar(tmp_path / "two" / "test-0.tar", members(40, 5))
    two = open_index(str(tmp_path / "two"), tmp_path)
    assert (two.select("fit"), two.select("choose")) == (Selection("train", "rest"), Selection("train", "held"))
    fit, choose = (set(two.records(two.select(role)).keys().tolist()) for role in ("fit", "choose"))
    assert (len(fit), len(choose), len(fit | choose)) == (36, 4, 40)
    assert two.select("train") == Selection("train")
    only = open_index(str(tmp_path / "two" / "test-0.tar"), tmp_path)
    with pytest.raises(InputError, match="has no split val or train, only test; rename"):
        only.select("choose")
    with pytest.raises(InputError, match="has no split train, only test; rename"):
        only.select("fit")


def test_without_other_splits_a_part_of_train_is_held_out(tmp_path, tar, members):
    for number in range(4):
        tar(tmp_path / "d" / f"{number:05d}.tar", members(number * 50, 50))
    index = open_index(str(tmp_path / "d"), tmp_path / "cache")
    train, curve = index.select("train"), index.select("curve")
    held, rest = index.records(curve), index.records(train)
    assert (len(held), len(rest)) == (16, 184)
    assert index.num_samples(curve) == 16
    assert set(held.keys()) | set(rest.keys()) == set(index.records("train").keys())
    assert rest.sizes.sum() == 184
    assert rest.sizes.max() < 51
    assert [rest[i][1]["key"] for i in range(184)] == rest.keys().tolist()
    for number, size in enumerate(rest.sizes):
        at = int(rest.sizes[:number].sum())
        assert {rest[i][0].path for i in range(at, at + size)} == {index.splits["train"][number].path}
    with pytest.raises(InputError, match=r"has no split test or val.*val_fraction"):
        index.select("test")


def test_what_is_held_out_depends_on_keys_alone(tmp_path, tar, members):
    tar(tmp_path / "a" / "0.tar", members(0, 200))
    tar(tmp_path / "b" / "0.tar", members(100, 100))
    tar(tmp_path / "b" / "1.tar", members(0, 100))
    held = [
        set(index.records(index.select("curve")).keys())
        for index in (open_index(str(tmp_path / d), tmp_path / "cache") for d in "ab")
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (9, 1), (20, 2), (200, 16), (1600, 16), (5000, 50)])
def test_size_of_the_held_out_part(samples, count):
    assert held_out(samples) == count


def test_a_shard_that_shrinks_or_vanishes_during_the_run_is_a_run_error(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(1000))
    with pytest.raises(RunError, match="ends before offset 1200"):
        ShardFiles(LocalStore()).read(str(path), 900, 300)
    path.unlink()
    with pytest.raises(RunError, match=r"a.tar cannot be read at offset 0: No such file"):
        ShardFiles(LocalStore()).read(str(path), 0, 10)


def test_few_files_stay_open(tmp_path):
    files = ShardFiles(LocalStore(limit=3))
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
    files = ShardFiles(store_of(index.root))
    assert read_files(files, samples) == ["0.input.jpg", "1.input.jpg", "2.input.jpg"]
    assert [read_key(files, *samples[n]) for n in range(3)] == ["0", "1", "2"]
    assert read_files(files, opened("c", ["jpg", "target.png"]).records("train")) == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(
        InputError, match=r"several images of a sample \(0.left.jpg and 0.right.jpg\), and none is KEY.jpg"
    ):
        opened("d", ["left.jpg", "right.jpg"])
    assert list(verify(index, lambda done, total: None)) == []
