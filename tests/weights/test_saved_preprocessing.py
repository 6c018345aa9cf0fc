"""Saved preprocessing does what evaluation does; what transformers would do otherwise it refuses."""

import io
import json
import os
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tables import read_rows

from mimsuite import api, models
from mimsuite.masked.normalization import Normalize
from mimsuite.models.load import save_weights

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = {0: "red", 1: "green", 2: "blue", 3: "grey"}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
CVT = {
    "embed_dim": [8, 16], "num_heads": [1, 2], "depth": [1, 2], "patch_sizes": [7, 3], "patch_stride": [4, 2],
    "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0],
    "drop_path_rate": [0.0, 0.0], "qkv_bias": [True, True], "cls_token": [False, True],
    "qkv_projection_method": ["dw_bn"] * 2, "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2],
    "padding_q": [1, 1], "stride_q": [1, 1],
}  # fmt: skip
BIT = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4}


def make_model(family, size, channels, **more):
    torch.manual_seed(0)
    values = {"num_channels": channels, "id2label": CLASSES} | more
    if family == "ViT":
        values |= {**VIT, "image_size": list(size), "initializer_range": 0.5}
    config = getattr(models, f"{family}Config")(**values | {"ViT": {}, "Cvt": CVT, "Bit": BIT}[family])
    model = getattr(models, f"{family}ForImageClassification")(config).eval()
    weight, bias = model.classifier.parameters()
    torch.nn.init.normal_(weight, std=10)  # so that pictures differ
    with torch.no_grad():
        bias -= model(torch.nn.functional.interpolate(torch.randn(8, channels, 2, 2), size)).logits.mean(0)
    return model


def wide_pictures(channels, dtype):
    """Smooth pictures of 96 x 64 pixels (width x height) whose sides differ from their centre."""
    draw, most = np.random.default_rng(0), np.iinfo(dtype).max
    for _ in range(12):
        rough = draw.integers(0, most + 1, (4, 6, channels)).astype(dtype)
        yield np.repeat(np.repeat(rough, 16, axis=0), 16, axis=1)


def as_file(pixels):
    content = io.BytesIO()
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels).save(content, "PNG")
        return "png", content.getvalue()
    np.save(content, pixels)
    return "npy", content.getvalue()


def write_set(folder, pictures):
    folder.mkdir()
    with tarfile.open(folder / "test-000000.tar", "w") as archive:
        for i, pixels in enumerate(pictures):
            for ending, data in (as_file(pixels), ("cls", str(i % 4).encode())):
                member = tarfile.TarInfo(f"{i:02d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(folder)


def save(folder, model, size, channels, dtype):
    save_weights(folder, model, Normalize([0.45] * channels, [0.25] * channels, np.iinfo(dtype).max), size)
    return folder


def evaluated(folder, data, out):
    """Predicted class and its probability of every picture, by `evaluate`."""
    api.evaluate(init=str(folder), data=data, out=str(out), mistakes=0, workers=0)
    rows = read_rows(out / "predictions.csv")
    return [row["predicted"] for row in rows], [float(row["probability_of_predicted"]) for row in rows]


def predicted(processor, model, pictures, **options):
    """The same, by an image processor and a model."""
    pixels = processor(pictures, return_tensors="pt", **options)["pixel_values"]
    with torch.no_grad():
        best = model(pixels).logits.softmax(1).max(1)
    return [CLASSES[n] for n in best.indices.tolist()], best.values.tolist()


@pytest.mark.parametrize(("family", "channels"), [("ViT", 3), ("Cvt", 3), ("Bit", 3), ("ViT", 1)], ids=str)
def test_processor_and_model_of_transformers_predict_what_evaluate_does(family, channels, tmp_path):
    size, pictures = (32, 32), list(wide_pictures(channels, np.uint8))
    folder = save(tmp_path / "model", make_model(family, size, channels), size, channels, np.uint8)
    wanted = evaluated(folder, write_set(tmp_path / "data", pictures), tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__.startswith("PerceiverImageProcessor")
    assert len(set(wanted[0])) > 1
    shown = [Image.fromarray(p.squeeze(-1) if channels == 1 else p) for p in pictures]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    for found in (predicted(processor, model, shown), predicted(own(folder), api.load(str(folder)), shown)):
        assert found[0] == wanted[0]
        np.testing.assert_allclose(found[1], wanted[1], atol=0.01)


def own(folder):
    return models.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "size", "channels", "dtype"),
    [
        ("ViT", (32, 64), 3, np.uint8),
        ("Cvt", (48, 32), 3, np.uint8),
        ("Bit", (32, 32), 4, np.uint8),
        ("Bit", (32, 32), 4, np.uint16),
        ("ViT", (32, 32), 1, np.uint16),
    ],
    ids=str,
)
def test_where_transformers_has_no_such_processor_it_refuses_ours_by_name(family, size, channels, dtype, tmp_path):
    pictures = list(wide_pictures(channels, dtype))
    folder = save(tmp_path / "model", make_model(family, size, channels), size, channels, dtype)
    wanted = evaluated(folder, write_set(tmp_path / "data", pictures), tmp_path / "out")
    with pytest.raises(ValueError, match="Unrecognized image processor"):
        transformers.AutoImageProcessor.from_pretrained(folder)
    processor = own(folder)
    assert type(processor).__name__ == "CenterCropImageProcessor"
    found = predicted(processor, api.load(str(folder)), pictures, input_data_format="channels_last")
    assert found[0] == wanted[0]
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)


def test_folders_with_the_old_processor_still_load(tmp_path):
    folder = save(tmp_path / "model", make_model("ViT", (32, 32), 3), (32, 32), 3, np.uint8)
    new = api.evaluate(
        init=str(folder), data=write_set(tmp_path / "data", wide_pictures(3, np.uint8)), out=str(tmp_path / "a")
    )
    models.ViTImageProcessor(
        size={"height": 32, "width": 32}, resample=3, image_mean=[0.45] * 3, image_std=[0.25] * 3
    ).save_pretrained(folder)
    old = api.evaluate(init=str(folder), data=str(tmp_path / "data"), out=str(tmp_path / "b"))
    assert old["metrics"] == new["metrics"]


@pytest.mark.parametrize(
    ("family", "field"), [("ViT", {"classifier_pool": "mean"}), ("Cvt", {"hidden_act": "relu"})], ids=str
)
def test_transformers_refuses_weights_that_it_would_compute_otherwise(family, field, tmp_path):
    model = make_model(family, (32, 32), 3, **field)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [f"Mimsuite{family}ForImageClassification"]
    with pytest.raises(ValueError, match="does not recognize this architecture"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    openers = (api.load, models.AutoModelForImageClassification.from_pretrained, type(model).from_pretrained)
    for loaded in [opened(str(tmp_path)) for opened in openers]:
        assert type(loaded) is type(model)
        with torch.no_grad():
            assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    assert models.AutoConfig.from_pretrained(tmp_path).model_type == family.lower()


def test_pooling_matters_for_classifiers_alone(tmp_path):
    models.ViTModel(models.ViTConfig(**VIT, image_size=32, classifier_pool="mean")).save_pretrained(tmp_path / "a")
    models.ViTModel(models.ViTConfig(**VIT, image_size=32, num_register_tokens=2)).save_pretrained(tmp_path / "b")
    named = [json.loads((tmp_path / name / "config.json").read_text())["model_type"] for name in "ab"]
    assert named == ["vit", "mimsuite_vit"]
