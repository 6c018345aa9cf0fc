"""Looking at data sets: wrong labels and keys, twins, what verify finds, shards made elsewhere."""

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mimsuite.data.checks.describe import describe_facts
from mimsuite.data.checks.duplicates import find_duplicates
from mimsuite.data.checks.inspect import raw_samples, summarize_data
from mimsuite.data.checks.verify import check_shards, verify
from mimsuite.data.index_json import read_index
from mimsuite.data.open import open_index
from mimsuite.data.scan import index_beside
from mimsuite.errors import InputError

LONG = "k" * 200


def labelled(jpeg, labels):
    """Members of samples with these labels; None for none."""
    for i, label in enumerate(labels):
        yield f"s{i}.jpg", jpeg(i)
        if label is not None:
            yield f"s{i}.cls", label.encode()


def problems(index):
    return list(verify(index, lambda done, total: None))


@pytest.fixture
def odd_labels(tmp_path, tar, jpeg):
    """Nine samples of two classes: a good one of each, and every kind of wrong label."""
    labels = ["0", "1", None, "abc", "-1", "2", "1.5", "", "99999999999999999999"]
    tar(tmp_path / "odd" / "train-000000.tar", labelled(jpeg, labels))
    (tmp_path / "odd" / "classes.txt").write_text("a\nb\n")
    return open_index(str(tmp_path / "odd"), tmp_path / "cache")


def test_wrong_labels_are_counted_and_named(odd_labels):
    found = summarize_data(odd_labels)["splits"]["train"]
    assert found["labels"] == {"0": 1, "1": 1}
    assert found["unlabelled"] == {"count": 1, "first": ["s2"]}
    assert found["wrong_labels"]["count"] == 6
    for text, words in zip(
        found["wrong_labels"]["first"],
        (
            "label of s3 is 'abc', not an integer",
            "label of s4 is -1",
            "s5 is 2; allowed is 0 to 1",
            "s6 is '1.5'",
            "s7",
        ),
        strict=True,
    ):
        assert words in text


@pytest.mark.parametrize(
    ("labels", "names", "said"), [("123", "", True), ("012", "", False), ("123", "none\na\nb\nc\n", False)]
)
def test_labels_that_count_from_one_are_named(labels, names, said, tmp_path, tar, jpeg):
    tar(tmp_path / "data" / "train-000000.tar", labelled(jpeg, labels))
    if names:
        (tmp_path / "data" / "classes.txt").write_text(names)
    lines = list(describe_facts(summarize_data(open_index(str(tmp_path / "data"), tmp_path / "cache"))))
    found = [
        line for line in lines if "no image has class 0, so the labels seem to count from 1; class 0 keeps" in line
    ]
    assert len(found) == said


def test_verify_names_each_wrong_label_with_its_offset(odd_labels):
    found = problems(odd_labels)
    assert [p.key for p in found] == [f"s{i}" for i in range(3, 9)]  # s2 has none, and need not have one
    assert all(p.shard.endswith("train-000000.tar") for p in found)
    offsets = [int(odd_labels.records("train")[i][1]["image_offset"]) for i in range(3, 9)]
    assert [p.offset for p in found] == offsets


def test_verify_names_lists_among_single_labels(tmp_path, tar, jpeg):
    labels = {"a": b"0", "b": b"1", "c": b"[1]"}
    files = [(f"{key}.json", b'{"label": %s}' % label) for key, label in labels.items()]
    files += [(f"{key}.jpg", jpeg(seed=number)) for number, key in enumerate(labels)]
    tar(tmp_path / "mixed" / "train-000000.tar", sorted(files))
    found = problems(open_index(str(tmp_path / "mixed"), tmp_path / "cache"))
    assert [p.reason for p in found] == [
        "labels are lists in some samples (c) and single numbers in others (a); use one form"
    ]


def test_masked_modeling_goes_on_without_good_labels(odd_labels):
    from mimsuite.data.datamodule import eval_loader

    def loader(labels):
        return eval_loader(odd_labels, "train", image_size=(24, 32), batch=9, workers=0, labels=labels)

    (batch,) = loader(False)
    assert len(batch.images) == 9
    with pytest.raises(InputError, match=r"s2 in .*train-000000.tar has no label"):
        list(loader(True))


def test_samples_with_wrong_labels_can_be_shown(odd_labels):
    assert [s.label for s in raw_samples(odd_labels, "train", 9)] == [0, 1, *[None] * 7]


def test_kinds_of_labels_and_their_range_are_told(tmp_path, tar, jpeg):
    def members(labels):
        for i, label in enumerate(labels):
            yield from ((f"s{i}.jpg", jpeg(i)), (f"s{i}.json", json.dumps({"label": label}).encode()))

    tar(tmp_path / "numbers" / "train-0.tar", members([0.5, 2.5, 3.0]))
    found = summarize_data(open_index(str(tmp_path / "numbers"), tmp_path / "cache"))["splits"]["train"]
    assert (found["label_kinds"], found["label_range"], found["labels"]) == ({"number": 3}, [0.5, 2.0, 3.0], {})
    tar(tmp_path / "lists" / "train-0.tar", members([[0, 2], [2], []]))
    found = summarize_data(open_index(str(tmp_path / "lists"), tmp_path / "cache"))["splits"]["train"]
    assert (found["label_kinds"], found["labels"]) == ({"classes": 3}, {"0": 1, "2": 2})
    assert found["wrong_labels"]["count"] == 0


@pytest.fixture
def odd_keys(tmp_path, jpeg):
    """Keys with dots, upper case, bytes that are not UTF-8, 200 characters, and one that comes twice."""
    (tmp_path / "keys").mkdir()
    names = ["UPPER.JPG", "a.b.jpg", LONG + ".jpg", "twice.jpg", "other.jpg", "twice.jpg", "bad\udcff.jpg", "m.jpg"]
    with tarfile.open(tmp_path / "keys" / "train-000000.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for i, name in enumerate([*names, "m.seg.png"]):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(i))
            archive.addfile(info, io.BytesIO(jpeg(i)))
    return open_index(str(tmp_path / "keys"), tmp_path / "cache")


def test_odd_keys_are_counted_and_named(odd_keys):
    found = summarize_data(odd_keys)["splits"]["train"]
    assert found["samples"] == 7
    assert found["no_sample"] == {"count": 1, "first": ["a.b.jpg"]}
    assert found["keys_twice"] == {"count": 2, "first": ["twice", "twice"]}
    assert found["keys_not_utf8"] == {"count": 1, "first": ["bad\\xff"]}
    assert found["longest_key"] == 200
    assert {s.key for s in raw_samples(odd_keys, "train", 9)} == {
        "UPPER", LONG, "twice", "other", "bad\udcff", "m",
    }  # fmt: skip


def test_verify_names_hidden_images_and_repeated_keys(odd_keys):
    hidden, twice = problems(odd_keys)
    assert hidden.key == "a"
    assert "a.b.jpg is not a sample: its ending begins at the first dot" in hidden.reason
    assert (twice.key, twice.reason) == ("twice", "another sample of the split has the same key")
    assert twice.offset == int(odd_keys.records("train")[4][1]["image_offset"])


def test_odd_keys_are_read_for_masked_modeling(odd_keys):
    from mimsuite.data.datamodule import eval_loader

    (batch,) = eval_loader(odd_keys, "train", image_size=(24, 32), batch=9, workers=0, labels=False)
    assert len(batch.images) == 7
    assert not batch.bad


def test_keys_that_all_hold_dots_are_explained(tmp_path, tar, jpeg):
    tar(tmp_path / "train-0.tar", [(f"v1.{i}.jpg", jpeg(i)) for i in range(3)])
    with pytest.raises(InputError, match=r"the ending of v1.0.jpg begins at its first dot; put _ for the dots"):
        open_index(str(tmp_path), tmp_path / "cache")


def test_twins_are_found_across_and_within_splits(tmp_path, tar, jpeg):
    tar(tmp_path / "d" / "train-0.tar", [(f"t{i}.jpg", jpeg(i)) for i in (0, 1, 2, 3)] + [("again.jpg", jpeg(3))])
    tar(tmp_path / "d" / "val-0.tar", [("v5.jpg", jpeg(5)), ("v1.jpg", jpeg(1))])
    tar(tmp_path / "d" / "test-0.tar", [("e1.jpg", jpeg(1))])
    found = find_duplicates(open_index(str(tmp_path / "d"), tmp_path / "cache"))
    assert (found.across, found.extra) == (1, 3)
    assert found.first == [["train:t1", "val:v1", "test:e1"], ["train:t3", "train:again"]]


def test_images_of_one_size_are_no_twins(tmp_path, tar):
    arrays = []
    for i in range(4):
        stream = io.BytesIO()
        np.save(stream, np.full((8, 8, 3), i % 3, np.uint8))
        arrays.append((f"{i}.npy", stream.getvalue()))
    tar(tmp_path / "d" / "train-0.tar", arrays)
    found = find_duplicates(open_index(str(tmp_path / "d"), tmp_path / "cache"))
    assert (found.across, found.extra, found.first) == (0, 1, [["train:0", "train:3"]])


def test_images_that_only_end_alike_are_no_twins(tmp_path, tar):
    arrays = []
    for i in range(3):
        stream = io.BytesIO()
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[0, 0] = i % 2
        np.save(stream, pixels)
        arrays.append((f"{i}.npy", stream.getvalue()))
    tar(tmp_path / "d" / "train-0.tar", arrays)
    assert find_duplicates(open_index(str(tmp_path / "d"), tmp_path / "cache")).first == [["train:0", "train:2"]]


def test_kinds_depths_and_the_sample_of_the_statistics_are_told(tmp_path, tar, jpeg):
    stream = io.BytesIO()
    np.save(stream, np.zeros((8, 9), np.uint16))
    members = [("a.jpg", jpeg(0)), ("b.npy", stream.getvalue()), ("c.png", jpeg(1, kind="PNG"))]
    tar(tmp_path / "d" / "train-0.tar", members)
    found = summarize_data(open_index(str(tmp_path / "d"), tmp_path / "cache"))
    train = found["splits"]["train"]
    assert train["kinds"] == {"jpg": 1, "npy": 1, "png": 1}
    assert train["channels"] == {"3": 2, "1": 1}
    assert train["bits"] == {"8": 2, "16": 1}
    assert found["stats_samples"] == 3


@pytest.fixture
def packed(shards, tmp_path):
    """The shards of three classes in a folder of their own, with an index and checksums."""
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    index_beside(str(folder))
    return folder


def test_verify_of_a_whole_set_finds_nothing_and_counts_all(packed):
    calls = []
    assert not list(verify(open_index(str(packed)), lambda done, total: calls.append((done, total))))
    assert calls == [(i + 1, 85) for i in range(85)]


def test_verify_names_shard_offset_key_and_reason_of_a_changed_image(packed):
    index = open_index(str(packed))
    shard, row = index.records("train")[40]
    start = int(row["image_offset"])
    with open(shard.path, "r+b") as file:
        file.seek(start)
        file.write(b"XXXX")
    changed, broken = problems(open_index(str(packed)))
    assert (changed.shard, changed.offset, changed.key) == (shard.path, -1, "")
    assert changed.reason == "its sha256 is not the one in index.json; copy it again"
    assert (broken.shard, broken.offset, broken.key) == (shard.path, start, "s0040")
    assert "starts with b'XXXX" in broken.reason


def test_verify_sees_one_flipped_bit(packed):
    path = packed / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    assert any("sha256" in p.reason and p.shard == str(path) for p in problems(open_index(str(packed))))


def test_verify_sees_the_table_of_another_shard(packed):
    table = np.load(packed / "samples.idx.npy")
    table["image_offset"][33] += 512
    np.save(packed / "samples.idx.npy", table)
    (problem,) = problems(open_index(str(packed)))
    assert Path(problem.shard).name == "train-000001.tar"
    assert "samples.idx.npy is not its table" in problem.reason


def test_verify_sees_keys_that_differ_from_the_table(packed):
    keys = np.load(packed / "keys.idx.npy")
    keys[33] += 1
    np.save(packed / "keys.idx.npy", keys)
    (problem,) = problems(open_index(str(packed)))
    assert Path(problem.shard).name == "train-000001.tar"
    assert "is not its table" in problem.reason


def test_verify_sees_images_of_another_channel_count(tmp_path, tar):
    def array(channels):
        stream = io.BytesIO()
        np.save(stream, np.zeros((8, 8, channels), np.uint8))
        return stream.getvalue()

    tar(tmp_path / "d" / "train-0.tar", [("a.npy", array(5)), ("b.npy", array(5))])
    tar(tmp_path / "d" / "val-0.tar", [("c.npy", array(4))])
    (problem,) = problems(open_index(str(tmp_path / "d"), tmp_path / "cache"))
    assert (problem.key, problem.reason) == ("c", "4 channels where the data set has 5")


def test_every_broken_shard_is_listed_when_the_data_cannot_be_opened(packed):
    for number, size in ((0, 5000), (2, 700)):
        path = packed / f"train-{number:06d}.tar"
        path.write_bytes(path.read_bytes()[:size])
    (packed / "train-000001.tar").unlink()
    found = list(check_shards(str(packed)))
    assert [Path(p.shard).name for p in found] == [f"train-00000{i}.tar" for i in range(3)]
    assert "cut" in found[0].reason
    assert found[0].offset > 0
    assert "cannot be read (No such file" in found[1].reason
    (packed / "index.json").unlink()
    assert [Path(p.shard).name for p in check_shards(str(packed))] == ["train-000000.tar", "train-000002.tar"]


def test_an_index_is_written_beside_foreign_shards(shards, packed, tmp_path):
    names = sorted(os.listdir(packed))
    stems = [f"train-00000{i}" for i in range(3)] + ["val-000000"]
    assert names == sorted(
        ["classes.txt", "index.json", "keys.idx.npy", "samples.idx.npy", *(f"{s}.tar" for s in stems)]
    )
    beside, scanned = read_index(packed), open_index(str(shards), tmp_path / "cache")
    assert (beside.mean, beside.classes, beside.has_labels) == (scanned.mean, scanned.classes, scanned.has_labels)
    assert beside.records("train").keys().tolist() == scanned.records("train").keys().tolist()
    assert all(shard.sha256 for shard in beside.splits["train"])
    moved = packed.rename(tmp_path / "moved")
    assert open_index(str(moved)).num_samples("val") == 21


def test_shards_in_subfolders_share_the_tables_of_their_folder(tmp_path, tar, members):
    for split, first in (("train", 0), ("val", 4)):
        tar(tmp_path / "d" / split / "000.tar", members(first, 4))
    index_beside(str(tmp_path / "d"))
    assert sorted(p.relative_to(tmp_path / "d").as_posix() for p in (tmp_path / "d").rglob("*.*")) == [
        "index.json",
        "keys.idx.npy",
        "samples.idx.npy",
        "train/000.tar",
        "val/000.tar",
    ]
    index = open_index(str(tmp_path / "d"))
    assert {split: index.num_samples(split) for split in index.splits} == {"train": 4, "val": 4}


def test_an_index_is_not_written_where_that_is_wrong(packed, shards, tmp_path, jpeg):
    def refused(data):
        with pytest.raises(InputError) as error:
            index_beside(str(data))
        return str(error.value)

    assert "has an index.json; move it away" in refused(packed)
    assert "is not one; give their folder" in refused(shards / "val-000000.tar")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(0))
    assert "is not one; give their folder" in refused(tmp_path / "images")


def test_a_folder_without_write_rights_is_named_and_untouched(tar, members):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tar(folder / "train-0.tar", members(0, 4))
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # root writes everywhere
            os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=r"index=true, but .* cannot be written \(Permission denied\); copy"):
                index_beside(name)
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
        assert os.listdir(name) == ["train-0.tar"]


def test_output_of_img2dataset_is_read_as_it_is(tmp_path, tar, jpeg):
    def members(first):
        for i in range(first, first + 3):
            key = f"{i:09d}"
            yield f"{key}.jpg", jpeg(i)
            yield f"{key}.json", json.dumps({"url": "http://x", "caption": "a cat", "key": key, "width": 32}).encode()
            yield f"{key}.txt", b"a cat"

    for shard in range(2):
        tar(tmp_path / "laion" / f"{shard:05d}.tar", members(shard * 10000))
        (tmp_path / "laion" / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 3, "successes": 3}))
        (tmp_path / "laion" / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    index = open_index(str(tmp_path / "laion"), tmp_path / "cache")
    assert {split: index.num_samples(split) for split in index.splits} == {"train": 6}
    assert not index.has_labels
    found = summarize_data(index)["splits"]["train"]
    assert (found["labels"], found["unlabelled"]["count"], found["wrong_labels"]["count"]) == ({}, 0, 0)
    assert not problems(index)


def timm(folder, tar, members, name="_info.json", **facts):
    tar(folder / "imagenet-a-0000.tar", members(0, 4))
    tar(folder / "imagenet-a-0001.tar", members(4, 3))
    tar(folder / "imagenet-b-0000.tar", members(7, 2))
    splits = {
        "train": {"name": "train", "filenames": ["imagenet-a-{0000..0001}.tar"], "shard_lengths": [4, 3]} | facts,
        "validation": {"name": "validation", "filenames": ["imagenet-b-0000.tar"], "num_samples": 2},
    }
    (folder / name).write_text(json.dumps({"splits": splits}))
    return folder


def test_the_info_of_timm_tells_the_splits(tmp_path, tar, members, caplog):
    index = open_index(str(timm(tmp_path / "d", tar, members)), tmp_path / "cache")
    assert {split: index.num_samples(split) for split in index.splits} == {"train": 7, "val": 2}
    assert not caplog.records


def test_counts_that_timm_tells_are_compared(tmp_path, tar, members, caplog):
    open_index(str(timm(tmp_path / "d", tar, members, shard_lengths=[4, 5])), tmp_path / "cache")
    assert "imagenet-a-0001.tar holds 3 images, _info.json says 5" in caplog.text


@pytest.mark.parametrize(
    "text", ["{", '{"splits": {"train": {"files": []}}}', '{"splits": [1]}', '{"splits": {"a": 3}}']
)
def test_a_damaged_info_is_named(text, tmp_path, tar, members):
    (timm(tmp_path / "d", tar, members) / "_info.json").write_text(text)
    with pytest.raises(InputError, match=r"_info.json .*fix it or move it away"):
        open_index(str(tmp_path / "d"), tmp_path / "cache")


def test_an_info_that_changes_is_read_again(tmp_path, tar, members):
    folder = timm(tmp_path / "d", tar, members)
    open_index(str(folder), tmp_path / "cache")
    (folder / "_info.json").unlink()
    assert open_index(str(folder), tmp_path / "cache").num_samples("train") == 9
