"""KerasHub's files as `init=`, and as an export; damaged and hostile ones."""

import json
import re

import h5py
import numpy as np
import pytest
import torch
from keras_files import arguments, compute, read_h5, write_h5, write_preset

from mimsuite.errors import InputError
from mimsuite.models import ViTBackbone, ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.models.load import load_encoder, load_model
from mimsuite.weights.init import find_weights
from mimsuite.weights.keras_folder import write_preset as export

HEAD = {"layers/dense/vars/0": np.ones((8, 5), np.float32), "layers/dense/vars/1": np.arange(5, dtype=np.float32)}
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
SIZES |= {"image_size": [16, 36], "patch_size": [8, 12], "encoder_stride": [8, 12], "layer_norm_eps": 1e-6}


def pixels():
    return torch.randn(2, 16, 36, 3, generator=torch.Generator().manual_seed(1))


def tokens_of(weights):
    encoder = load_encoder(weights, ViTConfig.from_dict(weights.config), weights.image_size)
    return encoder(pixels().movedim(-1, 1)).last_hidden_state


@pytest.mark.parametrize("switch", ["use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias", None])
def test_a_preset_folder_is_an_init(tmp_path, switch):
    given = arguments(**({switch: False} if switch else {}))
    datasets = write_preset(tmp_path, given)
    wanted = compute(datasets, given, pixels()).float()
    weights = find_weights(str(tmp_path))
    torch.testing.assert_close(tokens_of(weights), wanted, rtol=0, atol=2e-5)
    assert weights.statistics is None
    assert weights.foreign.report().startswith(f"KerasHub's ViTBackbone: {len(datasets)} of its tensors are used; ")


def test_a_file_alone_is_an_init_of_a_square(tmp_path):
    given = arguments(image_shape=[16, 16, 3], patch_size=[8, 8], use_mha_bias=False)
    datasets = write_preset(tmp_path, given)
    for path, prefix in (("a", ""), ("b", "layers/vi_t_backbone/")):  # the second as in a file of a whole classifier
        alone = tmp_path / "alone" / path
        alone.parent.mkdir(exist_ok=True)
        write_h5(alone, {f"{prefix}{name}": values for name, values in datasets.items()})
        weights = find_weights(str(alone))
        assert (
            ViTConfig.from_dict(weights.config).to_dict() == ViTBackbone.from_preset(tmp_path).encoder.config.to_dict()
        )
        found = load_model(weights).state_dict()
        assert torch.equal(
            found["layernorm.weight"], torch.from_numpy(datasets["layers/vi_t_encoder/layer_norm/vars/0"])
        )


def test_a_classifier_and_its_preprocessing_are_an_init(tmp_path):
    converter = {"scale": [1 / (255 * 0.25)] * 3, "offset": [-2.0, -1.0, 0.0], "image_size": [16, 36]}
    datasets = write_preset(tmp_path, head=HEAD, converter=converter)
    weights = find_weights(str(tmp_path))
    mean, std = weights.statistics
    assert mean == pytest.approx((0.5, 0.25, 0))
    assert std == pytest.approx((0.25, 0.25, 0.25))
    model = load_model(weights)
    assert isinstance(model, ViTForImageClassification)
    wanted = compute(datasets, arguments(), pixels()).float()[:, 0].sum(-1, keepdim=True) + torch.arange(5)
    torch.testing.assert_close(model.eval()(pixels().movedim(-1, 1)).logits, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", [{"pooling": "gap"}, {"intermediate_dim": 5}])
def test_a_head_that_is_not_ours_is_left_out(tmp_path, task):
    deep = {"layers/dense_1/vars/0": np.ones((5, 5), np.float32), "layers/dense_1/vars/1": np.ones(5, np.float32)}
    write_preset(tmp_path, head=HEAD | (deep if "intermediate_dim" in task else {}), task=task)
    weights = find_weights(str(tmp_path))
    assert weights.config["architectures"] == ["ViTModel"]
    assert {"layers/dense/vars/0", "layers/dense/vars/1"} <= set(weights.foreign.ignored)


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification, ViTForMaskedImageModeling])
@pytest.mark.parametrize("bias", [True, False])
def test_an_export_is_read_by_the_face_and_as_init(tmp_path, kind, bias):
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, num_labels=5, qkv_bias=bias)
    model = kind(config).eval()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("decoder.")}
    export(tmp_path, config.to_dict(), state, {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3})
    encoder = model if kind is ViTModel else model.vit
    wanted = encoder(pixels().movedim(-1, 1)).last_hidden_state
    torch.testing.assert_close(ViTBackbone.from_preset(tmp_path)(pixels()), wanted, rtol=0, atol=1e-6)
    weights = find_weights(str(tmp_path))
    assert weights.statistics[0] == pytest.approx((0.5, 0.4, 0.3))
    assert weights.statistics[1] == pytest.approx((0.2,) * 3)
    read = weights.state()
    kept = {name.removeprefix("vit."): t for name, t in state.items() if not name.endswith("mask_token")}
    kept = {name: tensor for name, tensor in kept.items() if not name.startswith("pooler.")}
    assert all(torch.equal(read[name], tensor) for name, tensor in kept.items())
    added = read.keys() - kept.keys()
    assert all(name.endswith((".query.bias", ".key.bias", ".value.bias")) and not read[name].any() for name in added)
    assert bool(added) != bias


def test_a_classifier_without_class_token_goes_round(tmp_path):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SIZES, num_labels=5, use_class_token=False)).eval()
    export(tmp_path, model.config.to_dict(), model.state_dict())
    back = load_model(find_weights(str(tmp_path))).eval()
    images = pixels().movedim(-1, 1)
    torch.testing.assert_close(back(images).logits, model(images).logits, rtol=0, atol=1e-6)


def test_an_export_of_what_kerashub_has_not_is_refused(tmp_path):
    for changes, name in (
        ({"layer_scale_init_value": 0.1}, "layer_scale_init_value=0.1"),
        ({"num_register_tokens": 2}, "num_register_tokens=2"),
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
        ({"use_gated_mlp": True}, "use_gated_mlp=True"),
        ({"norm_after_pool": True}, "norm_after_pool=True"),
        ({"use_relative_position_bias": True}, "use_relative_position_bias=True"),
    ):
        config = ViTConfig(**SIZES, **changes)
        with pytest.raises(InputError, match=f"has no {re.escape(name)}"):
            export(tmp_path / "x", config.to_dict(), ViTModel(config, False).state_dict())
    for pool in ("mean", "both"):
        config = ViTConfig(**SIZES, classifier_pool=pool)
        with pytest.raises(InputError, match="no mean of the patches alone"):
            export(tmp_path / "x", config.to_dict(), ViTForImageClassification(config).state_dict())
    assert not (tmp_path / "x").exists()


def cut(folder, length):
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:length])


def change(folder, edit):
    with h5py.File(folder / "model.weights.h5", "a") as file:
        edit(file)


def foreign_link(file):
    file["layers/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file):
    file["layers/elsewhere"] = h5py.SoftLink("/layers/vi_t_encoder")


def circle(file):
    file["layers/elsewhere"] = file["layers"]


def empty_giant(file):
    del file["layers/vi_t_encoder/layer_norm/vars/0"]
    file.create_dataset("layers/vi_t_encoder/layer_norm/vars/0", shape=(10**6, 10**6), dtype="f4")


def chunked_giant(file):
    del file["layers/vi_t_encoder/layer_norm/vars/0"]
    file.create_dataset("layers/vi_t_encoder/layer_norm/vars/0", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))


def deep(file):
    file.create_group("/".join(["g"] * 3000))


def other_file(file):
    file.create_dataset("layers/raw", shape=(8,), dtype="f4", external=[("/etc/passwd", 0, 32)])


def words(file):
    file["layers/words"] = "text"


def stranger(file):
    file["layers/some_other_layer/vars/0"] = np.ones(3, np.float32)


def wrong_shape(file):
    del file["layers/vi_t_encoder/layer_norm/vars/0"]
    file["layers/vi_t_encoder/layer_norm/vars/0"] = np.ones(9, np.float32)


def missing(file):
    del file["layers/vi_t_encoder/layer_norm/vars/0"]


HOSTILE = {
    foreign_link: "'layers/elsewhere' is a link",
    soft_link: "'layers/elsewhere' is a link",
    circle: "deeper than 40, or inside itself",
    empty_giant: "is not stored in this file",
    chunked_giant: "is not stored in this file",
    deep: "deeper than 40, or inside itself",
    other_file: "is not stored in this file",
    words: "not numbers",
    stranger: "layers/some_other_layer/vars/0",
}
WRONG = {
    wrong_shape: r"layernorm.weight has shape \(9,\), the model \(8,\)",
    missing: "has no layernorm.weight",
}


@pytest.mark.parametrize("edit", [*HOSTILE, *WRONG], ids=lambda edit: edit.__name__)
def test_a_hostile_or_wrong_file_is_one_line(tmp_path, edit):
    write_preset(tmp_path)
    change(tmp_path, edit)
    for read in (ViTBackbone.from_preset, find_weights) if edit in HOSTILE else (ViTBackbone.from_preset,):
        with pytest.raises(InputError, match=(HOSTILE | WRONG)[edit]) as caught:
            read(str(tmp_path))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


@pytest.mark.parametrize("length", [0, 7, 100, 2000, 9000, -1])
def test_a_file_that_was_cut_is_one_line(tmp_path, length):
    write_preset(tmp_path)
    cut(tmp_path, length)
    for read in (ViTBackbone.from_preset, find_weights):
        with pytest.raises(InputError, match=r"model\.weights\.h5") as caught:
            read(str(tmp_path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["config"].pop("hidden_dim"),
        lambda c: c["config"].update(hidden_dim="8"),
        lambda c: c["config"].update(image_shape=7),
        lambda c: c["config"].update(image_shape=[16, 36]),
        lambda c: c["config"].update(num_layers=10**6),
        lambda c: c["config"].update(hidden_dim=2**20, num_heads=1),
        lambda c: c["config"].update(strange=1),
        lambda c: c.update(config=[]),
        lambda c: c.update(class_name="VGGBackbone"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path, change):
    write_preset(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    change(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        ViTBackbone.from_preset(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_of_files_elsewhere_is_refused(tmp_path):
    write_preset(tmp_path)
    (tmp_path / "model.weights.h5").unlink()
    for places in ({"/a": "../x.weights.h5"}, {"/a": 5}, {"/a": [["x"]]}, [], {"/a": "model.weights.json"}):
        (tmp_path / "model.weights.json").write_text(json.dumps({"weight_map": places}))
        with pytest.raises(InputError, match=r"model.weights.json"):
            ViTBackbone.from_preset(tmp_path)


def test_bfloat16_goes_round_as_keras_writes_it(tmp_path):
    model = ViTBackbone((16, 36, 3), (8, 12), 1, 2, 8, 12, dtype="bfloat16")
    model.save_to_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        stored = file["layers/vi_t_encoder/encoder_layers/vi_t_encoder_block/mlp/dense_1/vars/0"]
        assert (stored.dtype.str, stored.attrs["dtype"]) == ("|V2", "bfloat16")
    assert set(read_h5(tmp_path / "model.weights.h5")["layers/vi_t_encoder/layer_norm/vars/0"].tobytes()) == {
        0x80,
        0x3F,
    }
    weights = find_weights(str(tmp_path)).state()
    assert torch.equal(
        weights["encoder.layer.0.intermediate.dense.weight"], model.encoder.layers[0].intermediate.dense.weight
    )
