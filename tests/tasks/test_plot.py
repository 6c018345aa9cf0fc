"""`plot`: the curves of several runs in one picture; no test here may need torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import mimsuite
from mimsuite.config import overrides
from mimsuite.errors import InputError
from mimsuite.pictures.curves import draw_curves, read_metrics
from mimsuite.settings.plot import name_runs

HEAD = "step,val/loss,val/psnr,train/loss,optim/lr,perf/img_per_s,perf/data_wait,optim/grad_norm\r\n"
BLACK, ORANGE, SKY = (0, 0, 0), (230, 159, 0), (86, 180, 233)


def write_run(folder, *, slope=1.0, steps=4):
    folder.mkdir(parents=True)
    rows = [f"{s},{1 - slope * s / 100},{10 + s},{0.9 - s / 100},0.001,50,0.1,{s}" for s in range(steps)]
    (folder / "metrics.csv").write_text(HEAD + "".join(f"{row}\r\n" for row in rows), newline="")
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "runs" / name, slope=slope) for name, slope in (("a", 1), ("b", 2))]


def colours(path):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mimsuite.cli", "plot", *arguments], capture_output=True, text=True, timeout=60, cwd=cwd
    )


def test_the_command_draws_runs_whose_names_are_odd(tmp_path):
    for name in ("lr=0.1, new", "ünï"):
        write_run(tmp_path / name.replace(",", ""))
    result = command("runs=[lr=0.1 new,ünï]", "out=pictures/x.png", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert {BLACK, ORANGE} <= colours(tmp_path / "pictures" / "x.png")
    assert result.stdout.splitlines() == [
        "lr=0.1 new  3 steps, train/loss 0.87, val/loss 0.97, val/psnr 13",
        "ünï         3 steps, train/loss 0.87, val/loss 0.97, val/psnr 13",
        "curves of 2 runs in pictures/x.png",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("runs/a b", "runs/a b"),
        ("a,b", "a,b"),
        ("[a,b=c, d e]", ["a", "b=c", "d e"]),
        ("[0,2024_01_05]", ["0", "2024_01_05"]),
        ("['x,y',z]", ["x,y", "z"]),
        ("[]", []),
    ],
)
def test_paths_of_runs_reach_hydra_unchanged(value, expected):
    assert OverridesParser.create().parse_override(overrides.quote_path(f"runs={value}")).value() == expected


def test_one_run_in_python_gives_its_last_figures(runs, tmp_path):
    got = mimsuite.plot(runs=runs[0], out=str(tmp_path / "x.png"), metrics="val/psnr")
    assert got["out"] == str(tmp_path / "x.png")
    assert got["runs"].keys() == {"a"}
    assert got["runs"]["a"]["val/loss"] == 0.97
    assert got["runs"]["a"]["perf/data_wait"] == 0.1


def test_a_folder_whose_name_is_a_number_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("0", "2024_01_05", "1e3"):
        write_run(tmp_path / name)
    got = mimsuite.plot(runs=["0", "2024_01_05", "1e3"], out="x.png", metrics="val/loss")
    assert list(got["runs"]) == ["0", "2024_01_05", "1e3"]


def test_equal_names_get_as_many_parents_as_it_takes(tmp_path):
    folders = [tmp_path / name for name in ("x/p/0", "y/p/0", "x/q/0", "x/1")]
    assert name_runs(folders) == ["x/p/0", "y/p/0", "q/0", "1"]


def test_a_run_is_named_from_inside_its_folder(runs, monkeypatch):
    monkeypatch.chdir(runs[0])
    assert name_runs([Path("."), Path("../b")]) == ["a", "b"]


def test_metrics_choose_panels_and_add_new_ones(runs, tmp_path):
    (tmp_path / "runs" / "a" / "metrics.csv").write_text("step,val/loss,my/own\n0,1,2\n1,2,3\n")
    sizes = []
    for number, metrics in enumerate((None, "val/loss", ["val/loss", "my/own"], ["val/loss", "my/own", "optim/lr"])):
        out = tmp_path / f"{number}.png"
        mimsuite.plot(runs=runs, out=str(out), metrics=metrics)
        with Image.open(out) as picture:
            sizes.append(picture.size)
    one, both = 560, 1120
    legend = sizes[1][1] - 340
    assert sizes == [(both, 3 * 340 + legend), (one, 340 + legend), (both, 340 + legend), (both, 2 * 340 + legend)]


def test_an_interrupted_line_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("4,0.9")
    assert read_metrics(Path(folder) / "metrics.csv")["val/loss"][0].tolist() == [0, 1, 2, 3]


def broken(tmp_path, name):
    """Makes a folder with a fault, and gives its path."""
    folder = tmp_path / name
    if name == "sweep":
        for number in (0, 2, 10):
            write_run(folder / str(number))
        return folder
    if name != "absent":
        folder.mkdir()
    if name == "probe":
        (folder / "probe.csv").write_text("features,knn_top1\n")
    texts = {
        "new": b"step\r\n",
        "binary": b"step,val/loss\n\xff\xfe\n",
        "words": b"step,val/loss\n0,1\n1,abc\n",
        "other": b"epoch,loss\n1,2\n",
        "unknown": b"step,mine\n0,1\n",
    }
    if name in texts:
        (folder / "metrics.csv").write_bytes(texts[name])
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "runs=.*absent does not exist; give the folder of a run"),
        ("empty", "has no metrics.csv; give the folder of a run of pretraining"),
        ("probe", "it is a probe, which has no curves but a table, .*probe.csv; give runs of pretraining"),
        ("sweep", r"it holds runs: runs=\[\S*/sweep/0,\S*/sweep/2,\S*/sweep/10\]$"),
        ("new", "metrics.csv holds no metrics yet; plot again after the first logged step"),
        ("binary", r"metrics.csv is not text \(byte 14\)"),
        ("words", "metrics.csv, line 3: could not convert string to float: 'abc'"),
        ("other", "has no column 'step'"),
        ("unknown", "no metric to draw in unknown"),
    ],
)
def test_folders_without_curves_are_refused_by_name(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        mimsuite.plot(runs=str(broken(tmp_path, name)), out=str(tmp_path / "new" / "x.png"))
    assert not (tmp_path / "new" / "x.png").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runs": []}, r"runs=\[\] is neither a name nor a list"),
        ({"runs": ["a", None]}, "is neither a name nor a list"),
        ({"runs": ["runs/a", "runs/../runs/a"]}, "runs= names runs/a twice"),
        ({"runs": "runs/a,runs/b"}, r"several runs are a list: runs=\[A,B\]"),
        ({"runs": "runs/a/metrics.csv"}, "is a file; give the folder of a run: runs=runs/a"),
        ({"metrics": []}, r"metrics=\[\] is neither"),
        ({"metrics": ["val/los"]}, "no run has the metric 'val/los'; there are optim/grad_norm, optim/lr, "),
        ({"out": "x.jpg"}, "out=x.jpg does not end in .png, .pdf, .svg; use out=x.png"),
        ({"out": "there.png"}, "out=there.png exists; use another out=, or overwrite=true"),
        ({"out": "there.png/x.png"}, "out=there.png/x.png cannot be written"),
        ({"overwrite": "yes"}, "overwrite=yes is not true or false"),
    ],
)
def test_wrong_values_are_refused(runs, tmp_path, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_text("mine")
    with pytest.raises(InputError, match=message):
        mimsuite.plot(**{"runs": runs, "out": "new/x.png"} | values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "there.png"]
    assert (tmp_path / "there.png").read_text() == "mine"


def test_overwrite_replaces_the_picture(runs, tmp_path):
    (tmp_path / "x.png").write_text("mine")
    mimsuite.plot(runs=runs, out=str(tmp_path / "x.png"), metrics="val/loss", overwrite=True)
    assert {BLACK, ORANGE} <= colours(tmp_path / "x.png")


def test_the_command_refuses_in_one_line_and_without_torch(tmp_path):
    result = command("runs=nope", "out=x.png", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "mimsuite plot: runs=nope does not exist; give the folder of a run\n"
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_torch(runs, tmp_path):
    code = (
        "import sys, mimsuite; mimsuite.plot(runs=sys.argv[1], out='x.png', metrics='val/loss'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, runs[0]], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


def series(values):
    return {"train/loss": (np.arange(len(values)), np.asarray(values, float))}


def test_long_names_stay_inside_the_picture(tmp_path):
    odd = ["W" * 300, "a\nb", "byte \udcff", "漢字", "$x^$"]
    draw_curves({name: series([1, 2]) for name in odd}, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    legend = pixels[352:]
    assert (legend[:, :5] == 255).all()
    assert (legend[:, -5:] == 255).all()
    assert (legend < 128).any(1).sum() > 5 * 5  # five rows


def test_the_eighth_run_has_a_marker_where_the_first_has_none(tmp_path):
    values = {"optim/lr": (np.arange(100), np.full(100, 0.5))}
    away = {"other": (np.arange(2), np.arange(2.0))}
    heights = []
    for place in (0, 7):
        draw_curves({str(i): values if i == place else away for i in range(8)}, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            panel = np.asarray(picture.convert("L"))[20:280, 120:540]
        heights.append(np.sort((panel < 60).sum(0))[-10:].mean())
    assert heights[1] > heights[0] + 1


def test_a_long_noisy_curve_is_drawn_as_its_means(tmp_path):
    noise = np.tile([0.0, 1.0], 5000)
    draw_curves({"a": series(noise)}, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        panel = np.asarray(picture.convert("L"))[5:285, 150:450].astype(int)
    rows = np.nonzero((panel < 140).mean(1) > 0.9)[0]
    assert len(rows) in (1, 2)  # one thin line ...
    ink = np.nonzero((panel < 250).mean(1) > 0.9)[0]
    assert rows.mean() == pytest.approx((ink[0] + ink[-1]) / 2, abs=2)  # ... in the middle of all values


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n0,nan,1\n1,nan,inf\n2,nan,2\n")
    draw_curves({"a": read_metrics(tmp_path / "metrics.csv")}, tmp_path / "x.png")
    assert BLACK in colours(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("ending", "starts"), [("pdf", b"%PDF-"), ("svg", b"<?xml"), ("SVG", b"<?xml"), ("png", b"\x89PNG")]
)
def test_the_ending_decides_the_kind_of_picture(ending, starts, runs, tmp_path):
    out = tmp_path / f"x.{ending}"
    mimsuite.plot(runs=runs, out=str(out), metrics="val/loss")
    assert out.read_bytes().startswith(starts)


def test_unlike_losses_get_panels_of_their_own(runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    monkeypatch.setattr("mimsuite.data.storage.Replacement.commit", lambda _: None)
    runs = [*runs, write_run(tmp_path / "runs" / "c")]
    for folder, objective in zip(runs, ("l1 pixels", "mse norm_pixels", "l1 pixels"), strict=True):
        loss, target = objective.split()
        (Path(folder) / "config.yaml").write_text(f"objective: {{loss: {loss}, target: {target}}}\n")
    mimsuite.plot(runs=runs, out=str(tmp_path / "x.png"), metrics=["train/loss", "val/loss"])
    first, second = drawn[0].axes[:2]
    assert first.get_ylabel() == "loss: L1 of pixels"
    assert second.get_ylabel() == "loss: MSE of normalised pixels"

    def colours_of(axis):
        return {line.get_color() for line in axis.lines if len(line.get_xdata())}

    assert len(colours_of(first)) == 2
    assert len(colours_of(second)) == 1
    assert not colours_of(first) & colours_of(second)
    mimsuite.plot(runs=[runs[0], runs[2]], out=str(tmp_path / "x.png"), metrics="val/loss")
    assert [axis.get_ylabel() for axis in drawn[1].axes if axis.lines] == ["loss: L1 of pixels"]


def test_a_sweep_is_printed_with_the_keys_that_differ(tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    folders = [write_run(tmp_path / "sweep" / str(n)) for n in (0, 1)]
    for number, folder in enumerate(folders):
        (Path(folder) / "overrides.txt").write_text(f"steps=4\nmask.ratio=0.{4 + number}\nout={folder}\n")
    got = mimsuite.plot(runs=folders, out=str(tmp_path / "x.png"), metrics="val/loss")
    assert list(got["runs"]) == ["0", "1"]
    assert "0: mask.ratio=0.4  3 steps, val/loss 0.97" in caplog.text
