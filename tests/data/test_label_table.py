"""Labels of whole splits: what is read, what is counted, which share is chosen, what is refused."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from mimsuite.data.label_table import balanced_weights, label_facts, read_labels, share_of
from mimsuite.data.open import open_index
from mimsuite.errors import InputError, RunError


@pytest.fixture(scope="module")
def index(shards, tmp_path_factory):
    return open_index(str(shards), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def made(tar, jpeg, tmp_path):
    """A function: a data set with one sample per label; None for no label."""

    def make(labels, names="a\nb\nc\n", keys=None, **options):
        content = []
        for number, label in enumerate(labels):
            key = keys[number] if keys else f"k{number}"
            content.append((f"{key}.jpg", jpeg(0)))
            if isinstance(label, int):
                content.append((f"{key}.cls", str(label).encode()))
            elif label is not None:
                content.append((f"{key}.json", json.dumps({"label": label}).encode()))
        tar(tmp_path / "data" / "train-0.tar", content, **options)
        if names:
            (tmp_path / "data" / "classes.txt").write_text(names)
        return open_index(str(tmp_path / "data"), tmp_path / "cache")

    return make


def test_labels_come_in_the_order_of_the_samples(index):
    train = index.records("train")
    assert read_labels(index, train) == [i % 3 for i in range(64)]
    assert read_labels(index, train.take(np.array([3, 31, 62]))) == [0, 1, 2]


def test_labels_of_all_kinds_and_names_of_any_length_are_read(made):
    keys = ["short", "d" * 60 + "/" + "k" * 80, "ünï", "folder/" * 40 + "y"]
    index = made([2, [0, 1], 0.5, []], keys=keys)
    assert read_labels(index, index.records("train")) == [2, (0, 1), 0.5, ()]


def test_a_sample_without_a_label_is_named(made):
    index = made([0, 1, None, 2])
    with pytest.raises(InputError, match=r"^k2 in .*train-0.tar has no label; add k2.cls, or [^\n]*$"):
        read_labels(index, index.records("train"))


@pytest.mark.parametrize(
    ("label", "words"),
    [(7, "label of k1 is 7; allowed is 0 to 2"), (float("nan"), "label of k1 in .* is nan; give a finite number")],
)
def test_a_wrong_label_is_named(made, label, words):
    index = made([0, label])
    with pytest.raises(InputError, match=words):
        read_labels(index, index.records("train"))


def test_labels_of_a_shard_that_was_replaced_are_a_run_error(made, tmp_path):
    index = made([0, 1])
    path = tmp_path / "data" / "train-0.tar"
    path.write_bytes(path.read_bytes().replace(b"k1.cls", b"k2.cls"))
    with pytest.raises(RunError, match=r"train-0.tar is not the one that was indexed"):
        read_labels(index, index.records("train"))


def test_facts_of_classes(index, made):
    facts = label_facts(index, [0, 1, 1, 0, 1])
    assert (facts.kind, facts.outputs, facts.names) == ("classes", 3, ("a", "b", "c"))
    assert facts.counts.tolist() == [2, 3, 0]
    nameless = label_facts(made([0], names=None), [0, 4, 4])
    assert (nameless.outputs, nameless.names, nameless.counts.tolist()) == (5, None, [1, 0, 0, 0, 2])


def test_facts_of_label_sets(index):
    facts = label_facts(index, [(0, 1), (), (1, 1)])
    assert (facts.kind, facts.outputs, facts.names) == ("multilabel", 3, ("a", "b", "c"))
    assert facts.counts.tolist() == [1, 2, 0]


def test_facts_of_numbers(index):
    facts = label_facts(index, [0.5, 2, -1.0])
    assert (facts.kind, facts.outputs, facts.names, facts.counts) == ("regression", 1, None, None)


@pytest.mark.parametrize(
    ("labels", "named", "words"),
    [
        ([], True, "no images were chosen"),
        ([1, (1, 2)], True, "labels are lists in some samples and single numbers in others; use one form"),
        ([(1,), (0,)], False, "the number of classes is not known; name the classes in classes.txt"),
        ([1, 1, 1], True, r"class 1 \(b\) is the only class of 3 training images; add images of another"),
        ([0, 0], False, r"class 0 is the only class"),
        ([(), ()], True, "none of 2 images has a label in its list"),
        ([0, 10**15], False, "label 1000000000000000 is not a class"),
    ],
)
def test_labels_that_teach_nothing_are_refused(made, labels, named, words):
    with pytest.raises(InputError, match=words) as error:
        label_facts(made([0, 1], names="a\nb\nc\n" if named else None), labels)
    assert "\n" not in str(error.value)


def chosen_keys(samples, labels, fraction, seed=0):
    numbers = share_of(samples, labels, fraction, seed)
    assert np.all(np.diff(numbers) > 0)
    return set(samples.keys()[numbers].tolist())


def test_a_share_takes_the_same_fraction_of_each_class_rounded_up(index):
    train = index.records("train")
    labels = [0] * 3 + [7] * 11 + [5] * 50
    assert np.bincount(np.array(labels)[share_of(train, labels, 0.1, 0)]).tolist() == [1, 0, 0, 0, 0, 5, 0, 2]
    assert share_of(train, labels, 1.0, 0).tolist() == list(range(64))
    assert np.bincount(np.array(labels)[share_of(train, labels, 1e-9, 0)])[[0, 5, 7]].tolist() == [1, 1, 1]


def test_a_share_is_no_larger_for_the_rounding_of_floats(index):
    train = index.records("train").take(np.arange(50))
    assert len(share_of(train, [0] * 50, 0.14, 0)) == 7  # 0.14 * 50 is 7.000000000000001


def test_a_smaller_share_is_a_part_of_a_larger_one_and_seeds_differ(index):
    train, labels = index.records("train"), [i % 3 for i in range(64)]
    shares = [chosen_keys(train, labels, f) for f in (0.05, 0.1, 0.3, 0.9)]
    assert all(small < large for small, large in pairwise(shares))
    assert chosen_keys(train, labels, 0.3, seed=1) != shares[2]


def test_a_share_depends_on_keys_not_on_their_order(tar, members, tmp_path):
    tar(tmp_path / "a" / "train-0.tar", members(0, 40))
    tar(tmp_path / "b" / "train-0.tar", members(25, 15))
    tar(tmp_path / "b" / "train-1.tar", members(0, 25))
    shares = []
    for name in "ab":
        index = open_index(str(tmp_path / name), tmp_path / "cache")
        samples = index.records("train")
        shares.append(chosen_keys(samples, read_labels(index, samples), 0.25))
    assert shares[0] == shares[1]
    assert len(shares[0]) == 12


def test_a_share_is_the_same_on_every_machine(index):
    numbers = share_of(index.records("train"), [i % 3 for i in range(64)], 0.1, 0)
    assert numbers.tolist() == [4, 5, 6, 18, 28, 41, 43, 50, 54]


@pytest.mark.parametrize("label", [0.5, (0, 1)])
def test_of_label_sets_and_numbers_a_share_is_of_all(index, label):
    labels = [label, *[(), (1,), (2,)] * 21] if isinstance(label, tuple) else [label, *range(63)]
    assert len(share_of(index.records("train"), labels, 0.1, 0)) == 7


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(index, fraction):
    with pytest.raises(InputError, match=rf"label_fraction={fraction} is not above 0 and at most 1; use 0.1"):
        share_of(index.records("train"), [0] * 64, fraction, 0)


def test_balanced_weights_make_classes_count_the_same():
    counts = np.array([10, 30, 60])
    weights = balanced_weights(counts)
    assert weights == pytest.approx([100 / 30, 100 / 90, 100 / 180])
    assert np.dot(weights, counts) == pytest.approx(100)
    with pytest.raises(InputError, match=r"class_weights=balanced, but class 1 \(cat\) has no training images"):
        balanced_weights(np.array([1, 0, 2]), ("ant", "cat", "dog"))


def test_label_tables_import_no_torch():
    code = "import sys, mimsuite.data.label_table; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
