"""Closed lists of words: tables of objects have exactly their keys, and no list stands a second time."""

import ast
from pathlib import Path
from typing import get_args

import pytest
import yaml

import mimsuite
from mimsuite import words
from mimsuite.config.folder import conf_dir
from mimsuite.encoders.activations import ACTIVATIONS
from mimsuite.encoders.bit_config import BitConfig
from mimsuite.encoders.cvt_config import CvtConfig
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.errors import InputError
from mimsuite.evaluation.judging.report import COLUMNS
from mimsuite.masked import multi_block, samplers
from mimsuite.masked.losses import ERRORS
from mimsuite.masked.modes import MODES
from mimsuite.masked.targets import TARGETS
from mimsuite.metrics.scores import METRICS
from mimsuite.models.exporting import targets as export_targets
from mimsuite.models.exporting.formats import FORMATS
from mimsuite.settings.class_match import LABEL_NOUNS
from mimsuite.settings.labels import LABEL_TYPES

PACKAGE = Path(mimsuite.__file__).parent
LISTS = {name: value for name, value in vars(words).items() if name.isupper() and isinstance(value, tuple)}


@pytest.mark.parametrize(
    ("table", "allowed"),
    [
        (ACTIVATIONS, words.ACTIVATION_NAMES),
        (ERRORS, words.LOSSES),
        (TARGETS, words.TARGETS),
        (MODES, words.TARGETS),
        (METRICS, words.LABEL_KINDS),
        (COLUMNS, words.LABEL_KINDS),
        (LABEL_NOUNS, words.LABEL_KINDS),
        (LABEL_TYPES, words.LABEL_KINDS),
        (words.PROBLEM_TYPE_OF, words.LABEL_KINDS),
        (export_targets.TARGETS, words.EXPORT_TARGETS),
        (FORMATS, words.EXPORT_TARGETS),
    ],
    ids=[
        "activations",
        "losses",
        "targets",
        "modes of targets",
        "metrics",
        "columns",
        "nouns",
        "types",
        "problem types",
        "targets of exports",
        "formats of exports",
    ],
)
def test_a_table_of_objects_has_exactly_the_words_of_its_list(table, allowed):
    assert tuple(table) == allowed


def test_every_kind_of_labels_has_a_problem_type_of_its_own():
    assert sorted(words.PROBLEM_TYPE_OF.values()) == sorted(words.PROBLEM_TYPES)


def test_every_choice_of_a_mask_is_a_sampler_and_every_sampler_a_choice():
    found = {yaml.safe_load(file.read_text())["_target_"] for file in (conf_dir() / "mask").glob("*.yaml")}
    classes = [
        value for module in (samplers, multi_block) for value in vars(module).values() if isinstance(value, type)
    ]
    assert found == {f"{made.__module__}.{made.__name__}" for made in classes if made.__name__.endswith("Mask")}


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("init_scheme", words.INIT_SCHEMES),
        ("position", words.POSITIONS),
        ("mask_mode", words.PATCH_MASK_MODES),
        ("mim_target", words.TARGETS),
        ("classifier_pool", words.CLASSIFIER_POOLS),
        ("problem_type", words.PROBLEM_TYPES),
        ("attn_implementation", words.ATTENTION_IMPLEMENTATIONS),
        ("hidden_act", words.ACTIVATION_NAMES),
    ],
)
def test_a_field_takes_the_words_of_its_list_and_no_other(field, allowed):
    for word in allowed:
        assert getattr(ViTConfig(**{field: word}), field) == word
    with pytest.raises(InputError, match=f"{field}='other' is not one of {', '.join(allowed)}"):
        ViTConfig(**{field: "other"})


@pytest.mark.parametrize("config", [BitConfig, CvtConfig])
def test_what_becomes_of_hidden_cells_is_a_word_of_its_list_and_no_other(config):
    for word in words.MAP_MASK_MODES:
        assert config(mask_mode=word).mask_mode == word
    with pytest.raises(InputError, match="mask_mode='drop' is not one of replace, sparse"):
        config(mask_mode="drop")
    assert set(words.MASK_MODES) == {*words.MAP_MASK_MODES, *words.PATCH_MASK_MODES}


def test_the_types_of_words_are_made_of_the_same_words():
    for kind, allowed in (
        (words.LabelKind, words.LABEL_KINDS),
        (words.Pool, words.POOLS),
        (words.Norm, words.PROBE_NORMS),
        (words.ProbeOptimizer, words.PROBE_OPTIMIZERS),
    ):
        assert get_args(kind) == allowed


def strings_of(node):
    """The words of a tuple, list or set that is written out, in their order; empty for anything else."""
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        return ()
    values = [e.value if isinstance(e, ast.Constant) else None for e in node.elts]
    return tuple(values) if all(isinstance(v, str) for v in values) else ()


def copies(tree):
    """`(line, list)` of every written-out sequence that has the very words of a list, in whatever order."""
    for node in ast.walk(tree):
        found = strings_of(node)
        yield from ((node.lineno, name) for name, value in LISTS.items() if found and set(found) == set(value))


def test_no_list_of_words_stands_a_second_time():
    again = [
        f"{path.relative_to(PACKAGE)}:{line} repeats words.{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "words.py"
        for line, name in copies(ast.parse(path.read_text()))
    ]
    assert not again, "\n".join(again)


def test_the_search_for_copies_finds_them_in_any_order():
    code = (
        'KINDS = Literal["regression", "classes", "multilabel"]\nif mode in {"drop", "replace"}: pass\nx = ("l1", "l2")'
    )
    assert list(copies(ast.parse(code))) == [(1, "LABEL_KINDS"), (2, "PATCH_MASK_MODES")]
