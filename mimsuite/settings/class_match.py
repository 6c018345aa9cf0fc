"""Whether the outputs of a classifier fit the labels of some images, and which output is which class. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mimsuite.data.labels import Label
from mimsuite.errors import InputError
from mimsuite.words import PROBLEM_TYPE_OF, LabelKind

LABEL_NOUNS: dict[LabelKind, str] = {
    "classes": "single classes",
    "multilabel": "sets of labels",
    "regression": "numbers",
}
KIND_OF_PROBLEM: dict[str, LabelKind] = {problem: kind for kind, problem in PROBLEM_TYPE_OF.items()}
"""The kind of labels for each `problem_type` of a model's config."""

_NUMBERED = re.compile(r"LABEL_\d+|\d+")


class ClassifierOutputs(NamedTuple):
    """What a classifier predicts, by its own files.

    Attributes:
        init: what the user calls it.
        kind: what it was trained to predict, where that is known.
        names: of its outputs; numbers, or `LABEL_0` and the like, where it knows none.
    """

    init: str
    kind: LabelKind | None
    names: Sequence[str]


class MatchedOutputs(NamedTuple):
    """What a classifier predicts, in the order of the data's classes.

    Attributes:
        kind: what the labels are.
        outputs: how many values are predicted.
        names: of the outputs, by the data's numbers; None of numbers, or where nobody knows them.
        order: which of the classifier's outputs is the data's class 0, 1, ...; None where they agree.
        note: how the outputs were matched, where that is not plain; else empty.
    """

    kind: LabelKind
    outputs: int
    names: tuple[str, ...] | None
    order: tuple[int, ...] | None
    note: str


def kind_of_labels(labels: Sequence[Label], data: str) -> LabelKind:
    """What labels are: whole numbers are classes, lists label sets, and decimal numbers to be predicted.

    Raises:
        InputError: lists and single numbers.
    """
    kinds = {type(label) for label in labels}
    if tuple in kinds and len(kinds) > 1:
        raise InputError(f"{data}: labels are lists in some samples and single numbers in others; use one form")
    return "multilabel" if tuple in kinds else "regression" if float in kinds else "classes"


def match_outputs(
    own: ClassifierOutputs, labels: Sequence[Label], classes: Sequence[str] | None, data: str
) -> MatchedOutputs:
    """Matches the outputs of a classifier with the classes of the data: by name where the names are the same.

    Args:
        own: the classifier.
        labels: of all images.
        classes: the data's names, by label; None where there are none.
        data: what errors call the images.

    Raises:
        InputError: other labels than the classifier was trained for, another number of classes than outputs, or classes
            of which only some have the same names, and these other numbers.
    """
    kind, outputs = kind_of_labels(labels, data), len(own.names)
    if kind == "classes" and own.kind == "regression" and classes is None:
        kind = "regression"  # numbers that happen to be whole ones in this split
    if own.kind is not None and own.kind != kind:
        raise InputError(
            f"init={own.init} predicts {LABEL_NOUNS[own.kind]}, but the labels of {data} are {LABEL_NOUNS[kind]}; use "
            "other data"
        )
    if kind == "regression":
        if outputs != 1:
            raise InputError(
                f"init={own.init} has {outputs} outputs, but the labels of {data} are single numbers; use other data"
            )
        return MatchedOutputs(kind, 1, None, None, "")
    largest = max((c for label in labels for c in (label if isinstance(label, tuple) else (int(label),))), default=-1)
    if classes is None:
        if kind == "multilabel":
            raise InputError(f"{data}: labels are lists, and its classes have no names; name them in classes.txt")
        if largest >= outputs:
            raise InputError(
                f"init={own.init} has {outputs} outputs, but {data} has a label {largest}, so {largest + 1} classes at "
                "least; use other data or another init="
            )
        return MatchedOutputs(kind, outputs, None if is_only_a_number(own.names) else tuple(own.names), None, "")
    if tuple(classes[:outputs]) == tuple(own.names) and largest < outputs:
        classes = classes[:outputs]  # the data names more classes than it has images of
    if len(classes) != outputs:
        raise InputError(
            f"init={own.init} has {outputs} outputs, but {data} has {len(classes)} classes; use other data or another "
            "init="
        )
    order, note = order_of_outputs(own.names, classes)
    if order is None and (name := moved_name(own.names, classes)) is not None:
        raise InputError(
            f"init={own.init} and {data} do not have the same classes, and {name!r} is output {own.names.index(name)} "
            f"but class {classes.index(name)}, so they cannot be matched by number; use data with the classes of the "
            "model, or rename them"
        )
    return MatchedOutputs(kind, outputs, tuple(classes), order, note)


def order_of_outputs(own: Sequence[str], classes: Sequence[str]) -> tuple[tuple[int, ...] | None, str]:
    """Which output is class 0, 1, ... of the data (None: in order), and how that was found (empty: names agree)."""
    if list(own) == list(classes):
        return None, ""
    if set(own) == set(classes) and len(set(own)) == len(own):
        place = {name: number for number, name in enumerate(own)}
        return tuple(place[name] for name in classes), "matched by name; the data has them in another order"
    if is_only_a_number(own):
        return None, "matched by number; the model has no names for them"
    same = sum(a == b for a, b in zip(own, classes, strict=True))
    return None, f"matched by number; {same} of {len(own)} names are the same: 0 is {own[0]!r} and {classes[0]!r}"


def moved_name(own: Sequence[str], classes: Sequence[str]) -> str | None:
    """The first name of an output that is the name of a class with another number; None where no such name is."""
    if is_only_a_number(own):
        return None
    ours, theirs = Counter(own), Counter(classes)
    moved = (a for a, b in zip(own, classes, strict=True) if a != b and ours[a] == theirs[a] == 1)
    return next(moved, None)


def is_only_a_number(names: Sequence[str]) -> bool:
    """Whether names say no more than a number."""
    return all(_NUMBERED.fullmatch(name) for name in names)
