"""After masked convolution the encoder is used whole: exports, embeddings, probes and pictures of such runs."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.encoders.map_config import OF_MASKING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = {"batch": 8, "steps": 2, "lr": 1e-3, "loader.val_limit": 16, "precision": "32-true", "workers": 0}
BIT = {"model": "bit_nano", "model.output_stride": 16, "objective.fourier": 0.5}  # transformers knows no dilated stage
RUNS = {
    "cvt, spark": {"model": "cvt_nano", "objective": "spark"},
    "bit, sparse": BIT | {"objective.mask_mode": "sparse"},
    "bit, added token": BIT | {"objective.mask_layer": 2},
}
SAID = {
    "cvt, spark": {"mask_mode": "sparse", "decoder_hidden_size": 32},
    "bit, sparse": {"mask_mode": "sparse"},
    "bit, added token": {"mask_layer": 2},
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A run, and the encoder that is exported from it."""
    place = tmp_path_factory.mktemp("runs")
    api.call("pretrain", {"out": str(place / "run"), **KEYS, **RUNS[request.param]})
    api.export(init=str(place / "run"), to="hf", out=str(place / "exported"))
    return request.param, place


def test_config_json_says_how_a_model_was_masked_and_an_exported_encoder_forgets_it(run):
    name, place = run
    said = json.loads((place / "run/weights/config.json").read_text())
    assert {key: said[key] for key in OF_MASKING if key in said} == SAID[name]
    assert json.loads((place / "exported/config.json").read_text()).keys().isdisjoint(OF_MASKING)


def test_transformers_computes_the_same_from_the_exported_weights(run):
    import transformers

    _, place = run
    theirs = transformers.AutoModel.from_pretrained(place / "exported").eval()
    ours, x = api.load(str(place / "run")).network().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).last_hidden_state, theirs(x).last_hidden_state, rtol=0, atol=1e-5)
    exported, weights = (load_file(place / part / "model.safetensors") for part in ("exported", "run/weights"))
    shared = {key.removeprefix(f"{ours.config.model_type}."): tensor for key, tensor in weights.items()}
    assert all(torch.equal(tensor, shared[key]) for key, tensor in exported.items())


def test_embeddings_and_probes_see_whole_images(run, tmp_path):
    """They are those of a folder that was never masked, to the bit."""
    _, place = run
    found = []
    for source in ("run", "exported"):
        out = tmp_path / f"{source}.npz"
        api.embed(init=str(place / source), out=str(out), map="false", workers=0)
        found.append(np.load(out)["features"])
    assert np.isfinite(found[0]).all()
    assert np.array_equal(*found)


def test_hidden_cells_are_judged_and_drawn(run, tmp_path):
    _, place = run
    judged = api.evaluate(init=str(place / "run"), out=str(tmp_path / "judged"), workers=0)["metrics"]
    drawn = api.reconstruct(init=str(place / "run"), out=str(tmp_path / "sheet.png"), count=2)
    for value in (judged["val/loss"], judged["val/psnr"], drawn["masked_loss"], drawn["psnr"]):
        assert math.isfinite(value)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert list((place / "run/pictures").glob("*.png"))
