"""`init_channels=` and `init_position=` from the command line to what a run leaves, and how it goes on."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from mimsuite import api, app
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling
from mimsuite.settings.probe_head import find_head
from mimsuite.settings.trained import find_trained
from mimsuite.weights.formats.timm_vit import TABLE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CONFIG = ViTConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=32, patch_size=4, image_size=16,
    encoder_stride=4, layer_norm_eps=1e-6,
)  # fmt: skip
STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
KEYS = {"init_channels": "mean", "init_position": "jax", "image_size": 24}
RUN = {"batch": 8, "val_every": 2, "save_every": 2, "precision": "32-true", "workers": 0}
KERNEL = "vit.embeddings.patch_embeddings.projection.weight"


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """24 packed pictures of one channel: bright or dark."""
    place, draw = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, level in (("bright", 180), ("dark", 60)):
            (place / "src" / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = np.clip(draw.normal(level, 30, (24, 24)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / "src" / split / name / f"{n}.png")
    api.pack(src=str(place / "src"), out=str(place / "packed"), channels=1)
    return str(place / "packed")


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    """Weights for three channels."""
    folder = tmp_path_factory.mktemp("rgb")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers does not know every field
        ViTForMaskedImageModeling(CONFIG).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STATISTICS))
    return folder


@pytest.fixture(scope="module")
def timm_file(rgb, tmp_path_factory):
    """The same encoder as a file of timm's, under a name that says nothing."""
    state = load_file(rgb / "model.safetensors")
    own = {n.removeprefix("vit."): v for n, v in state.items() if n.startswith("vit.") and "mask_token" not in n}
    path = tmp_path_factory.mktemp("timm") / "weights.data"
    torch.save({"model": TABLE.to_theirs(own, {}), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def run(rgb, grey, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    api.pretrain(init=str(rgb), data=grey, out=str(out), steps=4, **KEYS, **RUN)
    return out


def test_a_pretraining_run_takes_the_weights_and_says_how(run, rgb):
    log = (run / "train.log").read_text()
    count = len(load_file(rgb / "model.safetensors"))
    for line in (
        f"weights   {rgb}: a folder of {count} tensors (vit)",
        "weights   3 channels become 1: kernels averaged (init_channels=mean)",
        "weights   positions resized from images of 16x16 to 24x24 (jax)",
    ):
        assert line in log
    assert yaml.safe_load((run / "config.yaml").read_text()).items() >= {
        "init_channels": "mean", "init_position": "jax", "channels": 1
    }.items()  # fmt: skip
    prepared = json.loads((run / "weights" / "preprocessor_config.json").read_text())
    assert (prepared["image_mean"], prepared["image_std"]) == (pytest.approx([0.5]), pytest.approx([0.3]))
    assert load_file(run / "weights" / "model.safetensors")[KERNEL].shape == (64, 1, 4, 4)


def test_a_run_goes_on_also_when_its_weights_have_moved(rgb, grey, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "rgb"
    shutil.copytree(rgb, moved)
    api.pretrain(init=str(moved), data=grey, out=str(out), steps=2, **KEYS, **RUN)
    moved.rename(tmp_path / "elsewhere")
    assert api.pretrain(out=str(out), resume=True, steps=4)["steps"] == 4
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["init_channels"], config["init_position"], config["image_size"]) == ("mean", "jax", [24, 24])


def test_what_a_run_leaves_needs_no_key(run, grey, tmp_path):
    found = api.embed(init=str(run), data=grey, out=str(tmp_path / "x.npz"), map=False, workers=0)
    assert found["samples"] == 12


def test_a_file_of_another_library_is_fine_tuned_and_reported(timm_file, grey, tmp_path):
    out = tmp_path / "out"
    api.finetune(init=str(timm_file), data=grey, out=str(out), steps=2, init_channels="repeat", image_size=16, **RUN)
    log = (out / "train.log").read_text()
    assert re.search(
        r"weights   a Vision Transformer of timm.*: 30 of its tensors are used; 2 blocks, \d+ wide, \d+ heads\n", log
    )
    assert "weights   3 channels become 1: kernels cycled (init_channels=repeat)" in log
    assert json.loads((out / "weights" / "config.json").read_text())["num_channels"] == 1


def test_a_probe_keeps_the_rules_and_is_evaluated_by_them(rgb, grey, tmp_path, capsys):
    keys = {"init": str(rgb), "data": grey, "workers": 0, "baselines": False, **KEYS}
    api.probe(out=str(tmp_path / "probe"), **keys)
    assert "3 channels become 1: kernels averaged" in capsys.readouterr().out
    facts = find_head(tmp_path / "probe").facts
    assert (facts.init_channels, facts.init_position) == ("mean", "jax")
    weights = find_trained(str(tmp_path / "probe")).weights
    assert (weights.channels.new, weights.position) == (1, "jax")
    api.evaluate(init=str(tmp_path / "probe"), data=grey, out=str(tmp_path / "judged"), workers=0)
    assert "3 channels become 1: kernels averaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "keys", "words"),
    [
        ("pretrain", {}, "takes 3 channels but the images have 1; give init_channels=mean|repeat|zero"),
        ("finetune", {}, "takes 3 channels but the images have 1; give init_channels=mean|repeat|zero"),
        ("probe", {}, "takes 3 channels but the images have 1; give init_channels=mean|repeat|zero"),
        ("embed", {}, "takes 3 channels but the images have 1; give init_channels=mean|repeat|zero"),
        ("embed", {"init_channels": "zero"}, "init_channels=zero adds channels"),
        ("embed", {"init_channels": "avg"}, "init_channels=avg is unknown; init_channels takes mean, repeat, zero"),
        ("embed", {"init_position": "cubic"}, "init_position takes bicubic, jax, timm"),
        ("embed", {"init": "demo:cvt", "init_position": "timm"}, "is a cvt, which has no table of positions"),
        ("pretrain", {"init": None, "init_channels": "mean"}, "init_channels=mean changes the weights of init="),
        ("finetune", {"init": None, "init_position": "jax"}, "init_position=jax changes the weights of init="),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(task, keys, words, rgb, grey, tmp_path, capsys):
    values = {"init": str(rgb), "data": grey, "out": str(tmp_path / ("x.npz" if task == "embed" else "out")), **keys}
    given = {key: value for key, value in values.items() if value is not None}
    code = app.run_guarded(lambda: int(api.call(task, given).get("exit_code", 0)), task)
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1)
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["model.safetensors", "config.json"])
def test_a_file_of_a_folder_names_the_folder(inside, rgb, grey, tmp_path, capsys):
    values = {"init": str(rgb / inside), "data": grey, "out": str(tmp_path / "x.npz")}
    assert app.run_guarded(lambda: int(api.call("embed", values).get("exit_code", 0)), "embed") == 2
    assert f"is one file of a folder that belongs together; give init={rgb}" in capsys.readouterr().err
