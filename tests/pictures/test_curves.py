"""Curves of runs: figures are read as they were written, and drawn where they belong."""

import numpy as np
import pytest
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.pictures.curves import draw_curves, read_metrics

CSV = "step,train/loss,val/loss,optim/lr\n10,0.9,,0.001\n20,0.8,0.85,0.002\n30,nan,,\n"


def test_metrics_are_read_per_name_without_the_empty_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    got = read_metrics(path)
    assert {name: steps.tolist() for name, (steps, _) in got.items()} == {
        "train/loss": [10, 20, 30],
        "val/loss": [20],
        "optim/lr": [10, 20],
    }
    np.testing.assert_array_equal(got["train/loss"][1], [0.9, 0.8, np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("epoch,loss\n1,2\n", "no column 'step'"),
        ("step,loss\n1,abc\n", "line 2: could not convert string to float: 'abc'"),
        ("step,loss\n,1.0\n", "line 2: invalid literal"),
        ("step,loss\n1,2,3\n", "line 2"),
    ],
)
def test_damaged_metrics_are_named(tmp_path, text, message):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_metrics(path)


def test_empty_metrics_are_those_of_a_run_before_its_first_step(tmp_path):
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path / "metrics.csv") == {}


def test_curves_of_many_runs_with_odd_names_are_drawn(tmp_path):
    (tmp_path / "metrics.csv").write_text(CSV)
    series = read_metrics(tmp_path / "metrics.csv")
    runs = dict.fromkeys(("_hidden", "$x^$", *(f"run {i}" for i in range(9))), series)
    runs["probe"] = {"knn/top1": (np.array([5]), np.array([0.5]))}
    draw_curves(runs, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size[0] > 1000
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {(230, 159, 0), (86, 180, 233)} <= colours


def test_a_line_lies_higher_where_the_value_is_larger(tmp_path):
    series = {"val/psnr": (np.arange(2), np.array([10.0, 20.0]))}
    draw_curves({"up": series}, tmp_path / "up.png")
    draw_curves({"down": {"val/psnr": (np.arange(2), np.array([20.0, 10.0]))}}, tmp_path / "down.png")
    up, down = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("L")) for n in ("up", "down"))
    left = slice(up.shape[1] // 6, up.shape[1] // 3)

    def height(picture):
        y, _ = np.nonzero(picture[: int(0.8 * len(picture)), left] < 60)
        return y.mean()

    assert height(down) < height(up) - 20


def test_curves_without_a_known_metric_are_refused(tmp_path):
    with pytest.raises(InputError, match="no metric to draw in a"):
        draw_curves({"a": {"other": (np.arange(2), np.arange(2.0))}}, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_both_signs_of_a_collapse_are_drawn(tmp_path):
    steps = np.array([1, 2])
    for name in ("quality/cosine", "quality/deviation"):
        draw_curves({"run": {name: (steps, np.array([0.5, 0.6]))}}, tmp_path / "curves.png")
