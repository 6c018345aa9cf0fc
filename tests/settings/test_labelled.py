"""What a supervised run learns from: the images, their shares, the weights of classes, and what is refused."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mimsuite.data.label_table import read_labels
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.settings.labels import check_objective, read_training_labels

KEYS = {"data": "d", "label_fraction": 1.0, "class_weights": None, "seed": 0}


def shards(folder, splits, names=None):
    """A folder of shards; `splits` has a list of labels for each split."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, labels in splits.items():
        with tarfile.open(folder / f"{split}-000000.tar", "w") as archive:
            for i, label in enumerate(labels):
                picture = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture, "PNG")
                text = json.dumps({"label": label}).encode()
                for ending, data in (("png", picture.getvalue()), ("json", text)):
                    member = tarfile.TarInfo(f"{split}{i}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    if names:
        (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return open_data(str(folder))


def decide(index, **changes):
    return read_training_labels(OmegaConf.create(KEYS | changes), index)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """100, 40 and 5 images of three classes, and no val."""
    labels = [0] * 100 + [1] * 40 + [2] * 5
    return shards(tmp_path_factory.mktemp("data") / "uneven", {"train": labels, "test": [0, 1, 2]}, ["a", "b", "c"])


def test_without_val_a_part_of_train_chooses_and_is_not_learned_from(uneven):
    found = decide(uneven)
    learned, chosen = (set(samples.keys().tolist()) for samples in (found.train, found.choose))
    assert (len(learned), len(chosen)) == (131, 14)
    assert not learned & chosen
    assert learned | chosen == set(uneven.records("train").keys().tolist())
    assert found.chosen_on == "14 images held out from train"


@pytest.mark.parametrize(
    ("shift", "scale", "words"),
    [(1000, 1, "of mean 1000 and deviation 1.118"), (0, 50, "deviation 55.9"), (0, 0.1, "deviation 0.1118")],
)
def test_numbers_that_a_fresh_model_is_far_from_are_named(shift, scale, words, tmp_path):
    near = [-1.5, -0.5, 0.5, 1.5] * 3
    far = [shift + scale * number for number in near]
    (said,) = decide(shards(tmp_path / "far", {"train": far, "val": far})).warnings
    assert words in said
    assert decide(shards(tmp_path / "near", {"train": near, "val": near})).warnings == ()


def test_with_val_it_chooses_and_all_of_train_is_learned_from(tmp_path):
    index = shards(tmp_path / "d", {"train": [0, 1] * 6, "val": [0, 1], "test": [0, 1, 1]})
    found = decide(index)
    assert found.train.keys().tolist() == index.records("train").keys().tolist()
    assert found.choose.keys().tolist() == index.records("val").keys().tolist()
    assert found.chosen_on == "val"


def test_a_share_takes_the_same_of_each_class_by_the_seed(uneven):
    full, share, again, other = (
        decide(uneven, **keys) for keys in ({}, *({"label_fraction": 0.1, "seed": s} for s in (0, 0, 1)))
    )
    counts = Counter(read_labels(uneven, full.train))
    kept = Counter(read_labels(uneven, share.train))
    assert kept == {label: -(-count // 10) for label, count in counts.items()}
    assert share.train.keys().tolist() == again.train.keys().tolist()
    assert share.train.keys().tolist() != other.train.keys().tolist()
    assert share.choose.keys().tolist() == full.choose.keys().tolist()
    assert share.notes == (f"label_fraction=0.1 ({len(share.train)} of 131 images, the share of each class)",)


def test_balanced_weights_are_those_of_the_images_that_are_learned_from(uneven):
    for fraction in (1.0, 0.1):
        found = decide(uneven, class_weights="balanced", label_fraction=fraction)
        counts = Counter(read_labels(uneven, found.train))
        wanted = [len(found.train) / (3 * counts[label]) for label in range(3)]
        assert found.class_weights == pytest.approx(wanted)


def test_a_list_of_weights_is_taken_as_it_is(uneven):
    assert decide(uneven, class_weights=[1, 0.5, 2]).class_weights == [1.0, 0.5, 2.0]
    assert decide(uneven).class_weights is None


def test_names_are_those_of_the_data_or_numbers(uneven, tmp_path):
    assert decide(uneven).names == {0: "a", 1: "b", 2: "c"}
    plain = shards(tmp_path / "d", {"train": [0, 1] * 6, "val": [0, 1]})
    assert decide(plain).names == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"label_fraction": 0}, "label_fraction=0 is not a number above 0"),
        ({"label_fraction": 1.5}, "label_fraction=1.5 is not above 0 and at most 1"),
        ({"class_weights": [1, 2]}, r"class_weights=\[1, 2\] is not a list of 3 numbers, one per class"),
        ({"class_weights": [1, 2, -1]}, "is not a list of 3 numbers"),
        ({"class_weights": "even"}, "class_weights=even is not a list of 3 numbers"),
    ],
)
def test_bad_values_are_refused(values, says, uneven):
    with pytest.raises(InputError, match=says) as error:
        decide(uneven, **values)
    assert "\n" not in str(error.value)


SETS = [[0], [1, 2], [], [2]] * 3


@pytest.mark.parametrize(
    ("splits", "names", "says"),
    [
        ({"train": [0, 1] * 6, "val": [0, 2]}, None, "val has a label 2, but the training images have classes 0 to 1"),
        ({"train": [0, 1] * 6, "val": [0], "test": [3]}, None, "test has a label 3"),
        ({"train": [0, 1] * 6, "val": [0, 2]}, ["a", "b"], "label of val1 is 2; allowed is 0 to 1"),
        ({"train": [0, 1] * 6, "val": [0.5, 1.0]}, None, "the training labels are classes, those of val are not"),
        ({"train": SETS, "val": [0, 1]}, ["a", "b", "c"], "the training labels are multilabel, those of val are not"),
        ({"train": SETS, "val": [[], []]}, ["a", "b", "c"], "none of the 2 images of val has a label"),
        ({"train": SETS, "val": [[1]], "test": [[]]}, ["a", "b", "c"], "none of the 1 images of test has a label"),
        ({"train": [0.5, 1.5] * 6, "val": [2.5, 2.5]}, None, "all 2 labels of val are 2.5, so R2 is not defined"),
        ({"train": [0.5, 1.5] * 6, "val": [2.5, 1], "test": [1.5]}, None, "all 1 labels of test are 1.5"),
        ({"train": [1] * 12, "val": [1]}, None, "class 1 is the only class"),
    ],
)
def test_labels_that_cannot_be_judged_are_refused_before_training(splits, names, says, tmp_path):
    with pytest.raises(InputError, match=says) as error:
        decide(shards(tmp_path / "d", splits, names))
    assert "\n" not in str(error.value)


def test_a_named_class_without_training_images_may_be_in_val(tmp_path):
    index = shards(tmp_path / "d", {"train": [0, 1] * 6, "val": [0, 2]}, ["a", "b", "c"])
    found = decide(index)
    assert found.facts.outputs == 3
    with pytest.raises(InputError, match=r"class_weights=balanced, but class 2 \(c\) has no training images"):
        decide(index, class_weights="balanced")


def test_numbers_have_no_class_weights(tmp_path):
    index = shards(tmp_path / "d", {"train": [0.5, 1.5] * 6, "val": [0.5, 1.5]})
    with pytest.raises(InputError, match=r"class_weights=\[1\], but the labels are numbers"):
        decide(index, class_weights=[1])


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        ({"mixup": -1}, "classes", "objective.mixup=-1 is not a number from 0; use 0 for none, or 0.8"),
        ({"cutmix": "yes"}, "classes", "objective.cutmix=yes is not a number from 0"),
        ({"smoothing": 1}, "classes", "objective.smoothing=1 is not a number from 0 to below 1"),
        ({"ema": 1.0}, "multilabel", "objective.ema=1.0 is not a number from 0 to below 1; use 0.9998"),
        ({"smoothing": 0.1}, "regression", "but the labels are numbers; use objective.smoothing=0"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(values, kind, says, uneven):
    from dataclasses import replace

    facts = replace(decide(uneven).facts, kind=kind)
    good = {"mixup": 0.0, "cutmix": 0.8, "smoothing": 0, "ema": None}
    check_objective(OmegaConf.create({"objective": good}), facts)
    with pytest.raises(InputError, match=says):
        check_objective(OmegaConf.create({"objective": good | values}), facts)
