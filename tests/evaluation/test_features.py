"""Features: one way for every split, and a cache that never gives another's."""

import numpy as np
import pytest
import torch
from torch import nn

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import (
    Features,
    cached_features,
    check_comparable,
    class_labels,
    evaluation_mode,
    fingerprint,
    pooled,
    raw_pixel_features,
)
from mimsuite.types import Batch, FeatureMap


def test_every_submodule_gets_its_mode_back_also_after_an_error():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    network[0].eval()
    inside = []

    def fail():
        with evaluation_mode(network):
            inside.extend(module.training for module in network.modules())
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert inside == [False, False, False]
    assert [module.training for module in network.modules()] == [True, False, True]


def test_both_is_the_class_token_and_then_the_mean():
    features = FeatureMap(torch.arange(24.0).view(2, 3, 2, 2), torch.full((2, 3), -1.0))
    both = pooled(features, "both")
    assert torch.equal(both, torch.cat([pooled(features, "cls"), pooled(features, "mean")], dim=1))
    assert both[0].tolist() == [-1, -1, -1, 1.5, 5.5, 9.5]


def test_grid_is_every_cell_row_by_row():
    grid = torch.arange(24.0).view(2, 3, 2, 2)
    assert pooled(FeatureMap(grid, None), "grid")[0, 1].tolist() == [1, 5, 9]


@pytest.mark.parametrize("pool", ["cls", "both"])
def test_pooling_a_class_token_that_is_not_there_is_refused(pool):
    with pytest.raises(InputError, match="use pool=mean"):
        pooled(FeatureMap(torch.zeros(1, 3, 2, 2), None), pool)


def test_half_precision_is_pooled_to_float32():
    assert pooled(FeatureMap(torch.zeros(1, 3, 2, 2).bfloat16(), None), "mean").dtype == torch.float32


def image(count=1, labels=None):
    return Batch(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.arange(count), None, labels, [])


def test_an_empty_loader_is_refused():
    with pytest.raises(InputError, match="the loader is empty"):
        raw_pixel_features([])


def test_batches_follow_each_other_with_ids_and_labels():
    found = raw_pixel_features([image(2, torch.tensor([1, 0])), image(1, torch.tensor([2]))])
    assert (found.ids.tolist(), found.labels.tolist(), found.x.shape) == ([0, 1, 0], [1, 0, 2], (3, 192))
    assert raw_pixel_features([image()]).labels is None


@pytest.mark.parametrize("labels", [None, torch.zeros(9), torch.zeros(9, 3, dtype=torch.long)])
def test_labels_that_are_not_one_class_per_image_are_refused(labels):
    with pytest.raises(InputError, match="need one class per image"):
        class_labels(Features(torch.zeros(9, 2), labels, torch.arange(9), "mean"), "training")


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


def test_fingerprint_changes_with_every_part_and_with_nothing_else():
    toy = nn.Sequential(nn.Conv2d(3, 5, 4), nn.BatchNorm2d(5))
    base = fingerprint(toy.state_dict(), "64 px", "val")
    assert base == fingerprint({k: v.clone() for k, v in reversed(toy.state_dict().items())}, "64 px", "val")
    others = [
        fingerprint(toy.state_dict(), "96 px", "val"),
        fingerprint(toy.state_dict(), "64 px", "train"),
        fingerprint(toy.state_dict(), "64 pxv", "al"),
        fingerprint({k: v.bfloat16() for k, v in toy.state_dict().items()}, "64 px", "val"),
    ]
    with torch.no_grad():
        toy[0].bias[0] += 1e-6
    others.append(fingerprint(toy.state_dict(), "64 px", "val"))
    assert len({base, *others}) == 6
