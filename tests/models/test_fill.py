"""What `init=` fills: the whole encoder or nothing; other channels and sizes by rule; in little memory, read once."""

import logging
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError
from mimsuite.models import (
    BitConfig,
    BitModel,
    CvtConfig,
    CvtModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from mimsuite.models import pretrained as pretrained_module
from mimsuite.models.fill import MAY_BE_FRESH, POSITION_MODES, load_into
from mimsuite.models.load import config_of, load_encoder, make_classifier, make_normalizer
from mimsuite.weights.channels import ChannelFit, Statistics
from mimsuite.weights.containers.held import Held
from mimsuite.weights.init import find_weights
from mimsuite.words import CHANNEL_RULES, POSITION_RULES

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4}
MAKERS = {
    "vit": lambda: ViTModel(ViTConfig(**SIZES, image_size=16)),
    "masked": lambda: ViTForMaskedImageModeling(ViTConfig(**SIZES, image_size=16, encoder_stride=4)),
    "cvt": lambda: CvtModel(CvtConfig(embed_dim=[8, 8, 8], depth=[1, 1, 1], num_heads=[1, 2, 2])),
    "bit": lambda: BitModel(
        BitConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_groups=4)
    ),
}
HALF = Statistics((0.5,) * 9, (0.5,) * 9)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make().save_pretrained(place / name)
    return place


def fitted(folder, rule, channels, position="bicubic", statistics=HALF):
    return find_weights(str(folder)).fitted(position, rule, channels, statistics)


def features(weights, pixels):
    encoder = load_encoder(weights, config_of(weights), tuple(pixels.shape[-2:]))
    return encoder.forward_features(pixels).grid


def grey(channels, side=32):
    picture = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(1))
    return picture.expand(-1, channels, -1, -1).contiguous()


# Channels.


@pytest.mark.parametrize(
    ("rule", "channels"),
    [(rule, n) for rule in ("mean", "repeat") for n in (1, 2, 4, 6, 7)] + [("zero", n) for n in (4, 6, 7)],
)
@pytest.mark.parametrize("family", ["vit", "masked", "cvt"])
def test_a_grey_picture_gives_the_same_features_with_other_channels(family, rule, channels, folders):
    found = features(fitted(folders / family, rule, channels), grey(channels))
    torch.testing.assert_close(found, features(find_weights(str(folders / family)), grey(3)), atol=2e-5, rtol=1e-4)


def test_the_kernels_are_what_the_rules_say():
    one = fitted_kernel("mean", 3, 2), fitted_kernel("repeat", 3, 4), fitted_kernel("zero", 3, 5)
    assert one[0] == [[0.5, 0.5]] * 3
    assert one[1] == [[0.5, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert one[2] == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert fitted_kernel("repeat", 3, 1) == [[1], [1], [1]]
    assert fitted_kernel("repeat", 3, 2) == [[1, 0], [0, 1], [1, 0]]
    for rule in CHANNEL_RULES:
        for old in range(1, 6):
            for new in range(old if rule == "zero" else 1, 14):
                assert all(math.isclose(sum(row), 1) for row in fitted_kernel(rule, old, new))


def fitted_kernel(rule, old, new):
    return ChannelFit(rule, old, new, None, HALF).shares()


@pytest.mark.parametrize("rule", CHANNEL_RULES)
def test_three_channels_of_a_zero_filled_kernel_are_as_before_and_others_do_nothing(rule, folders):
    colours = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    more = torch.cat([colours, torch.randn(2, 2, 16, 16)], 1)
    found = features(fitted(folders / "vit", rule, 5), more)
    same = torch.equal(found, features(find_weights(str(folders / "vit")), colours))
    assert same == (rule == "zero")


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_of_a_bit_keeps_its_patterns_and_standardises_their_strength(channels, folders):
    """Each filter's answer to a grey picture is the old one times a number: it cannot keep that number."""
    before = load_encoder(find_weights(str(folders / "bit")), config_of(find_weights(str(folders / "bit"))), (32, 32))
    weights = fitted(folders / "bit", "mean", channels)
    after = load_encoder(weights, config_of(weights), (32, 32))
    old, new = (e.embedder.convolution(grey(n)) for e, n in ((before, 3), (after, channels)))
    ratio = (old * new).sum((0, 2, 3)) / (old * old).sum((0, 2, 3))
    torch.testing.assert_close(new, old * ratio[:, None, None], atol=1e-4, rtol=1e-3)
    assert (ratio > 0).all()


def test_statistics_go_with_the_kernels(folders, tmp_path):
    MAKERS["vit"]().save_pretrained(tmp_path)
    write_text(tmp_path / "preprocessor_config.json", '{"image_mean": [0.1, 0.2, 0.6], "image_std": [0.2, 0.3, 0.4]}')
    data = Statistics((0.9,) * 5, (0.7,) * 5)
    found = {
        (rule, n): fitted(tmp_path, rule, n, statistics=data).statistics
        for rule, n in (("mean", 1), ("repeat", 5), ("repeat", 2), ("zero", 5))
    }
    assert found["mean", 1] == (pytest.approx((0.3,)), pytest.approx((0.3,)))
    assert found["repeat", 5] == (
        pytest.approx((0.1, 0.2, 0.6, 0.1, 0.2)),
        pytest.approx((0.2, 0.3, 0.4, 0.2, 0.3)),
    )
    assert found["repeat", 2] == (pytest.approx((0.35, 0.2)), pytest.approx((0.3, 0.3)))
    assert found["zero", 5] == (
        pytest.approx((0.1, 0.2, 0.6, 0.9, 0.9)),
        pytest.approx((0.2, 0.3, 0.4, 0.7, 0.7)),
    )
    assert fitted(folders / "vit", "mean", 5).statistics is None  # none are known: those of the data, as always


@pytest.mark.parametrize(
    ("rule", "channels"), [("mean", 1), ("mean", 5), ("repeat", 1), ("repeat", 2), ("repeat", 7), ("zero", 7)]
)
def test_a_grey_picture_gives_the_same_features_also_with_statistics_per_channel(rule, channels, tmp_path):
    torch.manual_seed(0)
    model = MAKERS["vit"]()
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.bias)
    model.save_pretrained(tmp_path)
    text = f'{{"image_mean": {IMAGENET[0]}, "image_std": {IMAGENET[1]}}}'
    write_text(tmp_path / "preprocessor_config.json", text)

    def of(weights, channels):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in weights.statistics)
        return features(weights, (grey(channels, 16).sigmoid() - mean) / std)

    found = of(fitted(tmp_path, rule, channels), channels)
    torch.testing.assert_close(found, of(find_weights(str(tmp_path)), 3), atol=2e-5, rtol=1e-4)


def test_the_rest_of_the_weights_is_as_it_was(folders):
    weights = fitted(folders / "masked", "mean", 1)
    model = make_classifier(config_of(weights).without_masking().changed(num_labels=2), weights, std=0.01, frozen=-1)
    before = load_file(folders / "masked" / "model.safetensors")
    after = model.state_dict()
    kernel = "vit.embeddings.patch_embeddings.projection.weight"
    assert after[kernel].shape == (16, 1, 4, 4)
    same = [name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])]
    assert set(before.keys() & after.keys()) - set(same) == {kernel}


@pytest.mark.parametrize(
    ("rule", "channels", "words"),
    [
        (None, 1, r"takes 3 channels but the images have 1; give init_channels=mean\|repeat\|zero"),
        ("zero", 1, "init_channels=zero adds channels, but init=.* takes 3 and the images have 1"),
    ],
)
def test_other_channels_without_a_way_are_refused(rule, channels, words, folders):
    with pytest.raises(InputError, match=words):
        fitted(folders / "vit", rule, channels)


def test_the_same_channels_change_nothing(folders):
    weights = fitted(folders / "vit", "mean", 3)
    assert weights.channels is None
    assert torch.equal(features(weights, grey(3)), features(find_weights(str(folders / "vit")), grey(3)))


def test_weights_without_first_kernels_are_refused(folders, tmp_path):
    state = load_file(folders / "vit" / "model.safetensors")
    del state["embeddings.patch_embeddings.projection.weight"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders / "vit" / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"the first kernels of init=.* are not known"):
        features(fitted(tmp_path, "mean", 1), grey(1))


# Positions.


@pytest.mark.parametrize("rule", POSITION_RULES)
def test_positions_are_resized_by_the_rule_and_the_log_says_so(rule, folders, caplog):
    caplog.set_level(logging.INFO, "mimsuite")
    weights = fitted(folders / "vit", None, 3, rule)
    encoder = load_encoder(weights, config_of(weights), (24, 32))
    expected = MAKERS["vit"]()
    expected.load_state_dict(load_file(folders / "vit" / "model.safetensors"))
    expected.set_image_size([24, 32], POSITION_MODES[rule])
    assert torch.equal(encoder.embeddings.position_embeddings, expected.embeddings.position_embeddings)
    assert f"weights   positions resized from images of 16x16 to 24x32 ({rule})" in caplog.messages


def test_the_rules_have_ways():
    assert tuple(POSITION_MODES) == POSITION_RULES


def test_an_encoder_that_resizes_in_its_own_way_says_so(folders, monkeypatch):
    monkeypatch.setattr("mimsuite.encoders.vit.VisionTransformer.set_image_size", lambda self, image_size: None)
    with pytest.raises(
        InputError, match="init_position=jax: the encoder ViTModel resizes its positions in its own way"
    ):
        features(fitted(folders / "vit", None, 3, "jax"), grey(3))


# The whole encoder.


@pytest.mark.parametrize("missing", ["layernorm.weight", "encoder.layer.1.output.dense.bias", "embeddings.cls_token"])
def test_weights_that_leave_a_part_of_the_encoder_fresh_are_refused(missing, folders, tmp_path):
    state = load_file(folders / "vit" / "model.safetensors")
    total = len([name for name in state if not name.startswith("pooler.")])
    del state[missing]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders / "vit" / "config.json").read_bytes())
    words = (
        rf"init={tmp_path} has {total} of the \d+ tensors of a vit encoder; .*{missing} is missing \(1 such\); it holds"
    )
    with pytest.raises(InputError, match=words) as caught:
        features(find_weights(str(tmp_path)), grey(3, 16))
    assert "\n" not in str(caught.value)


def test_weights_under_other_names_say_what_they_hold(folders, tmp_path):
    state = load_file(folders / "vit" / "model.safetensors")
    save_file({f"my.{name}": value for name, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders / "vit" / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"has [12] of the \d+ tensors .*it holds my\.e"):
        features(find_weights(str(tmp_path)), grey(3, 16))


def test_what_tasks_add_may_be_fresh(folders):
    weights = find_weights(str(folders / "vit"))
    config = ViTConfig(**SIZES, image_size=16, encoder_stride=4, num_register_tokens=2, layer_scale_init_value=0.1)
    model = load_into(lambda: ViTForMaskedImageModeling(config), weights)
    fresh = {name for name in model.state_dict() if any(part in name for part in MAY_BE_FRESH)}
    assert {name.rpartition(".")[2] for name in fresh} == {"mask_token", "register_tokens", "gamma_1", "gamma_2"}


# The report.


def test_a_report_says_what_was_read_and_how_it_was_fitted(folders, caplog):
    caplog.set_level(logging.INFO, "mimsuite")
    features(fitted(folders / "masked", "mean", 1), grey(1, 32))
    count = len(load_file(folders / "masked" / "model.safetensors"))
    assert caplog.messages == [
        f"weights   {folders / 'masked'}: a folder of {count} tensors (vit)",
        "weights   3 channels become 1: kernels averaged (init_channels=mean)",
        "weights   positions resized from images of 16x16 to 32x32 (bicubic)",
    ]


# Memory and readings.


def as_timm(state):
    """The same weights under timm's names."""
    from mimsuite.weights.formats.timm_vit import TABLE

    kept = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    return TABLE.to_theirs(kept, {})


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A ViT of 5 MB as a folder, in shards, and in files of timm's layout."""
    place = tmp_path_factory.mktemp("larger")
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=2, intermediate_size=512, image_size=32
    )
    model = ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(place / "one")
    model.save_pretrained(place / "shards", max_shard_size=10**6)
    state = as_timm(model.state_dict())
    save_file(state, place / "timm.safetensors")
    np.savez(place / "timm.npz", **{name: value.numpy() for name, value in state.items()})
    torch.save({"model": state}, place / "timm.pth")
    return place


@pytest.mark.parametrize("name", ["one", "shards", "timm.safetensors", "timm.npz", "timm.pth"])
def test_each_tensor_is_read_once_and_few_of_them_are_in_memory_beside_the_model(name, larger, monkeypatch):
    monkeypatch.setattr(pretrained_module, "AT_A_TIME", 10**6)
    loads, places = torch.nn.Module.load_state_dict, []
    reads, parts = Held._read_into, []

    def read(self, values, place):
        places.append((self.path, place, len(values)))
        reads(self, values, place)

    def load(self, part, *other, **more):
        parts.append(sum(tensor.nbytes for tensor in part.values()))
        return loads(self, part, *other, **more)

    monkeypatch.setattr(Held, "_read_into", read)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", load)
    weights = find_weights(str(larger / name))
    encoder = load_encoder(weights, config_of(weights), (32, 32))
    assert sum(parts) == sum(p.nbytes for n, p in encoder.named_parameters() if "mask_token" not in n)
    assert max(parts) <= 10**6
    assert sum(count for _, place, count in set(places) if place > 8) == sum(c for _, place, c in places if place > 8)


def test_statistics_of_fitted_weights_reach_the_normalisation(folders):
    class Index:
        mean, std, maximum, display, alpha, channels = (0.2,), (0.3,), 255, None, "white", 1
        dtype, bands, value_range = "uint8", None, None

    found = make_normalizer(Index(), fitted(folders / "vit", "mean", 1))
    assert (found.mean.item(), found.std.item()) == (pytest.approx(0.2), pytest.approx(0.3))


def test_a_classifier_keeps_its_head_with_other_channels(tmp_path):
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**SIZES, image_size=16, num_labels=3)).save_pretrained(tmp_path)
    weights = fitted(tmp_path, "mean", 1)
    model = make_classifier(config_of(weights), weights, std=0.5, frozen=-1)
    assert torch.equal(model.classifier.weight, load_file(tmp_path / "model.safetensors")["classifier.weight"])
