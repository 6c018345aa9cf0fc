"""Packing: deterministic shards that webdataset reads, with the labels and splits of the folders."""

import gc
import hashlib
import io
import logging
import os
import warnings

import numpy as np
import pytest
import torch
from counting import count_labels
from PIL import Image

from mimsuite.data.checks.inspect import raw_samples, summarize_data
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.hashing import hash_key
from mimsuite.data.images.decode import decode
from mimsuite.data.index import Samples
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError


def picture(seed, kind="PNG", size=(24, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def animals(tmp_path):
    """12 cats and 8 dogs."""
    files = {f"cat/{i}.jpg": picture(i, "JPEG") for i in range(12)}
    files |= {f"dog/sub/{i}.png": picture(100 + i) for i in range(8)}
    return write(tmp_path / "animals", files | {"notes.txt": b"no image", "cat/.hidden.jpg": b"x"})


def content(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(os.listdir(folder))}


def refused(src, out, **options):
    with pytest.raises(InputError) as error:
        pack(src, out, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_packed_folder_opens_as_it_was_returned(animals, tmp_path):
    index = pack(animals, tmp_path / "out")
    assert open_index(str(tmp_path / "out")) == index
    assert index.num_samples("train") == 20
    assert index.classes == ("cat", "dog")
    assert index.has_labels
    assert count_labels(index, "train") == {0: 12, 1: 8}
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    (shard,) = index.splits["train"]
    assert shard.sha256 == content(tmp_path / "out")["train-000000.tar"]


def test_files_are_kept_byte_for_byte_and_reach_the_loader(animals, tmp_path):
    index = pack(animals, tmp_path / "out")
    originals = {f"cat_{i}": picture(i, "JPEG") for i in range(12)}
    originals |= {f"dog_sub_{i}": picture(100 + i) for i in range(8)}
    assert {s.key: s.data for s in raw_samples(index, "train", 99)} == originals
    assert all(s.label == s.key.startswith("dog") for s in raw_samples(index, "train", 99))
    (batch,) = eval_loader(index, "train", image_size=(24, 32), batch=20, workers=0, labels=True)
    by_id = {np.int64(np.uint64(hash_key(k)).astype(np.int64)): (k, v) for k, v in originals.items()}
    for image, identity, label in zip(batch.images, batch.ids.tolist(), batch.labels.tolist(), strict=True):
        key, data = by_id[identity]
        assert torch.equal(image, torch.from_numpy(decode(data, 3, "uint8")).permute(2, 0, 1))
        assert label == key.startswith("dog")


def test_webdataset_reads_what_is_written(animals, tmp_path):
    import webdataset

    long = "folder/" * 10 + "n" * 80 + ".jpg"
    write(animals, {f"cat/{long}": picture(50, "JPEG"), "dog/ünï cöde.v2.png": picture(51)})
    index = pack(animals, tmp_path / "out", shard_size=20_000)
    paths = [shard.path for shard in index.splits["train"]]
    assert len(paths) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the shards open
        found = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
        decoded = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
        gc.collect()
    ours = list(raw_samples(index, "train", 99))
    assert [s["__key__"] for s in found] == [s.key for s in ours]
    assert [int(s["cls"]) for s in found] == [s.label for s in ours]
    assert [s[o.ending] for s, o in zip(found, ours, strict=True)] == [o.data for o in ours]
    assert len(found) == 22
    assert all(s[o.ending].shape == (24, 32, 3) for s, o in zip(decoded, ours, strict=True))


def test_webdataset_decodes_pictures_and_labels_of_every_kind(tmp_path):
    import webdataset

    array, stream = np.random.default_rng(1).integers(0, 256, (24, 32, 5), dtype=np.uint8), io.BytesIO()
    np.save(stream, array)
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}
    files = {f"a/{i}.{ending}": picture(i, kind) for i, (ending, kind) in enumerate(kinds.items())}
    src = write(tmp_path / "src", files | {"b/4.bmp": picture(4, "BMP")})
    arrays = write(tmp_path / "arrays", {"a/5.npy": stream.getvalue(), "b/6.npy": stream.getvalue()})
    table = tmp_path / "l.csv"
    table.write_text("file,label\na/5.npy,1.5\nb/6.npy,-2\n")
    lists = tmp_path / "lists.csv"
    lists.write_text("file,label\n" + "".join(f"{name},x;y\n" for name in [*files, "b/4.bmp"]))
    shards = [
        pack(src, tmp_path / "one").splits["train"][0].path,
        pack(src, tmp_path / "two", labels=str(lists)).splits["train"][0].path,
        pack(arrays, tmp_path / "three", labels=str(table)).splits["train"][0].path,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the shards open
        found = [
            {s["__key__"]: s for s in webdataset.WebDataset(url, shardshuffle=False).decode("pil")} for url in shards
        ]
        gc.collect()
    for decoded in found[:2]:
        for name, data in files.items():
            sample = decoded[f"a_{name[2]}"]
            pixels = sample[name[4:]]
            if isinstance(pixels, bytes):  # webdataset leaves kinds that it does not know to the reader
                assert name[4:] in ("webp", "tif")
                pixels = Image.open(io.BytesIO(pixels))
            assert np.array_equal(np.asarray(pixels), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.array_equal(np.asarray(decoded["b_4"]["png"]), decode(picture(4, "BMP"), 3, "uint8"))
    assert [found[0][key]["cls"] for key in ("a_0", "a_1", "a_2", "a_3", "b_4")] == [0, 0, 0, 0, 1]
    assert all(sample["json"] == {"label": [0, 1]} for sample in found[1].values())
    assert [found[2][key]["json"] for key in ("a_5", "b_6")] == [{"label": 1.5}, {"label": -2.0}]
    assert np.array_equal(found[2]["a_5"]["npy"], array)


def test_the_same_files_give_the_same_bytes(animals, tmp_path):
    pack(animals, tmp_path / "a", val_fraction=0.2)
    for file in animals.rglob("*.jpg"):
        os.utime(file, (1, 1))
    pack(animals, tmp_path / "b", val_fraction=0.2)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    pack(animals, tmp_path / "c", val_fraction=0.2, seed=1)
    assert content(tmp_path / "a") != content(tmp_path / "c")


def test_val_fraction_takes_the_same_share_of_each_class(animals, tmp_path):
    index = pack(animals, tmp_path / "out", val_fraction=0.25)
    assert count_labels(index, "val") == {0: 3, 1: 2}
    assert count_labels(index, "train") == {0: 9, 1: 6}
    assert not set(index.records("val").keys()) & set(index.records("train").keys())
    tiny = pack(animals, tmp_path / "tiny", val_fraction=0.001)
    assert count_labels(tiny, "val") == {0: 1, 1: 1}


def test_shards_are_mixed_and_limited(animals, tmp_path):
    index = pack(animals, tmp_path / "out", shard_size=8_000)
    assert len(index.splits["train"]) > 2
    assert all(Samples((shard,)).column("image_size")[:-1].sum() < 8_000 for shard in index.splits["train"])
    labels = [s.label for s in raw_samples(index, "train", 99)]
    assert labels != sorted(labels)


def test_folders_named_as_splits_are_the_splits(tmp_path):
    files = {f"{s}/{c}/{i}.jpg": picture(i, "JPEG") for s in ("train", "validation") for c in "ab" for i in range(3)}
    index = pack(write(tmp_path / "src", files), tmp_path / "out")
    assert {split: count_labels(index, split) for split in index.splits} == {
        "train": {0: 3, 1: 3},
        "val": {0: 3, 1: 3},
    }
    assert index.classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["a/1.jpg", "b/1.jpg"], "auto", ("a", "b")),
        (["a/1.jpg", "b/1.jpg"], "none", None),
        (["a/1.jpg", "b/1.jpg", "c.jpg"], "auto", None),
        (["a/1.jpg", "a/2.jpg"], "auto", None),
        (["a/1.jpg", "a/2.jpg"], "folder", ("a",)),
        (["train/1.jpg", "test/2.jpg"], "auto", None),
    ],
)
def test_labels_come_from_folders_where_there_are_classes(names, labels, classes, tmp_path):
    src = write(tmp_path / "src", {name: picture(i, "JPEG") for i, name in enumerate(names)})
    index = pack(src, tmp_path / "out", labels=labels)
    assert index.classes == classes
    assert index.has_labels == (classes is not None)


def test_keys_are_safe_and_unique(tmp_path):
    names = ["a.b.jpg", "a_b.jpg", "a_b.png", "a/b.jpg", "x y.jpg", "ü.jpg"]
    src = write(tmp_path / "src", {n: picture(i, "PNG" if n.endswith("png") else "JPEG") for i, n in enumerate(names)})
    keys = {s.key for s in raw_samples(pack(src, tmp_path / "out"), "train", 9)}
    assert keys == {"a_b", "a_b_jpg", "a_b_jpg_2", "a_b_png", "x_y", "ü"}


def test_other_kinds_become_png_and_wrong_endings_are_corrected(tmp_path):
    src = write(tmp_path / "src", {"a.bmp": picture(0, "BMP"), "b.jpg": picture(1, "PNG"), "c.gif": picture(2, "GIF")})
    found = {s.key: s for s in raw_samples(pack(src, tmp_path / "out"), "train", 9)}
    assert {key: s.ending for key, s in found.items()} == {"a": "png", "b": "png", "c": "png"}
    assert np.array_equal(decode(found["a"].data, 3, "uint8"), decode(picture(0, "BMP"), 3, "uint8"))
    assert found["b"].data == picture(1, "PNG")


def test_broken_images_are_named_counted_and_left_out(animals, tmp_path, caplog):
    write(animals, {"cat/broken.jpg": b"\xff\xd8\xff", "dog/cut.png": picture(0)[:200]})
    with caplog.at_level(logging.WARNING, "mimsuite"):
        index = pack(animals, tmp_path / "out")
    assert index.num_samples("train") == 20
    text = caplog.text
    assert "cat/broken.jpg" in text
    assert "dog/cut.png" in text
    assert "2 of 22 images were skipped" in text


def test_faults_are_named(animals, tmp_path):
    out = tmp_path / "out"
    assert "is not a folder" in refused(tmp_path / "nowhere", out)
    assert "holds no image" in refused(write(tmp_path / "e", {"a.txt": b"x"}), out)
    bad = write(tmp_path / "bad", {f"{i}.jpg": b"\xff\xd8\xff" for i in range(3)})
    assert "none of 3 images can be decoded" in refused(bad, out)
    loose = write(tmp_path / "loose", {"a.jpg": picture(0, "JPEG"), "b/c.jpg": picture(1, "JPEG")})
    assert "labels=folder, but" in refused(loose, out, labels="folder")
    assert "val_fraction=1.5 is not in [0, 1)" in refused(animals, out, val_fraction=1.5)
    assert "shard_size=0" in refused(animals, out, shard_size=0)
    write(tmp_path / "full", {"x": b""})
    assert "is not an empty folder" in refused(animals, tmp_path / "full")
    assert "is not an empty folder" in refused(animals, tmp_path / "full" / "x")
    assert "cannot be created" in refused(animals, tmp_path / "full" / "x" / "y")


def test_progress_counts_every_file(animals, tmp_path):
    calls = []
    pack(animals, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 20) for i in range(1, 21)]


def test_summary_counts_and_looks_into_images(animals, tmp_path):
    write(animals, {"dog/wide.jpg": picture(7, "JPEG", (10, 99))})
    index = pack(animals, tmp_path / "out", val_fraction=0.25)
    found = summarize_data(index)
    assert found["classes"] == ["cat", "dog"]
    assert found["bytes"] == sum(s.bytes for shards in index.splits.values() for s in shards)
    train, val = found["splits"]["train"], found["splits"]["val"]
    assert train["samples"] + val["samples"] == 21
    assert train["labels"]["0"] == 9
    assert val["labels"] == {"0": 3, "1": 2}
    assert sum(train["kinds"].values()) == train["samples"] == train["channels"]["3"]
    assert train["height"] in ([10, 24, 24], [24, 24, 24])
    assert train["broken"] == val["broken"] == []


def test_a_class_whose_name_cannot_be_written_is_named(tmp_path):
    src = write(tmp_path / "src", {"a/1.jpg": picture(0, "JPEG"), "b\udcff/1.jpg": picture(1, "JPEG")})
    assert "the folder 'b\\\\xff' cannot name a class (not UTF-8" in refused(src, tmp_path / "out")
    assert pack(src, tmp_path / "out", labels="none").num_samples("train") == 2


def test_file_names_that_are_not_utf_8_are_packed_and_shown(tmp_path, caplog):
    src = write(tmp_path / "src", {"ok\udcff.jpg": picture(0, "JPEG"), "bad\udcfe.jpg": b"\xff\xd8\xff"})
    (sample,) = raw_samples(pack(src, tmp_path / "out"), "train", 9)
    assert sample.key == "ok_"
    assert "bad\\xfe.jpg" in caplog.text


def test_members_have_plain_headers(tmp_path):
    """A header extension would add two kilobytes to every sample."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    pack(tmp_path / "images", tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert b"PaxHeader" not in shard.read_bytes()
