"""Every image of a data set counts once, in its own split, with its own label; what is left out is told."""

import io
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from mimsuite.data.images.reading import Reading
from mimsuite.data.label_join import LabelFile, join_labels
from mimsuite.data.label_table import has_label
from mimsuite.data.open import open_data, open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError


def counts(index):
    return {split: index.num_samples(split) for split in index.splits}


def png(seed, channels=3):
    stream, shape = io.BytesIO(), (8, 8, channels)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def folder_of(top, names, channels=3):
    for number, name in enumerate(names):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(png(number, channels))
    return top


def test_the_paths_in_timms_info_tell_shards_of_equal_names_apart(tar, members, tmp_path):
    for split, first, count in (("train", 0, 3), ("validation", 3, 2)):
        tar(tmp_path / "d" / split / "0000.tar", members(first, count))
    splits = {split: {"filenames": [f"{split}/0000.tar"]} for split in ("train", "validation")}
    (tmp_path / "d" / "_info.json").write_text(json.dumps({"splits": splits}))
    assert counts(open_index(str(tmp_path / "d"), tmp_path)) == {"train": 3, "val": 2}
    splits["validation"] = splits["train"]
    (tmp_path / "d" / "_info.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match=r"train/0000.tar is in two splits.*fix it or move it away"):
        open_index(str(tmp_path / "d"), tmp_path)


def test_paths_of_another_machine_in_timms_info_count_by_their_names(tar, members, tmp_path):
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / "d" / name, members(ord(name[0]), 2))
    splits = {"train": {"filenames": ["/gone/wds/a.tar"]}, "validation": {"filenames": ["s3://gone/b.tar"]}}
    (tmp_path / "d" / "_info.json").write_text(json.dumps({"splits": splits}))
    assert counts(open_index(str(tmp_path / "d"), tmp_path)) == {"train": 2, "val": 2}


@pytest.mark.parametrize("more", ["val/000000.tar", "old/er/a.tar"])
def test_shards_below_those_that_are_read_are_told(more, tar, members, tmp_path, caplog):
    tar(tmp_path / "d" / "train-0.tar", members(0, 3))
    tar(tmp_path / "d" / more, members(3, 2))
    tar(tmp_path / "d" / ".trash" / "b.tar", members(5, 2))
    with caplog.at_level(logging.WARNING, "mimsuite"):
        assert counts(open_index(str(tmp_path / "d"), tmp_path)) == {"train": 3}
    assert f"1 .tar file below it is left out ({more}); give a list of folders" in caplog.text


def test_a_shard_that_was_added_to_an_index_is_told(tar, members, tmp_path, caplog):
    pack(folder_of(tmp_path / "src", ["a/0.png", "b/1.png"]), tmp_path / "d")
    with caplog.at_level(logging.WARNING, "mimsuite"):
        open_index(str(tmp_path / "d"))
        assert not caplog.records
        tar(tmp_path / "d" / "train-000001.tar", members(0, 2))
        assert counts(open_index(str(tmp_path / "d"))) == {"train": 2}
    assert "left out (train-000001.tar); only those in its index.json are read" in caplog.text


def test_images_that_are_left_out_for_their_names_are_counted(tar, jpeg, tmp_path, caplog):
    names = ("a.jpg", "b.1.jpg", "c.bmp", "d.input.jpg", "e.jpg", "e.seg.png", "f.txt")
    tar(tmp_path / "d" / "train-0.tar", ((name, jpeg(0)) for name in names))
    with caplog.at_level(logging.WARNING, "mimsuite"):
        assert counts(open_index(str(tmp_path / "d"), tmp_path)) == {"train": 2}
    assert "3 images are left out of the shards" in caplog.text
    assert "the first is b.1.jpg; rename them" in caplog.text


def test_a_pattern_in_a_packed_folder_reads_as_its_index_says(tmp_path):
    pack(folder_of(tmp_path / "src", ["0.png", "1.png"], channels=4), tmp_path / "d", reading=Reading("channel"))
    whole, part = (open_index(str(tmp_path / place), tmp_path) for place in ("d", "d/train-{000000..000000}.tar"))
    assert (part.channels, part.alpha) == (whole.channels, whole.alpha) == (4, "channel")
    names = ("B2", "B3", "B4")
    pack(folder_of(tmp_path / "s3", ["0.png", "1.png"]), tmp_path / "e", reading=Reading(band_names=names))
    assert open_index(str(tmp_path / "e" / "train-000000.tar"), tmp_path).bands == names


def test_images_that_would_count_twice_are_refused(tar, members, tmp_path):
    photos = folder_of(tmp_path / "photos", ["a/0.png", "b/1.png"])
    with pytest.raises(InputError, match=r"photos/a lies in .*photos, so its images would count twice; remove one"):
        open_data([str(photos), str(photos / "a")])
    with pytest.raises(InputError, match="would count twice"):
        open_data([str(photos / "b" / "1.png"), str(photos)])
    tar(tmp_path / "d" / "train-0.tar", members(0, 3))
    tar(tmp_path / "d" / "more" / "train-0.tar", members(3, 2))
    assert counts(open_data([str(tmp_path / "d"), str(tmp_path / "d" / "more")])) == {"train": 5}
    os.symlink(tmp_path / "d", tmp_path / "link")
    with pytest.raises(InputError, match=r"names .*d/train-0.tar twice, also as .*link/train-0.tar; name each"):
        open_data([str(tmp_path / "d"), str(tmp_path / "link")])


def test_images_of_two_sets_with_one_key_have_no_label_of_each_other(tmp_path):
    one = folder_of(tmp_path / "one", ["x/0.png", "x/1.png"])
    two = folder_of(tmp_path / "two", ["x/0.bmp", "x/1.bmp"])
    index, table = open_data([str(one), str(two)]), tmp_path / "labels.csv"
    for rows in ("x/0.png,A\nx/1.png,B\nx/0.bmp,B\nx/1.bmp,B\n", "x/0.png,A\nx/1.png,B\n"):
        table.write_text(f"file,label\n{rows}")
        with pytest.raises(InputError, match=r"'x/0.png' and 'x/0.bmp' have the same key, and not the same label"):
            join_labels(index, LabelFile(table, None, None, None))
    table.write_text("file,label\nx/0.png,A\nx/1.png,B\nx/0.bmp,A\nx/1.bmp,B\n")
    joined = join_labels(index, LabelFile(table, None, None, None)).data
    assert has_label(joined, joined.records("train")).all()
