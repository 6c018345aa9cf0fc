"""Labels for some of the images: from a table at packing or later; everything that learns uses these images alone."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import write_shards
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file
from tables import read_rows

from mimsuite import api
from mimsuite.config.folder import conf_dir
from mimsuite.data.datamodule import ImageData
from mimsuite.data.label_table import labelled_part
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor
from mimsuite.settings.finetune import read_finetune
from mimsuite.settings.probe import read_probe

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = ViTConfig(**SIZES, image_size=16, patch_size=8, encoder_stride=8)
IMAGES = {"train": 90, "val": 30, "test": 20}
QUICK = {"workers": 0, "baselines": False, "preset.epochs": 3, "batch": 32, "layers": "last", "pool": "mean"}
TUNE = {"batch": 8, "steps": 3, "val_every": 3, "precision": "32-true", "workers": 0, "lr": 0.01, "image_size": 16}


def colour_of(number):
    return ("blue", "red")[number % 3 == 0]


def has_label(split, number):
    """Every second image of train and val; none of test."""
    return split != "test" and number % 2 == 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders `train`, `val` and `test` of plain colours, and beside them `some.csv` with labels of half of them."""
    src, random = tmp_path_factory.mktemp("photos") / "src", np.random.default_rng(0)
    rows = []
    for split, count in IMAGES.items():
        (src / split / "site").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 250, (16, 16, 3), dtype=np.uint8)
            pixels[..., 0 if colour_of(number) == "red" else 2] += 5
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            name = f"{split}/site/{number}.png"
            (src / name).write_bytes(stream.getvalue())
            if has_label(split, number):
                rows.append((name, f"{split}_site_{number}", f"/data/photos/{name}", colour_of(number)))
    with (src.parent / "some.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "key", "place", "label"), *rows])
    return src


@pytest.fixture(scope="module")
def sets(photos):
    """The same images packed with these labels, without any, and the labelled ones alone."""
    table = str(photos.parent / "some.csv")
    pack(photos, photos.parent / "some", labels=table)
    pack(photos, photos.parent / "none", labels="none")
    pack(photos, photos.parent / "skip", labels=table, labels_missing="skip")
    return {name: str(photos.parent / name) for name in ("some", "none", "skip")} | {"table": table}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    ViTForMaskedImageModeling(CONFIG).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)  # mean and std are not the data's
    return str(folder)


def ways(sets):
    """Data and table of each way to have the same labels."""
    bare = {"data": sets["none"], "labels": sets["table"]}
    return [
        {"data": sets["some"]},
        bare,
        bare | {"labels_file": "key"},
        bare | {"labels_file": "place"},
        {"data": sets["skip"]},
    ]


def config(task, **values):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose(task, [f"{k}={v}" for k, v in values.items()])


def test_learning_from_some_is_learning_from_these_alone(sets, model, tmp_path):
    """The same images in the same order give the same metrics and weights, whichever way the labels come."""
    probes, tuned = [], []
    for number, way in enumerate(ways(sets)):
        out = tmp_path / f"probe{number}"
        summary = api.call("probe", {"init": model, "out": str(out), **way, **QUICK})
        probes.append((summary["metrics"], read_rows(out / "probe.csv")))
        if "labels_file" not in way:
            out = tmp_path / f"tuned{number}"
            summary = api.call("finetune", {"init": model, "out": str(out), **way, **TUNE})
            tuned.append((summary["metrics"], load_file(out / "weights" / "model.safetensors")))
    assert probes[0][0]["probe/top1"] > 0.5
    assert all(probe == probes[0] for probe in probes)
    for metrics, tensors in tuned[1:]:
        assert {k: v for k, v in metrics.items() if not k.startswith("perf/")} == {
            k: v for k, v in tuned[0][0].items() if not k.startswith("perf/")
        }
        assert all(torch.equal(tensors[name], value) for name, value in tuned[0][1].items())
    log = (tmp_path / "probe0" / "train.log").read_text()
    assert "fit on train (45), report on val (15)" in log
    assert "only images that have one: train 45 of 90, val 15 of 30, test 0 of 20" in log
    log = (tmp_path / "tuned1" / "train.log").read_text()
    assert "classes, 2 outputs; 45 training images" in log
    assert "only images that have one: train 45 of 90, val 15 of 30, test 0 of 20" in log


def test_only_labelled_images_are_read_and_each_once_an_epoch(sets, model):
    keys = []
    for way in ways(sets)[:2]:
        settings = read_finetune(config("finetune", init=model, out="unused", batch=9, image_size=16, **way), [])
        labels = settings.labels
        assert settings.inputs.index.splits.keys() == {"train", "val"}
        data = ImageData(
            settings.inputs.index,
            image_size=(16, 16),
            mask_unit=None,
            train_transform=None,
            masks=(),
            batch=9,
            micro_batch=9,
            steps=5,
            seed=0,
            workers=0,
            labels=True,
            train=labels.train,
            val=labels.choose,
        )
        numbers = np.concatenate([batch for _, batch in data.order.batches(0, 5, 0, 1)])
        assert sorted(numbers.tolist()) == list(range(45))
        keys.append(labels.train.keys()[numbers].tolist())
    assert keys[0] == keys[1]


def test_a_classifier_is_evaluated_on_the_images_that_a_table_names(sets, model, tmp_path):
    api.call("probe", {"init": model, "out": str(tmp_path / "probe"), "data": sets["some"], **QUICK})
    few = tmp_path / "red.csv"  # one class of the two, counted as the classifier counts it
    few.write_text("file,label\n" + "".join(f"test/site/{n},red\n" for n in (0, 3, 6, 9)) + "elsewhere/1.png,red\n")
    found = api.evaluate(init=str(tmp_path / "probe"), data=sets["none"], labels=str(few), out=str(tmp_path / "e"))
    rows = read_rows(tmp_path / "e" / "predictions.csv")
    assert sorted(row["file"] for row in rows) == [f"test/site/{n}.png" for n in (0, 3, 6, 9)]
    assert {row["label"] for row in rows} == {"red"}
    right = sum(row["predicted"] == "red" for row in rows) / 4
    assert found["images"] == 4
    assert found["metrics"]["test/top1"] == right
    log = (tmp_path / "e" / "train.log").read_text()
    assert "test (4 images)" in log
    assert "only images that have one: train 0 of 90, val 0 of 30, test 4 of 20" in log


def test_a_table_that_names_no_image_or_lacks_what_it_needs_is_refused(sets, model, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("file,label\nx/1.png,a\nx/2.png,b\n")
    bad = [
        ({}, "has no labels, and a probe needs some; give a table with labels=FILE.csv"),
        ({"labels": other}, "no row names an image of .*; column 'file' holds 'x/1.png' .*, the data 'train/site/"),
        ({"labels": other, "labels_column": "grade"}, "no column 'grade'; it has the columns file, label"),
        ({"labels": tmp_path / "x.txt"}, "does not end in .csv or .tsv"),
        ({"labels_column": "grade"}, "labels_column=grade is for a table of labels, and there is none"),
        ({"labels": other, "labels_kind": "sets"}, "labels_kind=sets is unknown"),
    ]
    for values, says in bad:
        with pytest.raises(InputError, match=says) as error:
            read_probe(config("probe", init=model, out=tmp_path / "out", data=sets["none"], **values))
        assert "\n" not in str(error.value)


def test_a_run_goes_on_with_the_labels_that_it_began_with(sets, model, tmp_path):
    table, out = tmp_path / "table.csv", str(tmp_path / "out")
    text = Path(sets["table"]).read_text()
    table.write_text(text)
    api.call("finetune", {"init": model, "out": out, "data": sets["none"], "labels": str(table), **TUNE})
    assert api.call("finetune", {"out": out, "resume": True, "steps": 4})["steps"] == 4
    table.write_text(text.replace("train/site/3.png", "train/site/4.png", 1).replace("blue", "red", 1))
    with pytest.raises(InputError, match=r"other data than the run began with: .* had labels"):
        api.call("finetune", {"out": out, "resume": True, "steps": 5})


def test_the_online_probe_looks_at_labelled_images_only(sets):
    index = open_index(sets["some"])
    data = ImageData(
        *(index,),
        **{"image_size": (16, 16), "mask_unit": None, "train_transform": None, "masks": (), "batch": 8},
        **{"micro_batch": 8, "steps": 1, "seed": 0, "workers": 0},
    )
    loader, count = data.whole_images("train", 20, labels=True)
    assert count == 20
    assert sum(len(batch.labels) for batch in loader) == 20
    assert data.whole_images("train", 999, labels=True)[1] == 45
    assert data.whole_images("val", 999, labels=True)[1] == 15
    assert data.whole_images("train", 999, labels=False)[1] == 90


def test_json_of_other_facts_is_no_label(tmp_path):
    facts = iter([{"label": 1}, {"caption": "a cat"}, {"label": None}, {"label": 0}])
    write_shards(tmp_path / "data", {"train": 4}, lambda *_: [("json", json.dumps(next(facts)).encode())])
    index = open_index(str(tmp_path / "data"), tmp_path / "cache")
    assert index.has_labels
    assert labelled_part(index).chosen["train"].tolist() == [0, 3]
