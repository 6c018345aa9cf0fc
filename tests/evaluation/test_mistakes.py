"""The picture of the worst mistakes, and what decides which those are."""

import io
import tarfile

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tables import read_rows

from mimsuite.data.open import open_index
from mimsuite.errors import InputError
from mimsuite.evaluation.judging import report
from mimsuite.evaluation.judging.classifier import Evaluation, read_predictions
from mimsuite.evaluation.judging.report import (
    COLUMNS,
    caption_of,
    choose_worst,
    images_of,
    write_predictions,
    write_report,
)
from mimsuite.metrics.scores import scores_of
from mimsuite.pictures.mistakes import Caption, mistakes_sheet
from mimsuite.words import LABEL_KINDS

NAMES = ["cat", "dog", "cow"]


FILES = ["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"]


def evaluated(scores, labels, kind):
    return Evaluation(
        scores_of(scores, labels, kind),
        torch.arange(len(labels)) + 10,
        [f"k{i}" for i in range(len(labels))],
        labels,
        read_predictions(scores, labels, kind),
    )


@pytest.fixture(scope="module")
def classes():
    scores = torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 5, 0], [2, 0, 0]])
    return evaluated(scores, torch.tensor([0, 2, 0, 2]), "classes")


def test_every_kind_of_labels_has_its_columns():
    assert tuple(COLUMNS) == LABEL_KINDS


def test_the_worst_are_those_with_the_most_confidence_in_a_wrong_class(classes):
    order, mistakes = choose_worst(classes, 24)
    assert (order.tolist(), mistakes) == ([2, 3, 1], 3)
    assert choose_worst(classes, 2)[0].tolist() == [2, 3]
    assert choose_worst(classes, 0)[0].tolist() == []


def test_texts_name_the_truth_and_the_prediction_with_their_probabilities(classes):
    e = np.exp
    true, predicted, file = caption_of(classes, 2, "classes", NAMES, FILES[2])
    assert file == "b/2.jpg"
    assert true == ("cat", f"{1 / (2 + e(5)):.2f}")
    assert predicted == ("dog", f"{e(5) / (2 + e(5)):.2f}")
    assert caption_of(classes, 2, "classes", None, "").predicted[0] == "1"


def test_predictions_have_a_line_per_image(classes, tmp_path):
    write_predictions(tmp_path / "p.csv", classes, FILES[:4], "classes", NAMES)
    found = read_rows(tmp_path / "p.csv")
    assert [r["file"] for r in found] == FILES
    assert [(r["key"], r["label"], r["predicted"]) for r in found] == [
        *[("k0", "cat", "cat"), ("k1", "cow", "dog"), ("k2", "cat", "dog"), ("k3", "cow", "cat")]
    ]
    assert float(found[3]["probability_of_predicted"]) == pytest.approx(np.exp(2) / (2 + np.exp(2)), rel=1e-5)
    assert float(found[3]["probability_of_label"]) == pytest.approx(1 / (2 + np.exp(2)), rel=1e-5)


def test_of_label_sets_the_label_that_is_farthest_from_the_truth_counts(tmp_path):
    scores = torch.tensor([[4.0, -4, -4], [3, -1, 2], [-6, 0.5, -1]])
    found = evaluated(scores, torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 1, 0]]), "multilabel")
    order, mistakes = choose_worst(found, 24)
    assert (order.tolist(), mistakes) == ([2, 1], 2)
    assert caption_of(found, 2, "multilabel", NAMES, "f") == (("cat: present", ""), ("absent", "0.00"), "f")
    assert caption_of(found, 1, "multilabel", NAMES, "f") == (("cat: absent", ""), ("present", "0.95"), "f")
    write_predictions(tmp_path / "p.csv", found, FILES[:3], "multilabel", NAMES)
    lines = [(r["labels"], r["predicted"], r["most_wrong"]) for r in read_rows(tmp_path / "p.csv")]
    assert lines[1:] == [("cow", "cat|cow", "cat"), ("cat|dog", "dog", "cat")]


def test_of_numbers_the_largest_errors_are_the_worst(tmp_path):
    found = evaluated(torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.5]]), "regression")
    order, mistakes = choose_worst(found, 24)
    assert (order.tolist(), mistakes) == ([1, 2], 2)
    assert caption_of(found, 1, "regression", None, "f") == (("true", "2"), ("predicted", "5"), "f")
    write_predictions(tmp_path / "p.csv", found, FILES[:3], "regression", None)
    assert [float(r["error"]) for r in read_rows(tmp_path / "p.csv")] == [0, 3, -1.5]


def test_pictures_are_asked_for_by_the_numbers_of_their_samples_worst_first(classes, tmp_path):
    asked = []

    def images(numbers):
        asked.append(numbers.tolist())
        return [np.zeros((8, 8, 3), np.uint8)] * len(numbers)

    assert write_report(tmp_path, classes, FILES[:4], "classes", NAMES, pictures=2, split="val", images=images) == 3
    assert asked == [[12, 13]]
    assert {p.name for p in tmp_path.iterdir()} == {
        *("predictions.csv", "per_class.csv", "confusion.csv", "confusion.png", "mistakes.png")
    }
    found = read_rows(tmp_path / "per_class.csv")
    assert [(r["class"], r["images"], r["accuracy"]) for r in found] == [
        ("cat", "2", "0.5"),
        ("dog", "0", ""),
        *[("cow", "2", "0")],
    ]


@pytest.mark.parametrize("footer", ["", "values shown"])
def test_the_picture_says_what_its_lines_and_numbers_are(footer, classes, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(report, "mistakes_sheet", lambda *words: said.append(words[-1]) or Image.new("RGB", (8, 8)))
    options = {"pictures": 2, "split": "val", "images": lambda numbers: [None] * len(numbers), "footer": footer}
    report.write_report(tmp_path, classes, FILES[:4], "classes", NAMES, **options)
    lines = "green: the true class, red: the predicted one, each with the probability that the model gives it"
    assert said == [f"{lines}; {footer}" if footer else lines]


def test_without_mistakes_and_with_too_many_classes_there_are_no_pictures(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mimsuite.metrics.scores.MOST_CONFUSED", 2)
    monkeypatch.setattr("mimsuite.evaluation.judging.report.MOST_CONFUSED", 2)
    caplog.set_level("INFO", "mimsuite")
    right = evaluated(torch.eye(3), torch.arange(3), "classes")
    assert write_report(tmp_path, right, FILES[:3], "classes", NAMES, pictures=24, split="val", images=None) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"predictions.csv", "per_class.csv"}
    assert [record.getMessage() for record in caplog.records] == [
        "no confusion matrix: there are more than 2 classes",
        "nothing is wrong, so there is no picture of mistakes",
    ]


SAID = Caption(("true", "0.10"), ("predicted", "0.90"))


def test_small_images_are_enlarged_pixel_by_pixel_and_stand_in_rows_of_six():
    image = np.zeros((32, 32, 3), np.uint8)
    image[3, 5] = 200, 100, 50
    sheet = np.asarray(mistakes_sheet([np.full_like(image, 255)] * 6 + [image], [SAID] * 7, "t"))
    assert sheet.shape[1] == 2 * 16 + 6 * 192 + 5 * 14
    marked = (sheet == (200, 100, 50)).all(-1)
    ys, xs = np.nonzero(marked)
    assert marked.sum() == 36  # 6 x 6
    assert (ys.max() - ys.min(), xs.max() - xs.min()) == (5, 5)
    assert ys.min() > 192 + 34 + 2 * 19  # second row
    assert xs.min() == 16 + 5 * 6


def test_large_images_are_shrunk_without_distortion():
    image = np.full((300, 600, 3), (0, 0, 255), np.uint8)
    sheet = np.asarray(mistakes_sheet([image], [SAID], "t"))
    ys, xs = np.nonzero((sheet == (0, 0, 255)).all(-1))
    assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (96, 192)


def test_a_long_name_leaves_room_for_its_probability_and_a_long_title_is_whole():
    image = np.zeros((32, 32, 3), np.uint8)
    long = Caption(("a very long name of a class that does not fit", "0.10"), ("x\ny", "0.90"))
    short = mistakes_sheet([image], [Caption(("", "0.10"), ("", ""))], "title " * 9)
    sheet = mistakes_sheet([image], [long], "title " * 9)
    assert sheet.size == short.size
    assert sheet.width > 192 + 2 * 16
    line = slice(16 + 34 + 192 + 4, 16 + 34 + 192 + 4 + 19)
    right = slice(16 + 192 - 28, 16 + 192)  # where the number stands: nothing of the name
    assert np.array_equal(np.asarray(sheet)[line, right], np.asarray(short)[line, right])


def test_no_images_or_other_numbers_of_texts_are_refused():
    with pytest.raises(InputError, match="0 images with 0 captions"):
        mistakes_sheet([], [], "t")
    with pytest.raises(InputError, match="1 images with 2"):
        mistakes_sheet([np.zeros((8, 8, 3), np.uint8)], [SAID] * 2, "t")


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (2, "uint16"), (5, "uint8")])
def test_pictures_of_any_channel_count_come_back_in_the_order_asked_for(channels, dtype, tmp_path):
    most = np.iinfo(dtype).max
    with tarfile.open(tmp_path / "val-000000.tar", "w") as archive:
        for i in range(6):
            image = np.full((16, 16, channels), most * i // 5, dtype)
            image[..., 1:] //= 2
            stream = io.BytesIO()
            whole = image if channels > 1 else image[..., 0]
            tifffile.imwrite(stream, whole, planarconfig="contig" if channels > 1 else None, photometric="minisblack")
            member = tarfile.TarInfo(f"s{i}.tif")
            member.size = len(stream.getvalue())
            archive.addfile(member, io.BytesIO(stream.getvalue()))
    index = open_index(str(tmp_path), cache=tmp_path / "cache")
    assert (index.channels, index.dtype) == (channels, dtype)
    shown = images_of(index, index.records("val"), torch.tensor([4, 5, 0]), (16, 16))
    assert [image.shape for image in shown] == [(16, 16, 3)] * 3
    first = [int(image[0, 0, 0]) for image in shown]
    assert first == [204, 255, 0]
    assert int(shown[1][0, 0, 1]) == (127 if channels == 5 else 255)
