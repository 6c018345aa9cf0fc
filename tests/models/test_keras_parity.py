"""The same files in keras-hub and here, both ways; it is no part of the project's environment.

Beside an installed project it needs no TensorFlow: `pip install --no-deps keras-hub keras namex optree absl-py`.
"""

import importlib.util
import os
import tempfile

import numpy as np
import pytest
import torch

from mimsuite.models import ViTBackbone, ViTConfig, ViTForImageClassification, ViTImageClassifier
from mimsuite.weights.keras_folder import write_preset

if importlib.util.find_spec("keras_hub") is None:
    pytest.skip("keras-hub is not installed", allow_module_level=True)
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": tempfile.mkdtemp()}  # read when Keras is imported

import keras
import keras_hub

pytestmark = pytest.mark.filterwarnings("default")  # Keras and what it imports warn of much
SIZES = {
    "image_shape": (32, 48, 3),
    "patch_size": (8, 12),
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 24,
    "mlp_dim": 40,
}
CASES = {
    "all": {},
    "without biases of attention": {"use_mha_bias": False},
    "without biases of the MLP": {"use_mlp_bias": False},
    "without class token": {"use_class_token": False},
    "without bias of the patches": {"use_patch_bias": False},
    "without any": dict.fromkeys(("use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias"), False),
    "square": {"image_shape": (32, 32, 3), "patch_size": 16},
    "four channels": {"image_shape": (32, 48, 4)},
    "channels first": {"image_shape": (3, 32, 48), "data_format": "channels_first"},
    "twelve layers": {"num_layers": 12},
    "another epsilon": {"layer_norm_epsilon": 1e-3},
    "with dropout": {"dropout_rate": 0.3, "attention_dropout": 0.2},
    "bfloat16": {"dtype": "bfloat16"},
}
HEADS = {
    "token": {},
    "gap": {"pooling": "gap"},
    "deep": {"intermediate_dim": 10, "dropout": 0.1},
    "softmax": {"activation": "softmax"},
}


@pytest.fixture(autouse=True)
def seeded():
    """The same weights in every run: half types are compared within a bound that other weights may exceed."""
    keras.utils.set_random_seed(0)


def values(variable):
    return keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32"))


def drawn(model):
    """A model of keras-hub whose biases and norms are no longer 0 and 1."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(values(variable) + generator.normal(0, 0.1, variable.shape).astype("float32"))
    return model


def images(shape, dtype="float32"):
    return np.random.default_rng(1).normal(size=(2, *shape)).astype(dtype)


def outputs(model, pixels):
    return model(pixels, training=False).detach().float()


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_backbone_is_the_same_in_keras_hub_both_ways(tmp_path, changes):
    given = SIZES | changes
    theirs, pixels = drawn(keras_hub.models.ViTBackbone(**given)), images(given["image_shape"])
    theirs.save_to_preset(str(tmp_path / "theirs"))
    ours = ViTBackbone.from_preset(tmp_path / "theirs")
    close = {"rtol": 0, "atol": 0.05 if "dtype" in changes else 2e-6}
    torch.testing.assert_close(outputs(ours, pixels), outputs(theirs, pixels), **close)
    ours.save_to_preset(tmp_path / "ours")
    stored = {"dtype": given["dtype"]} if "dtype" in given else {}  # of which keras-hub takes no notice
    back = keras_hub.models.ViTBackbone.from_preset(str(tmp_path / "ours"), **stored)
    assert all(np.array_equal(values(a), values(b)) for a, b in zip(theirs.weights, back.weights, strict=True))
    assert torch.equal(outputs(back, pixels), outputs(theirs, pixels))
    ours.save_weights(tmp_path / "a.weights.h5")
    drawn(back).load_weights(str(tmp_path / "a.weights.h5"))
    assert torch.equal(outputs(back, pixels), outputs(theirs, pixels))


def test_shards_are_read_both_ways(tmp_path):
    theirs = drawn(keras_hub.models.ViTBackbone(**SIZES))
    theirs.save_to_preset(str(tmp_path / "theirs"), max_shard_size=3e-5)
    assert len(list((tmp_path / "theirs").glob("model_*.weights.h5"))) > 2
    ViTBackbone.from_preset(tmp_path / "theirs").save_to_preset(tmp_path / "ours", max_shard_size=3e-5)
    assert len(list((tmp_path / "ours").glob("model_*.weights.h5"))) > 2
    back = keras_hub.models.ViTBackbone.from_preset(str(tmp_path / "ours"))
    assert all(np.array_equal(values(a), values(b)) for a, b in zip(theirs.weights, back.weights, strict=True))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_classifier_is_the_same_in_keras_hub_both_ways(tmp_path, head):
    theirs = keras_hub.models.ViTImageClassifier(keras_hub.models.ViTBackbone(**SIZES), num_classes=5, **head)
    drawn(theirs).save_to_preset(str(tmp_path / "theirs"))
    ours, pixels = ViTImageClassifier.from_preset(tmp_path / "theirs"), images(SIZES["image_shape"])
    torch.testing.assert_close(outputs(ours, pixels), outputs(theirs, pixels), rtol=0, atol=1e-6)
    ours.save_to_preset(tmp_path / "ours")
    back = keras_hub.models.ViTImageClassifier.from_preset(str(tmp_path / "ours"))
    assert torch.equal(outputs(back, pixels), outputs(theirs, pixels))


def test_an_export_classifies_raw_pixels_in_keras_hub_as_here(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, layer_norm_eps=1e-6, num_labels=5, qkv_bias=False)
    model = ViTForImageClassification(config).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    write_preset(tmp_path, config.to_dict(), model.state_dict(), {"image_mean": mean, "image_std": std})
    theirs = keras_hub.models.ImageClassifier.from_preset(str(tmp_path))
    raw = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    pixels = (torch.from_numpy(raw) / 255 - torch.tensor(mean)) / torch.tensor(std)
    wanted = model(pixels.movedim(-1, 1)).logits.detach()
    torch.testing.assert_close(outputs(theirs, theirs.preprocessor.image_converter(raw)), wanted, rtol=0, atol=2e-6)


def test_fresh_weights_have_the_spread_of_keras_hub():
    sizes = {
        "image_shape": (32, 32, 3),
        "patch_size": 8,
        "num_layers": 1,
        "num_heads": 4,
        "hidden_dim": 128,
        "mlp_dim": 256,
    }
    theirs = {v.path.partition("/")[2]: values(v).std() for v in keras_hub.models.ViTBackbone(**sizes).weights}
    ours = ViTBackbone(**sizes).encoder.state_dict()
    names = {
        "query/kernel": "encoder.layer.0.attention.attention.query.weight",
        "attention_output/kernel": "encoder.layer.0.attention.output.dense.weight",
        "dense_1/kernel": "encoder.layer.0.intermediate.dense.weight",
        "dense_1/bias": "encoder.layer.0.intermediate.dense.bias",
        "patch_embedding/kernel": "embeddings.patch_embeddings.projection.weight",
        "class_token": "embeddings.cls_token",
        "position_embedding/embeddings": "embeddings.position_embeddings",
    }
    for end, name in names.items():
        (spread,) = (one for path, one in theirs.items() if path.endswith(end))
        assert abs(ours[name].std().item() / spread - 1) < 0.25, name


def test_the_presets_are_those_of_keras_hub():
    theirs = keras_hub.models.ViTBackbone.presets
    assert {n: r["metadata"]["params"] for n, r in theirs.items()} == {
        n: r["metadata"]["params"] for n, r in ViTBackbone.presets.items()
    }
    assert {n: r["kaggle_handle"] for n, r in theirs.items()} == {
        n: r["kaggle_handle"] for n, r in ViTBackbone.presets.items()
    }
