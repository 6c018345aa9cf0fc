"""The documentation site: it has all pages, builds strictly, loads nothing from elsewhere, is searched from disk."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from pages import ROOT, SITE

from mimsuite.cli import TASKS
from mimsuite.config.folder import conf_dir
from mimsuite.config.help import help_text
from mimsuite.errors import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; pip install mimsuite[docs]")
    folder = tmp_path_factory.mktemp("docs")
    SITE["write"](folder / "pages")
    config = folder / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nsite_dir: site\n")
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=110)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"


def test_the_reference_has_every_task_key_and_config():
    tasks, groups = SITE["tasks_page"](), SITE["groups_page"]()
    for task in TASKS:
        section = tasks.partition(f"\n## {task}\n")[2].partition("\n## ")[0]
        keys = re.findall(r"^  ([\w.]+)=\S*  +\S", help_text(task, conf_dir()), re.MULTILINE)
        assert keys, task
        assert [key for key in keys if f"| `{key}` |" not in section] == [], task
    files = [file for file in conf_dir().rglob("*.yaml") if file.parent != conf_dir()]
    assert [file for file in files if f"### {file.parent.name}={file.stem}\n" not in groups] == []


def test_bold_names_above_code_become_tabs_and_links_stay_inside():
    tabs = "**Command line**\n\n```bash\na\n```\n\n**Python**\n\n```python\nb\n```\n\n"
    page = f"{tabs}[x](../README.md#y) [z](../conf) [w](w.md)\n"
    made = SITE["as_page"](SITE["PurePosixPath"]("docs/a.md"), page)
    assert '=== "Command line"\n\n    ```bash\n    a\n    ```\n' in made
    assert '=== "Python"\n\n    ```python\n' in made
    assert made.endswith("[x](project/README.md#y) z [w](w.md)\n")


def test_outside_links_are_listed_with_their_pages():
    listed = SITE["outside_links"]()
    assert listed["https://github.com/facebookresearch/mae"] == ["docs/comparison.md"]
    assert [address for address in listed if not re.fullmatch(r"https?://[\w.-]+\.[a-z]+[^\s]*", address)] == []


def test_the_page_of_choices_has_the_numbers_of_the_ledger_and_no_others():
    choices = runpy.run_path(str(ROOT / "benchmarks" / "choices.py"))
    page = choices["PAGE"].read_text()
    made = choices["rendered"](page, choices["ledger"].entries(ROOT / "benchmarks"))
    assert made == page, "run `python benchmarks/choices.py`"
    assert sorted(found[1] for found in choices["NAME"].finditer(page)) == sorted(choices["TABLES"])
    assert re.findall(r"\d+(?:\.\d+)? ?(?:%|points|img/s|min\b)", choices["NAME"].sub("", page)) == []


def test_choices_without_a_run_are_called_not_measured():
    choices = runpy.run_path(str(ROOT / "benchmarks" / "choices.py"))
    entries = choices["ledger"].entries(ROOT / "benchmarks")
    rows = {row["choice"]: row["pretraining runs"] for row in choices["masks_table"](entries)}
    assert rows["satellite bands"] == "nothing measured"
    assert {row["objective"]: row for row in choices["coverage_table"]([])}["SimMIM"]["vit"] == "nothing measured"
    strange = next(entry for entry in entries if entry["task"] == "pretrain") | {"data": "xray"}
    with pytest.raises(InputError, match="data xray is in the ledger; add it to KINDS"):
        list(choices["masks_table"]([strange]))


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site):
    html = {file: file.read_text() for file in site.rglob("*.html")}
    assert {f"{page.removesuffix('.md')}.html" for page in PAGES} - {"README.html"} <= {file.name for file in html}
    assert [(file.name, tag) for file, text in html.items() for tag in LOADED.findall(text)] == []
    elsewhere = re.compile(r"(url\(|@import)[\"' ]*(https?:)?//")
    assert [file.name for file in site.rglob("*.css") if elsewhere.search(file.read_text())] == []
    python = (site / "reference" / "python.html").read_text()
    assert all(f'id="mimsuite.{name}"' in python for name in SITE["FUNCTIONS"] if not name.startswith("_"))


@pytest.mark.slow
def test_the_search_works_from_disk(site, tmp_path):
    if CHROMIUM is None:
        pytest.skip("chromium not installed")
    address = f"{(site / 'index.html').as_uri()}?q=multi_block"
    quiet = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
    )
    command = [CHROMIUM, *quiet, f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000", "--dump-dom", address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert re.search(r'md-search-result__meta"[^>]*>\s*\d+ matching', result.stdout), result.stderr[-2000:]
    assert "CONSOLE" not in result.stderr, result.stderr[-2000:]
