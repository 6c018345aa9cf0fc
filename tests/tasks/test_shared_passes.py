"""`evaluate` and `embed` in two processes: the metrics, files and features of one, to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import NAMES, write_shards
from processes import start, start_two

from mimsuite import api
from mimsuite.data.index import Selection
from mimsuite.data.open import open_data
from mimsuite.models import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {"batch": 5, "workers": 0}
BROKEN = 9  # the last image of the first process: that of the second one stands in for it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """23 images to evaluate on, in five batches, of which one process has two and the other three; one is broken."""
    folder = write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 4, "test": 23}, side=32)
    shard, row = open_data(folder).records(Selection("test"))[BROKEN]
    with Path(shard.path).open("r+b") as file:
        file.seek(int(row["image_offset"]))
        file.write(b"x" * int(row["image_size"]))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A masked image model and a classifier."""
    torch.manual_seed(0)
    size, made = {"image_size": 32, "patch_size": 8}, {}
    for name, model in (
        ("masked", ViTForMaskedImageModeling(ViTConfig(**SIZES, **size, encoder_stride=8))),
        ("classifier", ViTForImageClassification(ViTConfig(**SIZES, **size, id2label=dict(enumerate(NAMES))))),
    ):
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        made[name] = str(folder)
    return made


@pytest.fixture(scope="module")
def two(models, data, tmp_path_factory):
    """What two processes made, all at once: a summary of each model, and where the features are."""
    folder = tmp_path_factory.mktemp("two")
    tasks = {
        name: start_two("evaluate", init=init, data=data, out=folder / name, **WORDS) for name, init in models.items()
    }
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    embed = {"init": models["masked"], "data": data, "out": folder / "x.npz", "map": "false"}
    tasks["embed"] = [start("embed", env=cache, devices=2, **embed, **WORDS)]
    for name, started in tasks.items():
        for code, text in [task.finish(200) for task in started]:
            assert code == 0, (name, text)
    assert len(list((folder / "cache" / "mimsuite" / "features").iterdir())) == 1
    return folder


@pytest.mark.parametrize("name", ["masked", "classifier"])
def test_two_processes_give_the_metrics_and_files_of_one(name, models, data, two, tmp_path):
    one = api.evaluate(init=models[name], data=data, out=str(tmp_path / "one"), **WORDS)
    assert json.loads((two / name / "summary.json").read_text()) == one
    assert one["images"] == (22 if name == "classifier" else 23)
    for file in ("predictions.csv", "per_class.csv", "confusion.csv"):
        if name == "classifier":
            assert (two / name / file).read_text() == (tmp_path / "one" / file).read_text()
    assert json.loads((two / name / "environment.json").read_text())["processes"] == 2


def test_two_processes_give_the_features_of_one(models, data, two, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    api.embed(init=models["masked"], data=data, out=str(tmp_path / "x.npz"), map=False, **WORDS)
    one, other = np.load(tmp_path / "x.npz"), np.load(two / "x.npz")
    assert one.files == other.files
    for name in one.files:
        assert np.array_equal(one[name], other[name]), name
    assert len(one["keys"]) == 22
