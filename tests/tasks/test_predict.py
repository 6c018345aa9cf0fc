"""`mimsuite predict`: a table of what a classifier says of images, which joins back to the user's own."""

import csv
import io

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tables import read_rows

import mimsuite
from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTImageProcessor

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {"image_size": 16, "patch_size": 8}
NAMES = ("ant", "bee", "cat")
FILES = [f"plate_{n % 2}/well.{n}/site 1.png" for n in range(16)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of many colours without labels."""
    folder, random = tmp_path_factory.mktemp("photos") / "new", np.random.default_rng(0)
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        colour = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colour.repeat(4, 0).repeat(4, 1)).save(folder / file)
    return folder


@pytest.fixture
def classifier(photos, tmp_path):
    """A function: a Hugging Face folder of a classifier with these outputs; the folder and the model."""

    def make(problem, names=NAMES):
        torch.manual_seed(0)
        config = ViTConfig(**SIZES, num_labels=len(names), id2label=dict(enumerate(names)), problem_type=problem)
        model = ViTForImageClassification(config).eval()
        with torch.no_grad():
            model.classifier.weight.mul_(100)
            model.classifier.bias.sub_(logits_of(model, photos, FILES).mean(0))  # about half of the images have each
        model.save_pretrained(tmp_path / "model")
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return make


def logits_of(model, photos, files):
    pixels = np.stack([np.asarray(Image.open(photos / file)) for file in files]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return model(torch.from_numpy(pixels / 127.5 - 1).float(), return_dict=True).logits


def predict(photos, out, init, **more):
    return mimsuite.predict(init=init, data=str(photos), out=str(out), workers=0, **more)


def test_each_image_has_its_path_its_classes_and_their_probabilities(photos, classifier, tmp_path):
    init, model = classifier("single_label_classification")
    found = predict(photos, tmp_path / "x.csv", init, top=2, every_class=True)
    rows = read_rows(tmp_path / "x.csv")
    assert (found["samples"], found["split"], found["classes"]) == (16, "all", list(NAMES))
    assert list(rows[0]) == [
        *("key", "file", "class", "probability", "class_2", "probability_2"),
        *(f"probability_{name}" for name in NAMES),
    ]
    assert sorted(row["file"] for row in rows) == sorted(FILES)
    probabilities = logits_of(model, photos, [row["file"] for row in rows]).softmax(1)
    for row, own in zip(rows, probabilities, strict=True):
        first, second = own.argsort(descending=True)[:2].tolist()
        assert (row["class"], row["class_2"]) == (NAMES[first], NAMES[second])
        assert float(row["probability"]) == pytest.approx(float(own[first]), rel=1e-4)
        assert [float(row[f"probability_{name}"]) for name in NAMES] == pytest.approx(own.tolist(), rel=1e-4, abs=1e-6)
    predict(photos, tmp_path / "x.parquet", init)
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["key", "file", "class", "probability"]
    assert table["class"].to_pylist() == [row["class"] for row in rows]
    assert len({row["class"] for row in rows}) > 1


def test_label_sets_are_named_with_none_for_no_finding_and_can_be_labels_again(photos, classifier, tmp_path):
    init, model = classifier("multi_label_classification")
    predict(photos, tmp_path / "x.csv", init)
    rows = read_rows(tmp_path / "x.csv")
    probabilities = logits_of(model, photos, [row["file"] for row in rows]).sigmoid()
    expected = ["|".join(NAMES[n] for n in range(3) if own[n] >= 0.5) or "none" for own in probabilities.tolist()]
    assert [row["labels"] for row in rows] == expected
    assert [row["class"] for row in rows] == [NAMES[n] for n in probabilities.argmax(1).tolist()]
    keys = {"labels": str(tmp_path / "x.csv"), "labels_column": "labels", "labels_kind": "multilabel"}
    mimsuite.pack(src=str(photos), out=str(tmp_path / "again"), **keys)
    again = mimsuite.evaluate(init=init, data=str(tmp_path / "again"), out=str(tmp_path / "e"), split="train")
    assert again["metrics"]["train/map"] == 1.0


def test_numbers_are_one_column(photos, classifier, tmp_path):
    init, model = classifier("regression", ("LABEL_0",))
    predict(photos, tmp_path / "x.csv", init)
    rows = read_rows(tmp_path / "x.csv")
    assert list(rows[0]) == ["key", "file", "value"]
    expected = logits_of(model, photos, [row["file"] for row in rows])[:, 0].tolist()
    assert [float(row["value"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match=r"top=3 is for classes, and init=.* predicts a number; remove it"):
        predict(photos, tmp_path / "y.csv", init, top=3)


def test_one_image_and_a_split_of_labelled_shards_are_predicted(photos, classifier, tmp_path):
    init, _ = classifier(None)
    assert predict(photos / FILES[0], tmp_path / "one.csv", init)["samples"] == 1
    assert read_rows(tmp_path / "one.csv")[0]["file"] == "site 1.png"
    mimsuite.pack(src=str(photos), out=str(tmp_path / "shards"), val_fraction=0.4)
    found = predict(tmp_path / "shards", tmp_path / "val.csv", init, split="auto")
    assert (found["split"], found["samples"]) == ("val", len(read_rows(tmp_path / "val.csv")))
    assert "split" not in read_rows(tmp_path / "val.csv")[0]


def test_a_probe_predicts_what_it_is_evaluated_by(photos, classifier, tmp_path):
    init, _ = classifier("single_label_classification")
    labels = io.StringIO()
    csv.writer(labels).writerows([("file", "label"), *((file, NAMES[n % 2]) for n, file in enumerate(FILES))])
    (tmp_path / "l.csv").write_text(labels.getvalue())
    mimsuite.pack(src=str(photos), out=str(tmp_path / "s"), labels=str(tmp_path / "l.csv"), val_fraction=0.4)
    quick = {"workers": 0, "baselines": False, "preset.epochs": 2, "layers": "last", "pool": "mean"}
    api.call("probe", {"init": init, "data": str(tmp_path / "s"), "out": str(tmp_path / "probe"), **quick})
    mimsuite.evaluate(init=str(tmp_path / "probe"), data=str(tmp_path / "s"), out=str(tmp_path / "e"))
    predict(photos, tmp_path / "x.csv", str(tmp_path / "probe"))
    said = {row["file"]: (row["class"], float(row["probability"])) for row in read_rows(tmp_path / "x.csv")}
    judged = read_rows(tmp_path / "e" / "predictions.csv")
    assert judged
    for row in judged:
        assert said[row["file"]] == (row["predicted"], pytest.approx(float(row["probability_of_predicted"]), rel=1e-4))


def test_what_cannot_predict_classes_is_refused_before_anything_is_written(photos, classifier, tmp_path):
    init, _ = classifier("single_label_classification")
    ViTForMaskedImageModeling(ViTConfig(**SIZES, encoder_stride=8)).save_pretrained(tmp_path / "masked")
    bad = [
        ({"init": str(tmp_path / "masked")}, "predicts pixels, not classes; train a classifier with `mimsuite probe`"),
        ({"out": "x.txt"}, "does not end in .csv, .parquet"),
        ({"top": 0}, "top=0 is not a whole number of at least 1"),
        ({"split": "dev"}, "split=dev is not in"),
    ]
    for values, says in bad:
        keys = {"init": init, "out": "x.csv"} | values
        with pytest.raises(InputError, match=says) as error:
            predict(photos, tmp_path / keys.pop("out"), keys.pop("init"), **keys)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("x.*"))
