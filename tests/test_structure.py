"""The shape of the project: imports run downwards, cheap imports stay cheap, packages are shipped, names agree."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

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
    "tasks",
    "api",
)
# Not direct, but without pins pip tries dozens of versions of them.
FOR_PIP = {"aiobotocore", "botocore", "boto3", "s3transfer"}
ROW = {room: number for number, rooms in enumerate(ROOMS) for room in rooms.split()}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


@functools.cache
def nodes(path):
    """All nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path):
    """Modules of ours that a file imports anywhere in it: at the top, late in a function, or for types only."""
    for node in nodes(path):
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


def test_no_file_is_long():
    long = {name: len(path.read_text().splitlines()) for name, path in modules()}
    assert not {name: lines for name, lines in long.items() if lines > 450}
    tasks = {name: lines for name, lines in long.items() if name.startswith("tasks.") and name != "tasks.doctor"}
    assert max(tasks.values()) <= 200, tasks


def parameters(path):
    """`function: parameter: annotation` of every parameter in a file."""
    for node in nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            name = getattr(node, "name", "lambda")
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                yield name, argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""


def test_configs_are_read_in_settings_only():
    """Below them a DictConfig is a group that is handed to `instantiate`; tasks hand theirs to settings at once."""
    groups = {
        ("callbacks.context", "nodes"),
        ("models.load", "head"),
        ("masked.samplers", "node"),
        ("runs.loggers.making", "nodes"),
    }
    found = {
        (name, parameter)
        for name, path in modules()
        if room(name) not in ("config", "settings", "app")
        for function, parameter, annotation in parameters(path)
        if "DictConfig" in annotation
        and not (room(name) == "tasks" and function in ("run", "build", "model_rows", "run_rows"))
    }
    assert found <= groups, found - groups


def of_omegaconf(attribute):
    return ast.unparse(attribute.value) == "OmegaConf"


def test_only_one_function_writes_into_a_config():
    writers = {
        name
        for name, path in modules()
        for node in nodes(path)
        if (isinstance(node, ast.Attribute) and node.attr in ("update", "set_struct") and of_omegaconf(node))
        or (
            isinstance(node, (ast.Assign, ast.AugAssign)) and "cfg." in ast.unparse(getattr(node, "targets", [node])[0])
        )
    }
    assert writers == {"settings.resolve"}


def test_nobody_outside_asks_for_the_family():
    wrong = [
        f"{name}: {line.strip()}"
        for name, path in modules()
        if room(name) not in ("encoders", "models")
        for line in path.read_text().splitlines()
        if re.search(r"model_type [!=]=|hasattr\((config|self\.config|model\.config)\b", line)
    ]
    assert not wrong


def test_files_are_replaced_by_one_writer():
    users = {
        name
        for name, path in modules()
        if re.search(r"os\.(replace|rename)\(|shutil\.move\(|\.rename\(|\.replace\(\w*path\)", path.read_text())
    }
    assert users == {"data.storage"}


def test_no_module_takes_the_place_of_a_task():
    """`mimsuite.reconstruct` is a function; importing a submodule of that name would replace it."""
    names = {path.stem for path in PACKAGE.iterdir()}
    assert set(TASKS) & names == {"models", "runs"}  # whose functions are `list_models` and `list_runs`


def test_tasks_start_without_torch():
    """One process imports all, and says for each what it brought with it."""
    code = (
        "import sys, importlib\n"
        "for task in sys.argv[1:]:\n"
        "    importlib.import_module(f'mimsuite.tasks.{task}')\n"
        "    print(task, *(x for x in ('torch', 'lightning', 'wandb') if x in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *TASKS], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == list(TASKS), result.stdout + result.stderr


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
        "build",
        "pretrain",
        "probe",
        "evaluate",
        "finetune",
        "predict",
        "embed",
        "export",
        "reconstruct",
        "plot",
        "report",
        "pack",
        "inspect",
        "bench",
        "plan",
        "demo",
        "doctor",
        "load",
        "list_models",
        "list_runs",
    }
    assert set(mimsuite.__all__) == functions | {"__version__"}


def required(name, extras=frozenset()):
    """The distributions that an installation brings along, at whatever depth."""
    found, waiting = set(), [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        for need in map(Requirement, lines):
            wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""})
            if wanted and (step := (need.name.lower(), frozenset(need.extras))) not in found:
                found.add(step)
                waiting.append(step)
    return {name for name, _ in found}


def test_nothing_needs_torchvision_or_timm():
    """Beside the CPU build of torch, torchvision breaks `import torchmetrics`."""
    found = required("mimsuite", frozenset({"dev", "hub", "parquet"}))
    assert {"torch", "lightning", "transformers", "pytest"} <= found
    assert not found & {"torchvision", "timm"}
