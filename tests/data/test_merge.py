"""Several data sets as one: classes by name, one order, and what does not go together is refused."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from mimsuite.config.overrides import quote_path
from mimsuite.data.checks.inspect import raw_samples, summarize_data
from mimsuite.data.index import Selection
from mimsuite.data.label_table import read_labels
from mimsuite.data.merge import merge
from mimsuite.data.open import open_data
from mimsuite.data.order import BatchOrder
from mimsuite.errors import InputError
from mimsuite.evaluation.features.tables import name_columns
from mimsuite.settings.read import read_data


@pytest.fixture(scope="module")
def sets(tmp_path_factory, tar, jpeg):
    """Two sets that share the class `b`: a, b with a validation split, and c, b without."""
    folder = tmp_path_factory.mktemp("sets")

    def members(first, count, classes):
        for i in range(first, first + count):
            yield f"s{i:04d}.jpg", jpeg(i)
            yield f"s{i:04d}.cls", str(i % classes).encode()

    tar(folder / "one" / "train-0.tar", members(0, 6, 2))
    tar(folder / "one" / "val-0.tar", members(6, 2, 2))
    tar(folder / "two" / "train-0.tar", members(10, 4, 2))
    tar(folder / "bare" / "train-0.tar", ((f"x{i}.jpg", jpeg(20 + i)) for i in range(3)))
    (folder / "one" / "classes.txt").write_text("a\nb\n")
    (folder / "two" / "classes.txt").write_text("c\nb\n")
    return folder


def opened(sets, *names):
    return open_data([str(sets / name) for name in names])


def test_classes_are_matched_by_name_wherever_labels_are_read(sets):
    index = opened(sets, "one", "two")
    assert index.classes == ("a", "b", "c")
    assert {split: index.num_samples(split) for split in index.splits} == {"train": 10, "val": 2}
    wanted = [0, 1, 0, 1, 0, 1, 2, 1, 2, 1]
    assert [sample.label for sample in raw_samples(index, "train", 99)] == wanted
    assert list(read_labels(index, index.records(Selection("train")))) == wanted
    assert summarize_data(index)["splits"]["train"]["labels"] == {"0": 3, "1": 5, "2": 2}
    assert index.reading == (
        f"{sets}/one: train 6, val 2; 2 classes",
        f"{sets}/two: train 4; 2 classes",
    )


def test_statistics_are_those_of_all_images(sets):
    one, two, both = opened(sets, "one", "two"), open_data(str(sets / "one")), open_data(str(sets / "two"))
    mean = (6 * np.array(two.mean) + 4 * np.array(both.mean)) / 10
    assert np.allclose(one.mean, mean, atol=1e-6)
    square = sum(n * (np.array(i.std) ** 2 + np.array(i.mean) ** 2) for n, i in ((6, two), (4, both))) / 10
    assert np.allclose(one.std, np.sqrt(square - mean**2), atol=1e-5)


def test_the_order_of_the_sets_decides_the_order_of_shards_and_nothing_else(sets):
    there, again = opened(sets, "one", "two"), opened(sets, "one", "two")
    assert there == again
    order = [list(BatchOrder(i.records("train").sizes, 4, 0).batches(0, 3)) for i in (there, again)]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(*order, strict=True))
    back = opened(sets, "two", "one")
    assert [shard.path for shard in back.splits["train"]] == [s.path for s in reversed(there.splits["train"])]


def test_a_set_without_labels_goes_with_one_that_has_some(sets):
    index = opened(sets, "one", "bare")
    assert (index.num_samples("train"), index.classes, index.has_labels) == (9, ("a", "b"), True)
    assert [sample.label for sample in raw_samples(index, "train", 99)][6:] == [None] * 3


def test_what_does_not_go_together_is_refused(sets):
    one, two = (open_data(str(sets / name)) for name in ("one", "two"))
    for change, says in (
        ({"channels": 4}, "different channels: 3 in .*one, 4 in .*two"),
        ({"dtype": "uint16"}, "different dtype: uint8 in .*one, uint16"),
        ({"classes": None}, "the classes of .*two have no names"),
    ):
        with pytest.raises(InputError, match=says):
            merge([one, replace(two, **change)])
    with pytest.raises(InputError, match=r"names .*train-0.tar twice"):
        opened(sets, "one", "one")


def test_a_list_is_given_on_the_command_line():
    assert quote_path("data=[my photos,b]") == "data=['my photos','b']"
    assert read_data(OmegaConf.create({"data": ["a", "b"]})) == ("a", "b")
    assert read_data(OmegaConf.create({"data": ["a"]})) == "a"
    assert read_data(OmegaConf.create({"data": None})) is None
    with pytest.raises(InputError, match=r"data=\[\] names no data"):
        read_data(OmegaConf.create({"data": []}))


def test_rows_of_a_table_name_their_data_set(sets):
    index = opened(sets, "one", "two")
    columns = name_columns(index, Selection("train"), np.array([0, 5, 6, 9]))
    assert columns["file"] == ["s0000.jpg", "s0005.jpg", "s0010.jpg", "s0013.jpg"]
    assert columns["data"] == [str(sets / name) for name in ("one", "one", "two", "two")]
    assert "data" not in name_columns(open_data(str(sets / "one")), Selection("train"), np.array([0]))
