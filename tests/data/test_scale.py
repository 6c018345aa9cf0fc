"""Large data sets: what is opened, read and held for 10,000 shards; folders of older versions read the same."""

import contextlib
import hashlib
import json
import os
import pickle
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from mimsuite.data import hashing, tables
from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.datamodule import ImageData
from mimsuite.data.hashing import find_smallest, splitmix64
from mimsuite.data.index import DataIndex, Samples, Selection, Shard
from mimsuite.data.index_json import write_index
from mimsuite.data.merge import merge
from mimsuite.data.numbering import All, AllBut, Some
from mimsuite.data.open import open_data, open_index
from mimsuite.data.order import BatchOrder
from mimsuite.data.scan import index_beside
from mimsuite.data.tar import FIRST_RECORD, RECORD

SHARDS, EACH = 10_000, 20

# ---- which files are opened

LISTENERS: list[list[str]] = []


def note(event, arguments):
    if event == "open":
        for found in LISTENERS:
            found.append(str(arguments[0]))


sys.addaudithook(note)


@contextlib.contextmanager
def opened():
    """The files that are opened meanwhile."""
    LISTENERS.append([])
    try:
        yield LISTENERS[-1]
    finally:
        LISTENERS.pop()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """10,000 shards of 20 samples, and no picture: links to an empty file."""
    folder = tmp_path_factory.mktemp("many")
    rows = np.zeros(SHARDS * EACH, RECORD)
    rows["key"] = splitmix64(np.arange(len(rows), dtype=np.uint64))
    rows["image_offset"] = np.arange(len(rows))
    np.save(folder / "all.npy", rows)
    (folder / "empty").touch()
    shards = []
    for number in range(SHARDS):
        os.link(folder / "empty", name := f"{folder}/train-{number:06d}.tar")
        shards.append(Shard(name, EACH, 0, f"{number:064x}", str(folder / "all.npy"), row=number * EACH, keys="_"))
    write_index(folder, DataIndex(str(folder), {"train": tuple(shards)}, None, 1, "uint8", (0,), (1,), (8, 8), False))
    return folder


def test_ten_thousand_shards_are_opened_from_one_file(many):
    with opened() as files:
        index = open_index(str(many))
    assert [os.path.basename(name) for name in files] == ["index.json"]
    assert index.num_samples("train") == SHARDS * EACH


def test_rows_are_read_of_the_shards_of_a_batch_alone(many):
    samples = open_index(str(many)).records("train")
    with opened() as files:
        order = BatchOrder(samples.sizes, 64, 0, window=16)
        numbers = next(order.batches(order.steps_per_epoch // 2, order.steps_per_epoch))[1].tolist()
        found = [int(samples[number][1]["image_offset"]) for number in numbers]
    assert found == numbers
    touched = len({number // EACH for number in numbers})
    assert touched <= 32
    assert {os.path.basename(name) for name in files} == {"samples.idx.npy"}
    assert len(files) == 1 + touched  # the header, and a part for each shard


def test_what_is_held_out_is_chosen_once_from_the_keys_alone(many, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_ROWS", 50_000)
    index = open_index(str(many))
    with opened() as files:
        held, rest = (index.records(Selection("train", part)) for part in ("held", "rest"))
    assert {os.path.basename(name) for name in files} == {"keys.idx.npy"}
    assert len(files) == 1 + 4  # the header and the keys of four blocks, once for both
    assert (len(held), len(rest)) == (2000, 198_000)
    every = np.load(many / "all.npy")["key"]
    chosen = np.isin(every, held.keys())
    assert np.array_equal(every[chosen], held.keys())
    assert np.array_equal(every[~chosen], rest.keys())


def test_what_is_left_of_train_costs_no_memory_for_each_sample(many, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_ROWS", 5_000)
    monkeypatch.setattr(hashing, "_MANY", 5_000)
    index = open_index(str(many))
    first = index.splits["train"][0]
    large = tuple(replace(first, samples=20_000, row=row) for row in range(0, SHARDS * EACH, 20_000))
    index = replace(index, splits={"train": large})
    rest = index.records(Selection("train", "rest"))  # imports, and what is made once
    index = replace(index, splits={"train": large})
    tracemalloc.start()
    try:
        rest = index.records(Selection("train", "rest"))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rest) == 198_000
    assert held < 60_000  # two numbers for each of the 2,000 that are left out
    assert most < 8 * len(rest)  # some pieces of the keys
    assert len(pickle.dumps(rest)) < 50_000  # what a worker gets that is started and not forked


def test_images_for_a_probe_are_chosen_once(many):
    index = open_index(str(many))
    data = ImageData(
        index,
        image_size=(8, 8),
        mask_unit=None,
        train_transform=RandomResizedCrop((8, 8)),
        masks=(),
        batch=64,
        micro_batch=64,
        steps=1,
        seed=0,
        workers=0,
    )
    assert data.whole_images("train", 100, labels=False)[1] == 100
    with opened() as files:
        assert data.whole_images("train", 100, labels=False)[1] == 100
    assert not files


def test_shards_of_a_joined_set_share_the_numbers_of_their_classes(many):
    one = replace(open_index(str(many)), has_labels=True, classes=tuple(map(str, range(1000))))
    shards = tuple(replace(shard, path=f"{shard.path}.2") for shard in one.splits["train"])
    other = replace(one, splits={"train": shards}, classes=tuple(map(str, range(999, -1, -1))))
    joined = merge([one, other]).splits["train"]
    assert len(joined) == 2 * SHARDS
    assert joined[0].classes is None
    assert joined[-1].classes == tuple(range(999, -1, -1))
    assert len({id(shard.classes) for shard in joined}) == 2


# ---- folders of older versions


@pytest.mark.parametrize("dtype", [RECORD, FIRST_RECORD], ids=["all fields", "without paths"])
def test_a_folder_with_a_table_for_each_shard_reads_the_same(dtype, tmp_path, tar, members):
    folder, own = tmp_path / "new", tmp_path / "old"
    own.mkdir()
    for number in range(4):
        tar(folder / f"train-{number:06d}.tar", members(50 * number, 50))
        (own / f"train-{number:06d}.tar").symlink_to(folder / f"train-{number:06d}.tar")
    index_beside(str(folder))
    new, rows = open_index(str(folder)), np.load(folder / "samples.idx.npy")
    content = json.loads((folder / "index.json").read_text())
    assert content["format"] == "mimsuite-2"
    content["format"] = "mimsuite-1"
    for number, entry in enumerate(content["splits"]["train"]):
        assert entry.pop("row") == 50 * number
        entry["table"] = f"train-{number:06d}.idx.npy"
        np.save(own / entry["table"], rows[50 * number :][:50][list(dtype.names)].astype(dtype))
    (own / "index.json").write_text(json.dumps(content))
    old = open_index(str(own))
    assert old == replace(new, root=str(own), splits=old.splits)
    for part in ("all", "held", "rest"):
        before, after = (index.records(Selection("train", part)) for index in (old, new))
        assert before.sizes.tolist() == after.sizes.tolist()
        assert before.keys().tolist() == after.keys().tolist()
        for name in dtype.names:
            assert before.column(name).tolist() == after.column(name).tolist()
        assert [before[i][1]["key"] for i in range(len(before))] == after.keys().tolist()
    again = tmp_path / "again"
    again.mkdir()
    write_index(again, old)
    assert np.array_equal(np.load(again / "samples.idx.npy"), rows)


# ---- the choice is the one that runs were trained with


def test_the_choice_by_keys_is_frozen():
    index = open_data(None)
    only = replace(index, splits={"train": index.splits["train"] + index.splits["val"]})
    held, rest = (only.records(Selection("train", part)) for part in ("held", "rest"))
    chosen = {
        "held": held.keys(),
        "rest": rest.keys(),
        "shards": rest.sizes,
        "curves": held.of_curves(7).keys(),
        "of the rest": rest.smallest(50, 9),
        "of all": only.records("train").smallest(300, 5),
        "taken": rest.take(np.arange(0, len(rest), 3)).keys(),
        "offsets": rest.column("image_offset"),
    }
    assert {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in chosen.items()} == {
        "held": "11712eaa8357c2fd",
        "rest": "249a1c96e810cc48",
        "shards": "d5ec826d1c18abe9",
        "curves": "2ef8502aa19a7777",
        "of the rest": "f347d48ef23a32af",
        "of all": "ad85feb92fb67e04",
        "taken": "7986b74c00f6c8f0",
        "offsets": "7166565dddf6835c",
    }


@pytest.mark.parametrize("values", [1 << 63, 50], ids=["distinct", "many equal"])
@pytest.mark.parametrize("count", [1, 7, 400, 999, 1000, 2000])
def test_the_smallest_hashes_of_pieces_are_those_of_the_whole(values, count, monkeypatch):
    monkeypatch.setattr(hashing, "_MANY", 10)
    hashes = np.random.default_rng(count).integers(0, values, 1000, dtype=np.uint64)
    expected = np.flatnonzero(hashes <= np.sort(hashes)[min(count, 1000) - 1])
    for size in (1, 13, 1000):
        pieces = [hashes[first : first + size] for first in range(0, 1000, size)]
        assert find_smallest(count, iter(pieces)).tolist() == expected.tolist()


def test_every_numbering_counts_the_same_samples():
    total, rng = 60, np.random.default_rng(0)
    for _ in range(50):
        left_out = np.flatnonzero(rng.random(total) < rng.random())
        kept = np.setdiff1d(np.arange(total), left_out)
        numberings = [AllBut(total, left_out), Some(kept), All(total).without(left_out)]
        some = np.flatnonzero(rng.random(len(kept)) < 0.3)
        bounds = np.sort(rng.integers(0, total + 1, 2))
        for numbering in numberings:
            assert len(numbering) == len(kept)
            assert [numbering.place(number) for number in range(len(kept))] == kept.tolist()
            assert numbering.places(some).tolist() == kept[some].tolist()
            assert numbering.before(bounds).tolist() == [(kept < bound).sum() for bound in bounds]
            first, stop = bounds.tolist()
            inside = kept[(kept >= first) & (kept < stop)].tolist()
            assert np.arange(first, stop)[numbering.within(first, stop)].tolist() == inside
            rest = numbering.without(some)
            assert rest.places(np.arange(len(rest))).tolist() == np.delete(kept, some).tolist()


def test_no_samples_have_no_keys():
    assert (len(Samples(())), len(Samples(()).keys()), len(Samples(()).column("key"))) == (0, 0, 0)
