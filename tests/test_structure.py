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

# Each row may import rows above it, and its own.
ROWS = [
    {"version", "errors", "types"},
    {"hyperrule", "launch", "confdir", "geometry", "patches", "normalize", "cli"},
    {
        "masking",
        "losses",
        "targets",
        "pictures",
        "curves",
        "hints",
        "helptext",
        "instantiate",
        "settings",
        "combinations",
    }
    | {"run", "progress"}
    | {f"data.{n}" for n in ("hashing", "sources", "tar", "labels", "stats", "decode", "index", "plan", "augment")}
    | {f"data.{n}" for n in ("reader", "tiff", "csv_labels", "encode", "pack", "pack_plan", "pack_journal")}
    | {f"data.{n}" for n in ("inspect", "verify", "duplicates", "open", "label_table")}
    | {f"data.{n}" for n in ("erasing", "rand_augment", "supervised")}
    | {f"models.{n}" for n in ("config_base", "config", "layers", "positions", "outputs", "source")}
    | {"models"},
    {"metrics", "reconstruction", "checkpoint"},
    {"models.vit", "models.cvt", "models.bit"},
    {"heads", "heads.simmim", "heads.mae", "heads.classifier", "heads.attentive"}
    | {"weights", "weights.files", "weights.huggingface"},
    {f"models.{n}" for n in ("composed", "tasks", "auto", "images", "resize", "processing")}
    | {"init_weights", "resume", "feature_pictures", "labelled"},
    {"data", "data.collate", "data.datamodule"},
    {f"objectives.{n}" for n in ("classify", "large_batch", "mim", "mixing", "objective", "optim")}
    | {"objectives", "evaluation", "evaluation.figures"}
    | {f"evaluation.{n}" for n in ("features", "feature_pass", "stored", "embedding_map", "knn")}
    | {f"evaluation.{n}" for n in ("linear", "logistic", "probe_picture", "saved_head")}
    | {f"evaluation.{n}" for n in ("quality", "scores")}
    | {f"evaluation.{n}" for n in ("attentive", "few_shot", "confusion")}
    | {f"evaluation.{n}" for n in ("answers", "classifier", "masked", "mistakes", "predictions")},
    {"loggers", "app"},
    {"callbacks"}
    | {f"callbacks.{n}" for n in ("bad_samples", "best_weights", "checkpoints", "monitor", "online_probe")}
    | {f"callbacks.{n}" for n in ("reconstructions", "skipped_steps")},
    {"build_model"},
    {"build"},
    {"training"},
    {"scene", "run_masks", "trained"},
    {"api", "", "tasks"} | {f"tasks.{n}" for n in TASKS},
]
# Not direct, but without pins pip tries dozens of versions of them.
FOR_PIP = {"aiobotocore", "botocore", "boto3", "s3transfer"}
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


def imports(path):
    """Modules of ours that a file imports when it is itself imported (not late, not for types only)."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mimsuite":
            base = node.module.removeprefix("mimsuite").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield inner if inner in ROW else base


def test_every_module_has_a_row():
    assert {name for name, _ in modules()} == set(ROW)


def test_imports_run_downwards():
    wrong = [f"{name} imports {other}" for name, path in modules() for other in imports(path) if ROW[other] > ROW[name]]
    assert not wrong


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
