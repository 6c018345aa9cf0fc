"""Folders of models that drop patches: the bare encoder's, with the decoder beside."""

import json
import os
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mimsuite
from mimsuite.errors import InputError
from mimsuite.models import (
    AutoModel,
    AutoModelForMaskedImageModeling,
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.slow

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": [16, 24],
    "patch_size": 8,
    "encoder_stride": 8,
}
DROP = {
    "mask_mode": "drop",
    "position": "sincos2d",
    "mim_target": "norm_pixels",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 20,
}
VARIANTS = {
    "drop": DROP,
    "registers": DROP | {"num_register_tokens": 2},
    "no class token": DROP | {"use_class_token": False},
    "learned positions": DROP | {"position": "learned"},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def randomise(model):
    torch.manual_seed(0)
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return model.eval()


def dropping(**changes):
    return randomise(ViTForMaskedImageModeling(ViTConfig(**(TINY | DROP | changes))))


def simmim(**changes):
    return randomise(ViTForMaskedImageModeling(ViTConfig(**(TINY | changes))))


def pixels(batch=2):
    return torch.randn(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def a_mask():
    return torch.tensor([[[1, 1, 0], [0, 1, 1]], [[0, 1, 1], [1, 1, 0]]]).bool()


def same_state(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(t, two[k]) for k, t in one.items())


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


@every_variant
def test_the_files_are_the_bare_encoders_and_the_decoder_lies_beside(tmp_path, changes):
    model = dropping(**changes)
    model.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "decoder.safetensors", "model.safetensors"]
    data = json.loads((tmp_path / "config.json").read_text())
    names = (["MimsuiteViTModel"], "mimsuite_vit") if model.config.not_in_transformers else (["ViTModel"], "vit")
    assert (data["architectures"], data["model_type"]) == names
    same_state(load_file(tmp_path / "model.safetensors"), dict(model.vit.state_dict()))
    decoder = {k: t for k, t in model.state_dict().items() if k.startswith("decoder.")}
    same_state(load_file(tmp_path / "decoder.safetensors"), decoder)
    bare = ViTModel(model.config, add_pooling_layer=False).state_dict().keys()
    assert load_file(tmp_path / "model.safetensors").keys() == bare


@every_variant
@pytest.mark.parametrize("shard", [10**9, 4000], ids=["one file", "shards"])
def test_the_whole_comes_back_to_the_bit(tmp_path, changes, shard):
    model = dropping(**changes)
    model.save_pretrained(tmp_path, max_shard_bytes=shard)
    readers = [ViTForMaskedImageModeling.from_pretrained, AutoModelForMaskedImageModeling.from_pretrained]
    for reader in [*readers, lambda folder: mimsuite.load(str(folder))]:
        again = reader(tmp_path)
        assert type(again) is ViTForMaskedImageModeling
        assert not again.training
        same_state(again.state_dict(), model.state_dict())
        out, expected = again(pixels(), a_mask()), model(pixels(), a_mask())
        assert torch.equal(out.loss, expected.loss)
        assert torch.equal(out.reconstruction, expected.reconstruction)


def test_hugging_face_opens_the_folder_as_its_vit(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's imports
        transformers = pytest.importorskip("transformers")
    model = dropping().double()
    model.save_pretrained(tmp_path)
    theirs, info = transformers.ViTModel.from_pretrained(
        tmp_path, add_pooling_layer=False, output_loading_info=True, dtype=torch.float64
    )
    assert not any(info.values()), info
    x = pixels().double()
    features = model.encoder.forward_features(x)
    tokens = theirs.eval()(x).last_hidden_state
    torch.testing.assert_close(features.cls, tokens[:, 0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features.grid.flatten(2).mT, tokens[:, 1:], rtol=1e-9, atol=1e-9)


@every_variant
def test_a_bare_encoder_is_read_without_the_decoder(tmp_path, changes):
    model = dropping(**changes)
    model.save_pretrained(tmp_path)
    for reader in (ViTModel, AutoModel):
        bare = reader.from_pretrained(tmp_path, add_pooling_layer=False)
        assert type(bare) is ViTModel
        same_state(bare.state_dict(), model.vit.state_dict())
        assert torch.equal(bare(pixels(), a_mask())[0], model.vit(pixels(), a_mask())[0])


def test_an_auto_model_says_that_its_pooler_is_fresh(tmp_path):
    dropping().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly initialised: pooler") as caught:
        bare = AutoModel.from_pretrained(tmp_path)
    assert len(caught) == 1
    assert "in the files" not in str(caught[0].message)
    assert type(bare) is ViTModel


def test_a_classifier_takes_the_encoder_and_lists_the_decoder(tmp_path):
    model = dropping()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"classifier\.bias.*in the files but not in the model: decoder\.") as caught:
        again = ViTForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert len(caught) == 1
    same_state(again.vit.state_dict(), model.vit.state_dict())
    assert torch.equal(again.vit.forward_features(pixels()).cls, model.vit.forward_features(pixels()).cls)


def test_a_model_that_replaces_removes_an_old_decoder(tmp_path):
    dropping().save_pretrained(tmp_path)
    model = simmim()
    model.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "model.safetensors"]
    same_state(ViTForMaskedImageModeling.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_a_model_that_drops_overwrites_one_that_replaces(tmp_path):
    simmim().save_pretrained(tmp_path)
    model = dropping()
    model.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "decoder.safetensors", "model.safetensors"]
    same_state(mimsuite.load(str(tmp_path)).state_dict(), model.state_dict())


def test_the_bare_encoder_saved_again_has_no_decoder(tmp_path):
    dropping().save_pretrained(tmp_path)
    ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "model.safetensors"]


def test_without_its_decoder_the_encoder_is_read_and_the_rest_named(tmp_path):
    model = dropping()
    model.save_pretrained(tmp_path)
    (tmp_path / "decoder.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"freshly initialised: decoder\.decoder_embed\.bias") as caught:
        again = ViTForMaskedImageModeling.from_pretrained(tmp_path)
    assert len(caught) == 1
    same_state(again.vit.state_dict(), model.vit.state_dict())


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not tensors\nat all"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_decoder_is_named_in_one_line(tmp_path, damage):
    dropping().save_pretrained(tmp_path)
    damage(tmp_path / "decoder.safetensors")
    readers = [ViTForMaskedImageModeling, AutoModelForMaskedImageModeling]
    for reader in [*(r.from_pretrained for r in readers), lambda folder: mimsuite.load(str(folder))]:
        with pytest.raises(InputError, match=r"decoder\.safetensors is damaged") as error:
            reader(tmp_path)
        assert "\n" not in str(error.value)
    assert ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).layernorm.weight.any()


def test_a_decoder_of_another_shape_is_named_in_one_line(tmp_path):
    dropping().save_pretrained(tmp_path)
    path = tmp_path / "decoder.safetensors"
    save_file(load_file(path) | {"decoder.mask_token": torch.zeros(1, 1, 7)}, path)
    with pytest.raises(InputError, match=r"decoder\.mask_token has shape \(1, 1, 7\)") as error:
        ViTForMaskedImageModeling.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_save_that_fails_keeps_the_old_decoder_and_leaves_no_rest(tmp_path, monkeypatch):
    model = dropping()
    model.save_pretrained(tmp_path)

    def fail(tensors, path, metadata):
        if "decoder" in path.name:
            path.write_bytes(b"half")
            raise OSError("disk full")
        save_file(tensors, path, metadata)

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "decoder.safetensors", "model.safetensors"]
    same_state(ViTForMaskedImageModeling.from_pretrained(tmp_path).state_dict(), model.state_dict())


def encoder_without_mask_token(model):
    return {k: t for k, t in model.vit.state_dict().items() if k != "embeddings.mask_token"}


def test_weights_of_simmim_go_into_a_model_that_drops(tmp_path):
    source = simmim()
    source.save_pretrained(tmp_path)
    changes = {k: v for k, v in DROP.items() if k != "position"}
    with pytest.warns(UserWarning, match="ViTForMaskedImageModeling") as caught:
        model = ViTForMaskedImageModeling.from_pretrained(tmp_path, **changes)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert (
        "freshly initialised: decoder.decoder_embed.bias, decoder.decoder_embed.weight, decoder.decoder_layers.0"
        in text
    )
    assert f"and {len(model.decoder.state_dict()) - 12} more; " in text
    assert text.endswith(
        "in the files but not in the model: decoder.0.bias, decoder.0.weight, vit.embeddings.mask_token"
    )
    assert "\n" not in text
    same_state(dict(model.vit.state_dict()), encoder_without_mask_token(source))


def test_weights_of_a_model_that_drops_go_into_simmims(tmp_path):
    source = dropping()
    source.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ViTForMaskedImageModeling") as caught:
        model = ViTForMaskedImageModeling.from_pretrained(tmp_path, mask_mode="replace", decoder_hidden_size=None)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "freshly initialised: decoder.0.bias, decoder.0.weight, vit.embeddings.mask_token; in the files" in text
    assert text.endswith(f"and {len(source.decoder.state_dict()) - 12} more")
    assert "\n" not in text
    same_state(encoder_without_mask_token(model), dict(source.vit.state_dict()))


HOGS = {
    "vit": lambda: simmim(mim_target="hog"),
    "vit drop": lambda: dropping(mim_target="hog"),
    "cvt": lambda: CvtForMaskedImageModeling(
        CvtConfig(embed_dim=[4, 6, 12], num_heads=[1, 2, 3], depth=[1, 1, 1], mim_target="hog")
    ),
    "bit": lambda: BitForMaskedImageModeling(
        BitConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_groups=4, mim_target="hog")
    ),
}


@pytest.mark.parametrize("name", HOGS)
def test_a_model_that_predicts_histograms_goes_round(tmp_path, name):
    model = HOGS[name]().eval()
    x = pixels() if name.startswith("vit") else torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    (height, width), (down, across) = x.shape[-2:], model.encoder.mask_stride
    mask = torch.zeros(2, height // down, width // across, dtype=torch.bool)
    mask[:, 0] = True
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["mim_target"] == "hog"
    for again in (AutoModelForMaskedImageModeling.from_pretrained(tmp_path), mimsuite.load(str(tmp_path))):
        same_state(again.state_dict(), model.state_dict())
        out, expected = again(x, mask), model(x, mask)
        assert out.reconstruction.shape == (2, 3 * 9, height // 8, width // 8)
        assert torch.equal(out.reconstruction, expected.reconstruction)
        assert torch.equal(out.loss, expected.loss)


def test_a_decoder_is_downloaded_from_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    model = dropping()
    model.save_pretrained(tmp_path / "there")

    def download(name, revision, allow_patterns):
        (tmp_path / "here").mkdir()
        for path in (tmp_path / "there").iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path / "here")
        return str(tmp_path / "here")

    monkeypatch.setattr(hub, "snapshot_download", download)
    again = AutoModelForMaskedImageModeling.from_pretrained("hf:someone/tiny-mae")
    same_state(again.state_dict(), model.state_dict())


def test_the_encoder_file_alone_is_no_state_dict_of_the_whole_model(tmp_path):
    model = dropping()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds the encoder alone; read its folder by from_pretrained"):
        model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    model.load_state_dict({"decoder.mask_token": model.state_dict()["decoder.mask_token"]}, strict=False)
    model.load_state_dict(model.state_dict())
