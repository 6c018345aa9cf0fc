"""The command: dispatch, quoting, help, hints, exit codes. No test here may need torch."""

import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mimsuite import cli
from mimsuite.config import overrides
from mimsuite.config.folder import conf_dir
from mimsuite.config.help import help_text
from mimsuite.version import __version__


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "mimsuite.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )


VALUES = [
    "plain",
    "with space",
    "a=b",
    "a,b,c",
    "train-{000000..000123}.tar",
    "it's",
    "back\\slash",
    "ends with \\",
    "quote at end'",
    "\\' both",
    "dollar ${x}",
    "[brackets]",
    "ünïcode 漢字",
    "~/home",
    "a:b",
    "#hash",
    "100%",
]


@pytest.mark.parametrize("value", VALUES)
def test_path_values_reach_hydra_unchanged(value):
    for key in ("init", "out", "labels", "labels_column", "group_by"):
        override = OverridesParser.create().parse_override(overrides.quote_path(f"{key}={value}"))
        assert override.value().replace("\\${", "${") == value


@pytest.mark.parametrize(
    "argument", ["data=null", "data=", "steps=3", "mask.ratio=0.5", "data='a b'", "--cfg", "model=vit_nano"]
)
def test_other_arguments_are_left_alone(argument):
    assert overrides.quote_path(argument) == argument


def test_version_is_printed():
    assert command("--version").stdout.strip() == __version__


def test_usage_lists_every_task():
    result = command("--help")
    assert result.returncode == 0
    assert all(task in result.stdout for task in cli.TASKS)


def test_unknown_task_gets_a_hint():
    result = command("pretrian", "out=x")
    assert result.returncode == 2
    assert "did you mean pretrain?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("task", cli.TASKS)
def test_every_task_has_help_with_examples_and_documented_keys(task):
    text = help_text(task, conf_dir())
    assert text.count(f"  mimsuite {task} ") + text.count(f"  mimsuite {task}\n") >= 6
    assert "keys, with their defaults:" in text


def test_help_answers_within_two_seconds_and_shows_group_keys(processor_seconds):
    result = command("pretrain", "--help")
    assert result.returncode == 0
    assert "mask.ratio=0.6" in result.stdout
    assert "vit_nano" in result.stdout
    assert processor_seconds() < 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["btach=3"], "did you mean batch?"),
        (["model=vit_tny"], "did you mean model=vit_tiny?"),
        (["mask.ratoi=0.5"], "did you mean mask.ratio?"),
        (["objective=simim"], "did you mean objective=simmim?"),
        (["lr=1,2"], "lr=[1,2]"),
        (["steps"], "key=value"),
        ([], "out= is missing"),
    ],
)
def test_misspelt_arguments_are_named_in_one_line(arguments, expected, tmp_path):
    result = command("pretrain", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
