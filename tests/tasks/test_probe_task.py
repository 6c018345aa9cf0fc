"""`mimsuite probe`: what it refuses, measures, chooses, writes, and that its head gives the same figure again."""

import csv
import json
import math
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import as_json, write_shards
from hydra import compose, initialize_config_dir
from PIL import Image
from processes import run_two
from tables import read_rows

from mimsuite import api
from mimsuite.config.folder import conf_dir
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import pool_features
from mimsuite.evaluation.probes.saved_head import load_head
from mimsuite.metrics.scores import wilson_interval
from mimsuite.models import BitConfig, BitForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling
from mimsuite.models.load import config_of, load_encoder
from mimsuite.runs.reporting.facts import read_facts
from mimsuite.runs.reporting.tables import classes_of
from mimsuite.settings.probe import read_probe
from mimsuite.settings.views import choose_views, read_layers
from mimsuite.tasks.probe import report_settings
from mimsuite.weights.init import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = ViTConfig(**SIZES, image_size=16, patch_size=8, encoder_stride=8, hidden_dropout_prob=0.3)
SPLITS = {"train": 120, "test": 60}
QUICK = {"workers": 0, "baselines": False, "preset.epochs": 3, "batch": 32}
EVAL = {"workers": 0, "batch": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    ViTForMaskedImageModeling(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", SPLITS, contrast=12)


@pytest.fixture(scope="module")
def probed(model, shards, tmp_path_factory):
    """The folder of a run over two layers and three poolings, and its summary."""
    out = tmp_path_factory.mktemp("out") / "probe"
    keys = QUICK | {"layers": "all", "pool": ["mean", "cls", "both"], "shots": [1, 2]}
    return out, api.call("probe", {"init": str(model), "data": str(shards), "out": str(out), **keys})


def config(**values):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("probe", [f"{k}={v}" for k, v in values.items()])


def test_files_and_metrics(probed):
    out, summary = probed
    assert {p.name for p in out.iterdir()} >= {
        *("probe.csv", "probe.json", "probe.png", "confusion.csv", "confusion.png", "head.safetensors", "head.json"),
        *("summary.json", "config.yaml", "train.log"),
    }
    few = {f"shots{n}/{name}" for n in (1, 2) for name in ("top1", "top1_std")}
    assert set(summary["metrics"]) == {"knn/top1", "probe/top1"} | few
    assert summary["k"] == 20
    with Image.open(out / "probe.png") as picture:
        assert picture.width > picture.height


def test_table_holds_every_head_and_one_test_figure(probed):
    out, summary = probed
    rows = read_rows(out / "probe.csv")
    linear = [row for row in rows if row["probe"] == "linear"]
    assert len(linear) == 2 * 3 * 3 * 5
    assert all(0 <= float(row["held_out"]) <= 1 for row in linear)
    tested = [row for row in linear if row["test"]]
    assert [float(row["test"]) for row in tested] == [summary["metrics"]["probe/top1"]]
    assert float(tested[0]["held_out"]) == max(float(row["held_out"]) for row in linear)
    assert [tested[0][k] for k in ("layer", "pool", "norm")] == [str(summary[k]) for k in ("layer", "pool", "norm")]
    assert [int(row["k"]) for row in rows if row["probe"] == "knn"] == [1, 5, 10, 20]
    assert [int(row["shots"]) for row in rows if row["probe"] == "few-shot"] == [1, 2]


def test_confusion_counts_every_test_image_once(probed):
    out, summary = probed
    with (out / "confusion.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head[1:] == ["red", "green", "blue"]
    counts = np.array([row[1:] for row in rows], int)
    assert counts.sum(1).tolist() == [20, 20, 20]
    assert counts.trace() / 60 == summary["metrics"]["probe/top1"]


def fresh(folder, shards, *, pool=None, layer=None, mode="eval"):
    """Scores and labels of the test images by the saved head, the features computed here, step by step."""
    head, facts = load_head(folder)
    weights, index = find_weights(facts.init), open_data(str(shards))
    size = tuple(facts.image_size)
    encoder = load_encoder(weights, config_of(weights), size)
    encoder.train(mode == "train")
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (facts.mean, facts.std))
    (batch,) = eval_loader(index, "test", image_size=size, batch=60, workers=0, labels=True)
    with torch.inference_mode():
        maps = encoder.forward_layers((batch.images / facts.maximum - mean) / std, [layer or facts.layer])
    return head, pool_features(maps[0], pool or facts.pool), batch.labels


@pytest.fixture(scope="module")
def plain(model, shards, tmp_path_factory):
    """A run whose head takes the mean of the first layer, with LayerNorm."""
    out = tmp_path_factory.mktemp("plain") / "probe"
    keys = QUICK | {"layers": [1], "pool": "mean", "preset.norms": ["layernorm"]}
    return out, api.call("probe", {"init": str(model), "data": str(shards), "out": str(out), **keys})


def test_loaded_head_on_fresh_features_gives_the_reported_figure(probed, plain, shards):
    for out, summary in (probed, plain):
        head, x, labels = fresh(out, shards)
        right = (head.scores(x).argmax(1) == labels).double().mean()
        assert right == pytest.approx(summary["metrics"]["probe/top1"], abs=1e-9)
        assert right > 0.4


@pytest.mark.parametrize("change", [{"pool": "cls"}, {"layer": 2}, {"mode": "train"}, {"norm": False}])
def test_features_made_in_another_way_give_other_scores(change, plain, shards):
    """Pooling, layer, mode or normalisation of training and evaluation that differ are seen at once."""
    head, x, _ = fresh(plain[0], shards)
    other = {k: v for k, v in change.items() if k != "norm"}
    changed = head._replace(layernorm=change.get("norm", True))
    _, moved, _ = fresh(plain[0], shards, **other)
    difference = (changed.scores(moved) - head.scores(x)).abs().max()
    assert difference > 0.01
    assert torch.equal(fresh(plain[0], shards)[1], x)


def test_fresh_features_are_those_that_were_cached(plain, shards):
    """The very vectors but for float16, so that no other layer, pooling, mode or transform went in."""
    from mimsuite.data.storage import cache_folder

    _, x, _ = fresh(plain[0], shards)
    stored = [np.load(p) for p in (cache_folder() / "features").glob("*/layer-01-mean.npy")]
    assert any(s.shape == x.shape and np.allclose(s, x, rtol=1e-3, atol=1e-3) for s in stored)


def test_a_run_repeats_and_replaces_the_earlier_one(plain, model, shards):
    out, before = plain
    keys = QUICK | {"layers": [1], "pool": "mean", "preset.norms": ["layernorm"], "overwrite": True}
    assert api.call("probe", {"init": str(model), "data": str(shards), "out": str(out), **keys}) == before


def test_damaged_heads_are_refused(plain, tmp_path):
    with pytest.raises(InputError, match=r"holds no head\.json; give the folder that a probe wrote"):
        load_head(tmp_path)
    content = json.loads((plain[0] / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps(content | {"pool": "sum"}))
    with pytest.raises(InputError, match="names no known pooling, kind of labels or"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="cannot be read"):
        load_head(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "names"),
    [
        (as_json(lambda kind, random: [kind] if random.random() < 0.5 else [kind, (kind + 1) % 3]), {"map"}),
        (as_json(lambda kind, random: float(10 * kind + random.normal())), {"r2", "mae"}),
    ],
)
def test_label_sets_and_numbers(label, names, model, tmp_path):
    shards = write_shards(tmp_path / "shards", SPLITS, label, contrast=12)
    summary = api.call("probe", {"init": str(model), "data": str(shards), "out": str(tmp_path / "out"), **QUICK})
    assert set(summary["metrics"]) == {f"{probe}/{name}" for probe in ("knn", "probe") for name in names}
    assert not (tmp_path / "out" / "confusion.csv").exists()
    assert load_head(tmp_path / "out")[1].kind == ("multilabel" if "map" in names else "regression")


def some_whole(first, last):
    """Numbers of which the first so many and those from the last on are written as whole ones."""
    numbers = iter(range(1000))

    def make(kind, _):
        number = next(numbers)
        return kind if number < first or number >= last else kind + 0.25

    return as_json(make)


def test_numbers_may_be_whole_ones_in_a_batch_or_in_a_split(model, tmp_path):
    label = some_whole(first=64, last=SPLITS["train"])  # two batches of `train`, and all of `test`
    shards = write_shards(tmp_path / "shards", SPLITS, label, names=None, contrast=12)
    keys = QUICK | {"layers": [1], "pool": "mean"}
    summary = api.call("probe", {"init": str(model), "data": shards, "out": str(tmp_path / "out"), **keys})
    assert set(summary["metrics"]) == {"knn/r2", "knn/mae", "probe/r2", "probe/mae"}
    assert load_head(tmp_path / "out")[1].kind == "regression"
    again = api.call("evaluate", {"init": str(tmp_path / "out"), "data": shards, "out": str(tmp_path / "e"), **EVAL})
    assert again["metrics"]["test/r2"] == pytest.approx(summary["metrics"]["probe/r2"])
    api.embed(init=str(model), data=shards, out=str(tmp_path / "x.npz"), split="train", map=False, **EVAL)
    labels = np.load(tmp_path / "x.npz")["labels"]
    assert labels.shape == (SPLITS["train"], 1)
    assert set(labels.flatten().tolist()) == {0.0, 1.0, 2.0, 0.25, 1.25, 2.25}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_find_what_one_finds(plain, model, shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keys = QUICK | {"layers": [1], "pool": "mean", "preset.norms": "[layernorm]"}
    run_two("probe", init=model, data=shards, out=tmp_path / "out", **keys)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"] == plain[1]["metrics"]


BAD = [
    ({"layers": "[3]"}, r"layers=\[3\]: this encoder's layers are 1 to 2"),
    ({"layers": "first"}, "layers=first is unknown; layers takes last, middle, quarters, all"),
    ({"pool": "max"}, "pool=max is unknown; pool takes mean, cls, both"),
    ({"shots": "[1,41]"}, r"shots=41, but class 0 \(red\) has 40 training images; use 1 to 40"),
    ({"shots": "[0]"}, r"shots=\[0\] is not a list of whole numbers from 1"),
    ({"preset.lrs": "[0.1,-1]"}, r"preset.lrs=\[0.1, -1\] is not a list of numbers above 0"),
    ({"preset.norms": "[batch]"}, r"preset.norms=\['batch'\] is unknown"),
    ({"preset.optimizer": "adam"}, "preset.optimizer=adam is unknown; preset.optimizer takes newton, sgd, lars"),
    (
        {"preset.warmup": "10"},
        "preset.warmup=10 is not a number from 0 to below 10; use a number of epochs below preset.epochs",
    ),
    ({"preset.epochs": "0"}, "preset.epochs=0 is not a whole number"),
    ({"attentive": "1"}, "attentive=1 is not true or false"),
    ({"devices": "0"}, "devices=0 is not a whole number"),
]


@pytest.mark.parametrize(
    ("values", "message"), BAD, ids=[next(iter(values)) + str(i) for i, (values, _) in enumerate(BAD)]
)
def test_bad_values_are_refused_in_one_line(values, message, model, shards):
    with pytest.raises(InputError, match=message) as caught:
        read_probe(config(init=str(model), data=str(shards), out="x", **values))
    assert "\n" not in str(caught.value)


def test_shots_of_other_labels_than_classes_are_refused_before_features_are_computed(model, tmp_path):
    data = write_shards(tmp_path / "sets", SPLITS, as_json(lambda kind, _: [kind]))
    with pytest.raises(InputError, match=r"shots=\[1\] is for one class per image, and the labels are sets of labels"):
        read_probe(config(init=str(model), data=data, out="x", shots="[1]"))


def test_a_class_without_test_images_is_null_in_json(model, tmp_path):
    numbers = iter(range(1000))

    def label(kind, _):
        return [("cls", str(kind if next(numbers) < SPLITS["train"] else kind % 2).encode())]

    data = write_shards(tmp_path / "shards", SPLITS, label)
    api.probe(init=str(model), data=data, out=str(tmp_path / "out"), **QUICK, layers=[1], pool="mean")
    text = (tmp_path / "out" / "probe.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)["rows"][0]["linear"]["per_class"]
    assert [value is None for value in found] == [False, False, True]
    (tmp_path / "out" / "probe.json").write_text(text.replace("null", "NaN"))  # as 0.2.0 wrote it
    assert "blue" not in {name for name, _, _ in classes_of(read_facts(tmp_path / "out", "x"))}


def test_an_encoder_without_class_token_takes_the_mean(shards, tmp_path):
    small = BitConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_groups=4, encoder_stride=8)
    BitForMaskedImageModeling(small).save_pretrained(tmp_path)
    keys = {"init": str(tmp_path), "data": str(shards), "out": "x", "image_size": 16}
    assert read_probe(config(**keys)).views == ((1, "mean"), (2, "mean"))
    with pytest.raises(InputError, match="pool=cls, but layer 1 of this encoder has no class token; use pool=mean"):
        read_probe(config(**keys, pool="cls"))


@pytest.mark.parametrize(
    ("value", "layers"),
    [("last", [12]), ("middle", [6]), ("quarters", [3, 6, 9, 12]), ("all", list(range(1, 13))), ([9, 2], [2, 9])],
)
def test_layers_have_names(value, layers):
    assert read_layers(value, 12) == layers


def test_few_layers_are_few_quarters():
    assert [read_layers("quarters", n) for n in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_class_tokens_are_taken_where_they_are():
    tokens = [False, False, True]
    assert choose_views([1, 3], [], tokens, chosen=False) == ((1, "mean"), (3, "mean"), (3, "cls"))
    assert choose_views([1, 2, 3], ["cls"], tokens, chosen=False) == ((3, "cls"),)
    with pytest.raises(InputError, match="layer 1"):
        choose_views([1, 3], ["cls"], tokens, chosen=True)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("mae", {"norms": ("batchnorm",), "optimizer": "lars", "epochs": 90, "lrs": (0.1,), "batch": 16384}),
        ("simmim", {"optimizer": "newton"}),
        ("fast", {"norms": ("batchnorm", "layernorm", "none"), "epochs": 10}),
    ],
)
def test_presets(preset, expected, model, shards):
    settings = read_probe(config(init=str(model), data=str(shards), out="x", preset=preset))
    assert {k: getattr(settings.recipe, k) for k in expected} == expected
    both = {"mae": ((2, "mean"), (2, "cls")), "simmim": ((1, "mean"),)}
    assert settings.views == both.get(preset, ((1, "mean"), (1, "cls"), (2, "mean"), (2, "cls")))


def test_a_presets_value_can_be_changed_and_a_key_wins_over_it(model, shards):
    changes = {"preset": "mae", "preset.epochs": 30, "layers": "[1]", "pool": "both"}
    settings = read_probe(config(init=str(model), data=str(shards), out="x", **changes))
    assert (settings.recipe.epochs, settings.views, settings.knn_view) == (30, ((1, "both"),), (2, "both"))
    assert math.isclose(settings.recipe.warmup, 10)


@pytest.fixture(scope="module")
def only_train(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("only") / "shards", {"train": 180})


@pytest.mark.parametrize("split", ["auto", "train"])
def test_a_set_with_train_only_is_split_by_hash(split, model, only_train):
    settings = read_probe(config(init=str(model), data=str(only_train), out="x", split=split))
    learnt, reported = (set(settings.index.records(part).keys()) for part in (settings.train, settings.test))
    assert (len(learnt), len(reported), learnt & reported) == (164, 16, set())


@pytest.mark.parametrize(("splits", "instead"), [(("train", "test"), "test"), (("train", "val"), "val")])
def test_what_heads_learn_from_is_not_reported_on(splits, instead, model, tmp_path):
    data = write_shards(tmp_path / "s", dict.fromkeys(splits, 30))
    with pytest.raises(InputError, match=f"split=train: the heads learn from these images.*; use split={instead}"):
        read_probe(config(init=str(model), data=str(data), out="x", split="train"))


def test_a_probe_of_some_labels_says_that_pretraining_may_have_seen_its_images(model, only_train, caplog):
    """What is held out from the labelled images is not what pretraining held out from all."""
    caplog.set_level("INFO", logger="mimsuite")
    settings = read_probe(config(init=str(model), data=str(only_train), out="x"))
    some = replace(settings.index, chosen={"train": np.arange(0, 180, 10)}, totals={"train": 180})
    report_settings(replace(settings, index=some))
    assert "pretraining held out a part of all images, so it may have learned from these" in caplog.text
    assert "as in training" not in caplog.text


def test_a_probe_says_what_it_held_out_and_how_sure_it_is(model, only_train, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    before = os.umask(0o022)
    try:
        summary = api.call("probe", {"init": str(model), "data": str(only_train), "out": str(tmp_path / "p"), **QUICK})
    finally:
        os.umask(before)
    assert "fit on the rest of train (164), report on held out from train (16)" in caplog.text
    assert "a part of it is held out by a hash of the keys" in caplog.text
    assert "which was measured on 16 images" in caplog.text
    accuracy = summary["metrics"]["probe/top1"]
    low, high = wilson_interval(accuracy, 16)
    assert f"{accuracy:.3f}    {low:.3f}-{high:.3f}" in caplog.text
    (tested,) = [row for row in read_rows(tmp_path / "p/probe.csv") if row["probe"] == "linear" and row["test"]]
    assert (float(tested["low"]), float(tested["high"])) == pytest.approx((low, high))
    content = json.loads((tmp_path / "p/probe.json").read_text())
    assert content["images"] == 16
    assert content["rows"][0]["linear"]["interval"] == pytest.approx([low, high])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "p").iterdir() if path.is_file()}
    assert {name for name, mode in modes.items() if mode != 0o644} <= {".lock"}


def test_evaluating_a_probe_takes_the_same_images(model, only_train, tmp_path, caplog):
    probe, out = str(tmp_path / "p"), str(tmp_path / "e")
    first = api.call("probe", {"init": str(model), "data": str(only_train), "out": probe, **QUICK})
    again = api.call("evaluate", {"init": probe, "data": str(only_train), "out": out, "workers": 0})
    assert again["metrics"]["held_out/top1"] == first["metrics"]["probe/top1"]
    assert "split=train" not in caplog.text
    api.call("evaluate", {"init": probe, "data": str(only_train), "out": out + "2", "workers": 0, "split": "train"})
    assert "split=train: metrics of images that the model was trained on say nothing about new ones" in caplog.text


def test_a_probe_says_that_it_reports_on_training_images(model, tmp_path, caplog):
    data = Path(write_shards(tmp_path / "shards", {"train": 30, "val": 20}, contrast=12))
    with tarfile.open(data / "train-000000.tar") as source, tarfile.open(data / "val-000000.tar", "w") as copy:
        for member in source.getmembers()[:40]:
            content = source.extractfile(member)
            member.name = f"copy{member.name}"
            copy.addfile(member, content)
    api.call("probe", {"init": str(model), "data": str(data), "out": str(tmp_path / "out"), **QUICK})
    assert "20 images of val have the same bytes as a training image, which overestimates the accuracy" in caplog.text
