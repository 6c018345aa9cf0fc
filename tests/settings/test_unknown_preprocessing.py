"""Weights that do not say how their images were normalised: what is taken instead is named, in every task."""

import json

import pytest
import torch
from coloured import write_shards
from hydra import compose, initialize_config_dir

from mimsuite import api
from mimsuite.config.folder import conf_dir
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling
from mimsuite.settings.embed import read_embed
from mimsuite.settings.evaluate import read_evaluate
from mimsuite.settings.predict import read_predict
from mimsuite.settings.probe import read_probe

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = {**SIZES, "image_size": 16, "patch_size": 8, "encoder_stride": 8, "num_labels": 3}
READERS = {
    "evaluate": (read_evaluate, "x", "0.5 and 0.5"),
    "predict": (read_predict, "x.csv", "0.5 and 0.5"),
    "probe": (read_probe, "x", "those of the data"),
    "embed": (read_embed, "x.npz", "those of the data"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 30, "test": 30})


@pytest.fixture
def weights(tmp_path):
    """A classifier without any preprocessing beside it."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**CONFIG)).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def warnings_of(task, init, data, caplog):
    reader, out, _ = READERS[task]
    caplog.clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose(task, [f"init={init}", f"data={data}", f"out={out}"])
    reader(cfg, [])
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("task", READERS)
def test_what_is_taken_for_mean_and_deviation_is_named(task, weights, data, caplog):
    (said,) = warnings_of(task, weights, data, caplog)
    assert f"init={weights} does not say by which mean and deviation its images were normalised" in said
    assert f"and {READERS[task][2]} are taken" in said
    about = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (weights / "preprocessor_config.json").write_text(json.dumps(about))
    assert warnings_of(task, weights, data, caplog) == []


@pytest.mark.parametrize("step", ["do_normalize", "do_rescale"])
def test_steps_that_are_done_although_the_weights_do_without_them_are_named(step, weights, data, caplog):
    about = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, step: False}
    (weights / "preprocessor_config.json").write_text(json.dumps(about))
    (said,) = warnings_of("evaluate", weights, data, caplog)
    assert f"says {step}=false, and images are rescaled and normalised all the same" in said


def test_another_scale_than_that_of_8_or_16_bits_is_named(weights, data, caplog):
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for factor, said in ((1 / 255, False), (1 / 65535, False), (1 / 127.5, True)):
        (weights / "preprocessor_config.json").write_text(json.dumps(about | {"rescale_factor": factor}))
        found = warnings_of("probe", weights, data, caplog)
        assert any("rescale_factor=0.00784314, which is neither" in line for line in found) == said


def test_pictures_and_exports_say_it_too(tmp_path, data, caplog):
    torch.manual_seed(0)
    ViTForMaskedImageModeling(ViTConfig(**CONFIG)).save_pretrained(tmp_path / "weights")
    init = str(tmp_path / "weights")
    api.reconstruct(init=init, images=data, out=str(tmp_path / "x.png"), count=2)
    api.export(init=init, to="hf", out=str(tmp_path / "hf"))
    assert sum("does not say by which mean and deviation" in r.getMessage() for r in caplog.records) == 2
