"""Configurations: defaults, rules, and the JSON form."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mimsuite.config.instantiate import instantiate
from mimsuite.encoders.bit_config import BitConfig
from mimsuite.encoders.cvt_config import CvtConfig
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError
from mimsuite.models import BitModel, CvtForMaskedImageModeling, CvtModel, ViTForMaskedImageModeling, ViTModel
from mimsuite.models.auto import AutoConfig


def test_the_defaults_are_vit_base():
    config = ViTConfig()
    sizes = (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
    )
    assert sizes == (768, 12, 12, 3072)
    assert (config.image_size, config.patch_size, config.pooler_output_size, config.num_labels) == (
        224,
        16,
        768,
        2,
    )


def test_arguments_are_keyword_only():
    with pytest.raises(TypeError):
        ViTConfig(768)


PREDICTOR = {
    "kind": "transformer",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "features": 12,
    "layers": [3, 4],
    "combine": "stack",
    "pixels": True,
}
WRONG_VALUES = [
    ("hidden_size", 0),
    ("num_hidden_layers", -1),
    ("num_attention_heads", 0),
    ("intermediate_size", 0),
    ("hidden_act", "gelus"),
    ("pooler_act", "gelus"),
    ("hidden_dropout_prob", 1.5),
    ("attention_probs_dropout_prob", -0.1),
    ("drop_path_rate", 2),
    ("initializer_range", -0.1),
    ("layer_norm_eps", 0),
    ("layer_scale_init_value", -1.0),
    ("image_size", 0),
    ("image_size", [224, 224, 3]),
    ("image_size", [224]),
    ("patch_size", 225),
    ("patch_size", [16, 300]),
    ("num_channels", 0),
    ("encoder_stride", 0),
    ("pooler_output_size", 0),
    ("init_scheme", "xavier"),
    ("position", "rope"),
    ("mask_mode", "keep"),
    ("mim_target", "colours"),
    ("mim_predictor", {"kind": "conv"}),
    ("mim_predictor", PREDICTOR | {"kind": "mlp"}),
    ("mim_predictor", PREDICTOR | {"hidden_size": 0}),
    ("mim_predictor", PREDICTOR | {"layers": []}),
    ("classifier_pool", "max"),
    ("num_register_tokens", -1),
    ("decoder_hidden_size", 0),
    ("decoder_num_hidden_layers", 0),
    ("decoder_num_attention_heads", 0),
    ("decoder_intermediate_size", 0),
    ("num_labels", -1),
    ("problem_type", "ranking"),
    ("attn_implementation", "flash"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_value_is_named_in_one_line(name, value):
    with pytest.raises(ValueError, match=name) as error:
        ViTConfig(**{name: value})
    text = str(error.value)
    assert "\n" not in text
    if not isinstance(value, dict):
        assert str(value).strip("[]")[:3] in text


WRONG_TYPES = [
    ("hidden_size", 768.0),
    ("hidden_size", True),
    ("num_hidden_layers", "12"),
    ("layer_norm_eps", "1e-6"),
    ("hidden_dropout_prob", None),
    ("qkv_bias", 1),
    ("use_class_token", "no"),
    ("use_gated_mlp", 1),
    ("norm_after_pool", 1),
    ("interpolate_positions", "yes"),
    ("antialias_positions", 0),
    ("num_register_tokens", 4.0),
    ("decoder_hidden_size", "512"),
    ("image_size", "224"),
    ("patch_size", [16.0, 16]),
    ("hidden_act", 3),
    ("id2label", ["cat", "dog"]),
    ("return_dict", 1),
    ("num_labels", 2.0),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=name):
        ViTConfig(**{name: value})


def test_id2label_decides_the_number_of_labels():
    config = ViTConfig(id2label={"0": "cat", "1": "dog", "2": "cow"})
    assert config.num_labels == 3
    assert config.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert config.label2id == {"cat": 0, "dog": 1, "cow": 2}


def test_num_labels_and_id2label_that_disagree_are_refused():
    with pytest.raises(InputError, match="num_labels=2 but id2label names 3"):
        ViTConfig(num_labels=2, id2label={0: "a", 1: "b", 2: "c"})


def test_an_override_of_num_labels_makes_new_labels():
    data = ViTConfig(id2label={0: "a", 1: "b", 2: "c"}).to_dict()
    config = ViTConfig.from_dict(data, num_labels=2)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_an_override_of_the_same_number_keeps_the_labels():
    data = ViTConfig(id2label={0: "a", 1: "b", 2: "c"}).to_dict()
    assert ViTConfig.from_dict(data, num_labels=3).id2label == {0: "a", 1: "b", 2: "c"}


def test_two_default_labels_stay_out_of_the_file():
    assert not {"id2label", "label2id", "num_labels"} & ViTConfig().to_dict().keys()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_labels_survives_the_file(count):
    text = ViTConfig(num_labels=count).to_json_string()
    assert ViTConfig.from_dict(json.loads(text)).num_labels == count


def test_json_is_sorted_indented_and_ends_with_a_newline():
    text = ViTConfig(image_size=(32, 48), patch_size=8).to_json_string()
    data = json.loads(text)
    assert text == json.dumps(data, indent=2, sort_keys=True) + "\n"
    assert data["image_size"] == [32, 48]
    assert data["model_type"] == "vit"


def test_ours_only_fields_are_written_only_when_set():
    assert not ViTConfig.ours_only & ViTConfig().to_dict().keys()
    assert ViTConfig(drop_path_rate=0.1).to_dict()["drop_path_rate"] == 0.1


def test_the_attention_back_end_is_never_written():
    assert "attn_implementation" not in ViTConfig(attn_implementation="eager").to_dict()


def test_every_other_field_survives_the_file():
    relative = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 7,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "initializer_range": 0.3,
        "layer_norm_eps": 1e-6,
        "image_size": [24, 36],
        "patch_size": [6, 4],
        "num_channels": 5,
        "qkv_bias": False,
        "encoder_stride": [6, 4],
        "pooler_output_size": 9,
        "pooler_act": "relu",
        "drop_path_rate": 0.4,
        "layer_scale_init_value": 0.5,
        "use_absolute_position_embeddings": False,
        "use_shared_relative_position_bias": True,
        "use_relative_position_bias": True,
        "norm_after_pool": True,
        "use_attention_output_bias": False,
        "use_mlp_bias": False,
        "use_patch_bias": False,
        "use_class_token": False,
        "init_scheme": "simmim",
        "num_labels": 3,
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "problem_type": "regression",
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
        "architectures": ["ViTModel"],
        "dtype": "float16",
        "transformers_version": "4.50.0",
        "mim_target": "hog",
        "mim_predictor": PREDICTOR,
        "classifier_pool": "mean",
    }
    fixed = relative | {
        "interpolate_positions": True,
        "antialias_positions": True,
        "use_gated_mlp": True,
        "use_absolute_position_embeddings": True,
        "use_shared_relative_position_bias": False,
        "use_relative_position_bias": False,
        "num_register_tokens": 4,
        "position": "sincos2d",
        "mask_mode": "drop",
        "decoder_hidden_size": 8,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 5,
    }
    default, same = ViTConfig(), {f.name for f in fields(ViTConfig)}
    for changed in (relative, fixed):
        config = ViTConfig(**changed)
        assert ViTConfig.from_dict(json.loads(config.to_json_string())) == config
        same = {name for name in same if getattr(config, name) == getattr(default, name)}
    assert same == {"attn_implementation"}


@pytest.mark.parametrize("cls", [ViTConfig, CvtConfig, BitConfig])
def test_unknown_fields_are_kept_and_written_back(cls):
    for config in (cls(conv_layer="std_conv"), cls.from_dict({"model_type": cls.model_type, "conv_layer": "std_conv"})):
        assert config.conv_layer == "std_conv"
        assert config.to_dict()["conv_layer"] == "std_conv"
        assert cls.from_dict(config.to_dict()) == config.changed() == config != cls()


def test_unknown_fields_that_look_like_slips_are_named_in_one_warning():
    wanted = (
        r"^ViTConfig: not fields, kept and without effect: hiden_size \(did you mean hidden_size\?\), images_size \("
    )
    with pytest.warns(UserWarning, match=wanted) as said:
        config = ViTConfig(hiden_size=3, images_size=4, finetuning_task="food")
    assert (len(said), config.hiden_size, config.finetuning_task) == (1, 3, "food")


@pytest.mark.parametrize("cls", [ViTConfig, CvtConfig, BitConfig])
def test_what_files_of_transformers_say_is_not_taken_for_slips(cls):
    """Warnings are errors here. These stand in files of the hub, or in configs that tests and examples make."""
    fields = ["add_cross_attention", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "conv_layer"]
    fields += ["cross_attention_hidden_size", "decoder_start_token_id", "finetuning_task", "is_decoder"]
    fields += ["is_encoder_decoder", "name_or_path", "_name_or_path", "pruned_heads", "prefix", "task_specific_params"]
    fields += [
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "torchscript",
        "torch_dtype",
        "use_bfloat16",
    ]
    fields += ["use_cache", "vocab_size", "_commit_hash", "_attn_implementation_autoset", "path_norm", "output_scores"]
    config = cls(**dict.fromkeys(fields))
    assert config == cls.from_dict(config.to_dict())


def test_the_config_of_a_run_names_known_fields_alone():
    node = OmegaConf.create({"_target_": "mimsuite.encoders.vit_config.ViTConfig", "is_decoder": False})
    with pytest.raises(InputError, match="is_decoder"):
        instantiate(node)


def test_an_unknown_field_with_the_name_of_a_method_is_refused():
    with pytest.raises(InputError, match="to_dict"):
        ViTConfig.from_dict({"to_dict": 1})


def test_the_old_name_of_dtype_is_read():
    assert ViTConfig.from_dict({"torch_dtype": "float16"}).dtype == torch.float16


def test_an_unknown_override_has_no_effect_and_one_warning_says_so():
    with pytest.warns(UserWarning, match=r"ViTConfig: .* hiden_size \(did you mean hidden_size\?\), foo$") as said:
        config = ViTConfig.from_dict({}, hiden_size=3, foo=1, num_channels=1)
    assert (len(said), config.num_channels) == (1, 1)
    assert not {"hiden_size", "foo"} & config.to_dict().keys()


def test_an_unknown_change_is_refused():
    with pytest.raises(InputError, match="ViTConfig has no field 'hiden_size'"):
        ViTConfig().changed(hiden_size=3)


def test_heads_that_do_not_divide_the_width_are_refused_when_a_network_is_made():
    config = ViTConfig(hidden_size=37)
    for refuse in (config.check_fit, lambda: ViTModel(config), lambda: ViTForMaskedImageModeling(config)):
        with pytest.raises(InputError, match="hidden_size=37 is not a multiple of num_attention_heads=12"):
            refuse()


def test_a_function_as_activation_works_and_cannot_be_written():
    config = ViTConfig(hidden_act=abs)
    with pytest.raises(InputError, match="hidden_act is a function"):
        config.to_dict()


def test_it_is_written_to_and_read_from_a_folder(tmp_path):
    config = ViTConfig(hidden_size=96, num_attention_heads=3)
    config.save_pretrained(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["config.json"]
    assert ViTConfig.from_pretrained(tmp_path / "new") == config
    assert AutoConfig.from_pretrained(tmp_path / "new", image_size=96).image_size == 96


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json") as error:
        AutoConfig.from_pretrained(tmp_path)
    assert isinstance(error.value, InputError)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        AutoConfig.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"config\.json"):
        AutoConfig.from_pretrained(tmp_path)


def test_another_model_type_lists_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="this is a bert checkpoint; mimsuite opens bit, cvt and vit"):
        AutoConfig.from_pretrained(tmp_path)


def test_another_family_is_refused_by_a_family():
    with pytest.raises(InputError, match="cvt"):
        ViTConfig.from_dict({"model_type": "cvt"})


def test_configs_are_made_without_importing_torch():
    code = "import sys; from mimsuite.models import ViTConfig; ViTConfig(); print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("labels", [{"id2label": {0: "x", 1: "y", 2: "z"}}, {"label2id": {"x": 0, "y": 1, "z": 2}}])
def test_new_label_names_replace_all_that_the_file_says(labels):
    data = BitConfig(num_labels=5).to_dict() | {"num_labels": 5}
    config = BitConfig.from_dict(data, **labels)
    assert (config.num_labels, config.id2label) == (3, {0: "x", 1: "y", 2: "z"})
    assert config.label2id == {"x": 0, "y": 1, "z": 2}


def test_a_changed_config_derives_anew_what_was_derived():
    config = BitConfig(hidden_act=torch.relu, attn_implementation="eager").changed(output_stride=16)
    assert (config.encoder_stride, config.hidden_act, config.attn_implementation) == (16, torch.relu, "eager")
    assert ViTConfig(id2label={0: "a"}).changed(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_fewer_stages_than_in_the_file_give_the_last_of_them():
    assert BitConfig.from_dict(BitConfig().to_dict(), hidden_sizes=[256, 512], depths=[1, 1]).out_features == ["stage2"]


@pytest.mark.parametrize("cls", [ViTModel, ViTForMaskedImageModeling, BitModel, CvtModel, CvtForMaskedImageModeling])
def test_another_familys_config_is_a_type_error(cls):
    other = ViTConfig() if cls.base_prefix != "vit" else BitConfig()
    with pytest.raises(TypeError, match=f"takes a {cls.config_class.__name__}, got {type(other).__name__}"):
        cls(other)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (ViTConfig(), []),
        (ViTConfig(drop_path_rate=0.1, position="sincos2d", init_scheme="mae"), []),
        (ViTConfig(classifier_pool="mean", num_register_tokens=4), ["classifier_pool=mean", "num_register_tokens=4"]),
        (ViTConfig(use_class_token=False), ["use_class_token=False"]),
        (ViTConfig(use_gated_mlp=True, antialias_positions=True), ["use_gated_mlp=True", "antialias_positions=True"]),
        (ViTConfig(interpolate_positions=True, classifier_pool="both"), ["classifier_pool=both"]),
        (
            ViTConfig(use_relative_position_bias=True, norm_after_pool=True),
            ["use_relative_position_bias=True", "norm_after_pool=True"],
        ),
        (CvtConfig(), []),
        (CvtConfig(depth=[1, 1, 10], hidden_act="quick_gelu"), ["hidden_act=quick_gelu", "depth=[1, 1, 10]"]),
        (CvtConfig(cls_token=[False] * 3), ["cls_token=[False, False, False]"]),
        (BitConfig(), []),
        (BitConfig(classifier_pool="mean"), []),
        (BitConfig(output_stride=16, width_factor=3), ["output_stride=16", "width_factor=3"]),
    ],
)
def test_what_transformers_cannot_compute_is_named(config, found):
    assert config.not_in_transformers == found
