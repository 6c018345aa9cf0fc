"""What a folder holds is read by rules, said in a few lines, and refused where it can be read in two ways."""

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from mimsuite.data.checks.describe import describe_facts
from mimsuite.data.checks.inspect import summarize_data
from mimsuite.data.folders import count_of, images_of, matches
from mimsuite.data.open import open_data, open_index
from mimsuite.data.packing.layout import read_layout
from mimsuite.data.packing.pack import pack
from mimsuite.data.packing.plan import Choice, plan_pack
from mimsuite.data.sources import find_shards
from mimsuite.errors import InputError


def write(folder, *names, size=(8, 8), channels=3):
    """Images of one colour each, so that files differ; a name may be a folder and a number of images."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*size, channels), i, np.uint8)
        if path.suffix == ".npy":
            np.save(path, pixels)
        else:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG")
            path.write_bytes(stream.getvalue())
    return folder


def several(*folders, count=3):
    return [f"{folder}/{i}.jpg" for folder in folders for i in range(count)]


def read(names, labels="auto", splits="auto"):
    """Images and labelled images per split, classes and notes."""
    layout = read_layout("src", sorted(names), labels, splits)
    given = list(zip(layout.splits, layout.labels, strict=True))
    found = {
        split: (layout.splits.count(split), sum(s == split and label is not None for s, label in given))
        for split in dict.fromkeys(layout.splits)
    }
    return found, layout.classes, layout.notes


READ = {
    "only images": (["a.jpg", "b.jpg"], {"train": (2, 0)}, []),
    "class folders": (several("cat", "dog/deep"), {"train": (6, 6)}, ["cat", "dog"]),
    "words inside of words": (
        several("constraint", "latest"),
        {"train": (6, 6)},
        ["constraint", "latest"],
    ),
    "one folder": (several("cat"), {"train": (3, 0)}, []),
    "splits with classes": (
        several("train/cat", "train/dog", "validation/cat"),
        {"train": (6, 6), "val": (3, 3)},
        ["cat", "dog"],
    ),
    "splits without": (several("train", "val", "Test"), {"train": (3, 0), "val": (3, 0), "test": (3, 0)}, []),
    "flat test": (several("train/cat", "train/dog", "test"), {"train": (6, 6), "test": (3, 0)}, ["cat", "dog"]),
    "Tiny-ImageNet": (
        several("train/n01/images", "train/n02/images", "val/images", "test/images"),
        {"train": (6, 6), "val": (3, 0), "test": (3, 0)},
        ["n01", "n02"],
    ),
    "unlabeled beside splits": (
        several("train/cat", "train/dog", "val/cat", "unlabeled"),
        {"train": (9, 6), "val": (3, 3)},
        ["cat", "dog"],
    ),
    "unlabeled beside classes": (several("cat", "dog", "Unlabelled"), {"train": (9, 6)}, ["cat", "dog"]),
    "a loose image": (["a.jpg", *several("cat", "dog")], {"train": (7, 0)}, []),
}


@pytest.mark.parametrize("layout", READ)
def test_a_layout_is_read(layout):
    names, splits, classes = READ[layout]
    found, names_of_classes, notes = read(names)
    assert (found, names_of_classes) == (splits, classes)
    if layout == "flat test":
        assert notes == ["the images of test lie in no folders of classes"]
    if layout == "a loose image":
        assert notes == ["no labels: 1 image outside of the folders of classes (a.jpg)"]


REFUSED = {
    "a fourth folder": (several("train/cat", "train/dog", "val/cat", "extra"), "beside them extra/ (3 images): are"),
    "a stray image": ([*several("train/cat", "val/cat"), "sample.jpg"], "beside them the file sample.jpg: are"),
    "a class called test": (several("cat", "dog", "test"), "folders of splits (test), and beside them cat/ (3 images)"),
    "splits below one folder": (several("set/train/cat", "set/val/cat"), "holds train and val, and splits are read at"),
    "splits below classes": (several("cat/train", "cat/val", "dog/train", "dog/val"), "to the top (train/CLASS)"),
    "a class without train": (
        several("train/cat", "train/dog", "val/cow"),
        "val has 1 folder that train does not have (cow)",
    ),
    "years of splits": (several("train2017", "val2017"), "the folders train2017, val2017 look like splits, and only"),
    "splits in words": (several("Training Set/cat", "Testing Set/cat"), "Testing Set, Training Set look like splits"),
    "splits after a word": (several("seg_train/a", "seg_test/a", "seg_pred"), "seg_test, seg_train look like splits"),
    "splits in humps": (several("catTrain", "catTest"), "catTest, catTrain look like splits"),
    "one split twice": (several("val", "validation", "train"), "has the folders val and validation for one split"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(layout):
    names, says = REFUSED[layout]
    with pytest.raises(InputError) as error:
        read(names)
    assert says in str(error.value)


def test_a_refusal_is_answered_by_splits_labels_or_exclude(tmp_path):
    fourth = several("train/cat", "train/dog", "val/cat", "extra")
    assert read(fourth, splits="none", labels="none") == ({"train": (12, 0)}, [], [])
    assert read(several("train/cat", "train/dog", "val/cow"), labels="folder")[1] == ["cat", "cow", "dog"]
    src = write(tmp_path / "src", *fourth)
    plan = plan_pack(src, Choice(exclude=("extra",)))
    assert [line.split(":")[0].strip() for line in plan.reading[:2]] == [
        "train  6 images, 2 classes",
        "val    3 images, 1 class",
    ]
    assert "left out by exclude=: extra/0.jpg, extra/1.jpg, extra/2.jpg" in plan.reading
    with pytest.raises(InputError, match=r"exclude=nothing matches no image below"):
        plan_pack(src, Choice(exclude=("nothing",)))


def test_a_pattern_is_of_a_name_a_folder_or_a_path():
    assert all(
        matches("train/cat/a_odd.jpg", pattern) for pattern in ("*odd*", "cat", "train/cat", "train/*/a*", "train/")
    )
    assert not any(matches("train/cat/a.jpg", pattern) for pattern in ("odd", "cat/a.jpg", "rain", "A.jpg"))


def test_links_to_folders_and_files_are_followed_and_loops_end(tmp_path):
    write(tmp_path / "real", *several("dog"))
    half = write(tmp_path / "half", *several("cat"))
    (half / "dog").symlink_to(tmp_path / "real" / "dog")
    (half / "cat" / "9.jpg").symlink_to(tmp_path / "real" / "dog" / "0.jpg")
    (half / "dog" / "loop").symlink_to(half)
    (half / "cat" / "again").symlink_to(half / "cat")
    (half / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(half / "cat" / "pipe.jpg")
    plan = plan_pack(half, Choice())
    assert plan.classes == ["cat", "dog"]
    assert plan.reading[0] == "train  7 images, 2 classes: cat 4, dog 3"
    assert any("lead nowhere: cat/gone.jpg, cat/pipe.jpg" in line for line in plan.reading)
    assert any("not followed" in line and "cat/again, dog/loop" in line for line in plan.reading)
    index = open_data(str(half))
    assert (index.num_samples("train"), index.classes) == (7, ("cat", "dog"))
    write(tmp_path / "real", "dog/new.jpg")
    assert open_data(str(half)).num_samples("train") == 8


@pytest.mark.parametrize(("outer", "inner"), [("train", "val"), ("val", "train")])
def test_a_folder_that_two_links_lead_to_is_read_once(outer, inner, tmp_path):
    write(tmp_path / "all", *several("cat"), *several("part/cat"))
    half = write(tmp_path / "half")
    half.mkdir(exist_ok=True)
    (half / outer).symlink_to(tmp_path / "all")
    (half / inner).symlink_to(tmp_path / "all" / "part")
    plan = plan_pack(half, Choice())
    assert sorted(p.file.rpartition("/")[0] for p in plan.pictures) == sorted(
        [f"{outer}/cat"] * 3 + [f"{inner}/cat"] * 3
    )
    assert any(line.endswith(f"read under another name: {outer}/part") for line in plan.reading)


def test_every_ending_that_can_be_read_is_packed_and_others_are_counted(tmp_path):
    src = write(tmp_path / "m", "a.jpg", "b.jfif", "c.jpe", "d.JPG", "e.mpo")
    for name, kind in (("f.jp2", "JPEG2000"), ("g.avif", "AVIF"), ("h.pbm", "PPM"), ("i.j2k", "JPEG2000")):
        image = Image.new("1" if kind == "PPM" else "RGB", (8, 8))
        image.save(src / name, kind)
    for name in ("x.heic", "y.heic", "z.fits", "README", "labels.txt"):
        (src / name).write_bytes(b"x")
    index = pack(src, tmp_path / "out")
    assert index.num_samples("train") == 9
    assert "not read, by their ending: 2 .heic, 1 no ending, 1 .txt, 1 .fits" in index.reading
    assert "files that may hold labels, and are not read: labels.txt (labels=FILE.csv)" in index.reading
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image .*; not read, by their ending: 1 .heic; check the path"):
        open_data(str(only))


@pytest.mark.parametrize("thing", ["images", "classes", "boxes", "batches", "epochs", "processes", "folders"])
def test_plurals(thing):
    one = thing[:-2] if thing.endswith(("sses", "xes", "tches")) else thing[:-1]
    assert count_of(1, one) == f"1 {one}"
    assert count_of(2000, one) == f"2,000 {thing}"
    assert count_of(0.5, one) == f"0.5 {thing}"


def test_folders_without_images_are_named(tmp_path):
    src = write(tmp_path / "pets", *several("train/cat", "train/dog"))
    for name in ("val/cat", "val/dog", "train/cow"):
        (src / name).mkdir(parents=True)
    (src / "train" / "cow" / "1.heic").write_bytes(b"")
    assert "folders without images: train/cow, val" in plan_pack(src, Choice()).reading


def test_thumbnails_of_a_system_are_not_read(tmp_path):
    src = write(tmp_path / "s", "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_S.jpg", "__MACOSX/a.jpg", ".hidden/a.jpg")
    assert images_of(str(src)).images == ["a.jpg"]
    assert any("thumbnails" in line and "@eaDir" in line for line in plan_pack(src, Choice()).reading)


def test_a_run_in_the_data_is_not_read_and_data_in_a_run_are_refused(tmp_path):
    src = write(tmp_path / "photos", "a.jpg", "b.jpg", "run/pictures/step_1.jpg", "looks/contact_sheet.png")
    before = open_data(str(src)).num_samples("train")
    for name in ("config.yaml", "overrides.txt", "environment.json"):
        (src / "run" / name).write_text("")
    (src / "looks" / "inspect.json").write_text("")
    index = open_data(str(src))
    assert (before, index.num_samples("train")) == (4, 2)
    assert any("because mimsuite wrote these folders: looks, run" in line for line in index.reading)
    with pytest.raises(InputError, match=r"lies in the run folder .*run, whose pictures are not data"):
        open_data(str(src / "run" / "pictures"))


def test_archives_beside_images_are_refused_whatever_their_names(tmp_path, tar, members):
    both = write(tmp_path / "t", *several("images"))
    for name in ("archives", "old_archives"):
        tar(both / name / "x.tar", members(0, 2))
        with pytest.raises(InputError, match=r"both 1 .tar files \(.*x.tar\) and 3 images \(the first is images/0.jpg"):
            open_data(str(both))
        shutil.rmtree(both / name)
    tar(both / "a" / "b" / "deep.tar", members(0, 2))  # not where shards are looked for
    index = open_data(str(both))
    assert index.num_samples("train") == 3
    assert "not read, by their ending: 1 .tar" in index.reading


def test_an_empty_shard_among_good_ones_is_named_once(tmp_path, tar, members, caplog):
    tar(tmp_path / "sh" / "train-000000.tar", members(0, 4))
    tarfile.open(tmp_path / "sh" / "train-000001.tar", "w").close()
    tar(tmp_path / "sh" / "train-000002.tar", [("a.txt", b"x")])
    (tmp_path / "sh" / "._train-000000.tar").write_bytes(b"of another system")
    assert len(find_shards(str(tmp_path / "sh")).paths) == 3
    index = open_index(str(tmp_path / "sh"), tmp_path / "cache")
    assert index.num_samples("train") == 4
    assert "2 of 3 shards are left out: shard" in caplog.text
    assert caplog.text.count("WARNING") == 1
    with pytest.raises(InputError, match="holds no image"):
        open_index(str(tmp_path / "sh" / "train-000001.tar"), tmp_path / "cache")
    (tmp_path / "sh" / "train-000003.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
        open_index(str(tmp_path / "sh"), tmp_path / "cache")


def test_images_of_other_channels_are_listed_and_nothing_is_left_behind(tmp_path, caplog):
    src = write(tmp_path / "s", *[f"{i}.npy" for i in range(6)], channels=4)
    write(src, "sub/odd.jpg", "sub/even.jpg")
    out = tmp_path / "out"
    says = (
        r"4 in 6 images, 3 in 2 images \(sub/even.jpg, sub/odd.jpg\); use channels=4 to leave out 2 images, or exclude="
    )
    with pytest.raises(InputError, match=says):
        pack(src, out, shard_size=1)
    assert not out.exists()
    assert "3 channels: sub/odd.jpg" in caplog.text
    assert pack(src, out, channels=4).num_samples("train") == 6
    assert "it has 3 channels, and channels=4" in caplog.text
    assert "2 of 8 images were skipped" in caplog.text
    assert pack(src, tmp_path / "three", channels=3).channels == 3
    assert pack(src, tmp_path / "none", exclude=["sub"]).channels == 4


def test_fractions_make_val_and_test_of_each_class(tmp_path):
    src = write(tmp_path / "s", *several("cat", "dog", count=20))
    only_val, both = (plan_pack(src, Choice(val_fraction=0.1, test_fraction=f)).pictures for f in (0.0, 0.2))
    count = {s: [sum(p.split == s and p.label == c for p in both) for c in (0, 1)] for s in ("train", "val", "test")}
    assert count == {"train": [14, 14], "val": [2, 2], "test": [4, 4]}
    assert {p.key for p in only_val if p.split == "val"} == {p.key for p in both if p.split == "val"}
    grouped = write(tmp_path / "g", *several(*(f"p{i:02d}" for i in range(40)), count=2))
    found = plan_pack(grouped, Choice(labels="none", group_by="folder", val_fraction=0.2, test_fraction=0.2)).pictures
    where = {p.group: {q.split for q in found if q.group == p.group} for p in found}
    assert all(len(splits) == 1 for splits in where.values())
    assert {s for splits in where.values() for s in splits} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (several("cat", "dog", count=1), {"val_fraction": 0.5}, "val_fraction=0.5 gives val no image"),
        (several("train", "val"), {"val_fraction": 0.5}, "there is a split val already; use val_fraction=0"),
        (several("test"), {"val_fraction": 0.5}, "is taken from train, which has no images"),
        (several("cat"), {"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        (several("cat"), {"splits": "folder"}, "has no folder train, val or test"),
    ],
)
def test_a_fraction_that_gives_nothing_is_refused(names, options, says, tmp_path):
    with pytest.raises(InputError, match=says):
        plan_pack(write(tmp_path / "s", *names), Choice(**options))


def test_shards_are_split_again_with_their_labels(tmp_path, tar, members):
    src = write(tmp_path / "s", *several("cat", "dog", count=10))
    whole = pack(src, tmp_path / "whole")
    split = pack(tmp_path / "whole", tmp_path / "split", val_fraction=0.2, test_fraction=0.2)
    assert {name: split.num_samples(name) for name in split.splits} == {"train": 12, "val": 4, "test": 4}
    assert split.classes == whole.classes
    assert labels_of(split) == labels_of(whole)
    again = pack(tmp_path / "split", tmp_path / "again", splits="none")
    assert labels_of(again) == labels_of(whole)
    assert list(again.splits) == ["train"]
    with pytest.raises(InputError, match="there is a split val already"):
        pack(tmp_path / "split", tmp_path / "x", val_fraction=0.1)
    with pytest.raises(InputError, match=r"exclude=.* reads the paths of files, and src=.* holds shards"):
        pack(tmp_path / "split", tmp_path / "x", exclude=["a"])
    tar(tmp_path / "twice" / "a.tar", members(0, 3))
    tar(tmp_path / "twice" / "b.tar", members(0, 3))
    assert len(labels_of(pack(tmp_path / "twice", tmp_path / "unique"))) == 6
    assert pack(tmp_path / "twice", tmp_path / "plain", labels="none").has_labels is False


def labels_of(index):
    """The bytes and the label of each sample by its key, over all splits."""
    from mimsuite.data.checks.inspect import raw_samples

    return {s.key: (s.data, s.label) for split in index.splits for s in raw_samples(index, split, 99)}


def test_inspect_tells_of_labels_that_lie_elsewhere(tmp_path, tar, jpeg):
    members = [
        (f"{i}.{ending}", data)
        for i in range(3)
        for ending, data in (("jpg", jpeg(i)), ("json", b'{"caption": "a", "url": "b"}'), ("txt", b"a"))
    ]
    tar(tmp_path / "sh" / "train.tar", members)
    lines = list(describe_facts(summarize_data(open_index(str(tmp_path / "sh"), tmp_path / "cache"))))
    told = 'no labels are read (KEY.cls, or "label" in KEY.json); beside the images lie .json (3), .txt (3); the .json'
    assert any(f"{told} of the first has caption, url" in line for line in lines)
