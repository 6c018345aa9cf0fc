"""Configs behave as transformers' do: what is set later, what is kept, what tools ask of them."""

import copy
import json
import pickle

import pytest
import torch
import transformers

from mimsuite import models
from mimsuite.encoders.config import ModelConfig
from mimsuite.errors import InputError

FAMILIES = ("ViTConfig", "CvtConfig", "BitConfig")
BIT = {"embedding_size": 8, "hidden_sizes": [8, 8, 8], "depths": [1, 1, 1], "num_groups": 2}
NAMES = ["cat", "dog", "cow"]
ID2LABEL = dict(enumerate(NAMES))
LABEL2ID = {name: number for number, name in ID2LABEL.items()}


LABELS = {
    "num_labels": [("num_labels", 5)],
    "the same num_labels": [("label2id", {"a": 0, "b": 1}), ("id2label", {0: "a", 1: "b"}), ("num_labels", 2)],
    "fewer": [("num_labels", 5), ("num_labels", 1)],
    "both, as scripts do": [("label2id", LABEL2ID), ("id2label", ID2LABEL)],
    "both, with words": [("id2label", ID2LABEL), ("label2id", {name: str(i) for i, name in enumerate(NAMES)})],
    "num_labels, then both": [("num_labels", 3), ("id2label", ID2LABEL), ("label2id", LABEL2ID)],
    "both, then num_labels": [("id2label", ID2LABEL), ("label2id", LABEL2ID), ("num_labels", 3)],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", LABELS.values(), ids=LABELS)
def test_labels_that_are_set_later_agree(family, steps, tmp_path):
    ours, theirs = getattr(models, family)(), getattr(transformers, family)()
    for config in (ours, theirs):
        for name, value in steps:
            setattr(config, name, value)
    assert (ours.num_labels, ours.id2label, ours.label2id) == (theirs.num_labels, theirs.id2label, theirs.label2id)
    ours.save_pretrained(tmp_path)
    for kind in (models, transformers):
        again = getattr(kind, family).from_pretrained(tmp_path)
        assert (again.num_labels, again.id2label) == (theirs.num_labels, theirs.id2label)


def test_names_that_are_set_alone_name_the_numbers_too():
    """Where transformers leaves one of them stale."""
    config = models.ViTConfig(num_labels=7)
    config.id2label = {"0": "a", "1": "b", "2": "c"}
    assert (config.num_labels, config.id2label[2], config.label2id) == (3, "c", {"a": 0, "b": 1, "c": 2})
    config.label2id = {"x": 0, "y": 1}
    assert (config.num_labels, config.id2label) == (2, {0: "x", 1: "y"})
    config.label2id = {"x": 0, "y": 1, "why": 1}  # a second name of a class changes no name
    assert (config.num_labels, config.id2label) == (2, {0: "x", 1: "y"})
    config.id2label[2] = "z"
    assert config.num_labels == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_labels", -1), ("num_labels", 2.5), ("id2label", ["a"]), ("id2label", {"x": "a"}), ("label2id", {"a": "x"})],
)
def test_wrong_labels_change_nothing(name, value):
    config = models.ViTConfig(id2label=dict(enumerate(NAMES)))
    before = copy.deepcopy(config)
    with pytest.raises((InputError, TypeError), match=name):
        setattr(config, name, value)
    assert config == before


def test_a_classifier_of_labels_that_were_set_later_is_read_again(tmp_path):
    config = models.BitConfig(**BIT)
    config.num_labels = 5
    models.BitForImageClassification(config).save_pretrained(tmp_path)
    assert models.BitForImageClassification.from_pretrained(tmp_path).config.num_labels == 5
    assert transformers.BitConfig.from_pretrained(tmp_path).num_labels == 5


OUTPUTS = {
    "features": [("out_features", ["stage1", "stage2"])],
    "indices": [("out_indices", [0, 2])],
    "a tuple": [("out_indices", (1, 3))],
    "from the end": [("out_indices", [-2, -1])],
    "one, then the other": [("out_features", ["stem"]), ("out_indices", [2])],
    "none": [("out_features", ["stem"]), ("out_features", None)],
}


@pytest.mark.parametrize("steps", OUTPUTS.values(), ids=OUTPUTS)
def test_stages_that_are_set_later_agree(steps):
    ours, theirs = models.BitConfig(**BIT), transformers.BitConfig(**BIT)
    for config in (ours, theirs):
        for name, value in steps:
            setattr(config, name, value)
    assert (ours.out_features, ours.out_indices) == (theirs.out_features, theirs.out_indices)
    assert models.BitConfig.from_dict(ours.to_dict()) == ours
    pixels = torch.zeros(1, 3, 32, 32)
    maps, wanted = (
        kind.BitBackbone(config).eval()(pixels).feature_maps
        for kind, config in ((models, ours), (transformers, theirs))
    )
    assert [m.shape for m in maps] == [m.shape for m in wanted]


@pytest.mark.parametrize(
    ("name", "value"), [("out_features", ["stage9"]), ("out_indices", [7]), ("out_features", ["stage2", "stem"])]
)
def test_wrong_stages_change_nothing(name, value):
    with pytest.raises(ValueError, match=name):
        setattr(transformers.BitConfig(**BIT, out_features=["stem"]), name, value)
    config = models.BitConfig(**BIT, out_features=["stem"])
    with pytest.raises(InputError, match=name):
        setattr(config, name, value)
    assert (config.out_features, config.out_indices) == (["stem"], [0])


def test_what_follows_from_other_fields_still_does_when_these_are_set():
    config = models.BitConfig(output_stride=32)
    config.output_stride = 16
    config.depths = [1, 1, 1]
    assert (config.encoder_stride, config.out_features, config.out_indices) == (16, ["stage3"], [3])
    config.encoder_stride = 4
    config.output_stride = 8
    assert config.encoder_stride == 4
    config = models.CvtConfig()
    config.patch_stride = [2, 2, 2]
    assert (config.encoder_stride, "encoder_stride" in config.to_dict()) == (8, False)


ASKED = [
    "architectures", "attribute_map", "base_config_key", "chunk_size_feed_forward", "dtype", "id2label",
    "is_encoder_decoder", "label2id", "model_type", "name_or_path", "num_labels", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "sub_configs", "torch_dtype", "transformers_version",
    "use_return_dict",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_tools_ask_has_the_answers_of_transformers(family):
    ours, theirs = getattr(models, family)(), getattr(transformers, family)()
    assert {name: getattr(ours, name) for name in ASKED} == {name: getattr(theirs, name) for name in ASKED}
    assert (ours.get_text_config() is ours, ours.get_text_config(decoder=True) is ours) == (True, True)
    own = {name for name in theirs if not name.startswith("_") and name != "stage_names"}
    assert own <= set(ours) | {"chunk_size_feed_forward", "is_encoder_decoder", "num_labels"}
    assert theirs.to_diff_dict().keys() - {"transformers_version"} == ours.to_diff_dict().keys()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "float16"}, {"torch_dtype": "bfloat16"}, {"dtype": torch.float32}, {"return_dict": False},
        {"output_hidden_states": True}, {"problem_type": "regression"}, {"is_encoder_decoder": True},
        {"is_decoder": False},
        {"architectures": ["X"]}, {"chunk_size_feed_forward": 3}, {"name_or_path": "a/b"}, {"_name_or_path": "a/b"},
        {"num_labels": 4}, {"id2label": {"0": "a"}, "label2id": {"a": 0}}, {"finetuning_task": "food"},
        {"_commit_hash": "abc"},
    ],
    ids=str,
)  # fmt: skip
def test_fields_are_given_kept_and_written_alike(family, values, tmp_path):
    found = []
    for kind in (models, transformers):
        cls = getattr(kind, family)
        config = cls(**values)
        config.save_pretrained(tmp_path / kind.__name__)
        again = cls.from_pretrained(tmp_path / kind.__name__)
        written = json.loads(config.to_json_string())
        names = [name for name in values if name != "_commit_hash"]
        found.append(
            [
                {n: getattr(one, n) for n in (*names, *ASKED) if "path" not in n and "vers" not in n}
                for one in (config, again)
            ]
        )
        found[-1] += [
            config.name_or_path,
            {n: written[n] for n in written if n in (*names, "dtype", "id2label", "label2id")},
        ]
        found[-1].append(again.name_or_path)
    assert found[0] == found[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "overrides",
    [
        {"num_labels": 3}, {"num_labels": 2}, {"id2label": ID2LABEL, "label2id": LABEL2ID},
        {"num_labels": 3, "id2label": ID2LABEL}, {"output_hidden_states": True, "foo": False},
        {"name_or_path": "x"}, {"attn_implementation": "eager"},
        {"cache_dir": None, "force_download": False, "local_files_only": True, "token": None, "revision": "main"},
        {"finetuning_task": "food", "kept": 4}, {"trust_remote_code": False}, {"_from_auto": True},
    ],
    ids=str,
)  # fmt: skip
def test_overrides_of_a_file_act_alike(family, overrides, tmp_path):
    found = []
    for kind in (models, transformers):
        cls = getattr(kind, family)
        cls(id2label=dict(enumerate("ab")), kept=3).save_pretrained(tmp_path / kind.__name__)
        config, unused = cls.from_pretrained(tmp_path / kind.__name__, return_unused_kwargs=True, **overrides)
        names = ("num_labels", "id2label", "output_hidden_states", "dtype", "kept")
        drop = ("trust_remote_code", "_commit_hash")  # ours takes them, transformers gives them back
        found.append(
            ({name: getattr(config, name) for name in names}, {k: v for k, v in unused.items() if k not in drop})
        )
        assert hasattr(config, "foo") is False
    assert found[0] == found[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_have_the_names_of_transformers_too(family, tmp_path):
    for kind in (models, transformers):
        cls = getattr(kind, family)
        cls(num_channels=1).save_pretrained(save_directory=tmp_path)
        config = cls.from_pretrained(pretrained_model_name_or_path=tmp_path)
        config.update(config_dict={"num_labels": 3})
        config.update_from_string(update_str="num_channels=4")
        config.to_json_file(json_file_path=tmp_path / "a.json", use_diff=True)
        config = cls.from_json_file(json_file=tmp_path / "a.json")
        config = cls.from_dict(config_dict=config.to_dict())
        assert (config.num_labels, config.num_channels) == (3, 4)
        assert kind.AutoConfig.from_pretrained(pretrained_model_name_or_path=tmp_path).num_channels == 1
        assert cls.get_config_dict(pretrained_model_name_or_path=tmp_path)[0]["num_channels"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_are_updated_alike(family):
    configs = [getattr(kind, family)() for kind in (models, transformers)]
    for config in configs:
        config.update({"num_channels": 4, "num_labels": 3, "note": [1, 2]})
        config.update_from_string("num_channels=1,output_hidden_states=true")
    names = ("num_channels", "num_labels", "label2id", "note", "output_hidden_states")
    assert [getattr(configs[0], name) for name in names] == [getattr(configs[1], name) for name in names]
    for text in ("nothing=1", "output_hidden_states=perhaps", "num_channels=x"):
        with pytest.raises(InputError, match=text.partition("=")[0]):
            configs[0].update_from_string(text)


def test_a_slip_in_an_update_is_named():
    config = models.ViTConfig()
    with pytest.warns(UserWarning, match="hiden_size .did you mean hidden_size"):
        config.update({"hiden_size": 3})
    with pytest.raises(InputError, match="to_dict"):
        config.update({"to_dict": 3})
    with pytest.raises(InputError, match="model_type='bit'"):
        config.update({"model_type": "bit"})


@pytest.mark.parametrize("family", FAMILIES)
def test_json_files_are_written_and_read(family, tmp_path):
    config = getattr(models, family)(num_labels=3, note="x")
    config.to_json_file(tmp_path / "any.json")
    for cls in (getattr(models, family), getattr(transformers, family)):
        for read in (cls.from_json_file, cls.from_pretrained):
            again = read(tmp_path / "any.json")
            assert (again.num_labels, again.note) == (3, "x")
    content, rest = type(config).get_config_dict(tmp_path / "any.json", token=None, foo=1)
    assert (content, rest) == (json.loads(config.to_json_string()), {"foo": 1})
    config.save_pretrained(tmp_path / "folder" / "inner")
    assert type(config).from_pretrained(tmp_path / "folder", subfolder="inner") == config


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_are_equal_and_go_their_own_way(family):
    config = getattr(models, family)(num_labels=3, note=[1])
    config.name_or_path = "here"
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.changed()):
        assert again == config
        assert (again.name_or_path, again.note) == ("here", [1])
        again.num_labels = 5
        assert (again.num_labels, config.num_labels, again == config) == (5, 3, False)
    assert "kept" not in config
    assert "note" in config


@pytest.mark.parametrize("value", [None, "eager", "sdpa"])
def test_the_attention_back_end_has_the_name_of_transformers(value):
    for config in (
        models.ViTConfig(attn_implementation=value),
        models.ViTConfig(_attn_implementation=value),
        models.ViTConfig(),
    ):
        config._attn_implementation = value
        assert (config._attn_implementation, config.attn_implementation) == (value or "sdpa", value or "auto")
        assert not any("attn" in name for name in config.to_dict())
    with pytest.raises(InputError, match="flash_attention_2"):
        config._attn_implementation = "flash_attention_2"
    assert config.attn_implementation == (value or "auto")


def test_a_config_is_not_uploaded_alone(tmp_path):
    for send in (
        models.ViTConfig().push_to_hub,
        lambda name: models.ViTConfig().save_pretrained(tmp_path / name, push_to_hub=True),
    ):
        with pytest.raises(InputError, match="not uploaded alone"):
            send("folder")
    assert not (tmp_path / "folder").exists()


def test_a_class_of_a_user_has_fields_of_its_own(tmp_path):
    class WithInit(models.ViTConfig):
        def __init__(self, extra=3, **kwargs):
            super().__init__(**kwargs)
            self.extra = extra

    config = WithInit(extra=5, num_labels=4, note=1)
    config.num_labels = 3
    config.save_pretrained(tmp_path)
    again = WithInit.from_pretrained(tmp_path, hidden_size=24)
    assert (again.extra, again.num_labels, again.note, again.hidden_size) == (5, 3, 1, 24)
    assert isinstance(again, ModelConfig)
