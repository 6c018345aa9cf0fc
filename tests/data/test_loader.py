"""Batches: the same for any number of workers and ranks, with keyed crops and masks; bad samples; labels."""

import copy
import json
import os
import types

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.data.augment.crop import CenterCrop, RandomResizedCrop
from mimsuite.data.datamodule import ImageData, eval_loader
from mimsuite.data.hashing import hash_key
from mimsuite.data.images.decode import decode
from mimsuite.data.labels import parse_label
from mimsuite.data.open import open_index
from mimsuite.data.reader import ImageReader
from mimsuite.errors import InputError, RunError
from mimsuite.masked.samplers import RandomMask
from mimsuite.types import Batch

SIZE = (16, 16)

# Some tests take more workers than this machine may have cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def index(shards, tmp_path_factory):
    return open_index(str(shards), tmp_path_factory.mktemp("cache"))


def module(index, *, rank=0, world=1, done=0, **changes):
    arguments = {
        "image_size": SIZE,
        "mask_unit": 4,
        "train_transform": RandomResizedCrop(SIZE),
        "masks": (RandomMask(0.6),),
        "batch": 16,
        "micro_batch": 16 // world,
        "steps": 6,
        "seed": 0,
        "workers": 0,
    }
    data = ImageData(index, **(arguments | changes))
    data.trainer = types.SimpleNamespace(global_rank=rank, world_size=world, global_step=done)
    return data


def same(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for name, x, y in zip(Batch._fields, left, right, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(index, workers):
    data, other = module(index, labels=True), module(index, labels=True, workers=workers)
    same(list(data.train_dataloader()), list(other.train_dataloader()))
    same(list(data.val_dataloader()), list(other.val_dataloader()))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_the_world_changes_no_global_batch(index, world, workers):
    whole = list(module(index, steps=3).train_dataloader())
    ranks = [
        list(module(index, steps=3, rank=r, world=world, workers=workers).train_dataloader()) for r in range(world)
    ]
    for batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        for name in ("images", "ids", "mask"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))


def test_micro_batches_are_pieces_of_the_batch(index):
    whole = list(module(index).train_dataloader())
    pieces = module(index, micro_batch=4).train_dataloader()
    assert len(pieces) == 24
    pieces = list(pieces)
    assert len(pieces) == 24
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([p.images for p in pieces[4 * step : 4 * step + 4]]), batch.images)


def test_iteration_begins_where_the_run_stands(index):
    whole = list(module(index).train_dataloader())
    later = module(index, done=4).train_dataloader()
    assert len(later) == 6
    same(list(later), whole[4:])


def test_two_epochs_show_each_sample_twice_and_otherwise_cropped_and_masked(index):
    batches = list(module(index, steps=8).train_dataloader())
    first, second = batches[:4], batches[4:]
    ids = [torch.cat([b.ids for b in part]) for part in (first, second)]
    assert sorted(ids[0].tolist()) == sorted(ids[1].tolist())
    assert len(set(ids[0].tolist())) == 64
    assert ids[0].tolist() != ids[1].tolist()
    for field in ("images", "mask"):
        by_id = [
            dict(zip(i.tolist(), torch.cat([getattr(b, field) for b in part]), strict=True))
            for i, part in zip(ids, (first, second), strict=True)
        ]
        changed = sum(not torch.equal(by_id[0][i], by_id[1][i]) for i in by_id[0])
        assert changed > 60


def test_seeds_differ_and_repeat(index):
    one, again, other = (list(module(index, seed=s).train_dataloader()) for s in (1, 1, 2))
    same(one, again)
    assert not torch.equal(one[0].images, other[0].images)


def test_the_global_generator_is_left_alone(index):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(module(index).train_dataloader())
    list(module(index, workers=1).val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_kinds_and_counts(index):
    batch = next(iter(module(index, labels=True).train_dataloader()))
    assert batch.images.shape == (16, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.mask.shape == (16, 4, 4)
    assert batch.mask.dtype == torch.bool
    assert batch.mask.sum((1, 2)).tolist() == [10] * 16
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    assert batch.bad == []
    plain = next(iter(module(index, masks=(), mask_unit=None).train_dataloader()))
    assert plain.mask is None
    assert plain.labels is None


def test_validation_shows_every_sample_once_with_fixed_crops_and_masks(index):
    data = module(index, labels=True)
    batches = list(data.val_dataloader())
    assert [len(b.images) for b in batches] == [16, 5]
    assert len(data.val_dataloader()) == 2
    keys = [f"s{i:04d}" for i in range(64, 85)]
    assert torch.cat([b.ids for b in batches]).tolist() == [np.uint64(hash_key(k)).astype(np.int64) for k in keys]
    assert torch.cat([b.labels for b in batches]).tolist() == [i % 3 for i in range(64, 85)]
    same(batches, list(data.val_dataloader()))
    other = list(module(index, seed=9, micro_batch=8, labels=True).val_dataloader())
    for name in ("images", "mask"):
        whole, parts = (torch.cat([getattr(b, name) for b in many]) for many in (batches, other))
        assert torch.equal(whole, parts)


@pytest.mark.parametrize(("world", "count"), [(2, 21), (4, 21), (4, 17)])
def test_ranks_share_the_validation_images(index, world, count):
    ranks = [module(index, rank=r, world=world, val_limit=count).val_dataloader() for r in range(world)]
    assert [len(list(loader)) for loader in ranks] == [len(loader) for loader in ranks]
    ids = [i for loader in ranks for batch in loader for i in batch.ids.tolist()]
    assert len(set(ids)) == len(ids) == count
    assert set(ids) <= set(index.records("val").keys().astype(np.int64).tolist())


def test_few_validation_images_are_chosen_once(index):
    some = [b.ids.tolist() for b in module(index, val_limit=5).val_dataloader()]
    assert [len(ids) for ids in some] == [5]
    assert some == [b.ids.tolist() for b in module(index, val_limit=5, seed=3).val_dataloader()]


def test_other_samples_may_be_trained_and_validated_on(index):
    train, val = index.records("train"), index.records("val")
    few, some = train.take(np.arange(2, 30)), val.take(np.arange(9))  # nothing of the shards after the first
    data = module(index, steps=14, batch=4, micro_batch=4, train=few, val=some, val_limit=7, labels=True)
    assert data.order.steps_per_epoch == 7
    ids = torch.cat([batch.ids for batch in data.train_dataloader()]).numpy().view(np.uint64)
    assert sorted(ids[:28].tolist()) == sorted(ids[28:].tolist()) == sorted(few.keys().tolist())
    shown = [i for batch in data.val_dataloader() for i in batch.ids.tolist()]
    assert len(shown) == 7
    assert set(shown) <= set(some.keys().view(np.int64).tolist())


def test_validation_batches_name_their_samples_when_asked(index):
    asked, plain = module(index, val_keys=True), module(index)
    assert [k for batch in asked.val_dataloader() for k in batch.keys] == [f"s{i:04d}" for i in range(64, 85)]
    assert next(iter(asked.train_dataloader())).keys is None
    assert next(iter(plain.val_dataloader())).keys is None


def test_persistent_validation_workers_serve_again(index):
    loader = module(index, workers=1).val_dataloader()
    same(list(loader), list(loader))


def test_eval_loader_serves_whole_images_in_order(index, shards):
    batches = list(eval_loader(index, "val", image_size=(24, 32), batch=8, workers=0, labels=True))
    assert [len(b.images) for b in batches] == [8, 8, 5]
    assert batches[0].mask is None
    import tarfile

    with tarfile.open(shards / "val-000000.tar") as archive:
        expected = decode(archive.extractfile("s0064.jpg").read(), 3, "uint8")
    assert np.array_equal(batches[0].images[0].permute(1, 2, 0).numpy(), expected)
    masked = eval_loader(
        index, "val", image_size=SIZE, batch=21, workers=0, labels=False, mask=RandomMask(0.6), mask_unit=4
    )
    assert torch.equal(next(iter(masked)).mask, torch.cat([b.mask for b in module(index).val_dataloader()]))


def test_a_batch_that_the_devices_cannot_share_is_refused(index):
    with pytest.raises(InputError, match="batch=16 is not a multiple of devices x micro_batch = 2 x 5; use batch=20"):
        module(index, world=2, micro_batch=5).train_dataloader()


def broken_set(tar, members, folder, bad, count=20):
    """One training shard in which the samples numbered `bad` cannot be decoded, and one whole test shard."""
    content = list(members(0, count))
    for number in bad:
        content[2 * number] = (content[2 * number][0], b"\xff\xd8\xff broken")
    tar(folder / "train-0.tar", content)
    tar(folder / "test-0.tar", members(count, 8))
    return open_index(str(folder), folder / "cache")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_named_and_replaced_by_the_next_good_one(tar, members, tmp_path, workers):
    index = broken_set(tar, members, tmp_path, [3, 4, 19])
    data = module(index, batch=20, micro_batch=20, steps=1, workers=workers)
    (batch,) = data.train_dataloader()
    ids = [np.uint64(hash_key(f"s{i:04d}")).astype(np.int64) for i in range(20)]
    drawn = next(data.order.batches(0, 1))[1].tolist()
    stands_in = {3: 5, 4: 5, 19: 0}
    assert batch.ids.tolist() == [ids[stands_in.get(n, n)] for n in drawn]
    shard = index.splits["train"][0].path
    named = sorted((b.shard, b.key) for b in batch.bad)
    assert named == sorted((shard, key) for key in ("s0003", "s0004", "s0004", "s0019"))
    assert {b.reason for b in batch.bad} == {"JPEG: cut inside the header"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_nothing_but_bad_samples_stops_with_their_names(tar, members, tmp_path, workers):
    index = broken_set(tar, members, tmp_path, range(1, 20))
    loader = eval_loader(index, "train", image_size=SIZE, batch=10, workers=workers, labels=False)
    batches = iter(loader)
    assert len(next(batches).bad) == sum(range(12, 20)) + 11  # s0000 alone is whole
    with pytest.raises(InputError, match=r"cannot be decoded: s0010 in .*train-0.tar: JPEG") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_a_shard_that_was_replaced_is_a_run_error(tar, members, tmp_path):
    index = broken_set(tar, members, tmp_path, [])
    path = index.splits["train"][0].path
    size = os.path.getsize(path)
    content = tar(tmp_path / "other", members(500, 20)).read_bytes()
    with open(path, "wb") as file:
        file.write(content.ljust(size, b"\0"))
    for workers in (0, 1):
        loader = eval_loader(index, "train", image_size=SIZE, batch=4, workers=workers, labels=False)
        with pytest.raises(RunError, match=r"train-0.tar is not the one that was indexed.*offset 512") as error:
            list(loader)
        assert "\n" not in str(error.value)
    os.unlink(path)
    with pytest.raises(RunError, match=r"train-0.tar cannot be read"):
        list(eval_loader(index, "train", image_size=SIZE, batch=4, workers=0, labels=False))


LABELS = {
    "x.cls": b"word",
    "-1.cls": b"-1",
    "--1.cls": b"--1",
    "3.cls": b"3",
    "none.json": b'{"caption": "a"}',
    "broken.json": b"{",
    "word.json": b'{"label": "cat"}',
    "true.json": b'{"label": true}',
    "range.json": b'{"label": [0, 7]}',
    "nan.json": b'{"label": NaN}',
}


@pytest.mark.parametrize("name", LABELS)
def test_wrong_labels_are_named_only_when_labels_are_asked_for(tar, members, tmp_path, name):
    content = list(members(0, 6))
    content[7] = (f"s0003.{name.split('.')[1]}", LABELS[name])
    tar(tmp_path / "train-0.tar", content)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    index = open_index(str(tmp_path), tmp_path / "cache")
    list(eval_loader(index, "train", image_size=SIZE, batch=6, workers=0, labels=False))
    with pytest.raises(InputError, match="s0003") as error:
        list(eval_loader(index, "train", image_size=SIZE, batch=6, workers=0, labels=True))
    assert "\n" not in str(error.value)


def test_a_missing_label_is_named(tar, members, tmp_path):
    content = list(members(0, 6))
    del content[5]
    tar(tmp_path / "train-0.tar", content)
    index = open_index(str(tmp_path), tmp_path / "cache")
    with pytest.raises(InputError, match=r"s0002 in .* has no label; add s0002.cls"):
        list(eval_loader(index, "train", image_size=SIZE, batch=6, workers=0, labels=True))


def labelled(tar, jpeg, folder, labels):
    content = []
    for i, label in enumerate(labels):
        content += [(f"{i}.jpg", jpeg(i)), (f"{i}.json", json.dumps({"label": label}).encode())]
    tar(folder / "train-0.tar", content)
    (folder / "classes.txt").write_text("a\nb\nc\n")
    index = open_index(str(folder), folder / "cache")
    (batch,) = eval_loader(index, "train", image_size=SIZE, batch=8, workers=0, labels=True)
    return batch.labels


def test_labels_of_all_kinds(tar, jpeg, tmp_path):
    classes = labelled(tar, jpeg, tmp_path / "a", [2, 0, 1])
    assert classes.dtype == torch.int64
    assert classes.tolist() == [2, 0, 1]
    several = labelled(tar, jpeg, tmp_path / "b", [[0, 2], [], [1]])
    assert several.dtype == torch.float32
    assert several.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    numbers = labelled(tar, jpeg, tmp_path / "c", [0.5, -2.25, 3.0])
    assert numbers.tolist() == [[0.5], [-2.25], [3.0]]
    with pytest.raises(InputError, match="lists in some samples"):
        labelled(tar, jpeg, tmp_path / "d", [0, [1], 2])


def test_an_integer_label_may_have_spaces_but_no_point():
    assert parse_label(b" 7\n", "cls", "k", None) == 7
    with pytest.raises(InputError, match=r"label of k is '7\.0', not an integer"):
        parse_label(b"7.0", "cls", "k", None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pictures_of_many_channels_become_batches(tar, tmp_path, dtype):
    import io

    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (10, 24, 20, 5), dtype=dtype)
    content = []
    for i, value in enumerate(values):
        stream = io.BytesIO()
        np.save(stream, value)
        content.append((f"{i}.npy", stream.getvalue()))
    tar(tmp_path / "train-0.tar", content)
    index = open_index(str(tmp_path), tmp_path / "cache")
    assert (index.channels, index.dtype, index.image_size, index.has_labels) == (5, dtype, (24, 20), False)
    assert np.allclose(index.mean, values.mean((0, 1, 2)) / np.iinfo(dtype).max, atol=1e-4)
    assert np.allclose(index.std, values.std((0, 1, 2)) / np.iinfo(dtype).max, atol=1e-4)
    (batch,) = eval_loader(index, "train", image_size=(24, 20), batch=10, workers=0, labels=False)
    assert batch.images.dtype == (torch.uint8 if dtype == "uint8" else torch.int32)
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), values)


def test_a_grey_picture_among_coloured_ones_is_repeated(tar, jpeg, tmp_path):
    import io

    stream = io.BytesIO()
    Image.fromarray(np.full((24, 32), 77, dtype=np.uint8)).save(stream, "JPEG")
    tar(tmp_path / "train-0.tar", [("a.jpg", jpeg(0)), ("b.jpg", stream.getvalue())])
    index = open_index(str(tmp_path), tmp_path / "cache")
    assert index.channels == 3
    (batch,) = eval_loader(index, "train", image_size=SIZE, batch=2, workers=0, labels=False)
    assert batch.images[1].unique().tolist() == [77]


def test_the_reader_minds_no_fork_and_no_pickle(index):
    import pickle

    reader = ImageReader(index, index.records("train"), CenterCrop(SIZE), seed=0, labels=False)
    first = reader[0, 5, 0]
    for other in (pickle.loads(pickle.dumps(reader)), copy.copy(reader)):
        assert torch.equal(other[0, 5, 0].image, first.image)
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(reader[0, 5, 0].image, first.image) else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(reader[0, 5, 0].image, first.image)


def test_real_photographs_become_the_pictures_of_an_unscaled_decode(imagenette, tmp_path):
    """Grey JPEGs included; the stated tolerance of the scaled decode: mean 2 grey levels."""
    index = open_index(str(imagenette), tmp_path)
    crop = RandomResizedCrop((64, 64))
    reader = ImageReader(index, index.records("train"), crop, seed=0, labels=False)
    whole = ImageReader(index, index.records("train"), Whole(crop), seed=0, labels=False)
    differences = [(reader[0, i, 0].image.float() - whole[0, i, 0].image.float()).abs().mean() for i in range(100)]
    assert max(differences) > 0
    assert torch.stack(differences).mean() < 2


class Whole:
    """A transform whose boxes are decoded at full size."""

    def __init__(self, crop):
        self.crop, self.size = crop, (10_000, 10_000)

    def box(self, height, width, generator):
        return self.crop.box(height, width, generator)

    def __call__(self, pixels, generator):
        return self.crop(pixels, generator)
