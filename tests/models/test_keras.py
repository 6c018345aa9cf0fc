"""KerasHub's ViTBackbone over our ViT: arguments, results, files, presets; and its classifier."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from keras_files import SIZES, arguments, compute, read_h5, write_preset
from torch import nn
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.models import Backbone, ViTBackbone, ViTConfig, ViTForImageClassification, ViTImageClassifier, ViTModel

CASES = {
    "all": {},
    "without biases of attention": {"use_mha_bias": False},
    "without biases of the MLP": {"use_mlp_bias": False},
    "without class token": {"use_class_token": False},
    "without bias of the patches": {"use_patch_bias": False},
    "a square": {"image_shape": [16, 16, 3], "patch_size": [8, 8]},
    "one channel": {"image_shape": [16, 36, 1]},
    "another epsilon": {"layer_norm_epsilon": 1e-2},
    "eleven layers": {"num_layers": 11},
    "with dropout": {"dropout_rate": 0.2, "attention_dropout": 0.1},
}


def images(shape=SIZES["image_shape"], batch=2):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_preset_of_kerashub_computes_what_its_layers_do(tmp_path, changes):
    given = arguments(**changes)
    datasets = write_preset(tmp_path, given)
    model = ViTBackbone.from_preset(tmp_path, dtype="float64")
    pixels = images(given["image_shape"])
    assert not model.training
    torch.testing.assert_close(model(pixels), compute(datasets, given, pixels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("changes", [*CASES.values(), {"dtype": "float16"}, {"dtype": "bfloat16"}], ids=str)
def test_what_is_saved_is_read_back_bit_by_bit(tmp_path, changes):
    torch.manual_seed(0)
    model = ViTBackbone(**SIZES | changes)
    model.save_to_preset(tmp_path)
    back = Backbone.from_preset(tmp_path)
    assert type(back) is ViTBackbone
    assert back.get_config() == model.get_config()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), back.parameters(), strict=True))
    assert back.dtype == model.dtype


def test_the_files_are_those_of_kerashub(tmp_path):
    datasets = write_preset(tmp_path / "theirs")
    ViTBackbone.from_preset(tmp_path / "theirs").save_to_preset(tmp_path / "ours")
    found = read_h5(tmp_path / "ours" / "model.weights.h5")
    assert found.keys() == datasets.keys()
    assert all(np.array_equal(found[name], datasets[name]) for name in datasets)
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert ours["config"].pop("data_format") == "channels_last"  # which KerasHub takes and does not write
    assert ours == theirs
    metadata = json.loads((tmp_path / "ours" / "metadata.json").read_text())
    assert metadata["parameter_count"] == sum(values.size for values in datasets.values())


def test_large_weights_are_split_and_leave_no_older_file(tmp_path):
    model = ViTBackbone(**SIZES)
    model.save_to_preset(tmp_path)
    model.save_to_preset(tmp_path, max_shard_size=2e-6)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"model_00000.weights.h5", "model_00001.weights.h5", "model.weights.json"} <= files
    assert "model.weights.h5" not in files
    places = json.loads((tmp_path / "model.weights.json").read_text())["weight_map"]
    assert places["/layers/vi_t_encoder/layer_norm/vars"] == sorted(f for f in files if f.startswith("model_0"))[-1]
    back = ViTBackbone.from_preset(tmp_path)
    assert torch.equal(back(images()), model.eval()(images()))
    model.save_to_preset(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "metadata.json", "model.weights.h5"}


def test_weights_alone_go_round(tmp_path):
    torch.manual_seed(0)
    model, other = ViTBackbone(**SIZES).eval(), ViTBackbone(**SIZES).eval()
    assert not torch.equal(model(images()), other(images()))
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    assert torch.equal(model(images()), other(images()))
    with pytest.raises(InputError, match=r"position_embeddings.*shape"):
        ViTBackbone(**SIZES | {"image_shape": (16, 24, 3)}).load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.load_weights(tmp_path / "b.weights.h5")


@pytest.mark.parametrize("name", sorted(ViTBackbone.presets))
def test_a_built_in_preset_has_its_count_without_network(name):
    with torch.device("meta"):
        model = ViTBackbone.from_preset(name, load_weights=False)
    assert model.count_params() == ViTBackbone.presets[name]["metadata"]["params"]
    assert model.arguments.image_shape[0] == int(name.split("_")[3])


def test_the_presets_are_the_eleven_of_the_page():
    page = {
        "vit_base_patch16_224_imagenet": "85.80M",
        "vit_base_patch16_224_imagenet21k": "85.80M",
        "vit_base_patch16_384_imagenet": "86.09M",
        "vit_base_patch32_224_imagenet21k": "87.46M",
        "vit_base_patch32_384_imagenet": "87.53M",
        "vit_large_patch16_224_imagenet": "303.30M",
        "vit_large_patch16_224_imagenet21k": "303.30M",
        "vit_large_patch16_384_imagenet": "303.69M",
        "vit_large_patch32_224_imagenet21k": "305.51M",
        "vit_large_patch32_384_imagenet": "305.61M",
        "vit_huge_patch14_224_imagenet21k": "630.76M",
    }
    assert {name: f"{row['metadata']['params'] / 1e6:.2f}M" for name, row in Backbone.presets.items()} == page
    assert all(
        re.fullmatch(rf"kaggle://keras/vit/keras/{n}/\d", r["kaggle_handle"]) for n, r in Backbone.presets.items()
    )


def test_both_data_formats_give_the_same():
    torch.manual_seed(0)
    last = ViTBackbone(**SIZES).eval()
    first = ViTBackbone.from_config(last.get_config() | {"image_shape": [3, 16, 36], "data_format": "channels_first"})
    first.load_state_dict(last.state_dict())
    assert torch.equal(first.eval()(images().movedim(-1, 1)), last(images()))


def test_a_file_saved_with_channels_first_is_recognised_by_its_shapes(tmp_path):
    datasets = write_preset(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"]["image_shape"] = [3, 16, 36]  # as KerasHub writes it then, without data_format
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = ViTBackbone.from_preset(tmp_path, dtype="float64")
    assert model.arguments.data_format == "channels_first"
    wanted = compute(datasets, arguments(), images())
    torch.testing.assert_close(model(images().movedim(-1, 1)), wanted, rtol=0, atol=1e-9)
    other = ViTBackbone.from_preset(tmp_path, dtype="float64", data_format="channels_last")
    torch.testing.assert_close(other(images()), wanted, rtol=0, atol=1e-9)


def test_images_are_tensors_arrays_or_a_dict_of_any_numbers():
    model = ViTBackbone(**SIZES).eval()
    numbers = images().mul(50).round()
    wanted = model(numbers)
    assert torch.equal(model({"images": numbers.numpy()}), wanted)
    assert torch.equal(model(numbers.to(torch.int64)), wanted)
    with pytest.raises(InputError, match=r"images have shape \(2, 3, 16, 36\); expected \(batch, 16, 36, 3\)"):
        model(numbers.movedim(-1, 1))


def test_dropout_acts_where_kerashub_has_it(monkeypatch):
    model = ViTBackbone(**SIZES, dropout_rate=0.5)
    seen = []
    monkeypatch.setattr(F, "dropout", lambda x, p, *_: seen.append((p, x.shape[-1])) or x)
    model(images())
    after = [(0.5, 8), (0.5, 12), (0.5, 8)]  # attention's output, activation, MLP
    assert seen == [(0.5, 8), *after, *after]


def test_training_is_a_matter_of_the_call_or_of_the_mode():
    torch.manual_seed(0)
    model = ViTBackbone(**SIZES, dropout_rate=0.5)
    model.encoder.layernorm.eval()
    still = model(images(), training=False)
    assert torch.equal(still, model(images(), training=False))
    assert not torch.equal(still, model(images()))
    assert model.training
    assert not model.encoder.layernorm.training
    assert not torch.equal(model.eval()(images(), training=True), still)


def test_fresh_weights_are_drawn_as_in_keras():
    torch.manual_seed(0)
    model = ViTBackbone((32, 32, 3), 8, 1, 4, 256, 512)
    state = model.encoder.state_dict()
    limits = {  # sqrt(6 / (inputs + outputs))
        "embeddings.patch_embeddings.projection.weight": (6 / (64 * (3 + 256))) ** 0.5,
        "encoder.layer.0.attention.attention.query.weight": (6 / (256 + 256)) ** 0.5,
        "encoder.layer.0.attention.output.dense.weight": (6 / (256 + 256)) ** 0.5,
        "encoder.layer.0.intermediate.dense.weight": (6 / (256 + 512)) ** 0.5,
    }
    for name, limit in limits.items():
        assert 0.99 * limit < state[name].abs().max() <= limit
    stds = {
        "embeddings.cls_token": 0.05,
        "embeddings.position_embeddings": 0.02,
        "encoder.layer.0.output.dense.bias": 1e-6,
    }
    assert all(abs(state[name].std() / std - 1) < 0.15 for name, std in stds.items())
    zeros = ("attention.attention.key.bias", "attention.output.dense.bias", "layernorm_before.bias")
    assert not any(state[f"encoder.layer.0.{name}"].any() for name in zeros)
    assert (state["layernorm.weight"] == 1).all()


def test_types_are_those_of_keras_policies(tmp_path):
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "bfloat16"}, "registered_name": None}
    half = ViTBackbone(**SIZES, dtype=policy)
    assert (half.dtype, half(images()).dtype, half.get_config()["dtype"]) == (torch.bfloat16, torch.bfloat16, policy)
    mixed = ViTBackbone(**SIZES, dtype="mixed_bfloat16")
    assert (mixed.dtype, mixed(images()).dtype) == (torch.float32, torch.bfloat16)
    full = ViTBackbone(**SIZES)
    assert full.get_config()["dtype"]["config"] == {"name": "float32"}
    assert full.to(torch.float16).get_config()["dtype"]["config"] == {"name": "float16"}
    mixed.save_to_preset(tmp_path)
    assert ViTBackbone.from_preset(tmp_path).dtype_policy.name == "mixed_bfloat16"
    assert ViTBackbone.from_preset(tmp_path, dtype=torch.float64).dtype == torch.float64


def test_a_backbone_is_frozen_by_trainable():
    model = ViTBackbone(**SIZES, trainable=False, name="mine")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (model.get_config()["trainable"], model.get_config()["name"]) == (False, "mine")
    model.trainable = True
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (None, 36, 3)}, "must have a height and a width"),
        ({"image_shape": (16, 36)}, "not 3 integers"),
        ({"image_shape": (15, 36, 3)}, "Input height 15 should be divisible by patch size 8"),
        ({"image_shape": (16, 35, 3)}, "Input width 35 should be divisible by patch size 12"),
        ({"image_shape": (3, 16, 36)}, "which is .height, width, channels. with data_format='channels_last'"),
        ({"num_heads": 3}, "hidden_dim=8 is not a multiple of num_heads=3"),
        ({"data_format": "NCHW"}, "not one of channels_last, channels_first"),
        ({"dtype": "int8"}, "'int8' is not a type"),
        ({"dtype": {"class_name": "QuantizedDTypePolicy", "config": {}}}, "is not a type"),
        ({"dropout_rate": 1.5}, "dropout_rate=1.5 must be"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon=0 must be above 0"),
        ({"mlp_dim": 0}, "mlp_dim=0 must be at least 1"),
    ],
)
def test_a_wrong_argument_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        ViTBackbone(**SIZES | changes)


def test_another_image_shape_interpolates_the_positions(tmp_path):
    write_preset(tmp_path)
    model = ViTBackbone.from_preset(tmp_path, image_shape=(32, 48, 3), dropout_rate=0.1)
    own = ViTBackbone.from_preset(tmp_path)
    own.encoder.set_image_size([32, 48])
    assert model(images((32, 48, 3))).shape == (2, 17, 8)
    assert torch.equal(model.encoder.embeddings.position_embeddings, own.encoder.embeddings.position_embeddings)
    assert (model.arguments.dropout_rate, model.get_config()["image_shape"]) == (0.1, [32, 48, 3])
    with pytest.raises(InputError, match=r"projection.weight has shape \(8, 3, 8, 12\), the model \(8, 4, 8, 12\)"):
        ViTBackbone.from_preset(tmp_path, image_shape=(16, 36, 4))


def test_a_hugging_face_folder_is_a_preset_too(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = ViTConfig(
        **sizes, image_size=[16, 36], patch_size=[8, 12], qkv_bias=False, layer_norm_eps=1e-6, num_labels=5
    )
    classifier = ViTForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    pixels, model = images(), ViTBackbone.from_preset(tmp_path)
    wanted = classifier.vit(pixels.movedim(-1, 1)).last_hidden_state
    torch.testing.assert_close(model(pixels), wanted, rtol=0, atol=1e-6)
    assert model.arguments.use_mha_bias  # zeros, as the output of attention has a bias
    logits = ViTImageClassifier.from_preset(tmp_path)(pixels)
    torch.testing.assert_close(logits, classifier(pixels.movedim(-1, 1)).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pool", ["auto", "mean"])
def test_a_hugging_face_folder_without_class_token_is_pooled_by_the_mean(tmp_path, pool):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = ViTConfig(**sizes, image_size=[16, 36], patch_size=[8, 12], use_class_token=False, classifier_pool=pool)
    classifier = ViTForImageClassification(config).eval()
    classifier.write_files(tmp_path, classifier.state_dict())
    logits = ViTImageClassifier.from_preset(tmp_path)(images())
    torch.testing.assert_close(logits, classifier(images().movedim(-1, 1)).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "both"])
def test_a_hugging_face_folder_whose_pool_kerashub_has_not_gives_no_classifier(tmp_path, pool):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    classifier = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, classifier_pool=pool))
    classifier.write_files(tmp_path, classifier.state_dict())
    with pytest.raises(InputError, match=f"pooling='{pool}' is not one of token, gap"):
        ViTImageClassifier.from_preset(tmp_path)
    assert ViTImageClassifier.from_preset(tmp_path, num_classes=4)(images((16, 16, 3))).shape == (2, 4)
    assert ViTBackbone.from_preset(tmp_path)(images((16, 16, 3))).shape == (2, 5, 8)


def test_a_vit_that_kerashub_has_not_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8, hidden_act="relu")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no hidden_act='relu'"):
        ViTBackbone.from_preset(tmp_path)
    content = {
        "model_type": "vit",
        "image_size": 16,
        "patch_size": 8,
        **sizes,
    }  # the rest as in transformers
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert ViTBackbone.from_preset(tmp_path, load_weights=False).arguments.layer_norm_epsilon == 1e-12
    (tmp_path / "config.json").write_text('{"model_type": "cvt"}')
    with pytest.raises(InputError, match="neither of KerasHub nor of a ViT of Hugging Face"):
        ViTBackbone.from_preset(tmp_path)


HEADS = {
    "token": ({}, {"layers/dense/vars/0": (8, 5), "layers/dense/vars/1": (5,)}),
    "gap": ({"pooling": "gap"}, {"layers/dense/vars/0": (8, 5), "layers/dense/vars/1": (5,)}),
    "deep": (
        {"intermediate_dim": 4, "activation": "softmax", "dropout": 0.1},
        {"layers/dense/vars/0": (8, 4), "layers/dense/vars/1": (4,)}
        | {"layers/dense_1/vars/0": (4, 5), "layers/dense_1/vars/1": (5,)},
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_of_kerashub_computes_what_its_layers_do(tmp_path, name):
    task, sizes = HEADS[name]
    generator = np.random.default_rng(3)
    head = {key: generator.normal(size=shape).astype(np.float32) for key, shape in sizes.items()}
    datasets = write_preset(tmp_path / "a", head=head, task=task)
    model = ViTImageClassifier.from_preset(tmp_path / "a", dtype="float64")
    tokens = compute(datasets, arguments(), images())
    wanted = tokens.mean(1) if name == "gap" else tokens[:, 0]
    layers = {key: torch.from_numpy(values).double() for key, values in head.items()}
    for number, layer in enumerate(["dense", "dense_1"][: len(layers) // 2]):
        wanted = wanted @ layers[f"layers/{layer}/vars/0"] + layers[f"layers/{layer}/vars/1"]
        wanted = wanted.tanh() if number == 0 and name == "deep" else wanted
    wanted = wanted.softmax(-1) if name == "deep" else wanted
    torch.testing.assert_close(model(images()), wanted, rtol=0, atol=1e-9)
    plain = ViTImageClassifier.from_preset(tmp_path / "a")
    plain.save_to_preset(tmp_path / "b")
    found = read_h5(tmp_path / "b" / "task.weights.h5")
    assert all(np.array_equal(found[key], values) for key, values in head.items())
    assert found.keys() == read_h5(tmp_path / "a" / "task.weights.h5").keys()
    written, read = (json.loads((tmp_path / f / "task.json").read_text()) for f in "ab")
    del read["config"]["backbone"]["config"]["data_format"]
    assert read == written


def test_new_classes_begin_with_a_fresh_head(tmp_path):
    write_preset(tmp_path)
    with pytest.raises(InputError, match="a backbone without a classifier; give num_classes="):
        ViTImageClassifier.from_preset(tmp_path)
    model = ViTImageClassifier.from_preset(tmp_path, num_classes=7, image_shape=(16, 24, 3))
    assert model(images((16, 24, 3))).shape == (2, 7)
    with pytest.raises(InputError, match="pooling='token' needs a backbone with use_class_token=True"):
        ViTImageClassifier(ViTBackbone(**SIZES, use_class_token=False), 5)
    wrong = {
        "num_classes": 0,
        "preprocessor": 3,
        "pooling": "max",
        "intermediate_dim": 0,
        "dropout": 2,
        "activation": "none",
    }
    for change in ({name: value} for name, value in [*wrong.items(), ("activation", {})]):
        with pytest.raises(InputError, match=next(iter(change.values())).__repr__()):
            ViTImageClassifier(ViTBackbone(**SIZES), **{"num_classes": 5} | change)


def test_dropout_of_a_head_acts_in_training_only():
    torch.manual_seed(0)
    model = ViTImageClassifier(ViTBackbone(**SIZES), 5, dropout=0.5)
    assert torch.equal(model(images(), training=False), model(images(), training=False))
    assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("file", ["config.json", "model.weights.h5"])
def test_a_file_that_is_missing_is_named(tmp_path, file):
    write_preset(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=re.escape(file)):
        ViTBackbone.from_preset(tmp_path)


def test_a_preset_of_another_class_is_refused(tmp_path):
    write_preset(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"class_name": "BertBackbone"}))
    with pytest.raises(InputError, match="is of a BertBackbone; mimsuite has KerasHub's ViTBackbone"):
        Backbone.from_preset(tmp_path)


def test_the_network_is_our_vit():
    model = ViTBackbone(**SIZES, dropout_rate=0.1)
    assert type(model.encoder) is ViTModel
    assert set(model.state_dict()) == {f"encoder.{name}" for name in ViTModel(model.encoder.config, False).state_dict()}
    assert isinstance(model.encoder.layers[0].intermediate.activation[0], nn.GELU)


def test_a_copied_folder_stays_readable(tmp_path):
    write_preset(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b c=d")
    assert ViTBackbone.from_preset(str(tmp_path / "b c=d"))(images()).shape == (2, 7, 8)
