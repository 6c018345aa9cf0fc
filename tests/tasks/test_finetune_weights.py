"""What fine-tuning writes and starts from: Hugging Face folders, their numbers there, other sizes, frozen parts."""

import json
import os
import warnings

import numpy as np
import pytest
import torch
from coloured import write_shards
from PIL import Image
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.models import (
    CvtConfig,
    CvtModel,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTModel,
)
from mimsuite.objectives.classify import ClassifyObjective
from mimsuite.pictures.curves import read_metrics

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CVT = CvtConfig(
    patch_sizes=[3, 3], patch_stride=[4, 2], patch_padding=[1, 1], embed_dim=[8, 16], num_heads=[1, 2], depth=[1, 2],
    mlp_ratio=[2.0, 2.0], attention_drop_rate=[0.0, 0.0], drop_rate=[0.0, 0.0], drop_path_rate=[0.0, 0.0],
    qkv_bias=[True, True], cls_token=[False, True], qkv_projection_method=["dw_bn", "dw_bn"], kernel_qkv=[3, 3],
    padding_kv=[1, 1], stride_kv=[2, 2], padding_q=[1, 1], stride_q=[1, 1],
)  # fmt: skip
VIT = {"model": "vit_nano", "model.patch_size": 4} | {f"model.{key}": value for key, value in SIZES.items()}
BIT = {"model": "bit_nano", "model.embedding_size": 8, "model.hidden_sizes": [8, 16, 32], "model.output_stride": 32}
CVT_KEYS = {"model": "cvt_nano", "model.depth": [1, 2], "model.embed_dim": [8, 24]}  # theirs takes no less
KEYS = {
    **{"batch": 16, "steps": 4, "val_every": 2, "precision": "32-true", "workers": 0, "lr": 0.01, "image_size": 16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 48, "val": 20, "test": 20})


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Runs from scratch, made when first asked for."""
    made = {}

    def run(name):
        if name not in made:
            keys = {"vit": VIT, "cvt": CVT_KEYS, "bit": BIT, "mean": VIT | {"head.pool": "mean"}}[name]
            out = tmp_path_factory.mktemp(name) / "out"
            made[name] = out, api.finetune(out=str(out), data=data, **KEYS, **keys)
        return made[name]

    return run


def tensors(folder):
    return load_file(folder / "model.safetensors")


def pixels(side=16):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["vit", "cvt", "bit"])
@pytest.mark.parametrize("folder", ["weights", "weights-last"])
def test_transformers_computes_the_same_logits(name, folder, runs):
    place = runs(name)[0] / folder
    assert {p.name for p in place.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    theirs, info = transformers.AutoModelForImageClassification.from_pretrained(place, output_loading_info=True)
    assert not any(info.values()), info
    assert type(theirs).__name__ == {"vit": "ViT", "cvt": "Cvt", "bit": "Bit"}[name] + "ForImageClassification"
    assert theirs.config.id2label == {0: "red", 1: "green", 2: "blue"}
    ours = api.load(str(place))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels()).logits, theirs.eval()(pixels()).logits, rtol=1e-5, atol=1e-5)


def test_its_image_processor_prepares_images_as_training_did(runs, data):
    place = runs("vit")[0] / "weights"
    processor = transformers.AutoImageProcessor.from_pretrained(place)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    facts = json.loads((place / "preprocessor_config.json").read_text())
    mean, std = (np.array(facts[f"image_{name}"]) for name in ("mean", "std"))
    found = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(found, ((picture / 255 - mean) / std).transpose(2, 0, 1), atol=1e-5)


def test_a_mean_pooled_run_says_that_transformers_differs_and_loads_as_it_is(runs):
    out, _ = runs("mean")
    text = (out / "train.log").read_text()
    assert (
        "transformers refuses weights/, as it would compute something else: it does not know classifier_pool=mean"
        in text
    )
    assert text.count("transformers refuses") == 1
    assert "transformers refuses" not in (runs("vit")[0] / "train.log").read_text()
    model = api.load(str(out))
    assert model.config.classifier_pool == "mean"
    with torch.no_grad():
        grid = model.encoder.forward_features(pixels()).grid
        assert torch.equal(model(pixels()).logits, model.classifier(grid.mean((2, 3))))


def first_validation(out):
    return {name: column[1][0] for name, column in read_metrics(out / "metrics.csv").items() if name.startswith("val/")}


def test_a_run_from_a_finetuned_one_keeps_its_head_for_the_same_classes(runs, data, tmp_path, caplog):
    out, before = runs("vit")
    api.finetune(out=str(tmp_path / "out"), data=data, init=str(out), **KEYS | {"steps": 1, "val_every": 1})
    found = first_validation(tmp_path / "out")
    assert found["val/top1"] == before["best_value"]
    series = read_metrics(out / "metrics.csv")["val/loss"]
    assert found["val/loss"] == series[1][series[0].tolist().index(before["best_step"])]
    assert "the classifier is fresh" not in caplog.text


def test_a_run_for_other_classes_gets_a_fresh_head(runs, tmp_path, caplog):
    other = write_shards(tmp_path / "shards", {"train": 48, "val": 20}, names=("rot", "gruen", "blau"))
    out = tmp_path / "out"
    changes = {"steps": 1, "val_every": 1, "freeze": "all", "head.std": 0}
    api.finetune(out=str(out), data=other, init=str(runs("vit")[0]), **KEYS | changes)
    assert "the classifier is fresh (head.std=0)" in caplog.text
    assert first_validation(out)["val/loss"] == pytest.approx(np.log(3))  # of zeros
    config = json.loads((out / "weights" / "config.json").read_text())
    assert config["id2label"] == {"0": "rot", "1": "gruen", "2": "blau"}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Weights as MAE's pretraining leaves them."""
    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = ViTConfig(
        **SIZES,
        **decoder,
        decoder_intermediate_size=32,
        image_size=16,
        patch_size=4,
        encoder_stride=4,
        mask_mode="drop",
    )
    ViTForMaskedImageModeling(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("freeze", [None, 0, 2, "all"])
def test_frozen_parts_of_pretrained_weights_stay_and_others_learn(freeze, masked, data, tmp_path):
    out = tmp_path / "out"
    api.finetune(out=str(out), data=data, init=str(masked), freeze=freeze, **KEYS)
    before, after = tensors(masked), tensors(out / "weights-last")
    before = {f"vit.{name.removeprefix('vit.')}": value for name, value in before.items()}
    still = {name for name in after if name in before and torch.equal(before[name], after[name])}
    blocks = {None: (), 0: (), 2: (0, 1), "all": (0, 1, 2)}[freeze]
    parts = [*([] if freeze is None else ["vit.embeddings."]), *(f"vit.encoder.layer.{i}." for i in blocks)]
    parts += ["vit.layernorm."] if freeze == "all" else []
    assert still == {name for name in after if name.startswith(tuple(parts))}
    assert {name for name in after if name.startswith("classifier.")}


def test_nothing_of_masking_is_left_in_the_files(masked, data, tmp_path):
    out = tmp_path / "out"
    keys = KEYS | {"steps": 1, "val_every": 1}
    api.finetune(out=str(out), data=data, init=str(masked), **keys)
    config = json.loads((out / "weights" / "config.json").read_text())
    assert not [key for key in config if key.startswith(("decoder", "mask_mode", "mim_"))]
    assert not [name for name in tensors(out / "weights") if "mask_token" in name or name.startswith("decoder")]
    assert config["architectures"] == ["ViTForImageClassification"]


@pytest.mark.parametrize("freeze", [0, 2, "all"])
def test_frozen_batchnorms_of_a_cvt_stay(freeze, data, tmp_path):
    torch.manual_seed(0)
    CvtModel(CVT).save_pretrained(tmp_path / "cvt")
    out = tmp_path / "out"
    api.finetune(out=str(out), data=data, init=str(tmp_path / "cvt"), freeze=freeze, **KEYS)
    before, after = tensors(tmp_path / "cvt"), tensors(out / "weights-last")
    names = {n: f"cvt.{n}" if f"cvt.{n}" in after else n for n in before}
    still = {n for n, name in names.items() if torch.equal(before[n], after[name])}
    encoder = CvtModel(CVT)
    deepest = {0: 0, 2: 2, "all": 99}[freeze]
    frozen = {n for n in before if encoder.depth_of(n) <= deepest}
    assert frozen <= still
    statistics = {n for n in before if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert still & statistics == frozen & statistics
    assert bool(statistics & frozen) == (freeze != 0)
    assert bool(before.keys() - still) == (freeze != "all")


def test_layer_decay_reaches_the_optimizer(masked, data, tmp_path, monkeypatch):
    seen = {}

    def look(self):
        for group in self.trainer.optimizers[0].param_groups:
            seen.update(dict.fromkeys(group["names"], group["initial_lr"]))

    monkeypatch.setattr(ClassifyObjective, "on_train_end", look)
    keys = KEYS | {"steps": 1, "val_every": 1, "lr": 0.5, "layer_decay": 0.5}
    api.finetune(out=str(tmp_path / "out"), data=data, init=str(masked), **keys)
    assert seen["classifier.weight"] == 0.5
    assert seen["vit.layernorm.weight"] == 0.5
    assert [seen[f"vit.encoder.layer.{i}.layernorm_before.weight"] for i in range(3)] == [0.0625, 0.125, 0.25]
    assert seen["vit.embeddings.position_embeddings"] == 0.03125


def test_weights_of_224_pixels_are_trained_at_384_with_577_tokens(data, tmp_path):
    torch.manual_seed(0)
    before = ViTModel(ViTConfig(**SIZES | {"num_hidden_layers": 1}, image_size=224, patch_size=16))
    before.save_pretrained(tmp_path / "vit")
    keys = KEYS | {"image_size": 384, "batch": 2, "steps": 1, "val_every": 1, "loader.val_limit": 2, "freeze": 0}
    out = tmp_path / "out"
    no_test = write_shards(tmp_path / "shards", {"train": 6, "val": 3})
    assert api.finetune(out=str(out), data=no_test, init=str(tmp_path / "vit"), **keys)["status"] == "done"
    table = tensors(out / "weights-last")["vit.embeddings.position_embeddings"]
    assert table.shape == (1, 577, 16)
    old = before.state_dict()["embeddings.position_embeddings"]
    grid = old[:, 1:].reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(24, 24), mode="bicubic", align_corners=False)
    assert torch.equal(table[:, :1], old[:, :1])
    torch.testing.assert_close(table[:, 1:], wanted.flatten(2).transpose(1, 2))
    model = api.load(str(out))
    assert model.config.image_size == 384
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out / "weights").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(pixels(384)).logits, theirs(pixels(384)).logits, rtol=1e-5, atol=1e-5)
