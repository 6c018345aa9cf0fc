"""`mimsuite evaluate`: what it takes, what it refuses, and that its figures are those of the runs it looks at."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import NAMES, as_json, write_shards
from omegaconf import OmegaConf
from PIL import Image
from tables import read_rows
from torch.nn import functional as F

from mimsuite import api
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import pool_features
from mimsuite.evaluation.judging import report
from mimsuite.evaluation.probes.saved_head import load_head
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.samplers import RandomMask
from mimsuite.metrics.psnr import visible_mean_loss
from mimsuite.models import (
    BitConfig,
    BitForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)
from mimsuite.models.load import config_of, load_encoder, load_masked_model, load_normalizer
from mimsuite.settings.trained import is_masked
from mimsuite.weights.init import Weights, find_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
COUNT = 30
PICTURES = {"splits": dict.fromkeys(("train", "val", "test"), COUNT), "side": 32, "contrast": 12}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", **PICTURES)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A function that writes a classifier as a Hugging Face folder, and says where."""

    def save(names=NAMES, family="vit", **options):
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        labels = {"num_labels": names} if isinstance(names, int) else {"id2label": dict(enumerate(names))}
        if family == "vit":
            config = ViTConfig(**SIZES, image_size=32, patch_size=8, initializer_range=0.5, **labels, **options)
            model = ViTForImageClassification(config)
        else:
            model = BitForImageClassification(
                BitConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_groups=4, **labels, **options)
            )
        model.save_pretrained(folder)
        size = {"height": 32, "width": 32}
        ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="module")
def vit(classifier):
    return classifier()


def evaluate(out, **values):
    return api.evaluate(out=str(out), workers=0, **values)


def logits_of(init, data, split="test", size=None):
    """The model's outputs and the labels, computed here, step by step."""
    model = api.load(init)
    (batch,) = eval_loader(open_data(data), split, image_size=size or (32, 32), batch=99, workers=0, labels=True)
    with torch.no_grad():
        if size:
            model.encoder.set_image_size(size)
        return model((batch.images / 255 - 0.4) / 0.2).logits, batch.labels


# --- classifiers ---------------------------------------------------------------------------------------------------


def test_figures_files_and_names(vit, shards, tmp_path):
    summary = evaluate(tmp_path / "out", init=vit, data=shards, batch=7, mistakes=5)
    logits, labels = logits_of(vit, shards)
    wrong = int((logits.argmax(1) != labels).sum())
    assert summary["metrics"] == {
        "test/top1": pytest.approx(1 - wrong / COUNT),
        "test/loss": pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5),
    }
    assert (summary["images"], summary["mistakes"], summary["split"]) == (COUNT, wrong, "test")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert {p.name for p in (tmp_path / "out").iterdir()} - {".lock"} == {
        *("config.yaml", "overrides.txt", "environment.json", "summary.json", "train.log"),
        *("predictions.csv", "per_class.csv", "confusion.csv", "confusion.png", "mistakes.png"),
    }
    predictions = read_rows(tmp_path / "out" / "predictions.csv")
    assert [r["predicted"] for r in predictions] == [NAMES[n] for n in logits.argmax(1).tolist()]
    assert [r["key"] for r in predictions] == [f"test{i:02d}" for i in range(COUNT)]
    assert [(r["class"], r["images"]) for r in read_rows(tmp_path / "out" / "per_class.csv")] == [
        (n, "10") for n in NAMES
    ]
    with Image.open(tmp_path / "out" / "mistakes.png") as sheet:
        assert sheet.width == 2 * 16 + 5 * 192 + 4 * 14


def test_other_images_are_looked_at_where_the_split_is_named(vit, shards, tmp_path):
    summary = evaluate(tmp_path / "out", init=vit, data=shards, split="val", mistakes=0)
    logits, labels = logits_of(vit, shards, "val")
    assert summary["metrics"]["val/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert not (tmp_path / "out" / "mistakes.png").exists()


def test_several_sizes_give_a_row_each_and_each_starts_from_the_weights(vit, shards, tmp_path):
    sizes = [48, 32, 64]
    summary = evaluate(tmp_path / "out", init=vit, data=shards, image_size=sizes)
    expected = []
    for size in sizes:
        logits, labels = logits_of(vit, shards, size=(size, size))
        expected.append(pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5))
    assert [row["loss"] for row in summary["sizes"]] == expected
    assert summary["metrics"]["test/loss"] == expected[0]
    assert [(r["height"], r["width"]) for r in read_rows(tmp_path / "out" / "sizes.csv")] == [
        (str(s), str(s)) for s in sizes
    ]


def test_two_numbers_are_height_and_width_and_two_lists_two_sizes(classifier, shards, tmp_path):
    bit = classifier(family="bit")
    one = evaluate(tmp_path / "one", init=bit, data=shards, image_size=[32, 48], mistakes=0)
    assert (one["image_size"], "sizes" in one) == ([32, 48], False)
    two = evaluate(tmp_path / "two", init=bit, data=shards, image_size=[[32, 48], 32], mistakes=0)
    assert [row["image_size"] for row in two["sizes"]] == [[32, 48], [32, 32]]
    assert two["sizes"][0]["loss"] == one["metrics"]["test/loss"]


def test_mirrored_images_are_averaged_by_probability(vit, shards, tmp_path):
    summary = evaluate(tmp_path / "out", init=vit, data=shards, flip=True, mistakes=0)
    model = api.load(vit)
    (batch,) = eval_loader(open_data(shards), "test", image_size=(32, 32), batch=99, workers=0, labels=True)
    pixels = (batch.images / 255 - 0.4) / 0.2
    with torch.no_grad():
        mean = (model(pixels).logits.softmax(1) + model(pixels.flip(3)).logits.softmax(1)) / 2
    assert summary["metrics"]["test/loss"] == pytest.approx(float(F.nll_loss(mean.log(), batch.labels)), rel=1e-5)


def test_classes_in_another_order_are_found_by_name_and_others_by_number(vit, classifier, shards, tmp_path, caplog):
    caplog.set_level("INFO", "mimsuite")
    plain = evaluate(tmp_path / "plain", init=vit, data=shards, mistakes=0)["metrics"]
    assert not any("matched" in r.getMessage() for r in caplog.records)
    order = ("blue", "red", "green")
    assert evaluate(tmp_path / "a", init=classifier(order), data=shards, mistakes=0)["metrics"] != plain
    assert "matched by name; the data has them in another order" in caplog.text
    logits, _ = logits_of(vit, shards)  # the same numbers come out of every classifier made here
    predicted = [order[n] for n in logits.argmax(1).tolist()]
    assert [r["predicted"] for r in read_rows(tmp_path / "a" / "predictions.csv")] == predicted
    assert evaluate(tmp_path / "b", init=classifier(3), data=shards, mistakes=0)["metrics"] == plain
    assert "matched by number; the model has no names for them" in caplog.text


def test_the_picture_of_mistakes_says_which_channels_it_shows(tmp_path, monkeypatch):
    draw, said = np.random.default_rng(0), []
    with tarfile.open(tmp_path / "test-000000.tar", "w") as archive:
        for number in range(6):
            picture = io.BytesIO()
            np.save(picture, draw.integers(0, 256, (32, 32, 5), dtype=np.uint8))
            for ending, content in (("npy", picture.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, num_channels=5, num_labels=2))
    model.save_pretrained(tmp_path / "model")
    true = report.mistakes_sheet
    monkeypatch.setattr(report, "mistakes_sheet", lambda *a: said.append(a[3]) or true(*a))
    evaluate(tmp_path / "out", init=str(tmp_path / "model"), data=str(tmp_path / "test-000000.tar"))
    assert said[0].endswith("gives it; channels 0, 1, 2 of 5 as red, green, blue")


@pytest.mark.parametrize(
    ("label", "options", "names"),
    [
        (
            as_json(lambda kind, _: [kind] if kind else [0, 2]),
            {"problem_type": "multi_label_classification"},
            {"test/map", "test/loss"},
        ),
        (as_json(lambda kind, _: 1.5 * kind), {"names": 1}, {"test/r2", "test/mae", "test/loss"}),
    ],
    ids=["sets", "numbers"],
)
def test_label_sets_and_numbers(label, options, names, classifier, tmp_path):
    init = classifier(**options)
    data = write_shards(tmp_path / "shards", label=label, **PICTURES)
    summary = evaluate(tmp_path / "out", init=init, data=data)
    logits, labels = logits_of(init, data)
    loss = F.mse_loss if "test/r2" in names else F.binary_cross_entropy_with_logits
    assert set(summary["metrics"]) == names
    assert summary["metrics"]["test/loss"] == pytest.approx(float(loss(logits, labels)), rel=1e-5)
    assert not (tmp_path / "out" / "confusion.csv").exists()
    assert (tmp_path / "out" / "per_class.csv").exists() == ("test/map" in names)
    assert (tmp_path / "out" / "mistakes.png").exists()


# --- probes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": 2}
    ViTForMaskedImageModeling(ViTConfig(**sizes, image_size=32, patch_size=8, encoder_stride=8)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def probe(masked, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out"
    quick = {"workers": 0, "baselines": False, "preset.epochs": 3, "preset.norms": ["layernorm"]}
    return str(out), api.probe(init=masked, data=shards, out=str(out), layers=[1], pool="both", **quick)


def test_a_probe_gives_its_own_figures_again(probe, shards, tmp_path):
    summary = evaluate(tmp_path / "out", init=probe[0], data=shards)
    own = probe[1]["metrics"]
    assert summary["metrics"]["test/top1"] == own["probe/top1"]
    assert (tmp_path / "out" / "confusion.csv").read_text() == (Path(probe[0]) / "confusion.csv").read_text()


def test_a_probe_s_features_are_rounded_as_those_it_was_made_of(probe, masked, shards, tmp_path):
    found = evaluate(tmp_path / "out", init=probe[0], data=shards, mistakes=0)["metrics"]["test/loss"]
    head, facts = load_head(Path(probe[0]))
    encoder = load_encoder(find_weights(masked), config_of(find_weights(masked)), (32, 32))
    (batch,) = eval_loader(open_data(shards), "test", image_size=(32, 32), batch=99, workers=0, labels=True)
    with torch.no_grad():
        (features,) = encoder.forward_layers(Normalize(facts.mean, facts.std)(batch.images), [1])
        views = pool_features(features, "both").half(), pool_features(features, "both")
    rounded, exact = (float(F.cross_entropy(head.scores(x), batch.labels)) for x in views)
    assert found == pytest.approx(rounded, abs=1e-10)
    assert abs(found - exact) > 1e-8


def test_a_probe_whose_encoder_is_gone_is_refused(probe, shards, tmp_path):
    moved = shutil.copytree(probe[0], tmp_path / "probe")
    facts = json.loads((moved / "head.json").read_text())
    (moved / "head.json").write_text(json.dumps(facts | {"init": "/nowhere"}))
    with pytest.raises(InputError, match="is a probe whose encoder is not where it was: init=/nowhere does not exist"):
        evaluate(tmp_path / "out", init=str(moved), data=shards)


def test_a_probe_whose_encoder_was_trained_on_is_refused_and_nothing_is_lost(probe, shards, tmp_path):
    moved, encoder = shutil.copytree(probe[0], tmp_path / "probe"), tmp_path / "encoder"
    facts = json.loads((moved / "head.json").read_text())
    shutil.copytree(facts["init"], encoder)
    (moved / "head.json").write_text(json.dumps(facts | {"init": str(encoder)}))
    before = evaluate(tmp_path / "out", init=str(moved), data=shards)["metrics"]
    torch.manual_seed(1)
    ViTForMaskedImageModeling(config_of(find_weights(str(encoder)))).save_pretrained(encoder)
    with pytest.raises(InputError, match=r"is a probe of .*encoder, whose weights have changed since: .*run the probe"):
        evaluate(tmp_path / "out", init=str(moved), data=shards, overwrite=True)
    with pytest.raises(InputError, match="whose weights have changed since"):
        api.predict(init=str(moved), data=shards, out=str(tmp_path / "p.csv"), workers=0)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"] == before
    facts.pop("weights")  # as a probe of an earlier version
    (moved / "head.json").write_text(json.dumps(facts | {"init": str(encoder)}))
    evaluate(tmp_path / "out", init=str(moved), data=shards, overwrite=True)


# --- pretraining runs ----------------------------------------------------------------------------------------------

RUN = {"model": "vit_nano", "batch": 10, "steps": 1, "image_size": 32, "model.patch_size": 8, "val_every": 1}


@pytest.fixture(scope="module")
def pretrained(shards, tmp_path_factory):
    """A run that validates in batches of 5 under masks that hide from a quarter to three quarters, and its summary."""
    out = tmp_path_factory.mktemp("run") / "run"
    masks = {"mask.ratio": [0.25, 0.75], "mask.unit": 8, "objective.loss": "smooth_l1", "micro_batch": 5}
    return str(out), api.pretrain(data=shards, out=str(out), workers=0, precision="32-true", **RUN, **masks)


@pytest.mark.slow
def test_a_run_gives_its_own_validation_again(pretrained, shards, tmp_path):
    run, own = pretrained[0], pretrained[1]["metrics"]
    summary = evaluate(tmp_path / "out", init=run, data=shards, split="val")
    assert summary["metrics"] == {
        name: pytest.approx(own[name], abs=1e-6) for name in ("val/loss", "val/psnr", "val/loss_mean_colour")
    }
    assert summary["mask"]["ratio"] == [0.25, 0.75]
    written = OmegaConf.load(tmp_path / "out" / "config.yaml")
    assert (written.mask.ratio, written.mask.unit) == ([0.25, 0.75], 8)


@pytest.mark.slow
def test_a_run_without_weights_is_read_from_its_checkpoint(pretrained, shards, tmp_path):
    run = shutil.copytree(pretrained[0], tmp_path / "run")
    shutil.rmtree(run / "weights")
    summary = evaluate(tmp_path / "out", init=str(run), data=shards, split="val")
    assert summary["metrics"]["val/loss"] == pytest.approx(pretrained[1]["metrics"]["val/loss"], abs=1e-6)


def test_a_checkpoint_that_names_no_class_is_a_masked_image_model_s():
    assert is_masked(Weights("old", None, Path("step_000001.ckpt"), {"model_type": "vit"}, {}))


@pytest.mark.slow
def test_the_command_line_changes_the_masks_of_a_run(pretrained, shards, tmp_path):
    run = pretrained[0]
    one = evaluate(tmp_path / "a", init=run, data=shards, **{"mask.ratio": 0.5})["mask"]
    assert (one["_target_"], one["ratio"], one["unit"]) == ("mimsuite.masked.samplers.RandomMask", 0.5, 8)
    other = evaluate(tmp_path / "b", init=run, data=shards, **{"mask": "grid", "mask.unit": 16})["mask"]
    assert (other["_target_"], other["ratio"], other["unit"]) == ("mimsuite.masked.samplers.GridMask", 0.75, 16)


def test_masked_weights_alone_take_the_masks_of_the_config_and_any_size(masked, shards, tmp_path):
    summary = evaluate(tmp_path / "out", init=masked, data=shards, image_size=[48, 32, 64])
    assert set(summary["metrics"]) == {"test/loss", "test/psnr", "test/loss_mean_colour"}
    weights = find_weights(masked)
    index, normalize = open_data(shards), load_normalizer(weights)
    assert [row["image_size"] for row in summary["sizes"]] == [[48, 48], [32, 32], [64, 64]]
    for row in summary["sizes"]:
        size = tuple(row["image_size"])
        model = load_masked_model(weights, config_of(weights), size)
        loader = eval_loader(
            index, "test", image_size=size, batch=99, workers=0, labels=False, mask=RandomMask(0.6), mask_unit=8
        )
        (batch,) = loader
        pixels = normalize(batch.images)
        with torch.no_grad():
            assert row["loss"] == pytest.approx(float(model.predict(pixels, batch.mask)[0]), rel=1e-5)
        assert row["loss_mean_colour"] == pytest.approx(float(visible_mean_loss(pixels, batch.mask)), rel=1e-5)


def test_a_run_on_training_images_alone_is_judged_on_those_it_held_out(masked, shards, tmp_path):
    (tmp_path / "shards").mkdir()
    shutil.copy(Path(shards) / "train-000000.tar", tmp_path / "shards")
    summary = evaluate(tmp_path / "out", init=masked, data=str(tmp_path / "shards"))
    assert summary["images"] == 3  # a tenth
    assert "held_out/loss" in summary["metrics"]


# --- what is refused -----------------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused_in_one_line_and_writes_nothing(vit, classifier, masked, shards, tmp_path):
    ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)).save_pretrained(tmp_path / "bare")
    bare = write_shards(tmp_path / "bare-shards", label=lambda *_: [], **PICTURES)
    bad = [
        ({"init": str(tmp_path / "bare")}, r"is an encoder without a classifier or decoder \(ViTModel\); train one wi"),
        ({"init": classifier(5)}, "has 5 outputs, but data=.* has 3 classes; use other data"),
        ({"data": bare}, "has no labels, and the evaluation of a classifier needs some"),
        ({"split": "dev"}, "split=dev is not in .*; it has train, val, test"),
        ({"image_size": 33}, "image height 33 is not a multiple of the model's stride 8; use image_size=32 or 40"),
        ({"image_size": [32, 64, 32]}, "names a size twice"),
        ({"image_size": [32, 0, 64]}, "image_size=0 is not a size"),
        ({"init": classifier(0)}, "has num_labels=0, so no classifier"),
        ({"init": classifier(num_channels=4)}, "takes 4 channels but the images have 3"),
        ({"init": masked, "flip": True}, "flip=true is for classifiers"),
        ({"init": masked, "mistakes": 5}, "mistakes= is for classifiers, and init=.* predicts pixels; remove it"),
        ({"mask.ratio": 0.5}, "mask= is for masked image models, and init=.* is a classifier; remove it"),
        ({"init": masked, "mask": "none"}, "mask=none hides nothing"),
        ({"init": masked, "mask": "none", "mask._target_": "mimsuite.masking.NoMask"}, "mask=none hides nothing"),
        ({"init": masked, "mask.unit": 12}, "mask.unit 12 is not a multiple"),
        ({"mistakes": -1}, "mistakes=-1 is not a whole number of at least 0"),
        ({"flip": 2}, "flip=2 is not true or false"),
        ({"batch": 0}, "batch=0 is not a whole number"),
    ]
    for values, message in bad:
        with pytest.raises(InputError, match=message) as error:
            evaluate(tmp_path / "out", **{"init": vit, "data": shards} | values)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_relative_positions_keep_their_size(classifier, shards, tmp_path):
    init = classifier(use_shared_relative_position_bias=True, use_absolute_position_embeddings=False)
    with pytest.raises(InputError, match="image_size=48: relative positions cannot be resized; use image_size=32"):
        evaluate(tmp_path / "out", init=init, data=shards, image_size=48)


@pytest.mark.slow
def test_what_is_evaluated_is_not_overwritten(pretrained, shards, tmp_path):
    run = shutil.copytree(pretrained[0], tmp_path / "run")
    before = sorted(p.name for p in run.rglob("*"))
    for init in (run, run / "weights"):
        with pytest.raises(InputError, match="which it would replace; use another out="):
            evaluate(run, init=str(init), data=shards, overwrite=True)
    assert sorted(p.name for p in run.rglob("*")) == before


def test_a_full_folder_is_refused_and_replaced_where_that_is_asked_for(vit, shards, tmp_path):
    evaluate(tmp_path / "out", init=vit, data=shards, image_size=[32, 48, 64], mistakes=0)
    with pytest.raises(InputError, match="is not empty"):
        evaluate(tmp_path / "out", init=vit, data=shards)
    evaluate(tmp_path / "out", init=vit, data=shards, overwrite=True, mistakes=0)
    assert not (tmp_path / "out" / "sizes.csv").exists()


@pytest.mark.slow
def test_a_damaged_config_of_a_run_is_refused(pretrained, shards, tmp_path):
    run = shutil.copytree(pretrained[0], tmp_path / "run")
    (run / "config.yaml").write_text("mask: [")
    with pytest.raises(InputError, match=r"config.yaml cannot be read \(.*\); fix it, or use init=.*weights") as e:
        evaluate(tmp_path / "out", init=str(run), data=shards)
    assert "\n" not in str(e.value)


def test_16_bit_images_are_scaled_by_their_own_maximum(vit, masked, shards, tmp_path):
    import tifffile

    data = tmp_path / "deep"
    data.mkdir()
    with tarfile.open(Path(shards) / "test-000000.tar") as source, tarfile.open(data / "test-000000.tar", "w") as out:
        for member in source:
            content = source.extractfile(member).read()
            if member.name.endswith("png"):
                stream = io.BytesIO()
                pixels = np.asarray(Image.open(io.BytesIO(content))).astype(np.uint16) * 257
                tifffile.imwrite(stream, pixels, photometric="rgb")
                content = stream.getvalue()
            copy = tarfile.TarInfo(member.name.replace("png", "tif"))
            copy.size = len(content)
            out.addfile(copy, io.BytesIO(content))
    (data / "classes.txt").write_text("\n".join(NAMES))
    assert open_data(str(data)).dtype == "uint16"
    for init in (vit, masked):
        plain, deep = (evaluate(tmp_path / "out", init=init, data=d, overwrite=True) for d in (shards, str(data)))
        assert deep["metrics"]["test/loss"] == pytest.approx(plain["metrics"]["test/loss"], rel=1e-4)
