"""Which samples play which role: splits that exist, else a part of train that is held out."""

import pytest

from mimsuite.data.index import Selection, held_out
from mimsuite.data.open import open_index
from mimsuite.errors import InputError


def test_roles_use_the_splits_that_exist(shards, tmp_path, tar, members):
    index = open_index(str(shards), tmp_path)
    assert index.select("train") == Selection("train")
    assert index.select("curve") == index.select("test") == Selection("val")
    tar(tmp_path / "two" / "train-0.tar", members(0, 40))
    tar(tmp_path / "two" / "test-0.tar", members(40, 5))
    two = open_index(str(tmp_path / "two"), tmp_path)
    assert two.select("curve") == two.select("test") == Selection("test")
    only = open_index(str(tmp_path / "two" / "test-0.tar"), tmp_path)
    with pytest.raises(InputError, match="has no split train, only test;"):
        only.select("train")
    with pytest.raises(InputError, match=r"split=val is not in .*; it has test"):
        only.num_samples("val")


def test_supervised_training_chooses_on_val_or_a_part_of_train_and_never_on_test(shards, tmp_path, tar, members):
    index = open_index(str(shards), tmp_path)
    assert (index.select("fit"), index.select("choose")) == (Selection("train"), Selection("val"))
    tar(tmp_path / "two" / "train-0.tar", members(0, 40))
    tar(tmp_path / "two" / "test-0.tar", members(40, 5))
    two = open_index(str(tmp_path / "two"), tmp_path)
    assert (two.select("fit"), two.select("choose")) == (Selection("train", "rest"), Selection("train", "held"))
    fit, choose = (set(two.records(two.select(role)).keys().tolist()) for role in ("fit", "choose"))
    assert (len(fit), len(choose), len(fit | choose)) == (36, 4, 40)
    assert two.select("train") == Selection("train")
    only = open_index(str(tmp_path / "two" / "test-0.tar"), tmp_path)
    with pytest.raises(InputError, match="has no split val or train, only test; rename"):
        only.select("choose")
    with pytest.raises(InputError, match="has no split train, only test; rename"):
        only.select("fit")


def test_without_other_splits_a_part_of_train_is_held_out(tmp_path, tar, members):
    for number in range(4):
        tar(tmp_path / "d" / f"{number:05d}.tar", members(number * 50, 50))
    index = open_index(str(tmp_path / "d"), tmp_path / "cache")
    train, curve = index.select("train"), index.select("curve")
    held, rest = index.records(curve), index.records(train)
    assert (len(held), len(rest)) == (16, 184)
    assert index.num_samples(curve) == 16
    assert set(held.keys()) | set(rest.keys()) == set(index.records("train").keys())
    assert rest.sizes.sum() == 184
    assert rest.sizes.max() < 51
    assert [rest[i][1]["key"] for i in range(184)] == rest.keys().tolist()
    for number, size in enumerate(rest.sizes):
        at = int(rest.sizes[:number].sum())
        assert {rest[i][0].path for i in range(at, at + size)} == {index.splits["train"][number].path}
    with pytest.raises(InputError, match=r"has no split test or val.*val_fraction"):
        index.select("test")


def test_what_is_held_out_depends_on_keys_alone(tmp_path, tar, members):
    tar(tmp_path / "a" / "0.tar", members(0, 200))
    tar(tmp_path / "b" / "0.tar", members(100, 100))
    tar(tmp_path / "b" / "1.tar", members(0, 100))
    held = [
        set(index.records(index.select("curve")).keys())
        for index in (open_index(str(tmp_path / d), tmp_path / "cache") for d in "ab")
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (9, 1), (20, 2), (200, 16), (1600, 16), (5000, 50)])
def test_size_of_the_held_out_part(samples, count):
    assert held_out(samples) == count
