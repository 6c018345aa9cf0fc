"""Handles of KerasHub: what they mean, caches first, client libraries only then, and what each failure says."""

import sys
import types

import pytest
from keras_files import write_preset

from mimsuite.errors import InputError
from mimsuite.models import Backbone, ViTBackbone
from mimsuite.settings.places import refuse_remote
from mimsuite.weights.init import find_weights
from mimsuite.weights.keras_presets import HUBS, MissingClientError, UnreachableError, find_preset, is_handle
from mimsuite.words import WEIGHT_NAMES

CLIENTS = {"kaggle": "kagglehub", "hf": "huggingface_hub", "modelscope": "modelscope.hub.snapshot_download"}
HANDLES = {
    "kaggle": "kaggle://some/vit/keras/tiny/2",
    "hf": "hf://some/tiny",
    "modelscope": "modelscope://some/tiny.v1",
}


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Empty caches, and no client library."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    for name in ("KAGGLEHUB_CACHE", "HF_HOME", "MODELSCOPE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in CLIENTS.values():
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


@pytest.mark.parametrize("scheme", HANDLES)
def test_without_its_client_a_hub_is_an_import_error_with_the_pip_line(scheme):
    with pytest.raises(MissingClientError, match=f"pip install {HUBS[scheme].client}") as caught:
        ViTBackbone.from_preset(HANDLES[scheme])
    assert "is not in the local cache" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert "\n" not in str(caught.value)


def client(scheme, download):
    """A module that downloads as the client library of a hub does."""
    name = "model_download" if scheme == "kaggle" else "snapshot_download"
    return types.SimpleNamespace(**{name: download})


@pytest.mark.parametrize("scheme", HANDLES)
def test_an_unreachable_hub_is_a_connection_error_with_the_reason(monkeypatch, scheme):
    def download(*_, **__):
        raise OSError("Name or service not known\nand a page of more")

    monkeypatch.setitem(sys.modules, CLIENTS[scheme], client(scheme, download))
    with pytest.raises(UnreachableError, match=r"cannot be downloaded from .*: Name or service not known$") as caught:
        ViTBackbone.from_preset(HANDLES[scheme])
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("scheme", HANDLES)
def test_a_hub_is_asked_by_its_client_for_what_is_in_no_cache(tmp_path, monkeypatch, scheme):
    write_preset(tmp_path / "there")
    asked = []

    def download(handle, **options):
        asked.append((handle, options.get("allow_patterns", [])))
        return tmp_path / "there"

    monkeypatch.setitem(sys.modules, CLIENTS[scheme], client(scheme, download))
    model = ViTBackbone.from_preset(HANDLES[scheme])
    assert model.arguments.num_layers == 2
    (handle, patterns), *more = asked
    assert not more
    assert handle == HANDLES[scheme].partition("://")[2]
    assert patterns == ([] if scheme == "kaggle" else ["*.json", "*.weights.h5", "model*.safetensors"])


CACHED = {
    "kaggle://some/vit/keras/tiny/2": "KAGGLEHUB_CACHE/models/some/vit/keras/tiny/2",
    "kaggle://some/vit/keras/tiny": "KAGGLEHUB_CACHE/models/some/vit/keras/tiny/12",
    "vit_base_patch16_224_imagenet": "KAGGLEHUB_CACHE/models/keras/vit/keras/vit_base_patch16_224_imagenet/4",
    "hf://some/tiny": "HF_HOME/hub/models--some--tiny/snapshots/0123abc",
    "modelscope://some/tiny.v1": "MODELSCOPE_CACHE/models/some--tiny.v1/snapshots/master",
    "modelscope://other/tiny.v1": "MODELSCOPE_CACHE/models/other/tiny___v1",
    "modelscope://third/tiny.v1": "MODELSCOPE_CACHE/hub/third/tiny.v1",
}


@pytest.mark.parametrize("handle", CACHED)
def test_what_was_downloaded_before_needs_no_client(own_caches, handle):
    folder = own_caches / CACHED[handle]
    write_preset(folder)
    if "KAGGLE" in CACHED[handle]:
        (folder.parent / f"{folder.name}.complete").touch()
        write_preset(folder.parent / "3")  # an older one, and one whose download broke off
        (folder.parent / "3.complete").touch()
        write_preset(folder.parent / "99")
    if "HF_HOME" in CACHED[handle]:
        refs = folder.parents[1] / "refs"
        refs.mkdir()
        (refs / "main").write_text("0123abc")
    assert find_preset(handle) == folder
    assert is_handle(handle)
    assert find_weights(handle).config["hidden_size"] == 8


def test_a_download_that_broke_off_is_not_taken(own_caches):
    write_preset(own_caches / CACHED["kaggle://some/vit/keras/tiny/2"])
    with pytest.raises(MissingClientError):
        find_preset("kaggle://some/vit/keras/tiny/2")
    marks = own_caches / "KAGGLEHUB_CACHE/models/some/vit/keras/tiny/.complete/2"
    marks.mkdir(parents=True)
    (marks / "model.weights.h5.complete").touch()
    assert find_preset("kaggle://some/vit/keras/tiny/2").name == "2"


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (5, "a preset must be a string, got preset=5"),
        ("bert_base_en", "unknown preset 'bert_base_en'.*built-in name.*kaggle://.*hf://.*modelscope://.*folder"),
        ("./nowhere", "unknown preset"),
        ("s3://bucket/folder", "unknown preset"),
        ("kaggle://some/vit", "not a handle of Kaggle; use kaggle://ORG/MODEL/keras/VARIANT or"),
        ("kaggle://some/vit/keras/tiny/2/3", "not a handle of Kaggle"),
        ("kaggle://some/vit/keras/../2", "not a handle of Kaggle"),
        ("hf://tiny", "not a handle of Hugging Face; use hf://ORG/MODEL"),
        ("hf://some/tiny/more", "not a handle of Hugging Face"),
        ("modelscope://tiny", "not a handle of ModelScope; use modelscope://ORG/MODEL"),
    ],
)
def test_what_is_no_handle_is_refused_with_its_form(preset, message):
    with pytest.raises(InputError, match=message):
        Backbone.from_preset(preset)


def test_a_folder_without_config_is_not_a_preset(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json"):
        Backbone.from_preset(str(tmp_path))


def test_handles_may_be_given_as_init():
    for handle in HANDLES.values():
        assert handle.startswith(WEIGHT_NAMES)
        refuse_remote("init", handle)
    with pytest.raises(InputError, match="is not read"):
        refuse_remote("init", "s3://bucket/folder")
    with pytest.raises(InputError, match="use a local path, or one of s3://"):
        refuse_remote("data", "kaggle://some/vit/keras/tiny")
