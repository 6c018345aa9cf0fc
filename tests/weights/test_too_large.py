"""A config.json that is right by itself, and far too large for its weights, takes no memory and is refused."""

import json
import time

import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import (
    AutoModel,
    AutoModelForImageClassification,
    BitConfig,
    BitModel,
    CvtConfig,
    CvtModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from mimsuite.models.load import config_of, load_encoder, make_classifier
from mimsuite.weights.init import find_weights

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16}
BIT = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_groups": 4}
MAE = {"mask_mode": "drop", "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
MAKERS = {
    "vit": lambda: ViTModel(ViTConfig(**SIZES, patch_size=8)),
    "classifier": lambda: ViTForImageClassification(ViTConfig(**SIZES, patch_size=8)),
    "mae": lambda: ViTForMaskedImageModeling(ViTConfig(**SIZES, **MAE, patch_size=8, decoder_intermediate_size=16)),
    "cvt": lambda: CvtModel(CvtConfig(embed_dim=[8, 8, 8], depth=[1, 1, 1], num_heads=[1, 2, 2])),
    "bit": lambda: BitModel(BitConfig(**BIT)),
}
LARGE = [
    ("vit", {"hidden_size": 2**20}, "has shape"),
    ("vit", {"intermediate_size": 2**20}, "has shape"),
    ("vit", {"image_size": 2**20}, "has shape"),
    ("vit", {"num_hidden_layers": 2**20}, "more than 2,0.. tensors, but the files hold 2."),
    ("vit", {"num_channels": 2**20}, "has shape"),
    ("classifier", {"num_labels": 2**20}, "has shape"),
    ("mae", {"decoder_hidden_size": 2**20}, "has shape"),
    ("mae", {"decoder_num_hidden_layers": 2**20}, "tensors, but the files hold"),
    ("cvt", {"embed_dim": [8, 8, 2**20]}, "has shape"),
    ("cvt", {"depth": [1, 1, 2**20]}, "tensors, but the files hold"),
    ("bit", {"hidden_sizes": [8, 8, 16, 2**20]}, "has shape"),
    ("bit", {"depths": [1, 1, 1, 2**20]}, "tensors, but the files hold"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(make(), tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def save(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def made():
    """The parameters with values that were made."""
    found = []

    def note(_, name, parameter):
        if parameter is not None and parameter.device.type != "meta":
            found.append(name)

    hook = register_module_parameter_registration_hook(note)
    yield found
    hook.remove()


def describe_larger(folder, fields, to):
    content = json.loads((folder / "config.json").read_text()) | fields
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "config.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize(("name", "fields", "words"), LARGE, ids=lambda value: str(value)[:40])
def test_nothing_is_made_of_a_config_that_is_too_large(name, fields, words, folders, made, tmp_path):
    folder = describe_larger(folders[name], fields, tmp_path)
    begin = time.perf_counter()
    for load in (lambda: AutoModelForImageClassification.from_pretrained(folder), lambda: api.load(str(folder))):
        if name == "mae" and load.__code__.co_names[0] != "api":
            continue  # a classifier has no use for a decoder
        with pytest.raises(InputError, match=words) as caught:
            load()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert made == []
    assert time.perf_counter() - begin < 20


def test_the_tasks_ask_before_they_make_a_model(folders, made, tmp_path):
    weights = find_weights(str(describe_larger(folders["vit"], {"image_size": 2**20}, tmp_path)))
    config = config_of(weights)
    for make in (
        lambda: load_encoder(weights, config, (16, 16)),
        lambda: make_classifier(config, weights, std=0.01, frozen=-1),
    ):
        with pytest.raises(InputError, match="has shape"):
            make()
    assert made == []


def test_very_many_fresh_values_are_refused_where_no_shape_differs(folders, made, monkeypatch):
    monkeypatch.setattr("mimsuite.models.trial.FRESH_VALUES", -300)
    with pytest.raises(InputError, match=r"a model of [\d,]+ parameters, but the files hold [\d,]+; restore"):
        AutoModel.from_pretrained(folders["vit"])
    assert made == []


class ReadsAValue(ViTModel):
    """A class of a user's own that does what is impossible without memory."""

    def __init__(self, config):
        super().__init__(config)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.5, 2)]


def test_a_class_that_reads_values_while_it_is_made_opens_and_is_checked(folders, tmp_path):
    folder = save(ReadsAValue(ViTConfig(**SIZES, patch_size=8)), tmp_path / "own")
    assert ReadsAValue.from_pretrained(folder).rates == [0.0, 0.5]
    with pytest.raises(InputError, match="has shape"):
        ReadsAValue.from_pretrained(folder, intermediate_size=32)


def test_a_trial_changes_neither_what_is_drawn_afterwards_nor_what_is_read(folders):
    torch.manual_seed(3)
    fresh = AutoModelForImageClassification.from_config(ViTConfig(**SIZES, patch_size=8)).classifier.weight
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="freshly initialised: classifier"):
        read = AutoModelForImageClassification.from_pretrained(folders["vit"])
    assert torch.equal(read.classifier.weight, fresh)
    stored = AutoModel.from_pretrained(folders["vit"])
    assert all(torch.equal(value, stored.state_dict()[key]) for key, value in read.vit.state_dict().items())
