"""`mimsuite plan`: it looks, times and recommends; its command runs as printed; it writes nothing but `out`."""

import csv
import io
import json
import os
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mimsuite
from mimsuite import app
from mimsuite.config.folder import conf_dir
from mimsuite.config.help import documented_keys
from mimsuite.config.overrides import task_arguments
from mimsuite.errors import InputError
from mimsuite.runs.planning import planner, timing
from mimsuite.tasks import plan, pretrain
from tests.servers import web_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]

NANO = {"model": "vit_nano", "image_size": 32, "batch": 4, "workers": 0}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; timing is short."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(planner, "SECONDS", 0.05)
    monkeypatch.setattr(planner, "LEAST_LEFT", planner.WHOLE)
    monkeypatch.setattr(timing, "VALIDATING", 0.02)
    monkeypatch.setattr(timing, "LOADING", 0.1)
    return folder


def picture(number, side=24):
    coarse = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side + number % 3, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Ten images in two classes; the path needs quotes."""
    for number in range(10):
        place = tmp_path / "my photos=1" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    return tmp_path / "my photos=1"


def shards(place, count, data, ending):
    place.mkdir()
    with tarfile.open(place / "train-000000.tar", "w") as archive:
        for number in range(count):
            content = data(number)
            info = tarfile.TarInfo(f"s{number:03d}.{ending}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return place


def deep(number):
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(number).integers(0, 60_000, (20, 26, 4), dtype=np.uint16))
    return stream.getvalue()


def run_command(command, monkeypatch):
    """Runs a printed command as the shell and `mimsuite` would."""
    words = shlex.split(command)
    assert words[:2] == ["mimsuite", "pretrain"]
    monkeypatch.setattr("sys.argv", ["pretrain", *task_arguments(words[2:])])
    assert app.through_hydra("pretrain", pretrain.run) == 0
    return next(Path(word.partition("=")[2]) for word in words if word.startswith("out="))


def test_the_command_runs_as_printed_and_begins_at_the_promised_losses(here, folder, monkeypatch):
    found = mimsuite.plan(data=folder, **NANO, steps=2, logger="none")
    assert os.listdir(here) == []
    run = run_command(found["command"], monkeypatch)
    with (run / "metrics.csv").open() as file:
        first = next(row for row in csv.DictReader(file) if row["val/loss"])
    assert float(first["val/loss"]) == pytest.approx(found["loss_start"], rel=1e-4)
    assert float(first["val/loss_mean_colour"]) == pytest.approx(found["loss_line"], rel=1e-4)
    [checkpoint] = [file for file in (run / "checkpoints").glob("*.ckpt") if "2.ckpt" in file.name]
    assert checkpoint.stat().st_size == pytest.approx(found["checkpoint_bytes"], rel=0.1)
    weights = (run / "weights" / "model.safetensors").stat().st_size
    assert weights <= 1.05 * found["weights_bytes"]
    assert found["seconds_of"]["start"] > 1
    assert planner.free_folder(run.name) == f"{run}-2"


def test_ten_images_get_a_recipe_with_reasons_and_a_warning(here, folder, capsys):
    found = mimsuite.plan(data=folder, workers=0, steps=2)
    printed, told = capsys.readouterr()
    assert found["command"] in printed
    assert found["next"].startswith("mimsuite probe 'data=")
    assert "timing" in told
    assert "timing" not in printed
    assert max(map(len, (line for line in printed.splitlines() if "mimsuite p" not in line))) <= 100
    assert found["data"]["train"] + found["data"]["validation"] == 10
    assert found["data"]["labels"] == ["one class per image"]
    assert (found["recipe"]["name"], found["recipe"]["batch"], found["recipe"]["steps"]) == ("half vit_tiny", 8, 2)
    assert "training images are few" in found["notes"][0]
    assert found["known"] or "nothing measured yet for such data" in printed
    assert os.listdir(here) == []


def test_deep_pictures_of_four_channels_with_what_the_user_fixes(here, tmp_path):
    data = shards(tmp_path / "deep", 24, deep, "npy")
    found = mimsuite.plan(
        data=data, **NANO, objective="simmim", out="plan.json", **{"mask.unit": 8, "model.patch_size": 8}
    )
    assert os.listdir(here) == ["plan.json"]
    assert json.loads((here / "plan.json").read_text()) == json.loads(json.dumps(found))
    assert (found["data"]["channels"], found["data"]["dtype"], found["known"]) == (4, "uint16", [])
    assert {"mask.unit=8", "model.patch_size=8", "image_size=32", "batch=4"} <= set(found["overrides"])
    assert len(found["candidates"]) == 1
    assert found["next"].startswith("mimsuite evaluate data="), "without labels there is no probe"
    assert (found["reasons"]["mask"], found["reasons"]["batch"], found["reasons"]["size"]) == ("as given",) * 3
    before = (here / "plan.json").read_bytes()
    with pytest.raises(InputError, match=r"out=plan.json exists; use another out=, or overwrite=true"):
        mimsuite.plan(data=data, **NANO, out="plan.json")
    assert (here / "plan.json").read_bytes() == before


def test_hours_fill_the_time_with_the_embedded_pictures(here, capsys):
    found = mimsuite.plan(model="vit_nano", image_size=32, workers=1, hours=0.3)
    assert 0.1 < found["hours"] <= 0.301
    assert found["data"]["name"] == "emoji-64"
    assert not any(key.startswith("data=") for key in found["overrides"])
    assert found["img_per_s"] == pytest.approx(min(found["img_per_s_of_steps"], found["img_per_s_of_loading"]))
    assert 0.1 < found["memory_gib"] < 20
    assert "what fits into 0.3 hours here" in capsys.readouterr().out
    assert os.listdir(here) == []


def test_shards_of_a_server_and_a_latent_objective(here, folder, tmp_path):
    mimsuite.pack(src=folder, out=tmp_path / "packed", val_fraction=0.2)
    with web_server(tmp_path / "packed") as server:
        far = {"data": server.address, "loader.cache": str(tmp_path / "cached")}
        found = mimsuite.plan(objective="latent", workers=0, steps=4, **far)
    assert found["loss_line_name"] == "val/loss_mean_target"
    assert found["seconds_of"]["online_probe"] > 0
    assert f"data={server.address}" in found["overrides"]
    assert os.listdir(here) == []


def test_a_model_that_is_too_slow_is_not_timed(here, monkeypatch, capsys):
    monkeypatch.setattr(timing, "TOO_LONG", 0.0)
    found = mimsuite.plan(**NANO, steps=5)
    assert found["timed"] is False
    assert found["loss_start"] is None
    assert "a guess from its FLOPs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hours": 1, "epochs": 3}, r"hours=1 and epochs=3 both say how long the run is; give one of them"),
        ({"hours": 1, "steps": 3}, r"hours=1 and steps=3 both"),
        ({"hours": -1}, r"hours=-1 is not a number above 0"),
        ({"out": "plan.txt"}, r"out=plan.txt does not end in .json"),
        ({"data": "missing"}, r"missing"),
        ({"hours": 1e-4}, r"hours=0.0001 is too short"),
        ({"batch": 100_000}, r"batch=100000 is larger than"),
        ({"objective": "classify"}, r"objective"),
        ({"mask.ratio": 1.5}, r"mask.ratio"),
        ({"mask.ratoi": 0.5}, r"mask.ratoi"),
        ({"hours": 1e-6}, r"hours=1e-06 is too short: a run of no steps takes about"),
        ({"experiment": "finetune_small"}, r"experiment=finetune_small is a recipe of `mimsuite finetune`; plan takes"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(here, changes, message):
    with pytest.raises(InputError, match=message) as error:
        mimsuite.plan(**{**NANO, **changes})
    assert len(str(error.value).splitlines()) == 1
    assert os.listdir(here) == []


@pytest.mark.parametrize("changes", [{"batch": 100_000}, {"hours": 1e-6}], ids=str)
def test_what_does_not_fit_is_refused_before_pictures_are_looked_at(here, changes, monkeypatch):
    monkeypatch.setattr(plan, "look_at_sample", lambda index, samples: pytest.fail("looked"))
    with pytest.raises(InputError, match=next(iter(changes))):
        mimsuite.plan(**{**NANO, **changes})


def test_the_smallest_model_that_does_not_fit_ends_the_timing(here, monkeypatch, capsys):
    monkeypatch.setattr(planner, "LEAST_LEFT", 0.0)
    monkeypatch.setattr(planner, "least_of", lambda imports: 0.0)
    with pytest.raises(InputError, match=r"hours=1e-06 is too short: start, validation and one step of half vit_tiny"):
        mimsuite.plan(image_size=32, batch=4, workers=0, hours=1e-6)
    assert "timing    vit_tiny" not in capsys.readouterr().err


def test_a_recipe_of_the_users_own_folder(here, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: vit_nano\nimage_size: 32\nbatch: 4\nsteps: 3\n"
    )
    monkeypatch.setattr("sys.argv", ["plan", "experiment=own", "workers=0", f"--config-dir={tmp_path / 'mine'}"])
    assert app.through_hydra("plan", plan.run) == 0
    command = capsys.readouterr().out.partition("run it:\n  ")[2].splitlines()[0]
    assert f"--config-dir={tmp_path / 'mine'} experiment=own workers=0 out=runs/emoji-64-as_given" in command
    assert os.listdir(here) == []


def test_its_keys_are_those_of_pretrain():
    rows = {
        task: {
            key: (default, text)
            for key, default, text in documented_keys((conf_dir() / f"{task}.yaml").read_text().splitlines(), "")
        }
        for task in ("plan", "pretrain")
    }
    own = {"out", "hours", "overwrite"}
    assert rows["pretrain"].keys() - rows["plan"].keys() == {"resume"}
    assert {k: v for k, v in rows["plan"].items() if k not in own} == {
        k: rows["pretrain"][k] for k in rows["plan"] if k not in own
    }
