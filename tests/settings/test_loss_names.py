"""What the loss of a run folder is, in words, and how the runs of a sweep are called."""

import json
import time

import pytest
from hostile import DEEP, alias_bomb
from omegaconf import OmegaConf

from mimsuite.settings.losses import LOSS_WORDS, TARGET_WORDS, name_losses, name_sweep
from mimsuite.words import LOSSES, TARGETS


def make(folder, objective=None, *, std=None, overrides=None):
    folder.mkdir()
    if objective is not None:
        (folder / "config.yaml").write_text(OmegaConf.to_yaml({"objective": objective}))
    if std is not None:
        (folder / "weights").mkdir()
        (folder / "weights" / "preprocessor_config.json").write_text(json.dumps({"image_std": std}))
    if overrides is not None:
        (folder / "overrides.txt").write_text("\n".join(overrides) + "\n")
    return folder


def test_every_loss_and_target_has_words():
    assert set(LOSS_WORDS) == set(LOSSES)
    assert set(TARGET_WORDS) == set(TARGETS)


@pytest.mark.parametrize(
    ("objective", "metrics", "words"),
    [
        ({"loss": "l1", "target": "pixels"}, ["val/psnr"], "L1 of pixels"),
        ({"loss": "mse", "target": "norm_pixels"}, ["val/psnr"], "MSE of normalised pixels"),
        ({"loss": "smooth_l1", "target": "hog"}, [], "smooth L1 of gradient histograms"),
        ({"smoothing": 0.1}, ["val/loss", "val/top1"], "cross entropy"),
        ({"smoothing": 0.1}, ["val/map"], "binary cross entropy"),
        ({"smoothing": 0.1}, ["val/r2"], "MSE of numbers"),
        ({"loss": "mine"}, ["val/loss"], ""),
        (None, ["val/loss"], ""),
        ("text", ["val/loss"], ""),
    ],
)
def test_a_loss_has_words(objective, metrics, words, tmp_path):
    assert name_losses({"a": make(tmp_path / "a", objective)}, {"a": metrics}) == {"a": words}


def test_pixels_divided_by_other_deviations_have_other_losses(tmp_path):
    pixels = {"loss": "l1", "target": "pixels"}
    stds = {"a": [0.25] * 3, "b": [0.25, 0.26, 0.24], "c": [0.5] * 3, "d": None}
    folders = {name: make(tmp_path / name, pixels, std=std) for name, std in stds.items()}
    metrics = {name: ["val/loss"] for name in folders}
    assert name_losses(folders, metrics) == {
        "a": "L1 of pixels divided by 0.25",
        "b": "L1 of pixels divided by 0.25",
        "c": "L1 of pixels divided by 0.5",
        "d": "L1 of pixels",
    }
    same = {name: folders[name] for name in "abd"}
    assert set(name_losses(same, metrics).values()) == {"L1 of pixels"}


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "objective: ${nothing}\n", "\x00"])
def test_a_damaged_config_gives_curves_without_words(text, tmp_path):
    folder = make(tmp_path / "a")
    (folder / "config.yaml").write_text(text)
    assert name_losses({"a": folder}, {"a": ["val/loss"]}) == {"a": ""}


@pytest.mark.parametrize("config", [b"", b"loss", b"a: [", b"\xff", alias_bomb(), DEEP], ids=range(6))
@pytest.mark.parametrize("weights", [b"", b"[]", b'{"image_std": "x"}', DEEP], ids=range(4))
def test_a_folder_with_damaged_or_hostile_files_has_no_words(config, weights, tmp_path):
    (tmp_path / "config.yaml").write_bytes(config)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "preprocessor_config.json").write_bytes(weights)
    began = time.process_time()
    assert name_losses({"a": tmp_path}, {"a": ["val/loss"]}) == {"a": ""}
    assert time.process_time() - began < 10


def test_runs_of_a_sweep_are_named_by_the_keys_that_differ(tmp_path):
    common = ["data='shards'", "steps=10"]
    folders = {
        name: make(tmp_path / name, overrides=[*common, f"out='sweep/{name}'", *more])
        for name, more in {"0": ["mask.ratio=0.4"], "1": ["mask.ratio=0.8", "+seed=1"], "2": []}.items()
    }
    assert name_sweep(folders) == {"0": "0: mask.ratio=0.4", "1": "1: mask.ratio=0.8, seed=1", "2": "2"}
    assert name_sweep({"0": folders["0"]}) == {"0": "0"}
    assert name_sweep({"a": folders["0"], "b": folders["1"]}) == {"a": "a", "b": "b"}
