"""`model=external` through the tasks: pretrained, resumed, probed, fine-tuned, evaluated, shown and embedded."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import write_shards
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

import mimsuite
from mimsuite.callbacks.checkpoints import Checkpoints
from mimsuite.errors import InputError
from mimsuite.models import ExternalConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
import wrapped

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),  # Lightning against torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

KEYS = {"batch": 8, "workers": 0, "precision": "32-true", "image_size": 64, "logger": "none"}
RUN = KEYS | {"steps": 4, "val_every": 2, "save_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 24, "val": 12}, side=64))


def pretrain(data, out, source, **changes):
    keys = RUN | {"data": data, "out": out, "model": "external", "model.source": source} | changes
    return mimsuite.pretrain(**keys)


@pytest.fixture(scope="module", params=["convnextv2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("swin",))])
def run(request, data, tmp_path_factory):
    """A run whose source is gone afterwards: whatever opens it needs nothing but its folder."""
    folder = tmp_path_factory.mktemp("run")
    wrapped.save(request.param, folder / "source", drop_path_rate=0.2)
    pretrain(data, folder / "out", str(folder / "source"))
    (folder / "source").rename(folder / "moved")
    return folder / "out"


def tensors(run):
    place = run / "weights"
    return load_file(place / "model.safetensors") | load_file(place / "decoder.safetensors")


def test_a_run_starts_with_the_weights_of_its_source_and_its_statistics(data, tmp_path):
    wrapped.save("convnext", tmp_path / "source")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"shortest_edge": 64}}
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(processor))
    pretrain(data, tmp_path / "out", str(tmp_path / "source"), steps=1, lr=1e-30)
    before = wrapped.backbone(tmp_path / "source").state_dict()
    after = load_file(tmp_path / "out" / "weights" / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in after.items())
    written = json.loads((tmp_path / "out" / "weights" / "preprocessor_config.json").read_text())
    assert written["image_mean"] == pytest.approx([0.1, 0.2, 0.3])


def test_without_pretrained_a_run_starts_at_random(data, tmp_path):
    source = wrapped.folder_of("convnext")
    pretrain(data, tmp_path / "out", source, steps=1, lr=1e-30, **{"model.pretrained": False})
    before = wrapped.backbone(source).state_dict()
    after = load_file(tmp_path / "out" / "weights" / "model.safetensors")
    name = "embeddings.patch_embeddings.weight"
    assert not torch.allclose(after[name], before[name], atol=1e-2)


def test_two_and_two_steps_are_four_steps_without_the_source(run, data, tmp_path, monkeypatch):
    source = run.parent / "source"
    (run.parent / "moved").rename(source)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_agreed", lambda self, trainer, now: (143 * (now == 2), False))
        assert pretrain(data, tmp_path / "out", str(source))["exit_code"] == 143
    source.rename(run.parent / "moved")
    assert OmegaConf.load(tmp_path / "out" / "config.yaml").model.library == "transformers"
    assert mimsuite.pretrain(out=tmp_path / "out", resume=True)["steps"] == 4
    ours, theirs = tensors(run), tensors(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    assert not [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


def test_the_weights_are_a_folder_of_transformers(run):
    model, info = wrapped.backbone(run / "weights", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours, x = mimsuite.load(str(run)), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x).feature_maps[-1], ours.encoder.forward_features(x).grid)


def test_other_tasks_open_the_run(run, data, tmp_path):
    mimsuite.probe(init=run, data=data, out=tmp_path / "probe", workers=0, image_size=64, shots=[], baselines=False)
    summary = mimsuite.evaluate(init=run, data=data, out=tmp_path / "eval", workers=0)
    logged = json.loads((run / "summary.json").read_text())["metrics"]["val/loss"]
    assert summary["metrics"]["val/loss"] == pytest.approx(logged, rel=1e-5)
    mimsuite.reconstruct(init=run, images=data, out=tmp_path / "x.png", count=2)
    mimsuite.embed(init=run, data=data, out=tmp_path / "x.npz", workers=0, map=False, layer="middle")
    assert (tmp_path / "x.png").is_file()
    assert np.load(tmp_path / "x.npz")["features"].shape[0] == 12


def test_a_fine_tuned_run_is_evaluated_and_goes_on(run, data, tmp_path):
    keys = RUN | {"data": data, "layer_decay": 0.5, "drop_path": 0.1, "freeze": 2}
    mimsuite.finetune(init=run, out=tmp_path / "tuned", **keys)
    found = mimsuite.evaluate(init=tmp_path / "tuned", data=data, out=tmp_path / "eval", workers=0)
    assert found["metrics"]["val/loss"] > 0
    before, after = (load_file(place / "weights" / "model.safetensors") for place in (run, tmp_path / "tuned"))
    name = next(key for key in before if "embeddings.patch_embeddings" in key and key.endswith("weight"))
    assert torch.equal(before[name], after[name])
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    mimsuite.pretrain(init=run, out=tmp_path / "again", **(RUN | {"data": data, "steps": 1}))
    assert (tmp_path / "again" / "weights" / "decoder.safetensors").is_file()


def test_a_config_in_python_is_stored_as_one_on_the_command_line(data, tmp_path):
    config = ExternalConfig(source=wrapped.folder_of("resnet"), arguments={"depths": [1, 1, 1, 1]})
    summary = mimsuite.pretrain(model=config, data=data, out=tmp_path / "out", **(RUN | {"steps": 2}))
    assert summary["status"] == "done"
    assert OmegaConf.load(tmp_path / "out" / "config.yaml").model.depths == [1, 1, 1, 1]
    assert mimsuite.pretrain(out=tmp_path / "out", resume=True, steps=3)["steps"] == 3


# --- a class of the user's own ---------------------------------------------------------------------------------


class Net(nn.Module):
    """A user's network."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=8, padding=3)
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.mix(self.stem(x).relu())


def test_a_class_of_the_users_own_needs_trust_in_every_task(data, tmp_path):
    target = f"{__name__}.Net"
    own = {"+model.network._target_": target, "+model.network.width": 12, "model": "external"}
    keys = RUN | {"data": data, "out": tmp_path / "out"} | own
    with pytest.raises(InputError, match="is not allowed"):
        mimsuite.pretrain(**keys)
    assert not (tmp_path / "out").exists()
    mimsuite.pretrain(**keys, trusted_targets=[target])
    tasks = {
        "probe": {"out": tmp_path / "p", "data": data, "image_size": 64, "workers": 0},
        "embed": {"out": tmp_path / "x.npz", "data": data, "workers": 0},
        "evaluate": {"out": tmp_path / "e", "data": data, "workers": 0},
        "reconstruct": {"out": tmp_path / "x.png", "images": data},
        "finetune": RUN | {"out": tmp_path / "f", "data": data},
    }
    for task, values in tasks.items():
        with pytest.raises(InputError, match="is not allowed"):
            getattr(mimsuite, task)(init=tmp_path / "out", **values)
        assert not values["out"].exists()
    with pytest.raises(InputError, match="is not allowed"):
        mimsuite.load(str(tmp_path / "out"))
    mimsuite.finetune(init=tmp_path / "out", **tasks["finetune"], trusted_targets=[target])
    mimsuite.embed(init=tmp_path / "out", **tasks["embed"], trusted_targets=[target])
    assert mimsuite.load(str(tmp_path / "out"), trusted_targets=[target]).encoder.num_features == 12


@pytest.mark.slow
def test_latent_targets_are_learned_resumed_evaluated_and_shown(data, tmp_path, monkeypatch):
    wrapped.save("convnextv2", tmp_path / "source", drop_path_rate=0.2)
    latent = {"objective": "latent", "head.hidden_size": 16, "head.num_hidden_layers": 1, "online_probe": False}
    pretrain(data, tmp_path / "whole", str(tmp_path / "source"), **latent)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_agreed", lambda self, trainer, now: (143 * (now == 2), False))
        pretrain(data, tmp_path / "out", str(tmp_path / "source"), **latent)
    (tmp_path / "source").rename(tmp_path / "moved")
    mimsuite.pretrain(out=str(tmp_path / "out"), resume=True)
    for name in ("weights", "weights-teacher"):
        found, wanted = (load_file(tmp_path / run / name / "model.safetensors") for run in ("out", "whole"))
        assert all(torch.equal(value, wanted[key]) for key, value in found.items())
    keys = {"init": str(tmp_path / "out")}
    judged = mimsuite.evaluate(data=data, out=str(tmp_path / "judged"), split="val", workers=0, **keys)
    logged = json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]["val/loss"]
    assert judged["metrics"]["val/loss"] == pytest.approx(logged, rel=1e-5)
    assert -1 < mimsuite.reconstruct(images=data, out=str(tmp_path / "x.png"), **keys)["cosine"] < 1
