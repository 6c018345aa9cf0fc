"""Hugging Face folders of other families of Vision Transformers: read as ours, they compute the same."""

import json
import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import mimsuite
from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from mimsuite.weights.files import read_folder
from mimsuite.weights.formats.format import Found, read_as, write_as
from mimsuite.weights.formats.known import FORMATS
from mimsuite.weights.init import find_weights
from mimsuite.weights.tensors import in_memory

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 40,
    "patch_size": 8,
}
PLAIN = SIZES | {"intermediate_size": 40}
MAE = PLAIN | {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 28,
}
WORDS = PLAIN | {"vocab_size": 11, "use_mask_token": True, "use_shared_relative_position_bias": True}
GATED = SIZES | {"use_swiglu_ffn": True, "hidden_size": 36}
# The name of a case: the class there, and its config.
BARE = {
    "vit_mae": ("ViTMAEModel", PLAIN | {"mask_ratio": 0.0}),
    "deit": ("DeiTModel", PLAIN | {"pooler_output_size": 10}),
    "vit_msn": ("ViTMSNModel", PLAIN | {"qkv_bias": False}),
    "dinov2": ("Dinov2Model", SIZES | {"num_channels": 1}),
    "dinov2, no mask token": ("Dinov2Model", SIZES | {"use_mask_token": False, "mlp_ratio": 2}),
    "dinov2, SwiGLU": ("Dinov2Model", GATED),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", SIZES | {"num_register_tokens": 2}),
    "dinov2_with_registers, SwiGLU": ("Dinov2WithRegistersModel", GATED),
    "ijepa": ("IJepaModel", PLAIN | {"hidden_act": "relu"}),
    "beit": ("BeitModel", PLAIN | {"use_mean_pooling": False, "use_absolute_position_embeddings": True}),
    "beit, shared positions": ("BeitModel", WORDS | {"use_mean_pooling": False}),
    "beit, positions of blocks": ("BeitModel", WORDS | {"use_mean_pooling": False, "use_relative_position_bias": True}),
}
SEGMENTS = PLAIN | {
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "pool_scales": [1],
    "use_auxiliary_head": False,
}
LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}
CLASSIFIERS = {
    "deit": ("DeiTForImageClassification", PLAIN),
    "vit_msn": ("ViTMSNForImageClassification", PLAIN),
    "dinov2": ("Dinov2ForImageClassification", SIZES),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", SIZES),
    "ijepa": ("IJepaForImageClassification", PLAIN),
    "beit": ("BeitForImageClassification", PLAIN | {"use_mean_pooling": False}),
    "beit, mean": ("BeitForImageClassification", PLAIN | {"use_relative_position_bias": True}),
}
OTHERS = {
    "vit_mae": ("ViTMAEForPreTraining", MAE),
    "deit": ("DeiTForMaskedImageModeling", PLAIN | {"encoder_stride": 8}),
    "deit, two heads": ("DeiTForImageClassificationWithTeacher", PLAIN),
    "beit, visual words": ("BeitForMaskedImageModeling", WORDS),
}


def made(named, fields):
    """A model of theirs whose parameters are all random."""
    torch.manual_seed(0)
    cls = getattr(transformers, named)
    model = cls(cls.config_class(**fields)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def saved(folder, named, fields):
    model = made(named, fields)
    model.save_pretrained(folder)
    return model


def pixels(model, height=None, width=None):
    side, channels = model.config.image_size, model.config.num_channels
    shape = (2, channels, height or side, width or side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def in_order(model, x):
    """What a ViTMAE needs so that no patch is hidden or moved; nothing for others."""
    if not type(model).__name__.startswith("ViTMAE"):
        return {}
    return {"noise": torch.arange((x.shape[-1] // model.config.patch_size) ** 2.0).expand(len(x), -1)}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", BARE)
@torch.no_grad()
def test_the_encoder_is_ours_and_computes_the_same(case, tmp_path, recwarn):
    theirs = saved(tmp_path, *BARE[case])
    recwarn.clear()
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is ViTModel
    assert not recwarn.list
    x = pixels(theirs)
    out = theirs(x, **in_order(theirs, x))
    close(model(x).last_hidden_state, out.last_hidden_state)
    if model.pooler is not None:
        close(model(x).pooler_output, out.pooler_output)
    assert (model.pooler is not None) == (case == "deit")
    loaded = mimsuite.load(str(tmp_path))
    assert type(loaded) is ViTModel
    assert torch.equal(loaded(x).last_hidden_state, model(x).last_hidden_state)


@pytest.mark.parametrize("case", ["dinov2", "dinov2, SwiGLU", "dinov2_with_registers"])
@pytest.mark.parametrize("size", [(40, 40), (24, 24), (24, 56), (72, 64), (41, 47)], ids=str)
@torch.no_grad()
def test_images_of_all_sizes_are_taken_as_there(case, size, tmp_path):
    theirs = saved(tmp_path, *BARE[case])
    x = pixels(theirs, *size)
    close(AutoModel.from_pretrained(tmp_path)(x).last_hidden_state, theirs(x).last_hidden_state)


@torch.no_grad()
def test_a_resized_model_computes_the_same(tmp_path):
    theirs = saved(tmp_path, *BARE["dinov2_with_registers"])
    model = AutoModel.from_pretrained(tmp_path)
    model.set_image_size(24)
    x = pixels(theirs, 24, 24)
    close(model(x).last_hidden_state, theirs(x).last_hidden_state)


@pytest.mark.parametrize("case", ["dinov2", "dinov2_with_registers", "vit_mae"])
@torch.no_grad()
def test_hidden_patches_become_the_mask_token_where_there_is_one(case, tmp_path):
    theirs = saved(tmp_path, *BARE[case])
    model = AutoModel.from_pretrained(tmp_path)
    assert (model.embeddings.mask_token is None) == (case == "vit_mae")
    if model.embeddings.mask_token is not None:
        x, mask = pixels(theirs), torch.arange(25).expand(2, -1) % 3 > 0
        close(model(x, mask).last_hidden_state, theirs(x, bool_masked_pos=mask).last_hidden_state)


@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.no_grad()
def test_classifiers_give_the_same_logits(case, tmp_path, recwarn):
    named, fields = CLASSIFIERS[case]
    theirs = saved(tmp_path, named, fields | LABELS)
    recwarn.clear()
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(model) is ViTForImageClassification
    assert [str(w.message).partition(": ")[2] for w in recwarn.list] == (
        ["in the files but not in the model: embeddings.mask_token"] if "dinov2" in case else []
    )
    assert model.config.id2label == LABELS["id2label"]
    x = pixels(theirs)
    close(model(x).logits, theirs(x).logits)
    loaded = mimsuite.load(str(tmp_path))
    assert type(loaded) is ViTForImageClassification
    assert torch.equal(loaded(x).logits, model(x).logits)


@pytest.mark.parametrize("norm", [False, True])
@torch.no_grad()
def test_a_mae_folder_predicts_and_trains_as_there(norm, tmp_path, recwarn):
    theirs = saved(tmp_path, "ViTMAEForPreTraining", MAE | {"norm_pix_loss": norm, "mask_ratio": 0.6})
    recwarn.clear()
    model = AutoModelForMaskedImageModeling.from_pretrained(tmp_path)
    assert type(model) is ViTForMaskedImageModeling
    assert not recwarn.list
    assert model.config.mim_target == ("norm_pixels" if norm else "pixels")
    x, noise = pixels(theirs), torch.rand(2, 25, generator=torch.Generator().manual_seed(2))
    out = theirs(x, noise=noise)
    mask = out.mask.bool().view(2, 5, 5)
    close(model(x, mask).reconstruction, theirs.unpatchify(out.logits))
    close(model.masked_loss(x, mask, loss="mse"), out.loss)
    assert type(mimsuite.load(str(tmp_path))) is ViTForMaskedImageModeling


def test_pretraining_goes_on_with_the_decoder_of_a_mae_folder(tmp_path):
    theirs = saved(tmp_path / "mae", "ViTMAEForPreTraining", MAE | {"patch_size": 8, "image_size": 64})
    values = {"objective": "mae", "steps": 1, "batch": 8, "lr": 1e-12, "val_every": 1}
    values |= {"workers": 0, "loader.val_limit": 8, "precision": "32-true"}
    summary = api.call("pretrain", {"init": str(tmp_path / "mae"), "out": str(tmp_path / "out"), **values})
    assert summary["status"] == "done"
    now = mimsuite.load(str(tmp_path / "out")).state_dict()
    assert now["decoder.mask_token"].shape == (1, 1, 16)
    for name in ("decoder_embed.weight", "mask_token", "decoder_pred.bias"):
        torch.testing.assert_close(now[f"decoder.{name}"], theirs.decoder.state_dict()[name], rtol=0, atol=1e-6)


@torch.no_grad()
def test_deit_with_a_head_of_simmim_is_one_of_ours(tmp_path):
    theirs = saved(tmp_path, *OTHERS["deit"])
    model = AutoModelForMaskedImageModeling.from_pretrained(tmp_path)
    x, mask = pixels(theirs), torch.arange(25).expand(2, -1) % 3 > 0
    out, wanted = model(x, mask), theirs(x, bool_masked_pos=mask)
    close(out.reconstruction, wanted.reconstruction)
    close(out.loss, wanted.loss)


@torch.no_grad()
def test_of_two_heads_of_deit_none_is_used(tmp_path):
    theirs = saved(tmp_path, *OTHERS["deit, two heads"])
    model, x = AutoModel.from_pretrained(tmp_path), pixels(theirs)
    close(model(x).last_hidden_state, theirs.deit(x).last_hidden_state)
    weights = find_weights(str(tmp_path))
    assert weights.foreign.ignored == (
        *("cls_classifier.bias", "cls_classifier.weight"),
        *("distillation_classifier.bias", "distillation_classifier.weight"),
    )
    assert "4 ignored (cls_classifier.bias, " in weights.foreign.report()


@torch.no_grad()
def test_pretrained_beit_ends_with_the_norm_of_its_head(tmp_path):
    theirs = saved(tmp_path, *OTHERS["beit, visual words"])
    model, x = AutoModel.from_pretrained(tmp_path), pixels(theirs)
    close(model(x).last_hidden_state, theirs.layernorm(theirs.beit(x).last_hidden_state))


@pytest.mark.parametrize("case", [*BARE, *(f"{name}, classifier" for name in CLASSIFIERS), *OTHERS])
def test_tables_go_round_to_the_bit(case, tmp_path):
    every = OTHERS | {f"{name}, classifier": case for name, case in CLASSIFIERS.items()}
    for named, fields in [c for c in (BARE.get(case), every.get(case)) if c]:
        saved(tmp_path, named, fields)
        config = json.loads((tmp_path / "config.json").read_text())
        found = Found("here", read_folder(tmp_path), config)
        form = next(form for form in FORMATS if form.recognises(found))
        read = read_as(form, found)
        back = write_as(form, read.tensors, read.config)
        again = read_as(form, Found("back", in_memory(back), config))
        assert again.tensors.keys() == read.tensors.keys()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in read.tensors.items())
        if form.name == "deit":  # a token and its position are one token here
            continue
        names = [name for name in form.canonical(found).tensors if name not in read.ignored]
        assert back.keys() == set(names)
        assert all(torch.equal(back[name], form.canonical(found).tensors[name]) for name in names)


@torch.no_grad()
def test_the_encoder_of_a_mae_folder_comes_without_its_decoder(tmp_path, recwarn):
    theirs = saved(tmp_path, "ViTMAEForPreTraining", MAE | {"mask_ratio": 0.0})
    recwarn.clear()
    model, x = AutoModel.from_pretrained(tmp_path), pixels(theirs)
    assert not recwarn.list
    close(model(x).last_hidden_state, theirs.vit(x, **in_order(theirs.vit, x)).last_hidden_state)


def test_a_classifier_of_a_mae_folder_has_a_fresh_head(tmp_path):
    theirs = saved(tmp_path, "ViTMAEForPreTraining", MAE)
    with pytest.warns(UserWarning, match=r"freshly initialised: classifier\.bias, classifier\.weight"):
        model = ViTForImageClassification.from_pretrained(tmp_path, num_labels=3)
    assert model(pixels(theirs)).logits.shape == (2, 3)
    assert torch.equal(model.vit.layernorm.weight, theirs.vit.layernorm.weight)


def test_what_was_read_is_saved_and_read_again(tmp_path):
    theirs = saved(tmp_path / "theirs", *BARE["dinov2_with_registers, SwiGLU"])
    model = AutoModel.from_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="use_gated_mlp=True"):
        model.save_pretrained(tmp_path / "ours")
    again = ViTModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False, use_mask_token=True)
    x = pixels(theirs, 24, 24)
    assert torch.equal(again(x).last_hidden_state, model(x).last_hidden_state)


def test_a_config_alone_is_read(tmp_path):
    cls = transformers.Dinov2Config
    cls(**SIZES, use_swiglu_ffn=True).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ViTConfig
    assert (config.intermediate_size, config.hidden_act, config.use_gated_mlp) == (64, "silu", True)
    assert config.layer_norm_eps == 1e-6


FAMILIES = [
    *("ViTMAEConfig", "DeiTConfig", "ViTMSNConfig", "Dinov2Config", "Dinov2WithRegistersConfig"),
    *("IJepaConfig", "BeitConfig"),
]


@pytest.mark.parametrize("named", FAMILIES)
def test_what_a_config_leaves_out_is_their_default(named, tmp_path):
    theirs = getattr(transformers, named)()
    written = {name: value for name, value in theirs.to_dict().items() if name not in ("dtype", "transformers_version")}
    found = []
    for number, content in enumerate((written, {"model_type": theirs.model_type})):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text(json.dumps(content))
        found.append(AutoConfig.from_pretrained(tmp_path / str(number)))
    assert found[0].changed(architectures=None) == found[1].changed(architectures=None)
    assert found[0].layer_norm_eps == theirs.layer_norm_eps


REFUSED = {
    "two norms": (
        ("BeitForMaskedImageModeling", WORDS | {"use_mean_pooling": False}),
        r"a BEiT folder of Hugging Face, with two norms behind each other .*; use weights that were trained with",
    ),
    "dense labels": (
        ("BeitForSemanticSegmentation", SEGMENTS),
        r"a BEiT folder of Hugging Face, but has \d+ tensors that mimsuite does not know, such as",
    ),
    "another family": (("SwinModel", {"embed_dim": 8, "depths": [1], "num_heads": [1]}), "swin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_same_is_refused_by_name(case, tmp_path):
    model, message = REFUSED[case]
    saved(tmp_path, *model)
    for read in (AutoModel.from_pretrained, lambda folder: mimsuite.load(str(folder))):
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        *({"mlp_ratio": "4"}, {"mlp_ratio": None}, {"hidden_size": "wide"}, {"architectures": 3}),
        *({"patch_size": {}}, {"num_register_tokens": -1}, {"hidden_size": 1e400}, {"image_size": 0}),
    ],
    ids=str,
)
def test_a_damaged_config_is_one_line(change, tmp_path):
    saved(tmp_path, *BARE["dinov2_with_registers"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for read in (AutoModel.from_pretrained, lambda folder: mimsuite.load(str(folder))):
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_images_are_of_the_size_of_the_preprocessing_where_positions_are_interpolated(tmp_path):
    saved(tmp_path, *BARE["dinov2"])
    assert find_weights(str(tmp_path)).image_size == (40, 40)
    crop = {"do_center_crop": True, "crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(crop))
    assert find_weights(str(tmp_path)).image_size == (24, 24)
    saved(tmp_path, *BARE["deit"])
    assert find_weights(str(tmp_path)).image_size == (40, 40)


OLD = {"do_resize": True, "size": 256, "do_center_crop": True, "crop_size": 224, "do_normalize": True, "resample": 3}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("named", ["DeiT", "Beit"])
def test_image_processors_of_these_families_do_the_same(named, old, tmp_path):
    cls = getattr(transformers, f"{named}ImageProcessorPil")
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    cls(**statistics).save_pretrained(tmp_path)
    if old:
        content = OLD | statistics | {"feature_extractor_type": f"{named}FeatureExtractor"}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3), np.uint8)
    found = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="np")["pixel_values"]
    theirs = cls.from_pretrained(tmp_path)(image, return_tensors="np")["pixel_values"]
    assert np.abs(found - theirs).max() < 1e-6
