"""Folders of all three families: formats, what goes from one class into another, warnings, labels, the hub's cache."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from mimsuite.errors import InputError
from mimsuite.models import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    BitForMaskedImageModeling,
    BitModel,
    CvtConfig,
    CvtForImageClassification,
    CvtForMaskedImageModeling,
    CvtModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

pytestmark = pytest.mark.slow

CONFIGS = {
    ViTConfig: {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 8,
        "encoder_stride": 8,
    },
    CvtConfig: {"embed_dim": [4, 8, 12], "num_heads": [1, 2, 3], "depth": [1, 1, 2]},
    BitConfig: {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "num_groups": 4},
}
BARE = [ViTModel, CvtModel, BitModel]
MASKED = [ViTForMaskedImageModeling, CvtForMaskedImageModeling, BitForMaskedImageModeling]
CLASSIFIERS = [ViTForImageClassification, CvtForImageClassification, BitForImageClassification]
EVERY = [*BARE, *MASKED, *CLASSIFIERS, BitBackbone]
MOVED = {CvtForMaskedImageModeling: {"mask_token", "layernorm.weight", "layernorm.bias"}}
MOVED |= {CvtForImageClassification: {"layernorm.weight", "layernorm.bias"}, BitForMaskedImageModeling: {"mask_token"}}


def randomised(cls, seed=0, **options):
    torch.manual_seed(seed)
    fields = {k: options.pop(k) for k in list(options) if k in ("num_labels", "id2label")}
    model = cls(cls.config_class(**CONFIGS[cls.config_class], **fields), **options)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 1.0)
        else:
            tensor.fill_(7)  # BatchNorm's count of batches
    return model.eval()


def same(model, state):
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[k], t) for k, t in state.items())


def encoder_of(model):
    return model.network().state_dict()


def as_safetensors(model, folder):
    model.save_pretrained(folder)


def as_shards(model, folder):
    model.save_pretrained(folder, max_shard_bytes=4000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1


def as_archive(model, folder):
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def as_archive_shards(model, folder):
    model.config.save_pretrained(folder)
    state = model.state_dict()
    names = {k: f"pytorch_model-{1 + i % 2:05d}-of-00002.bin" for i, k in enumerate(state)}
    for name in set(names.values()):
        torch.save({k: t for k, t in state.items() if names[k] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("write", [as_safetensors, as_shards, as_archive, as_archive_shards])
@pytest.mark.parametrize("cls", EVERY)
def test_every_class_reads_every_format_without_a_warning(tmp_path, cls, write):
    model = randomised(cls)
    write(model, tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert type(again) is cls
    assert not again.training
    same(again, model.state_dict())


@pytest.mark.parametrize("cls", EVERY)
def test_the_folder_names_the_class_and_the_dtype(tmp_path, cls):
    randomised(cls).to(torch.bfloat16).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    ours = randomised(cls).config.not_in_transformers != []  # then transformers is kept from reading it
    assert (data["architectures"], data["dtype"]) == (["Mimsuite" * ours + cls.__name__], "bfloat16")
    assert data["model_type"] == "mimsuite_" * ours + cls.config_class.model_type
    assert {p.dtype for p in cls.from_pretrained(tmp_path, dtype="auto").parameters()} == {torch.bfloat16}


AUTO = [
    *((AutoModel, cls) for cls in BARE),
    *((AutoModelForMaskedImageModeling, cls) for cls in MASKED),
    *((AutoModelForImageClassification, cls) for cls in CLASSIFIERS),
    (AutoBackbone, BitBackbone),
]


@pytest.mark.parametrize(("auto", "cls"), AUTO)
def test_the_model_type_decides_the_class(tmp_path, auto, cls):
    model = randomised(cls)
    model.save_pretrained(tmp_path)
    found = auto.from_pretrained(tmp_path)
    assert type(found) is cls
    same(found, model.state_dict())
    assert type(auto.from_config(model.config)) is cls
    assert type(AutoConfig.from_pretrained(tmp_path)) is cls.config_class
    assert type(AutoConfig.for_model(cls.config_class.model_type)) is cls.config_class


def test_auto_classes_hand_options_on(tmp_path):
    randomised(CvtForMaskedImageModeling).save_pretrained(tmp_path)
    found = AutoModel.from_pretrained(tmp_path, add_final_norm=True, dtype="float16", initializer_range=0.3)
    assert found.layernorm.weight.dtype == torch.float16
    assert found.config.initializer_range == 0.3


# --- from one class into another -------------------------------------------------------------------------------

FAMILIES = pytest.mark.parametrize(
    ("bare", "masked", "classifier"), list(zip(BARE, MASKED, CLASSIFIERS, strict=True)), ids=["vit", "cvt", "bit"]
)
HEADS = {"decoder.0.bias", "decoder.0.weight"}


def classifier_keys(model):
    return {k for k in model.state_dict() if k.startswith("classifier")}


def beside_the_bare(cls):
    """Encoder parts that the plain bare model does not have."""
    token = {"vit.embeddings.mask_token"} if cls.base_prefix == "vit" and cls in MASKED else set()
    return token | MOVED.get(cls, set())


def warned(caught, cls):
    """The two lists of the one warning."""
    assert len(caught) == 1, [str(w.message) for w in caught]
    text = str(caught[0].message)
    assert "\n" not in text
    parts = text.split(f" -> {cls.__name__}: ", 1)[1].split("; ")
    found = {}
    for part in parts:
        label, keys = part.split(": ")
        found[label] = set(keys.split(", "))
    assert found.keys() <= {"freshly initialised", "in the files but not in the model"}
    return found.get("freshly initialised", set()), found.get("in the files but not in the model", set())


def bare_options(cls):
    return {"add_pooling_layer": False} if cls is ViTModel else {}


@FAMILIES
@pytest.mark.parametrize("source", ["masked", "classifier"])
def test_a_head_is_left_out_silently(tmp_path, bare, masked, classifier, source):
    model = randomised({"masked": masked, "classifier": classifier}[source])
    model.save_pretrained(tmp_path)
    token = {"use_mask_token": True} if (bare, source) == (ViTModel, "masked") else {}  # ViT's is not beside the prefix
    found = bare.from_pretrained(tmp_path, **bare_options(bare), **token)
    inner = encoder_of(model)
    assert all(torch.equal(inner[k], t) for k, t in found.state_dict().items())
    assert inner.keys() - found.state_dict().keys() <= {"mask_token", "layernorm.weight", "layernorm.bias"}


@FAMILIES
@pytest.mark.parametrize("target", ["masked", "classifier"])
def test_a_bare_encoder_goes_into_a_model_with_a_head(tmp_path, bare, masked, classifier, target):
    cls = {"masked": masked, "classifier": classifier}[target]
    model = randomised(bare, **bare_options(bare))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = cls.from_pretrained(tmp_path)
    head = HEADS if cls is masked else classifier_keys(found)
    assert warned(caught, cls) == (head | beside_the_bare(cls), set())
    inner = encoder_of(found)
    assert all(torch.equal(inner[k], t) for k, t in model.state_dict().items())


def test_a_bare_bit_becomes_a_backbone_without_a_warning(tmp_path):
    model = randomised(BitModel)
    model.save_pretrained(tmp_path)
    assert all(
        torch.equal(BitBackbone.from_pretrained(tmp_path).bit.state_dict()[k], t) for k, t in model.state_dict().items()
    )


@FAMILIES
def test_a_pretrained_model_becomes_a_classifier(tmp_path, bare, masked, classifier):
    model = randomised(masked)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = classifier.from_pretrained(tmp_path, num_labels=5)
    token = {"vit.embeddings.mask_token"} if bare is ViTModel else {"mask_token"}
    assert warned(caught, classifier) == (classifier_keys(found), HEADS | token)
    inner = encoder_of(model)
    assert all(torch.equal(inner[k], t) for k, t in encoder_of(found).items())


@FAMILIES
def test_a_classifier_becomes_a_masked_image_model(tmp_path, bare, masked, classifier):
    model = randomised(classifier)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = masked.from_pretrained(tmp_path)
    token = {"vit.embeddings.mask_token"} if bare is ViTModel else {"mask_token"}
    assert warned(caught, masked) == (HEADS | token, classifier_keys(model))
    inner = encoder_of(found)
    assert all(torch.equal(inner[k], t) for k, t in encoder_of(model).items())


def test_a_bare_cvt_takes_the_final_norm_and_the_token_if_it_has_them(tmp_path):
    model = randomised(CvtForMaskedImageModeling)
    model.save_pretrained(tmp_path)
    found = CvtModel.from_pretrained(tmp_path, add_final_norm=True, use_mask_token=True)
    same(found, encoder_of(model))
    assert {"layernorm.weight", "mask_token"} <= found.state_dict().keys()
    assert "mask_token" not in CvtModel.from_pretrained(tmp_path, add_final_norm=True).state_dict()


def test_a_bare_cvt_lists_a_final_norm_that_no_file_has(tmp_path):
    randomised(CvtModel).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        CvtModel.from_pretrained(tmp_path, add_final_norm=True)
    assert warned(caught, CvtModel) == ({"layernorm.weight", "layernorm.bias"}, set())


@pytest.mark.parametrize("bare", [CvtModel, BitModel])
def test_a_token_goes_from_and_to_a_bare_encoder(tmp_path, bare):
    masked = MASKED[BARE.index(bare)]
    options = {"use_mask_token": True} | ({"add_final_norm": True} if bare is CvtModel else {})
    model = randomised(bare, **options)
    model.save_pretrained(tmp_path / "bare")
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = masked.from_pretrained(tmp_path / "bare")
    assert warned(caught, masked) == (HEADS, set())
    same(found.network(), model.state_dict())
    found.save_pretrained(tmp_path / "masked")
    same(bare.from_pretrained(tmp_path / "masked", **options), model.state_dict())


# --- names in files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MOVED)
def test_parts_beside_the_prefix_have_the_files_names(tmp_path, cls):
    model = randomised(cls)
    inside = {f"{cls.base_prefix}.{key}" for key in MOVED[cls]}
    assert inside <= {name for name, _ in model.named_parameters()}
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        written = set(file.keys())
    for keys in (set(model.state_dict()), written):
        assert MOVED[cls] <= keys
        assert not inside & keys


@pytest.mark.parametrize("cls", MASKED + CLASSIFIERS)
def test_a_state_dict_goes_round_strictly_also_inside_another_module(cls):
    one, two = randomised(cls), randomised(cls, seed=1)
    outer, other = nn.ModuleDict({"model": one}), nn.ModuleDict({"model": two})
    state = outer.state_dict()
    assert {k.removeprefix("model.") for k in state} == one.state_dict().keys()
    before = dict(state)
    other.load_state_dict(state)
    assert list(state) == list(before)
    same(two, one.state_dict())
    two = randomised(cls, seed=1)
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(two.parameters(), one.parameters(), strict=True))


@pytest.mark.parametrize("cls", MOVED)
@pytest.mark.parametrize("doubled", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_keeps_the_files_names_and_its_own_tensors(cls, doubled):
    model = randomised(cls)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    twin, other = doubled(model), randomised(cls, seed=1)
    assert twin.state_dict().keys() == before.keys()
    twin.load_state_dict(other.state_dict())
    same(twin, other.state_dict())
    same(model, before)


@pytest.mark.parametrize("cls", MOVED)
def test_a_missing_part_is_an_error_of_load_state_dict(cls):
    model = randomised(cls)
    for key in MOVED[cls]:
        state = model.state_dict()
        del state[key]
        with pytest.raises(RuntimeError, match=rf"Missing key\(s\).*{key}"):
            model.load_state_dict(state)


# --- labels and shapes ---------------------------------------------------------------------------------------

CLASSIFIER = pytest.mark.parametrize("cls", CLASSIFIERS, ids=["vit", "cvt", "bit"])


@CLASSIFIER
def test_another_number_of_labels_is_a_shape_error(tmp_path, cls):
    model = randomised(cls, num_labels=3)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\S* has shape \(3.*\), the model \(5.*\(2 such\)") as error:
        cls.from_pretrained(tmp_path, num_labels=5)
    assert "\n" not in str(error.value)


@CLASSIFIER
def test_another_number_of_labels_can_start_afresh(tmp_path, cls):
    model = randomised(cls, id2label={0: "a", 1: "b", 2: "c"})
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = cls.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert warned(caught, cls) == (classifier_keys(found), set())
    assert found.config.id2label == {i: f"LABEL_{i}" for i in range(5)}
    assert found(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)
    assert all(torch.equal(encoder_of(found)[k], t) for k, t in encoder_of(model).items())


@CLASSIFIER
def test_no_labels_give_the_features(tmp_path, cls):
    randomised(cls).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="in the files but not in the model: classifier"):
        found = cls.from_pretrained(tmp_path, num_labels=0)
    assert found(torch.zeros(1, 3, 32, 32)).logits.shape == (1, found.encoder.num_features)


@CLASSIFIER
def test_labels_survive_and_can_be_renamed(tmp_path, cls):
    names = {0: "Egyptian cat", 1: "tiger cat", 2: "tabby, tabby cat"}
    randomised(cls, id2label=names).save_pretrained(tmp_path)
    found = cls.from_pretrained(tmp_path).config
    assert (found.id2label, found.label2id) == (names, {v: k for k, v in names.items()})
    assert cls.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"}).config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    ("cls", "change"),
    [
        (ViTModel, {"intermediate_size": 20}),
        (CvtModel, {"mlp_ratio": [4.0, 4.0, 2.0]}),
        (BitModel, {"embedding_size": 16}),
    ],
)
def test_an_encoder_of_other_shapes_is_refused_or_started_afresh(tmp_path, cls, change):
    model = randomised(cls)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"has shape \(.*\), the model \(.*ignore_mismatched_sizes=True"):
        cls.from_pretrained(tmp_path, **change)
    with pytest.warns(UserWarning, match="freshly|in the files") as caught:
        found = cls.from_pretrained(tmp_path, **change, ignore_mismatched_sizes=True)
    differing = {k for k, t in found.state_dict().items() if t.shape != model.state_dict()[k].shape}
    assert warned(caught, cls) == (differing, set())
    same_keys = found.state_dict().keys() - differing
    assert all(torch.equal(found.state_dict()[k], model.state_dict()[k]) for k in same_keys)


# --- bad folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", EVERY)
def test_a_missing_config_and_missing_weights_are_file_not_found_errors(tmp_path, cls):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        cls.from_pretrained(tmp_path)
    cls.config_class(**CONFIGS[cls.config_class]).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedImageModeling, AutoModelForImageClassification])
@pytest.mark.parametrize("text", ['{"model_type": "bert"}', '{"model_type": 3}', "{}"])
def test_an_unknown_model_type_lists_the_known_ones(tmp_path, auto, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        InputError, match=r"mimsuite opens bit, cvt and vit \(beit, .* as vit\), and wraps another"
    ) as error:
        auto.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("cls", "other"), [(ViTModel, CvtModel), (CvtModel, BitModel), (BitModel, ViTModel)])
def test_a_folder_of_another_family_is_refused(tmp_path, cls, other):
    randomised(other).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{other.config_class.model_type}.*use AutoConfig"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", BARE)
def test_damaged_weights_are_named(tmp_path, cls):
    randomised(cls).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged") as error:
        AutoModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


@pytest.mark.parametrize("cls", BARE)
@pytest.mark.parametrize("sharded", [False, True])
def test_code_in_an_archive_is_not_run(tmp_path, monkeypatch, cls, sharded):
    monkeypatch.chdir(tmp_path)
    model = randomised(cls)
    (as_archive_shards if sharded else as_archive)(model, tmp_path)
    victim = sorted(tmp_path.glob("pytorch_model*.bin"))[0]
    torch.save(model.state_dict() | {"bomb": Bomb()}, victim)
    with pytest.raises(InputError, match="could run code"):
        cls.from_pretrained(tmp_path)
    assert not (tmp_path / "code-was-run").exists()
    torch.load(victim, weights_only=False)  # the bomb is real
    assert (tmp_path / "code-was-run").exists()


# --- gradient checkpointing ----------------------------------------------------------------------------------


def kept_for_backward(model):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        model(torch.ones(2, 3, 32, 32))
    return sum(kept)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", EVERY)
def test_gradient_checkpointing_keeps_less_and_can_be_undone(cls, training):
    model = randomised(cls).train(training)
    plain = kept_for_backward(model)
    model.gradient_checkpointing_enable()
    assert kept_for_backward(model) < 0.6 * plain
    model.gradient_checkpointing_disable()
    assert kept_for_backward(model) == plain


# --- the hub's cache -----------------------------------------------------------------------------------------

COMMITS = ("0" * 40, "1" * 40)


def lay_out(cache, models, main):
    """A cache as huggingface_hub writes it: a snapshot per commit, `main` one of them and `tag` the other."""
    repository = cache / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    for commit, model in zip(COMMITS, models, strict=True):
        model.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs" / ("main" if commit == main else "tag")).write_text(commit)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize(("auto", "cls"), AUTO)
def test_every_class_is_read_from_the_cache(cache, auto, cls):
    models = [randomised(cls), randomised(cls, seed=1)]
    lay_out(cache, models, COMMITS[1])
    for reader in (auto, cls):
        same(reader.from_pretrained("hf:someone/tiny"), models[1].state_dict())
        same(reader.from_pretrained("hf:someone/tiny@tag"), models[0].state_dict())
        same(reader.from_pretrained(f"someone/tiny@{COMMITS[0]}"), models[0].state_dict())
    assert AutoConfig.from_pretrained("hf:someone/tiny") == cls.config_class.from_pretrained("someone/tiny")


def test_a_revision_that_is_not_there_is_named(cache):
    lay_out(cache, [randomised(BitModel)] * 2, COMMITS[0])
    with pytest.raises(InputError, match="someone/tiny@other") as error:
        AutoModel.from_pretrained("hf:someone/tiny@other")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_environment_says_where_the_cache_is(tmp_path, variable):
    pytest.importorskip("huggingface_hub")
    cache = tmp_path / "hub" if variable == "HF_HOME" else tmp_path
    lay_out(cache, [randomised(BitModel), randomised(BitModel, seed=1)], COMMITS[0])
    code = (
        "from mimsuite.models import AutoConfig\n"
        "config = AutoConfig.from_pretrained('hf:someone/tiny')\n"
        "print(config.model_type, config.hidden_sizes)\n"
    )
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    environment = unset | {variable: str(tmp_path), "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=root)
    assert out.stdout.strip() == "bit [16, 24]", out.stderr
