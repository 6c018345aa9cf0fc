"""The confusion matrix as a table and as a picture."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.pictures.confusion import _worst, draw_confusion, write_confusion

COUNTS = torch.tensor([[8, 2, 0], [0, 0, 0], [1, 0, 9]])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_table_has_true_classes_as_rows_and_counts_as_they_are(tmp_path):
    write_confusion(COUNTS, tmp_path / "made/confusion.csv", ["ape", "bee, big", "yak"])
    with (tmp_path / "made/confusion.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["true \\ predicted", "ape", "bee, big", "yak"],
            ["ape", "8", "2", "0"],
            ["bee, big", "0", "0", "0"],
            ["yak", "1", "0", "9"],
        ]


def test_another_number_of_names_is_refused(tmp_path):
    for write in (write_confusion, draw_confusion):
        with pytest.raises(InputError, match="2 names for 3 classes"):
            write(COUNTS, tmp_path / "x", ["ape", "bee"])
    assert not (tmp_path / "x").exists()


def test_a_matrix_without_images_is_not_drawn(tmp_path):
    with pytest.raises(InputError, match="without images"):
        draw_confusion(COUNTS * 0, tmp_path / "x.png")


def test_rows_are_true_classes_and_a_row_without_images_is_grey(tmp_path):
    draw_confusion(torch.tensor([[0, 9], [0, 0]]), tmp_path / "x.png")
    picture = pixels(tmp_path / "x.png")
    grey = (picture == 0xD0).all(-1)
    grey &= (grey.sum(1, keepdims=True) > 100) & (grey.sum(0) > 50)  # not the edges of letters
    rows, columns = np.nonzero(grey)
    cell = int(rows.max() - rows.min()) + 1  # the grey row is the lower half
    assert cell == pytest.approx((columns.max() - columns.min() + 1) / 2, abs=1)
    above = rows.min() - cell // 6
    left, right = picture[above, columns.min() + cell // 2], picture[above, columns.max() - cell // 2]
    assert left.tolist() == [247, 251, 255]
    assert right.tolist() == [8, 48, 107]


def test_odd_names_are_drawn(tmp_path):
    draw_confusion(COUNTS, tmp_path / "x.png", ["_$x^$", "\u732b" * 60, "a\nb"])
    assert max(pixels(tmp_path / "x.png").shape) < 1000


def test_many_classes_are_drawn_without_numbers(tmp_path):
    draw_confusion(torch.eye(40, dtype=torch.int64) * 5 + 1, tmp_path / "x.png")
    picture = pixels(tmp_path / "x.png")
    assert picture.shape[0] > 40 * 15
    assert picture[100:500, 100:500].max(-1).min() > 100  # no black letter on the pale cells


def test_of_very_many_classes_the_worst_with_images_are_drawn_in_their_order():
    accuracies = np.linspace(1, 0, 150)
    accuracies[140] = np.nan
    assert _worst(accuracies).tolist() == [n for n in range(49, 150) if n != 140]
    assert _worst(accuracies[:100]).tolist() == list(range(100))
    accuracies[:145] = np.nan
    assert _worst(accuracies).tolist() == list(range(145, 150))
