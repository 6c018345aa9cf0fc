"""Keywords of `from_pretrained` and `save_pretrained` that code for Hugging Face gives: they act, or are refused."""

import json
import pickle
import sys
import warnings

import pytest
import torch
from omegaconf import OmegaConf

from mimsuite.errors import InputError
from mimsuite.models import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
)

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZES |= {"image_size": 16, "patch_size": 8, "encoder_stride": 8}


def classifier(seed=0, **values):
    torch.manual_seed(seed)
    return ViTForImageClassification(ViTConfig(**SIZES, **values)).eval()


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(tmp_path):
    classifier().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# --- from_pretrained -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto", [ViTForImageClassification, AutoModelForImageClassification])
def test_keywords_of_the_hub_and_of_other_software_leave_a_local_folder_as_it_is(folder, tmp_path, auto):
    model = auto.from_pretrained(
        folder, cache_dir=tmp_path, revision="main", token=None, local_files_only=True, force_download=False,
        trust_remote_code=False, proxies=None, low_cpu_mem_usage=True, weights_only=False, use_safetensors=True,
        attn_implementation="sdpa", device_map="cpu", from_tf=False, _from_auto=True, mirror=None,
    )  # fmt: skip
    same(model, classifier())
    assert model.name_or_path == model.config.name_or_path == str(folder)
    assert model.config.attn_implementation == "sdpa"


@pytest.mark.parametrize("auto", [ViTForImageClassification, AutoModelForImageClassification])
def test_a_config_may_be_an_object_of_other_software(folder, auto):
    class Theirs:
        def to_dict(self):
            return json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": 0.5}

    model = auto.from_pretrained(folder, config=Theirs())
    same(model, classifier())
    assert model.config.layer_norm_eps == 0.5


def test_a_config_is_read_from_a_file_of_its_own(folder):
    (folder / "config.json").rename(folder.parent / "mine.json")
    config, unused = AutoConfig.from_pretrained(
        folder.parent / "mine.json", hidden_dropout_prob=0.5, return_unused_kwargs=True, revision="main", other=1
    )
    assert (type(config), config.hidden_dropout_prob, unused) == (ViTConfig, 0.5, {"other": 1})


@pytest.mark.parametrize("auto", [ViTForImageClassification, AutoModelForImageClassification])
def test_a_subfolder_is_read(folder, auto):
    other = classifier(1)
    other.save_pretrained(folder / "deep" / "er")
    same(auto.from_pretrained(folder, subfolder="deep/er"), other)
    with pytest.raises(InputError, match="has no folder 'nothing'"):
        auto.from_pretrained(folder, subfolder="nothing")
    with pytest.raises(InputError, match="leads out of"):
        auto.from_pretrained(folder / "deep", subfolder="..")


def test_a_config_is_read_with_the_keywords_of_a_model(folder):
    config = AutoConfig.from_pretrained(folder, cache_dir=None, revision="main", token=None, trust_remote_code=False)
    assert config.hidden_size == 8
    config, unused = AutoConfig.from_pretrained(folder, return_unused_kwargs=True, num_labels=5, colour="red")
    assert (config.num_labels, unused) == (5, {"colour": "red"})


def test_hub_keywords_reach_the_download(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, **options):
        asked.append(options)
        return str(folder.parent)

    monkeypatch.setattr(hub, "snapshot_download", download)
    options = {"revision": "v2", "token": "secret", "cache_dir": "c", "force_download": True, "local_files_only": True}
    model = AutoModelForImageClassification.from_pretrained("someone/tiny", subfolder="saved", **options)
    same(model, classifier())
    assert model.name_or_path == "someone/tiny"
    assert asked[0].pop("allow_patterns")[0] == "saved/*.json"
    assert asked == [options]
    with pytest.raises(InputError, match="another revision than revision='v3'"):
        AutoModel.from_pretrained("hf:someone/tiny@v2", revision="v3")


def test_code_of_a_repository_is_never_run(folder):
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | {"auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    with pytest.warns(UserWarning, match="trust_remote_code=True has no effect") as caught:
        AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__


class Payload:
    def __reduce__(self):
        return (eval, ("open('/tmp/never', 'x')",))


def test_nothing_is_unpickled_whatever_is_asked(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="damaged, or holds more than tensors"):
        ViTForImageClassification.from_pretrained(folder, weights_only=False)


def test_the_format_of_the_files_can_be_demanded(folder):
    other = classifier(1)
    with pytest.raises(InputError, match=r"only model\.safetensors\); expected pytorch_model\.bin"):
        ViTForImageClassification.from_pretrained(folder, use_safetensors=False)
    torch.save(other.state_dict(), folder / "pytorch_model.bin")
    same(ViTForImageClassification.from_pretrained(folder, use_safetensors=False), other)
    same(ViTForImageClassification.from_pretrained(folder), classifier())
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected model\.safetensors, single"):
        ViTForImageClassification.from_pretrained(folder, use_safetensors=True)


def test_tensors_can_be_given_instead_of_files():
    model = classifier()
    given = {"config": model.config, "state_dict": model.state_dict()}
    same(ViTForImageClassification.from_pretrained(None, **given), model)
    same(ViTForImageClassification.from_pretrained(pretrained_model_name_or_path=None, **given), model)
    same(AutoModelForImageClassification.from_pretrained(None, **given), model)
    with pytest.raises(InputError, match="needs config="):
        ViTForImageClassification.from_pretrained(None, state_dict=model.state_dict())


def test_tensors_beside_a_folder_are_refused(folder):
    with pytest.raises(InputError, match="give a folder to from_pretrained, or None with"):
        ViTForImageClassification.from_pretrained(folder, state_dict={})
    with pytest.raises(InputError, match="give a folder"):
        AutoModel.from_pretrained()


def test_a_config_may_be_another_folder(folder, tmp_path):
    ViTConfig(**SIZES, layer_norm_eps=1e-3).save_pretrained(tmp_path / "other")
    assert ViTForImageClassification.from_pretrained(folder, config=tmp_path / "other").config.layer_norm_eps == 1e-3
    auto = AutoModelForImageClassification.from_pretrained(folder, config=str(tmp_path / "other"))
    assert auto.config.layer_norm_eps == 1e-3
    config = ViTConfig(**SIZES, layer_norm_eps=1e-4)
    assert AutoModelForImageClassification.from_pretrained(folder, config=config).config.layer_norm_eps == 1e-4


def test_a_config_of_transformers_is_taken(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(folder)
    same(AutoModelForImageClassification.from_pretrained(folder, config=config), classifier())


def test_what_was_not_found_is_returned_when_asked_for(folder):
    model, info = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model) is ViTForImageClassification
    assert info == {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    with pytest.warns(UserWarning, match="freshly initialised"):
        _, info = AutoModelForMaskedImageModeling.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == {"decoder.0.weight", "decoder.0.bias", "vit.embeddings.mask_token"}
    assert info["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    with pytest.warns(UserWarning, match="freshly initialised"):
        _, info = ViTForImageClassification.from_pretrained(
            folder, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert ("classifier.bias", (2,), (5,)) in info["mismatched_keys"]


def test_other_shapes_are_the_error_that_code_for_hugging_face_expects(folder):
    with pytest.raises(RuntimeError, match="classifier"):
        ViTForImageClassification.from_pretrained(folder, num_labels=5)


@pytest.mark.parametrize("device_map", ["auto", "balanced", "cpu", torch.device("cpu"), {"": "cpu"}, {"vit": "cpu"}])
def test_a_device_map_of_one_device_puts_the_model_there(folder, device_map, monkeypatch):
    monkeypatch.setattr("mimsuite.models.keywords.torch_device", lambda: "cpu")
    assert ViTForImageClassification.from_pretrained(folder, device_map=device_map).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("device_map", "words"),
    [
        ({"vit": 0, "classifier": "cpu"}, "names several devices"),
        ("nowhere", "is not a device of torch"),
        ("disk", "is not a device of torch"),
        ("meta", "meta device context manager or device_map='meta'"),
    ],
)
def test_another_device_map_is_refused_in_one_line(folder, device_map, words):
    with pytest.raises(InputError, match=words) as error:
        ViTForImageClassification.from_pretrained(folder, device_map=device_map)
    assert "\n" not in str(error.value)


def test_values_are_not_lost_on_the_meta_device(folder):
    with torch.device("meta"), pytest.raises(InputError, match="meta device"):
        ViTForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", ["quantization_config", "load_in_8bit", "gguf_file", "tp_plan"])
def test_what_is_not_done_is_refused_in_one_line(folder, name):
    with pytest.raises(InputError, match=f"{name} cannot be used: mimsuite"):
        ViTForImageClassification.from_pretrained(folder, **{name: True})


def test_the_type_of_the_files_is_kept(folder):
    classifier().to(torch.bfloat16).save_pretrained(folder)
    for reader in (ViTForImageClassification, AutoModelForImageClassification):
        assert reader.from_pretrained(folder).dtype == torch.bfloat16
        assert reader.from_pretrained(folder, dtype="float32").dtype == torch.float32
    config = AutoConfig.from_pretrained(folder)
    assert AutoModelForImageClassification.from_config(config).dtype == torch.bfloat16
    assert AutoModel.from_config(config, dtype="float16", trust_remote_code=False).dtype == torch.float16
    eager = AutoModel.from_config(config, attn_implementation="eager", add_pooling_layer=False)
    assert eager.config.attn_implementation == "eager"
    assert eager.pooler is None


def test_training_is_in_float32_whatever_the_type_of_the_files(folder):
    from mimsuite.models.load import config_of, load_encoder, load_model, make_classifier, make_masked_model
    from mimsuite.weights.init import find_weights

    classifier().to(torch.bfloat16).save_pretrained(folder)
    weights = find_weights(str(folder))
    config = config_of(weights)
    head = OmegaConf.create({"_target_": "mimsuite.heads.simmim.SimMIMHead", "_partial_": True})
    models = [
        make_masked_model(config, weights, head, []),
        make_masked_model(config, None, head, []),
        load_model(weights),
        load_encoder(weights, config, (16, 16)),
        make_classifier(config, weights, std=0.01, frozen=-1),
        make_classifier(config, None, std=0.01, frozen=-1),
    ]
    assert {p.dtype for model in models for p in model.parameters()} == {torch.float32}


# --- save_pretrained -----------------------------------------------------------------------------------------


def test_a_variant_lies_beside_the_plain_files(tmp_path):
    plain, half = classifier(0), classifier(1)
    plain.save_pretrained(tmp_path)
    half.save_pretrained(tmp_path, variant="fp16", max_shard_size="2KB")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "model.safetensors.index.fp16.json", "model.fp16-00001-of-00004.safetensors"} <= names
    same(ViTForImageClassification.from_pretrained(tmp_path), plain)
    same(ViTForImageClassification.from_pretrained(tmp_path, variant="fp16"), half)
    half.save_pretrained(tmp_path, variant="fp16")
    assert {path.name for path in tmp_path.glob("model*")} == {"model.safetensors", "model.fp16.safetensors"}
    with pytest.raises(InputError, match=r"expected model\.bf16\.safetensors or pytorch_model\.bf16\.bin or"):
        ViTForImageClassification.from_pretrained(tmp_path, variant="bf16")
    with pytest.raises(InputError, match="is not a part of a file's name"):
        plain.save_pretrained(tmp_path, variant="../x")


def test_transformers_reads_a_variant_and_writes_one_that_we_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = classifier()
    model.save_pretrained(tmp_path / "ours", variant="fp16", max_shard_size="2KB")
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / "ours", variant="fp16")
    theirs.save_pretrained(tmp_path / "theirs", variant="fp16", max_shard_size="2KB")
    same(ViTForImageClassification.from_pretrained(tmp_path / "theirs", variant="fp16"), model)


@pytest.mark.parametrize(("size", "files"), [("5GB", 1), ("2KB", 4), ("2 kb", 4), (2000, 4), ("1TB", 1)])
def test_shards_have_the_size_that_was_asked_for(tmp_path, size, files):
    classifier().save_pretrained(tmp_path, max_shard_size=size, safe_serialization=True, save_function=torch.save)
    assert len(list(tmp_path.glob("*.safetensors"))) == files


@pytest.mark.parametrize("size", ["5 bags", "GB", 0, True, 1.5, None])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(InputError, match="is not a size; use a number of bytes, or '5GB'"):
        classifier().save_pretrained(tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists()


def test_given_tensors_are_written_and_other_processes_write_nothing(tmp_path):
    classifier().save_pretrained(save_directory=tmp_path / "a", state_dict=classifier(1).state_dict())
    same(ViTForImageClassification.from_pretrained(tmp_path / "a"), classifier(1))
    classifier().save_pretrained(tmp_path / "b", is_main_process=False)
    assert not (tmp_path / "b").exists()


def test_a_number_in_the_place_of_is_main_process_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^is_main_process=1000 is not True or False; use max_shard_size="):
        classifier().save_pretrained(tmp_path, 1000)


def test_each_save_says_once_what_transformers_would_compute_otherwise(tmp_path):
    model = classifier(layer_scale_init_value=0.1, num_register_tokens=2)
    for _ in range(2):
        with pytest.warns(UserWarning, match="transformers refuses this model") as caught:
            model.save_pretrained(tmp_path)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert "layer_scale_init_value=0.1, num_register_tokens=2" in str(caught[0].message)
    same(ViTForImageClassification.from_pretrained(tmp_path), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier().save_pretrained(tmp_path)
        ViTForMaskedImageModeling(ViTConfig(**SIZES, classifier_pool="mean")).save_pretrained(tmp_path)


def test_a_run_says_it_once_in_its_log_and_saves_without_a_warning(tmp_path, caplog):
    from mimsuite.masked.normalization import Normalize
    from mimsuite.models.load import report_difference, save_weights

    model = ViTForMaskedImageModeling(ViTConfig(**SIZES, num_register_tokens=2))
    with caplog.at_level("INFO", logger="mimsuite"):
        report_difference(model)
        report_difference(ViTForMaskedImageModeling(ViTConfig(**SIZES, classifier_pool="mean")))
    assert [record.getMessage().strip() for record in caplog.records] == [
        "transformers refuses weights/, as it would compute something else: it does not know num_register_tokens=2; "
        "use mimsuite.load"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_weights(tmp_path, model, Normalize((0.5,) * 3, (0.5,) * 3, 255), (16, 16))


def test_a_model_is_uploaded(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    class Api:
        def __init__(self, token):
            asked.append(token)

        def create_repo(self, name, **options):
            asked.append((name, options))
            return type("Made", (), {"repo_id": f"me/{name}"})

        def upload_folder(self, repo_id, folder_path, **options):
            asked.append((repo_id, {path.name for path in folder_path.iterdir()}, options["commit_message"]))
            return type("Commit", (), {"commit_url": "https://there"})

    monkeypatch.setattr(hub, "HfApi", Api)
    files = {"config.json", "model.safetensors"}
    classifier().save_pretrained(tmp_path / "mine", push_to_hub=True, token="t", private=True)
    assert asked == ["t", ("mine", {"private": True, "exist_ok": True}), ("me/mine", files, "Upload model")]
    asked.clear()
    assert classifier().push_to_hub("other", commit_message="First") == "https://there"
    assert asked[2] == ("me/other", files, "First")


def test_an_upload_without_huggingface_hub_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install mimsuite\[hub\]"):
        classifier().save_pretrained(tmp_path, push_to_hub=True)
