"""The embedded data set: what it holds, and that the script makes it again."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

import mimsuite
from mimsuite.data.open import open_index

ROOT = Path(__file__).parents[2]
FOLDER = Path(mimsuite.__file__).parent / "data" / "emoji-64"
CLASSES = [
    *("activities", "animals-nature", "flags", "food-drink", "objects", "people-body"),
    *("smileys-emotion", "symbols", "travel-places"),
]
VAL = [14, 25, 42, 21, 42, 61, 27, 36, 35]
TRAIN = [71, 134, 219, 110, 222, 320, 142, 188, 183]


@pytest.fixture(scope="module")
def samples():
    """Per split (key, JPEG bytes, label) of every sample, read by tarfile alone."""
    found = {}
    for split in ("train", "val"):
        with tarfile.open(FOLDER / f"{split}-000000.tar") as archive:
            members = {m.name: archive.extractfile(m).read() for m in archive}
        keys = dict.fromkeys(name.rsplit(".", 1)[0] for name in members)
        found[split] = [(key, members[f"{key}.jpg"], int(members[f"{key}.cls"])) for key in keys]
    return found


@pytest.mark.parametrize(("split", "expected"), [("train", TRAIN), ("val", VAL)])
def test_every_class_has_its_count(samples, split, expected):
    counts = Counter(label for _, _, label in samples[split])
    assert [counts[i] for i in range(9)] == expected
    assert sum(expected) == {"train": 1589, "val": 303}[split]


def test_label_and_key_name_the_same_class(samples):
    for key, _, label in samples["train"] + samples["val"]:
        assert re.fullmatch(rf"{CLASSES[label]}_[0-9a-f]{{2,5}}(-[0-9a-f]{{3,5}})*", key), key


def test_no_emoji_and_no_picture_is_there_twice(samples):
    everything = samples["train"] + samples["val"]
    assert len({key.split("_")[1] for key, _, _ in everything}) == len(everything) == 1892
    assert len({hashlib.sha256(jpeg).digest() for _, jpeg, _ in everything}) == 1892


def test_no_emoji_has_a_skin_tone(samples):
    assert not [key for key, _, _ in samples["train"] + samples["val"] if re.search("1f3f[b-f]", key)]


def test_pictures_are_colour_jpegs_of_64_pixels_on_white(samples):
    corners = []
    for _, jpeg, _ in samples["val"]:
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (64, 64))
            corners.append(np.asarray(picture)[0, 0])
    assert np.median(corners, axis=0).tolist() == [255, 255, 255]


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_are_mixed_within_a_shard(samples, split):
    labels = [label for _, _, label in samples[split]]
    assert set(labels[:96]) == set(labels[-96:]) == set(range(9))


def test_index_says_what_the_shards_hold():
    index = open_index(str(FOLDER))
    assert list(index.classes) == CLASSES
    assert {split: index.num_samples(split) for split in index.splits} == {"train": 1589, "val": 303}
    assert (index.channels, index.dtype, tuple(index.image_size), index.has_labels) == (3, "uint8", (64, 64), True)
    for (shard,) in index.splits.values():
        assert hashlib.sha256(Path(shard.path).read_bytes()).hexdigest() == shard.sha256


def test_index_names_no_folder_of_the_machine_it_was_made_on():
    content = json.loads((FOLDER / "index.json").read_text())
    assert [shard["file"] for shards in content["splits"].values() for shard in shards] == [
        "train-000000.tar",
        "val-000000.tar",
    ]


def test_webdataset_reads_it(samples):
    with (FOLDER / "val-000000.tar").open("rb") as stream:
        rows = list(group_by_keys(tar_file_expander([{"url": "val", "stream": stream}])))
    assert [(row["__key__"], row["jpg"], int(row["cls"])) for row in rows] == samples["val"]


def test_it_is_under_8_mb_with_nothing_beside():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(sizes) == {
        *("train-000000.tar", "train-000000.idx.npy", "val-000000.tar", "val-000000.idx.npy"),
        *("index.json", "classes.txt", "LICENSE", "NOTICE"),
    }
    assert sum(sizes.values()) < 8_000_000


def test_licence_and_origin_lie_beside():
    licence, notice = ((FOLDER / name).read_text() for name in ("LICENSE", "NOTICE"))
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert len(licence.splitlines()) == 202
    for part in (
        "Noto Emoji",
        "Google",
        "emoji-datasource-google 16.0.0",
        "What was changed",
        "(c) 2013 Cal Henderson",
    ):
        assert part in notice
    for number in ("1,892", "1,589", "303"):
        assert number in notice


@pytest.mark.slow
def test_script_makes_the_same_bytes_twice_and_leaves_out_what_it_should(tmp_path):
    """On a made-up package: two classes, a component, a skin tone, two equal pictures."""
    tarball = tmp_path / "package.tgz"
    write_package(tarball)
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        subprocess.run([sys.executable, ROOT / "scripts/make_emoji.py", tarball, out], check=True, capture_output=True)
    names = sorted(path.name for path in outs[0].iterdir())
    assert names == sorted(path.name for path in outs[1].iterdir())
    assert all((outs[0] / name).read_bytes() == (outs[1] / name).read_bytes() for name in names)
    keys = {}
    for split in ("train", "val"):
        with tarfile.open(outs[0] / f"{split}-000000.tar") as archive:
            keys[split] = {name.split(".")[0] for name in archive.getnames()}
    assert (len(keys["train"]), len(keys["val"])) == (20 - 2 * 2, 2 * 2 - 1)
    assert keys["train"] | keys["val"] == {f"a-b_1f{i:03x}" for i in range(10)} | {
        f"c_1f{i:03x}" for i in range(11, 20)
    }


def write_package(path):
    """Emoji 0 to 9 of category "A & B", 10 to 19 of "C"; 10 looks like 0; 20 is a component."""
    entries = []
    with tarfile.open(path, "w:gz") as archive:

        def add(name, content):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for i in range(21):
            code = f"1f{i:03x}"
            png = io.BytesIO()
            Image.new("RGBA", (64, 64), (255, 12 * (i % 10 if i == 10 else i), 0, 200)).save(png, "PNG")
            add(f"img/google/64/{code}.png", png.getvalue())
            add(f"img/google/64/{code}-1f3fb.png", png.getvalue())
            category = "Component" if i == 20 else "A & B" if i < 10 else "C"
            entry = {"name": f"EMOJI {i}", "unified": code.upper(), "image": f"{code}.png", "category": category}
            entries.append(entry | {"sort_order": i, "skin_variations": {"1F3FB": {"image": f"{code}-1f3fb.png"}}})
        add("emoji.json", json.dumps(entries[::-1]).encode())
