"""Commands and Python code on the pages: every command composes, every block compiles, the quick start runs."""

import ast
import importlib
import importlib.util
import itertools
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pages import ROOT, command_lines, commands, pages, python_blocks

import mimsuite
from mimsuite.cli import TASKS
from mimsuite.config.composing import compose_task
from mimsuite.config.overrides import is_sweep, task_arguments
from mimsuite.settings.places import with_places

PAGES = pages()
OWN = ("--config-dir", "trusted_targets=")  # commands with configs and classes of a reader's own
OF_READERS = {"their_package", "pandas", "keras_hub", "timm"}  # packages that pages use and the tests do not need
SHORTER = {  # runs of few steps, and a probe of one layer without baselines, do all that these do
    "steps=100": "steps=2, workers=0",
    'out="runs/first-probe"': 'out="runs/first-probe", baselines=False, layers="last", workers=0',
    "steps=50": "steps=2 workers=0",
}


def overrides_of(words):
    """The overrides of a command, each by its key; of a sweep the first value. What follows `>` is the shell's."""
    words, found = list(itertools.takewhile(lambda word: word not in (">", "&", "|", "&&"), words)), {}
    for argument in task_arguments(words):
        if argument.startswith("-") or argument in ("...", "job"):
            continue
        override = OverridesParser.create().parse_override(argument)
        if is_sweep(words) and override.is_sweep_override():
            found[override.get_key_element()] = f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        else:
            found[override.get_key_element()] = argument
    return found


def is_choice(key):
    """Whether a key chooses a file of a group."""
    return "/" in key or (ROOT / "conf" / key).is_dir()


def fault(task, overrides):
    """Why overrides do not compose; None if they do."""
    try:
        compose_task(task, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        return f"{task} {' '.join(overrides)}: {error}"
    return None


def test_every_command_of_the_pages_composes():
    """Commands of one task with the same choices of groups are composed together; what fails is composed alone."""
    together, faults = {}, []
    for page, text in PAGES.items():
        for _, task, *words in commands(text):
            assert task in TASKS, f"{page}: mimsuite {task}"
            if any(word.startswith(OWN) for word in words):
                continue
            overrides = overrides_of(words)
            choices = tuple(sorted(value for key, value in overrides.items() if is_choice(key)))
            together.setdefault((task, choices), []).append((page, overrides))
    assert sum(map(len, together.values())) > 200
    for (task, _), given in together.items():
        if fault(task, {key: value for _, overrides in given for key, value in overrides.items()}.values()):
            alone = [(page, fault(task, overrides.values())) for page, overrides in given]
            faults += [f"{page}: {why}" for page, why in alone if why] or [f"{given}: only together"]
    assert faults == []


def test_what_a_shell_would_write_out_stands_in_quotes():
    """bash expands braces and stars, and zsh refuses brackets that name no file."""
    lines = [(page, line) for page, text in PAGES.items() for line in command_lines(text)]
    for file in (ROOT / "conf").rglob("*.yaml"):
        examples = re.findall(r"^# +(mimsuite .*)", file.read_text(), re.MULTILINE)
        lines += [(file.name, example) for example in examples]
    bare = [(page, re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line)) for page, line in lines]
    assert len(bare) > 250
    assert [found for found in bare if re.search(r"[\[\]{}*]", found[1].replace("${", ""))] == []


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if python_blocks(text)])
def test_python_code_compiles_and_its_names_exist(page):
    for block in python_blocks(PAGES[page]):
        tree = ast.parse(block, page)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                check_names(node.module, [alias.name for alias in node.names])
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    check_names(alias.name, [])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mimsuite":
                assert hasattr(mimsuite, node.attr) or importlib.util.find_spec(f"mimsuite.{node.attr}"), node.attr


def check_names(module, names):
    top = module.partition(".")[0]
    if top == "mimsuite":
        found = importlib.import_module(module)
        assert [name for name in names if not hasattr(found, name)] == [], module
    else:
        assert top in OF_READERS or importlib.util.find_spec(top), f"{module} is not known"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    """Its Python blocks, then its commands that need their results; with fewer steps."""
    text = PAGES["docs/quickstart.md"]
    for old, new in SHORTER.items():
        text = text.replace(old, new) if old in text else pytest.fail(f"{old} is not in the page")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks(text):
        exec(compile(block, "quickstart.md", "exec"), names)
    out = capsys.readouterr().out
    assert "torch.Size([2, " in out
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert (tmp_path / "runs" / "first-probe" / "summary.json").is_file()
    for _, task, *words in commands(text):
        if task in ("embed", "export", "finetune"):
            overrides = task_arguments(words)
            run = importlib.import_module(f"mimsuite.tasks.{task}").run
            run(with_places(compose_task(task, overrides)[0], task), overrides)
    assert (tmp_path / "features.npz").is_file()
    assert (tmp_path / "first-hf" / "config.json").is_file()
    assert (tmp_path / "runs" / "classes" / "summary.json").is_file()
