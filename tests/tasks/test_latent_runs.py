"""Runs with latent targets: what they write, that they resume to the bit, and that two processes give what one does."""

import csv
import json
import shutil

import pytest
import torch
from coloured import write_shards
from lightning import Callback
from PIL import Image
from processes import run_two
from safetensors.torch import load_file, save_file

import mimsuite
from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.pictures.curves import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]

KEYS = {
    **{"model": "vit_nano", "objective": "latent", "batch": 16, "steps": 4, "val_every": 2, "save_every": 1},
    **{"loader.val_limit": 32, "precision": "32-true", "workers": 0, "callbacks.monitor.log_every": 1, "lr": 1e-3},
    **{"head.hidden_size": 32, "head.num_hidden_layers": 1, "head.num_attention_heads": 2, "objective.momentum": 0.5},
    **{"head.intermediate_size": 64, "model.drop_path_rate": 0.1, "objective.warm_start": 0.25},
    "objective.pixels": 0.1,
}


class EndsAt(Callback):
    """Raises in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("the end")


def pretrain(out, **values):
    return api.call("pretrain", {"out": str(out), **KEYS, **values})


def files(out):
    return {
        f"{folder}/{name}": value
        for folder in ("weights", "weights-teacher")
        for name, value in load_file(out / folder / "model.safetensors").items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("latent") / "out"
    pretrain(out)
    return out


def test_a_run_writes_student_and_teacher_under_the_same_keys(run):
    student, teacher = (load_file(run / folder / "model.safetensors") for folder in ("weights", "weights-teacher"))
    assert student.keys() == teacher.keys()
    assert not torch.equal(student["layernorm.bias"], teacher["layernorm.bias"])
    assert all(name.startswith("decoder.") for name in load_file(run / "weights" / "decoder.safetensors"))
    assert (run / "pictures" / "step_000004.png").is_file()
    series = read_metrics(run / "metrics.csv")
    assert {"val/loss", "val/loss_mean_target", "quality/cosine"} <= set(series)
    assert "selects nothing" in (run / "train.log").read_text()
    pixels = torch.zeros(1, 3, 64, 64)
    maps = [mimsuite.load(str(run / name)).network().forward_features(pixels).grid for name in (".", "weights-teacher")]
    assert maps[0].shape == maps[1].shape == (1, 96, 8, 8)
    assert not torch.equal(*maps)


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_ends_anywhere_goes_on_to_the_bit(run, step, tmp_path):
    goes_on_to_the_bit(run, step, tmp_path / "out")


def test_so_does_one_with_running_statistics_in_its_teacher(tmp_path):
    more = {"model": "cvt_nano", "image_size": 32, "online_probe": False, "model.drop_path_rate": [0.0, 0.1]}
    pretrain(tmp_path / "run", **more)
    goes_on_to_the_bit(tmp_path / "run", 2, tmp_path / "out", **more)


def goes_on_to_the_bit(run, step, out, **more):
    with pytest.raises(RuntimeError, match="the end"):
        pretrain(out, callbacks=EndsAt(step), **more)
    assert json.loads((out / "checkpoints" / "latest.json").read_text())["step"] == step
    pretrain(out, resume=True, **more)
    assert same(files(run), files(out))


def test_micro_batches_and_two_processes_give_the_same(run, tmp_path):
    plain = {"model.drop_path_rate": 0.0}
    pretrain(tmp_path / "one", **plain)
    pretrain(tmp_path / "parts", micro_batch=4, **plain)
    said = run_two("pretrain", out=tmp_path / "two", **(KEYS | plain | {"devices": 2}))
    assert "deprecated" not in said
    for other in ("parts", "two"):
        for name, value in files(tmp_path / "one").items():
            torch.testing.assert_close(
                files(tmp_path / other)[name], value, rtol=1e-4, atol=2e-5, msg=f"{other} {name}"
            )
        one, found = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", other))
        assert found["train/loss"][1] == pytest.approx(one["train/loss"][1], rel=1e-4)
        assert found["val/loss"][1] == pytest.approx(one["val/loss"][1], rel=1e-4)


def test_averaged_weights_rounded_weights_and_a_frozen_teacher_go_along(run, tmp_path):
    short = {"steps": 2, "objective.warm_start": 0, "objective.pixels": 0}
    pretrain(tmp_path / "out", **short, **{"+objective.ema": 0.9, "optim.master_weights": True, "precision": "auto"})
    assert files(tmp_path / "out").keys() == files(run).keys()
    place = shutil.copytree(run / "weights-teacher", tmp_path / "teacher")
    short |= {"objective.teacher": str(place), "objective.views": 1}
    pretrain(tmp_path / "frozen", **short)
    assert not (tmp_path / "frozen" / "weights-teacher").exists()
    assert pretrain(tmp_path / "frozen", **(short | {"steps": 3}), resume=True)["steps"] == 3
    tensors = load_file(place / "model.safetensors")
    tensors["layernorm.bias"] += 0.1  # as if the run that wrote it had been trained on
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"objective\.teacher has other weights than when the run began"):
        pretrain(tmp_path / "frozen", **(short | {"steps": 4}), resume=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective.layers": [9]}, r"objective.layers=\[9\]: the teacher's blocks .* are 1 to 4"),
        ({"objective.momentum": 1.5}, "objective.momentum=1.5 is not a share from 0 to 1"),
        ({"objective.teacher": "nowhere"}, "objective.teacher=nowhere does not exist"),
        ({"objective.combine": "sum"}, "objective.combine=sum is unknown; objective.combine takes mean, stack"),
        ({"head": "simmim"}, "use head=predictor"),
        ({"objective": "simmim", "head": "predictor"}, "use objective=latent"),
        ({"model": "bit_nano", "objective.predictor": "transformer"}, "use objective.predictor=conv"),
        ({"+objective.fourier": 0.5}, "objective.fourier=0.5 is for predicted pixels"),
        (
            {"objective.target": "hog", "objective.pixels": 0.5},
            "objective.target=hog: .* use objective.target=norm_pix",
        ),
        ({"objective.views": 0}, "objective.views=0 is not a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values, message, tmp_path):
    keys = {k: v for k, v in KEYS.items() if not k.startswith(("head.", "objective.", "model."))} | values
    with pytest.raises(InputError, match=message):
        api.call("pretrain", {"out": str(tmp_path / "out"), **keys})


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A short run that validates all of a small split, and its data."""
    place = tmp_path_factory.mktemp("judged")
    data = str(write_shards(place / "shards", {"train": 40, "val": 21}))
    more = {"image_size": 16, "model.patch_size": 4, "steps": 2, "loader.val_limit": 100, "online_probe": False}
    pretrain(place / "out", data=data, **more)
    return place / "out", data


def test_evaluate_gives_the_metrics_of_the_run_in_batches_of_any_size_and_signs_of_a_collapse(judged, tmp_path):
    run, data = judged
    series = read_metrics(run / "metrics.csv")
    batches = {"own": {}, "small": {"batch": 5}}
    found = {
        name: api.call(
            "evaluate", {"init": str(run), "data": data, "out": str(tmp_path / name), "split": "val", **more}
        )
        for name, more in batches.items()
    }
    for summary in found.values():
        assert summary["kind"] == "latent"
        assert set(summary["metrics"]) == {
            f"val/{name}"
            for name in ("loss", "cosine", "loss_mean_target", "features_cosine", "features_deviation")
            for name in (name, name.replace("features", "teacher"))
        }
        for name in ("loss", "cosine", "loss_mean_target"):
            wanted = float(series[f"val/{name}"][1][-1])
            assert summary["metrics"][f"val/{name}"] == pytest.approx(wanted, rel=1e-5), name
    assert found["own"]["metrics"] == pytest.approx(found["small"]["metrics"], rel=1e-4)
    assert "there is no PSNR" in (tmp_path / "own" / "train.log").read_text()


@pytest.mark.parametrize("finished", [True, False])
def test_the_sheet_has_the_cosine_of_every_image_also_while_the_run_goes_on(finished, judged, tmp_path):
    run, data = judged
    if not finished:
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("weights*"))
        run = tmp_path / "run"
    keys = {"init": str(run), "images": data, "csv": str(tmp_path / "x.csv"), "count": 3, "mask.unit": 4}
    found = api.call("reconstruct", {"out": str(tmp_path / "x.png"), **keys})
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["image", "ratio", "mask", "cosine"]] * 3
    assert found["cosine"] == pytest.approx(sum(float(row["cosine"]) for row in rows) / 3)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.width == 2 * 16 + 5 * 192 + 4 * 6  # image, masked, teacher, predicted, cosine
    masks = {"masks": ["random", "multi_block", "none"], "overwrite": True}  # as many hidden in each, or not, or none
    several = api.call("reconstruct", {"out": str(tmp_path / "x.png"), **keys, **masks})["settings"]
    assert several[0]["latent_loss"] == pytest.approx(found["latent_loss"])
    assert several[0]["cosine"] == pytest.approx(found["cosine"])
    assert several[1]["latent_loss"] > 0
    assert several[2]["latent_loss"] == 0


@pytest.mark.parametrize(
    ("task", "part", "more", "message"),
    [
        ("evaluate", "weights", {}, "predicts the features of a teacher, which is not in these files; give the folder"),
        ("reconstruct", "weights-teacher", {}, "which is not in these files; give the folder of the run"),
        ("reconstruct", "", {"mode": "raw"}, "mode=raw is for pixels, and this model predicts features"),
        ("evaluate", "", {"flip": True}, "flip=true is for classifiers, and init=.* predicts features"),
        ("export", "", {"to": "hf", "part": "all"}, "part=all: .* a program that has no teacher .*; use part=encoder"),
    ],
)
def test_a_task_without_its_teacher_or_about_pixels_is_refused_before_anything_is_written(
    task, part, more, message, judged, tmp_path
):
    out = tmp_path / ("out.png" if task == "reconstruct" else "out")
    with pytest.raises(InputError, match=message) as error:
        api.call(task, {"init": str(judged[0] / part), "out": str(out), **more})
    assert "\n" not in str(error.value)
    assert not out.exists()
