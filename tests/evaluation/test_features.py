"""Features: one way for every split, and a cache that never gives another's."""

import numpy as np
import pytest
import torch
from torch import nn

from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features import (
    Features,
    cached_features,
    check_comparable,
    evaluation_mode,
    extract_features,
    fingerprint,
    raw_pixel_features,
)
from mimsuite.types import Batch, FeatureMap


class Toy(nn.Module):
    """A small encoder whose output depends on its mode: dropout and batch statistics."""

    num_features, stride, mask_stride, num_layers = 5, (4, 4), (4, 4), 1

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 5, 4, 4)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.masks = []

    def set_image_size(self, image_size):
        raise NotImplementedError

    def forward_layers(self, pixels, layers):
        raise NotImplementedError

    def forward_features(self, pixels, mask=None):
        self.masks.append(mask)
        grid = self.drop(self.norm(self.embed(pixels)))
        return FeatureMap(grid, grid[:, :, 0, 0] * 2)


class NoClass(Toy):
    def forward_features(self, pixels, mask=None):
        return FeatureMap(super().forward_features(pixels, mask).grid, None)


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().train()


def normalise(images):
    return images.float() / 255 - 0.5


def batches(sizes=(4, 3), labels=True, mask=True):
    g = torch.Generator().manual_seed(1)
    start = 0
    for n in sizes:
        yield Batch(
            images=torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8),
            ids=torch.arange(start, start + n),
            mask=torch.ones(n, 2, 2, dtype=torch.bool) if mask else None,
            labels=torch.arange(start, start + n) % 3 if labels else None,
            bad=[],
        )
        start += n


def all_images():
    return torch.cat([b.images for b in batches()])


def test_features_are_the_mean_of_the_patch_features_in_evaluation_mode(toy):
    got = extract_features(toy, batches(), normalise)
    weight, bias = toy.embed.weight, toy.embed.bias
    by_hand = nn.functional.conv2d(normalise(all_images()), weight, bias, 4).mean((2, 3)) / (1 + toy.norm.eps) ** 0.5
    torch.testing.assert_close(got.x, by_hand.detach())
    assert got.kind == "mean"
    assert got.ids.tolist() == list(range(7))
    assert got.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_training_and_test_features_of_the_same_images_are_equal(toy):
    """Fails if pooling, normalisation or mode changed between two calls: batch statistics would show."""
    train = extract_features(toy, batches((4, 3)), normalise)
    toy.norm.train()
    test = extract_features(toy, batches((4, 3)), normalise)
    assert torch.equal(train.x, test.x)
    assert train.kind == test.kind
    assert train.x.dtype == test.x.dtype == torch.float32


def test_features_do_not_depend_on_the_batch_size(toy):
    one = [Batch(b.images[i : i + 1], b.ids[i : i + 1], None, None, []) for b in batches() for i in range(len(b.ids))]
    torch.testing.assert_close(extract_features(toy, one, normalise).x, extract_features(toy, batches(), normalise).x)


def test_images_are_whole(toy):
    extract_features(toy, batches(mask=True), normalise)
    assert toy.masks == [None, None]


def test_running_statistics_stay_put_and_every_submodule_gets_its_mode_back(toy):
    toy.norm.eval()
    before = {k: v.clone() for k, v in toy.state_dict().items()}
    extract_features(toy, batches(), normalise)
    assert (toy.training, toy.norm.training, toy.drop.training) == (True, False, True)
    assert all(torch.equal(before[k], v) for k, v in toy.state_dict().items())


def test_modes_come_back_after_an_error(toy):
    with pytest.raises(RuntimeError, match="channels"):
        extract_features(toy, batches(), lambda images: normalise(images)[:, :2])
    assert toy.drop.training


def test_cls_pooling_takes_the_class_token(toy):
    got = extract_features(toy, batches(), normalise, pool="cls")
    with evaluation_mode(toy), torch.no_grad():
        torch.testing.assert_close(got.x, toy.forward_features(normalise(all_images())).cls)
    assert got.kind == "cls"


def test_cls_pooling_without_a_class_token_is_refused():
    with pytest.raises(InputError, match="use pool=mean"):
        extract_features(NoClass(), batches(), normalise, pool="cls")


def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match=r"Linear does not keep the contract types.Encoder; give model.encoder"):
        extract_features(nn.Linear(2, 2), batches(), normalise)


def test_an_empty_loader_is_refused(toy):
    with pytest.raises(InputError, match="the loader is empty"):
        extract_features(toy, [], normalise)


def test_features_that_are_not_finite_stop_the_run(toy):
    with torch.no_grad():
        toy.embed.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="features of 7 of 7 images"):
        extract_features(toy, batches(), normalise)


def test_progress_counts_images(toy):
    seen = []
    extract_features(toy, batches(), normalise, progress=seen.append)
    assert seen == [4, 7]


def test_data_without_labels_has_features_without_labels(toy):
    assert extract_features(toy, batches(labels=False), normalise).labels is None


def test_half_precision_features_come_out_as_float32(toy):
    x = extract_features(toy.bfloat16(), batches(), lambda images: normalise(images).bfloat16()).x
    assert x.dtype == torch.float32


def test_raw_pixels_are_shrunk_with_antialiasing():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[:, 1, ::4] = 255
    x = raw_pixel_features([Batch(image, torch.zeros(1).long(), None, None, [])], size=4).x.view(3, 4, 4)
    assert torch.equal(x[0], torch.zeros(4, 4))
    torch.testing.assert_close(x[1, 1:3], torch.full((2, 4), 0.25))


def test_raw_pixels_are_fractions_of_the_range_for_both_integer_types():
    white8 = Batch(torch.full((1, 2, 8, 8), 255, dtype=torch.uint8), torch.zeros(1).long(), None, None, [])
    white16 = Batch(torch.full((1, 2, 8, 8), 65535, dtype=torch.int32), torch.zeros(1).long(), None, None, [])
    for white in (white8, white16):
        torch.testing.assert_close(raw_pixel_features([white]).x, torch.ones(1, 128))


def some(kind="mean", labels=True):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(50, 6, generator=g) * torch.tensor([1e-9, 1e-3, 1, 1e3, 1e6, 0])
    return Features(x, torch.arange(50) % 4 if labels else None, torch.arange(50) - 25, kind)


def test_features_of_two_kinds_are_not_compared():
    with pytest.raises(InputError, match="'mean' of width 6, test features 'cls' of width 6"):
        check_comparable(some(), some("cls"))


@pytest.mark.parametrize("labels", [True, False])
def test_cache_gives_back_the_same_features_without_computing_them_again(tmp_path, labels):
    first = cached_features(tmp_path / "new", "abc", lambda: some(labels=labels))
    second = cached_features(tmp_path / "new", "abc", lambda: pytest.fail("computed again"))
    for a, b in zip(first, second, strict=True):
        assert a == b if not isinstance(a, torch.Tensor) else torch.equal(a, b)
    assert (first.labels is None) != labels
    assert (first.x - some().x).abs().amax(0).le(0.0005 * some().x.abs().amax(0)).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["features-abc.npz"]


def test_cache_is_not_used_under_another_fingerprint(tmp_path):
    cached_features(tmp_path, "abc", some)
    assert cached_features(tmp_path, "abd", lambda: some("cls")).kind == "cls"


def test_a_renamed_cache_is_not_used(tmp_path, caplog):
    cached_features(tmp_path, "abc", some)
    (tmp_path / "features-abc.npz").rename(tmp_path / "features-abd.npz")
    assert cached_features(tmp_path, "abd", lambda: some("cls")).kind == "cls"
    assert "holds other features" in caplog.text


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_damaged_cache_is_computed_again_with_a_warning(tmp_path, caplog, keep):
    path = tmp_path / "features-abc.npz"
    cached_features(tmp_path, "abc", some)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert torch.equal(cached_features(tmp_path, "abc", some).ids, some().ids)
    assert "is not usable" in caplog.text
    assert path.read_bytes() == whole


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, "abc", some)
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_changes_with_every_part_and_with_nothing_else(toy):
    base = fingerprint(toy.state_dict(), "64 px", "val")
    assert base == fingerprint({k: v.clone() for k, v in reversed(toy.state_dict().items())}, "64 px", "val")
    others = [
        fingerprint(toy.state_dict(), "96 px", "val"),
        fingerprint(toy.state_dict(), "64 px", "train"),
        fingerprint(toy.state_dict(), "64 pxv", "al"),
        fingerprint({k: v.bfloat16() for k, v in toy.state_dict().items()}, "64 px", "val"),
    ]
    with torch.no_grad():
        toy.embed.bias[0] += 1e-6
    others.append(fingerprint(toy.state_dict(), "64 px", "val"))
    assert len({base, *others}) == 6
