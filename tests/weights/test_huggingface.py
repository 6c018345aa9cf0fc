"""`from_pretrained` and `save_pretrained`: prefixes, warnings, shapes, dtypes, the hub's cache."""

import json
import sys

import pytest
import torch
from torch import nn

from mimsuite.errors import InputError
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.models import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
    "encoder_stride": 4,
}


def randomised(cls, **options):
    torch.manual_seed(0)
    config_options = {k: options.pop(k) for k in list(options) if k in ("num_labels", "id2label")}
    model = cls(ViTConfig(**CONFIG, **config_options), **options)
    for p in model.parameters():
        nn.init.normal_(p)
    return model.eval()


@pytest.mark.parametrize(
    ("cls", "auto"),
    [
        (ViTModel, AutoModel),
        (ViTForMaskedImageModeling, AutoModelForMaskedImageModeling),
        (ViTForImageClassification, AutoModelForImageClassification),
    ],
)
def test_a_model_goes_round_without_a_warning(tmp_path, cls, auto):
    model = randomised(cls)
    model.save_pretrained(tmp_path / "deep" / "folder")
    for reader in (cls, auto):
        again = reader.from_pretrained(tmp_path / "deep" / "folder")
        assert type(again) is cls
        assert not again.training
        assert all(torch.equal(t, again.state_dict()[k]) for k, t in model.state_dict().items())


def test_the_folder_says_what_it_holds(tmp_path):
    randomised(ViTForMaskedImageModeling).half().save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    data = json.loads((tmp_path / "config.json").read_text())
    assert (data["architectures"], data["dtype"]) == (["ViTForMaskedImageModeling"], "float16")


def test_saving_leaves_the_config_alone(tmp_path):
    model = randomised(ViTModel)
    model.save_pretrained(tmp_path)
    assert model.config.architectures is None


def test_shards_go_round(tmp_path):
    model = randomised(ViTModel)
    model.save_pretrained(tmp_path, max_shard_bytes=2000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    again = ViTModel.from_pretrained(tmp_path)
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in model.state_dict().items())


def test_a_bare_encoder_goes_into_a_model_with_a_head(tmp_path):
    base = randomised(ViTModel)
    base.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ViTForMaskedImageModeling") as caught:
        model = ViTForMaskedImageModeling.from_pretrained(tmp_path)
    assert len(caught) == 1
    text = str(caught[0].message)
    fresh = "freshly initialised: decoder.0.bias, decoder.0.weight, vit.embeddings.mask_token;"
    assert fresh in text
    assert text.endswith("in the files but not in the model: pooler.dense.bias, pooler.dense.weight")
    assert "\n" not in text
    ours = model.vit.state_dict()
    assert all(torch.equal(ours[k], t) for k, t in base.state_dict().items() if not k.startswith("pooler"))


def test_a_model_with_a_head_goes_into_a_bare_encoder(tmp_path):
    model = randomised(ViTForImageClassification)
    model.save_pretrained(tmp_path)
    base = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert all(torch.equal(base.state_dict()[k], t) for k, t in model.vit.state_dict().items())


def test_options_of_the_constructor_are_handed_on(tmp_path):
    randomised(ViTForMaskedImageModeling).save_pretrained(tmp_path)
    base = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, use_mask_token=True)
    assert base.pooler is None
    assert base.embeddings.mask_token.any()


def test_a_pretrained_model_becomes_a_classifier(tmp_path):
    randomised(ViTForMaskedImageModeling).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"freshly.*classifier\.bias.*in the files.*decoder\.0\.bias") as caught:
        model = ViTForImageClassification.from_pretrained(tmp_path, num_labels=7)
    assert len(caught) == 1
    assert model.classifier.weight.shape == (7, 12)


def test_another_number_of_labels_is_a_shape_error(tmp_path):
    randomised(ViTForImageClassification, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.bias has shape \(3,\), the model \(5,\)"):
        ViTForImageClassification.from_pretrained(tmp_path, num_labels=5)


def test_shapes_can_be_ignored(tmp_path):
    randomised(ViTForImageClassification, num_labels=3).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"freshly initialised: classifier\.bias, classifier\.weight$"):
        model = ViTForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model.config.num_labels == 5


def test_labels_survive(tmp_path):
    names = {0: "Egyptian cat", 1: "tiger cat", 2: "tabby, tabby cat"}
    randomised(ViTForImageClassification, id2label=names).save_pretrained(tmp_path)
    assert ViTForImageClassification.from_pretrained(tmp_path).config.id2label == names


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (None, torch.float16),
        ("auto", torch.float16),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.float64, torch.float64),
    ],
)
def test_the_dtype_is_chosen(tmp_path, asked, got):
    randomised(ViTModel).half().save_pretrained(tmp_path)
    model = ViTModel.from_pretrained(tmp_path, dtype=asked)
    assert {p.dtype for p in model.parameters()} == {got}


def test_the_old_name_of_dtype_works(tmp_path):
    randomised(ViTModel).save_pretrained(tmp_path)
    assert ViTModel.from_pretrained(tmp_path, torch_dtype=torch.float16).layernorm.weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", ["int8", "float3", torch.int32])
def test_a_dtype_that_is_no_float_is_refused(tmp_path, dtype):
    randomised(ViTModel).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not a floating type"):
        ViTModel.from_pretrained(tmp_path, dtype=dtype)


def test_config_fields_can_be_overridden(tmp_path):
    randomised(ViTModel).save_pretrained(tmp_path)
    model = ViTModel.from_pretrained(tmp_path, attn_implementation="eager", hidden_dropout_prob=0.3)
    assert (model.config.attn_implementation, model.config.hidden_dropout_prob) == ("eager", 0.3)


def test_an_unknown_option_is_refused(tmp_path):
    randomised(ViTModel).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no field 'hiden_size'"):
        ViTModel.from_pretrained(tmp_path, hiden_size=3)


def test_a_config_can_be_given(tmp_path):
    model = randomised(ViTModel)
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    again = ViTModel.from_pretrained(tmp_path, config=model.config, layer_norm_eps=1e-3)
    assert again.config.layer_norm_eps == 1e-3


def test_names_of_hugging_face_5_in_memory_are_taken():
    model, other = randomised(ViTForMaskedImageModeling), ViTForMaskedImageModeling(ViTConfig(**CONFIG))
    renamed = {}
    for key, tensor in model.state_dict().items():
        new = key.replace("encoder.layer.", "layers.").replace("attention.output.dense", "attention.o_proj")
        for old in ("query", "key", "value"):
            new = new.replace(f"attention.attention.{old}", f"attention.{old[0]}_proj")
        new = new.replace("intermediate.dense", "mlp.fc1").replace(".output.dense", ".mlp.fc2")
        renamed[new] = tensor
    assert not any("encoder" in k for k in renamed)
    other.load_state_dict(renamed)
    assert all(torch.equal(other.state_dict()[k], t) for k, t in model.state_dict().items())


def test_a_state_dict_is_not_changed_by_loading_it():
    model = randomised(ViTModel)
    state = model.state_dict()
    keys = list(state)
    model.load_state_dict(state)
    assert list(state) == keys


def test_saving_into_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="is a file"):
        randomised(ViTModel).save_pretrained(tmp_path / "x")


def test_an_activation_without_a_name_is_refused_before_anything_is_written(tmp_path):
    model = ViTModel(ViTConfig(**CONFIG, hidden_act=torch.sin))
    with pytest.raises(InputError, match="hidden_act"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_head_is_read_back(tmp_path):
    class Wide(SimMIMHead):
        pass

    model = randomised(ViTForMaskedImageModeling, head=Wide)
    model.save_pretrained(tmp_path)
    assert type(ViTForMaskedImageModeling.from_pretrained(tmp_path, head=Wide).decoder) is Wide


# --- the hub -------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    repository = tmp_path / "models--someone--tiny-vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


@pytest.mark.parametrize("name", ["hf:someone/tiny-vit", "someone/tiny-vit", "hf:someone/tiny-vit@main"])
def test_a_hub_name_is_read_from_its_cache(hub_cache, name):
    model = randomised(ViTModel)
    model.save_pretrained(hub_cache)
    again = AutoModel.from_pretrained(name)
    assert torch.equal(again.layernorm.weight, model.layernorm.weight)


def test_a_hub_repository_of_torch_archives_is_read(hub_cache):
    model = randomised(ViTModel)
    model.config.save_pretrained(hub_cache)
    torch.save(model.state_dict(), hub_cache / "pytorch_model.bin")
    assert torch.equal(ViTModel.from_pretrained("hf:someone/tiny-vit").layernorm.weight, model.layernorm.weight)


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_torch_archives_are_downloaded_only_without_safetensors(tmp_path, monkeypatch, has_safetensors):
    hub = pytest.importorskip("huggingface_hub")
    randomised(ViTModel).save_pretrained(tmp_path)
    state = ViTModel.from_pretrained(tmp_path).state_dict()
    asked = []

    def download(name, revision, allow_patterns):
        asked.append("pytorch_model*.bin" in allow_patterns)
        if asked[-1]:
            torch.save(state, tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    if not has_safetensors:
        (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(hub, "snapshot_download", download)
    ViTModel.from_pretrained("hf:someone/tiny-vit")
    assert asked == ([False] if has_safetensors else [False, True])


@pytest.mark.parametrize(
    ("keywords", "last"),
    [({"from_flax": True}, "flax_model.msgpack"), ({"from_tf": True}, "tf_model.h5"), ({}, "tf_model.h5")],
)
def test_files_of_flax_and_tensorflow_are_downloaded_only_where_nothing_else_is_wanted(
    tmp_path, monkeypatch, keywords, last
):
    hub = pytest.importorskip("huggingface_hub")
    randomised(ViTModel).config.save_pretrained(tmp_path)
    asked = []

    def download(name, revision, allow_patterns):
        asked.append(allow_patterns[-1])
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(InputError, match=f"has no weights that can be read; expected .*{last}"):
        ViTModel.from_pretrained("hf:someone/tiny-vit", **keywords)
    every = ["pytorch_model*.bin", "flax_model.msgpack", "tf_model.h5"]
    assert asked[1:] == ([last] if keywords else every)


@pytest.mark.parametrize("name", ["hf:someone/else", "someone/else"])
def test_what_is_neither_a_folder_nor_cached_is_named_in_one_line(hub_cache, name):
    with pytest.raises(InputError, match="someone/else' is not a local folder, and cannot be downloaded") as error:
        ViTModel.from_pretrained(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:a/b/c"])
def test_a_bad_hub_name_is_refused(name):
    with pytest.raises(InputError, match="use hf:ORG/NAME"):
        ViTModel.from_pretrained(name)


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install mimsuite\[hub\]"):
        ViTModel.from_pretrained("hf:someone/tiny-vit")
