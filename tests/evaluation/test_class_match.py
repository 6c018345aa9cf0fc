"""Which output of a classifier is which class of the data, and what does not fit."""

import pytest

from mimsuite.errors import InputError
from mimsuite.settings.class_match import (
    KIND_OF_PROBLEM,
    LABEL_NOUNS,
    ClassifierOutputs,
    kind_of_labels,
    match_outputs,
    order_of_outputs,
)
from mimsuite.words import LABEL_KINDS


def test_every_kind_of_labels_has_a_noun_and_a_problem_type():
    assert tuple(LABEL_NOUNS) == LABEL_KINDS
    assert tuple(KIND_OF_PROBLEM.values()) == LABEL_KINDS


def test_labels_tell_what_they_are():
    assert kind_of_labels([0, 2, 1], "d") == "classes"
    assert kind_of_labels([0, 2.5, 1], "d") == "regression"
    assert kind_of_labels([(0,), (), (1, 2)], "d") == "multilabel"
    with pytest.raises(InputError, match="lists in some samples and single numbers in others"):
        kind_of_labels([0, (1,)], "d")


@pytest.mark.parametrize(
    ("own", "order", "note"),
    [
        (["a", "b", "c"], None, ""),
        (["c", "a", "b"], (1, 2, 0), "matched by name; the data has them in another order"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], None, "matched by number; the model has no names for them"),
        (["0", "1", "2"], None, "matched by number; the model has no names for them"),
        (["a", "x", "y"], None, "matched by number; 1 of 3 names are the same: 0 is 'a' and 'a'"),
    ],
)
def test_outputs_are_matched_by_name_or_else_by_number(own, order, note):
    assert order_of_outputs(own, ["a", "b", "c"]) == (order, note)


def test_names_that_occur_twice_are_no_names_to_match_by():
    order, note = order_of_outputs(["crane", "a", "crane"], ["a", "crane", "crane"])
    assert order is None
    assert note.startswith("matched by number")


@pytest.mark.parametrize(
    ("own", "labels", "classes", "message"),
    [
        (ClassifierOutputs("m", None, "ab"), [0, 2], ["x", "y", "z"], "init=m has 2 outputs, but data=d has 3 classes"),
        (
            ClassifierOutputs("m", None, "ab"),
            [0, 2],
            None,
            "init=m has 2 outputs, but data=d has a label 2, so 3 classes at least",
        ),
        (
            ClassifierOutputs("m", "regression", "0"),
            [0, 1],
            ["a", "b"],
            "init=m predicts numbers, but the labels of data=d are single cl",
        ),
        (
            ClassifierOutputs("m", "classes", "ab"),
            [(0,), (1,)],
            ["a", "b"],
            "predicts single classes, but the labels of data=d are se",
        ),
        (
            ClassifierOutputs("m", None, "ab"),
            [0.5, 2],
            None,
            "init=m has 2 outputs, but the labels of data=d are single numbers",
        ),
        (ClassifierOutputs("m", None, "ab"), [(0,)], None, "data=d: labels are lists, and its classes have no names"),
        (ClassifierOutputs("m", None, "ab"), [0, 2], ["a", "b", "c"], "init=m has 2 outputs, but data=d has 3 classes"),
    ],
)
def test_what_does_not_fit_is_said_with_both_numbers(own, labels, classes, message):
    with pytest.raises(InputError, match=message) as error:
        match_outputs(own, labels, classes, "data=d")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("own", "classes", "name"),
    [("abcd", "bcde", "'b' is output 1 but class 0"), ("cac", "acc", "'a' is output 1 but class 0")],
)
def test_classes_that_have_other_numbers_are_not_matched_by_number(own, classes, name):
    with pytest.raises(InputError, match=f"init=m and data=d do not have the same classes, and {name}") as error:
        match_outputs(ClassifierOutputs("m", "classes", list(own)), [0, 1, 2], list(classes), "data=d")
    assert "\n" not in str(error.value)


def test_numbers_as_names_and_names_in_their_places_are_matched_by_number():
    for own, classes in ((["0", "1", "2"], ["1", "2", "3"]), (["a", "x", "y"], ["a", "b", "c"])):
        found = match_outputs(ClassifierOutputs("m", "classes", own), [0, 1, 2], classes, "data=d")
        assert found.order is None
        assert found.note.startswith("matched by number")


def test_classes_that_no_image_has_may_be_missing_at_the_end():
    assert match_outputs(ClassifierOutputs("m", None, ["a", "b"]), [0, 1], ["a", "b", "c"], "d").names == ("a", "b")


def test_names_of_the_model_serve_where_the_data_has_none():
    assert match_outputs(ClassifierOutputs("m", None, ["cat", "dog"]), [0, 1], None, "d").names == ("cat", "dog")
    assert match_outputs(ClassifierOutputs("m", None, ["LABEL_0", "LABEL_1"]), [0, 1], None, "d").names is None
    assert match_outputs(ClassifierOutputs("m", None, ["LABEL_0"]), [0.5, 1.5], None, "d") == (
        "regression",
        1,
        None,
        None,
        "",
    )
    assert match_outputs(ClassifierOutputs("m", "regression", ["LABEL_0"]), [3, 1], None, "d").kind == "regression"
