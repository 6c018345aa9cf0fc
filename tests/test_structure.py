"""The shape of the project: imports run downwards, cheap imports stay cheap, packages are shipped, names agree."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mimsuite
from mimsuite.cli import TASKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mimsuite"

# A room is a folder or file at the top of the package. It imports rooms of the lines before its own, and itself.
ROOMS = (
    "version errors words types",
    "config",
    "masked",
    "metrics",
    "data",
    "weights",
    "encoders",
    "heads",
    "processors",
    "models",
    "settings",
    "objectives",
    "pictures",
    "evaluation",
    "callbacks",
    "runs",
    "app cli",
    "api",
    "tasks",
)
ALLOWED_CIRCLE = {"api"}  # the face of the package: `import mimsuite` loads it, and it starts the tasks by name
# Not direct, but without pins pip tries dozens of versions of them.
FOR_PIP = {"aiobotocore", "botocore", "boto3", "s3transfer"}
ROW = {room: number for number, rooms in enumerate(ROOMS) for room in rooms.split()}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


def imports(path):
    """Modules of ours that a file imports anywhere in it: at the top, late in a function, or for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            if node.module == "mimsuite":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("mimsuite."):
                yield node.module.removeprefix("mimsuite.")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("mimsuite.") for a in node.names if a.name.startswith("mimsuite."))


def room(module):
    return module.partition(".")[0]


def test_every_room_has_a_row():
    assert {room(name) for name, _ in modules() if name} == set(ROW)


def test_rooms_import_downwards():
    wrong = [
        f"{name} imports {other}"
        for name, path in modules()
        for other in imports(path)
        if name and room(other) != room(name) and ROW.get(room(other), -1) >= ROW[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_top_of_the_package_holds_at_most_25_names():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 25


def test_no_module_takes_the_place_of_a_task():
    """`mimsuite.reconstruct` is a function; importing a submodule of that name would replace it."""
    names = {path.stem for path in PACKAGE.iterdir()}
    assert set(TASKS) & names == {"models"}  # whose function is `mimsuite.list_models`


def test_importing_models_stays_cheap():
    heavy = ("lightning", "hydra", "webdataset", "wandb", "transformers", "torchvision", "matplotlib")
    code = f"import sys, mimsuite.models as m; m.ViTModel; print([x for x in {heavy} if x in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "task",
    [
        "pretrain",
        "probe",
        "finetune",
        "evaluate",
        "embed",
        "reconstruct",
        "plot",
        "pack",
        "inspect",
        "models",
        "demo",
        "doctor",
    ],
)
def test_tasks_start_without_torch(task):
    code = f"import sys, mimsuite.tasks.{task}; print([x for x in ('torch', 'lightning', 'wandb') if x in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_package_is_shipped():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {f"mimsuite.{p.parent.relative_to(PACKAGE)}".replace("/", ".") for p in PACKAGE.rglob("__init__.py")}
    assert listed == {name.removesuffix("..") for name in found} - {"mimsuite.."} | {"mimsuite", "mimsuite.conf"}


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for ds in project["optional-dependencies"].values() for d in ds)]
    names = {d.split("[")[0].split(">")[0].split("<")[0].split("=")[0].lower() for d in wanted} - {"mimsuite"}
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert names == pinned - FOR_PIP


def test_public_names():
    functions = {
        "pretrain",
        "probe",
        "evaluate",
        "finetune",
        "embed",
        "reconstruct",
        "plot",
        "pack",
        "inspect",
        "demo",
        "doctor",
        "load",
        "list_models",
    }
    assert set(mimsuite.__all__) == functions | {"__version__"}


def test_no_torchvision():
    from importlib.util import find_spec

    assert find_spec("torchvision") is None
