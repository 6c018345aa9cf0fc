"""How many of transformers' own tests pass when only the import is changed to `mimsuite.models`?

    git clone --depth 1 --branch v$(python -c "import transformers; print(transformers.__version__)") \
        https://github.com/huggingface/transformers
    python benchmarks/peers/huggingface_tests.py transformers/tests --json huggingface_tests.json

The tests of ViT, CvT, BiT and their image processors run twice, each file in a process of its own: as they are, which
says what is applicable on this machine, and in a copy where the names that `mimsuite.models` exports are imported from
there. Nothing else is changed. The source distribution on PyPI holds the common tests only; parts of the checkout that
are absent (exporters, generation, small models of the hub) are replaced by empty ones, and what they would test is not
counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import mimsuite.models

FILES = (
    "models/vit/test_modeling_vit.py",
    "models/cvt/test_modeling_cvt.py",
    "models/bit/test_modeling_bit.py",
    "models/vit/test_image_processing_vit.py",
    "models/bit/test_image_processing_bit.py",
    "models/convnext/test_image_processing_convnext.py",
)
#: What stands in for a part that the folder does not have.
STAND_INS = {
    "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "tests/utils/tiny_model_summary.json": "{}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
}
#: Image processors are found by the name of their class: that lookup is an import, too.
PLUGIN = """
import mimsuite.models


def pytest_collection_finish(session):
    import sys

    common = sys.modules.get("tests.test_image_processing_common")
    if common is not None:
        theirs = common.get_image_processor_class_from_name
        common.get_image_processor_class_from_name = lambda name: getattr(mimsuite.models, name, None) or theirs(name)
"""
#: From good to bad; a test with several parts is as good as its worst part.
OUTCOMES = ("pass", "skip", "fail")
SECONDS_A_TEST = 300


def change_import(source: str) -> str:
    """The source with what `mimsuite.models` exports imported from there instead of from transformers."""
    lines = source.splitlines()
    ours = set(mimsuite.models.__all__)
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.ImportFrom) and node.module == "transformers" and node.level == 0):
            continue
        assert node.end_lineno is not None
        moved = [ast.unparse(alias) for alias in node.names if alias.name in ours]
        kept = [ast.unparse(alias) for alias in node.names if alias.name not in ours]
        indent = " " * node.col_offset
        new = [f"{indent}from mimsuite.models import {', '.join(moved)}"] if moved else []
        new += [f"{indent}from transformers import {', '.join(kept)}"] if kept else []
        span = node.end_lineno - node.lineno + 1
        lines[node.lineno - 1 : node.end_lineno] = [*new, *[""] * (span - len(new))]  # the numbers of lines stay
        if span < len(new):  # one line became two: join them, for the same reason
            lines[node.lineno - 1 : node.lineno + 1] = [f"{new[0]}; {new[1].strip()}"]
    return "\n".join(lines) + "\n"


def copy_tests(tests: Path, into: Path, ours: bool) -> None:
    """Writes the files that the tests need below `into`; with `ours`, their imports are changed."""
    names = {*FILES, *(str(path.relative_to(tests)) for path in tests.glob("*.py"))}
    names |= {str(path.relative_to(tests)) for path in (tests / "pipelines").glob("*.py")}
    for name in sorted(names):
        if (tests / name).exists():
            text = (tests / name).read_text()
            target = into / "tests" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(change_import(text) if ours else text)
    for name, text in STAND_INS.items():
        target, original = into / name, tests.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(original.read_text() if original.exists() else text)
    for folder in {path.parent for path in (into / "tests").rglob("*.py")} | {into / "tests/models"}:
        (folder / "__init__.py").touch()
    (into / "src").symlink_to(tests.parent / "src")
    if (tests / "fixtures").exists():
        (into / "tests/fixtures").symlink_to(tests / "fixtures")
    (into / "ours.py").write_text(PLUGIN)
    (into / "pytest.ini").write_text("[pytest]\n")


def read_results(report: Path) -> dict[str, tuple[str, str]]:
    """{class.test: (outcome, last line of the error)} of a report."""
    results: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}.{case.get('name')}"
        outcome, line = "pass", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "fail"
                line = (child.get("message") or child.text or "").strip().replace("\n", " ")
            elif child.tag == "skipped":
                outcome, line = "skip", child.get("message") or ""
        if OUTCOMES.index(outcome) >= OUTCOMES.index(results.get(name, ("pass", ""))[0]):
            results[name] = (outcome, line)
    return results


def run(folder: Path, file: str, ours: bool, only: str) -> dict[str, tuple[str, str]]:
    """Runs one file of tests in a process of its own."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"tests/{file}"]
    command += ["--disable-warnings", "--tb=short", f"--timeout={SECONDS_A_TEST}", "-k", only]
    command += ["-p", "ours"] if ours else []
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 5):
        print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
    if not report.exists():
        raise SystemExit(f"{file} gave no report (exit status {done.returncode})")
    return read_results(report)


def measure(tests: Path, ours: bool, files: list[str], only: str) -> dict[str, tuple[str, str]]:
    results: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy_tests(tests, Path(folder), ours)
        for file in files:
            results |= run(Path(folder), file, ours, only)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("tests", type=Path, help="folder `tests` of a checkout of transformers")
    parser.add_argument("-k", dest="only", default="", help="pytest's expression: run these tests only")
    parser.add_argument("--files", default="", help="run only files whose name holds this word (vit, image_processing)")
    parser.add_argument("--applicable", type=Path, help="a file of --json, to read what transformers passes from")
    parser.add_argument("--json", type=Path, help="where to write all results")
    options = parser.parse_args()
    tests = options.tests.resolve()
    files = [file for file in FILES if options.files in file and (tests / file).exists()]
    absent = [file for file in FILES if options.files in file and not (tests / file).exists()]
    if absent:
        print(f"not in {options.tests}: {', '.join(absent)}")
    if options.applicable:
        theirs = {name: tuple(row["transformers"]) for name, row in json.loads(options.applicable.read_text()).items()}
    else:
        theirs = measure(tests, False, files, options.only)
    ours = measure(tests, True, files, options.only)

    counts: dict[str, Counter[str]] = {}
    for name, (outcome, _) in ours.items():
        applicable = theirs.get(name, ("skip", ""))[0] == "pass"
        counts.setdefault(name.split(".")[0], Counter())[outcome if applicable else "not applicable"] += 1
    counts["all"] = sum(counts.values(), Counter())
    print(f"{'':30}{'pass':>6}{'fail':>6}{'skip':>6}{'not applicable':>16}{'share':>8}")
    for name, row in counts.items():
        applicable = sum(row[outcome] for outcome in OUTCOMES)
        share = f"{row['pass'] / applicable:8.1%}" if applicable else ""
        print(f"{name:30}{row['pass']:6}{row['fail']:6}{row['skip']:6}{row['not applicable']:16}{share}")
    for name, (outcome, line) in ours.items():
        if outcome != "pass" and theirs.get(name, ("skip", ""))[0] == "pass":
            print(f"{outcome} {name}: {line[:200]}")
    if options.json:
        rows = {name: {"transformers": theirs.get(name), "mimsuite": ours.get(name)} for name in {**theirs, **ours}}
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
