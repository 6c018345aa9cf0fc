"""The documents: links and named files exist, what they list is complete, and their English is plain. No torch."""

import re
from pathlib import Path

import pytest

from mimsuite.cli import TASKS
from mimsuite.config.instantiate import MOVED

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
STRUCTURE = (ROOT / "tests" / "test_structure.py").read_text()
LONGEST = 150  # lines of the README

MOST_NEEDED = ("README", "quickstart", "data", "choosing", "features", "faq", "errors")  # pages that the README links

# Words of which somebody whose second language is English has to think twice -> what to write.
PLAIN = {
    r"\bworth\b": "accuracy, score",
    r"\bfigures\b": "metrics, numbers",
    r"\bmend(s|ed)?\b": "fix, correct",
    r"(?<!there )\b(is|are|was) no (?!longer)[a-z]": "is not a",
    r"\b(leave|leaves|left) away\b": "remove",
    r"\blearnt\b": "learned",
    r"\bdoubt\b": "question",
    r"\bflatters?\b": "overestimates",
    r"\bhalf-finished\b": "unfinished",
}
QUOTED = {"docs/errors.md": {r"\bhalf-finished\b"}}  # the words of a message


def texts():
    """Names and texts that people read: pages whole, of configs the comments."""
    for page in PAGES:
        yield str(page.relative_to(ROOT)), page.read_text()
    for file in CONFIGS:
        comments = re.findall(r"#.*", file.read_text())
        yield str(file.relative_to(ROOT)), "\n".join(comments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_one_page_that_names_every_task_and_leads_to_the_documents():
    text = README.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert [task for task in TASKS if f"`{task}`" not in text and f"mimsuite {task} " not in text] == []
    assert [page for page in MOST_NEEDED if f"](docs/{page}.md)" not in text] == []


def test_every_page_is_in_the_index_and_in_the_navigation():
    index, config = (ROOT / "docs" / "README.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = [page.name for page in PAGES[2:] if page.name != "README.md"]
    assert [page for page in pages if f"]({page})" not in index] == []
    assert [page for page in pages if f"- {page}\n" not in config.partition("\nnav:")[2]] == [], "in mkdocs.yml"


def test_commands_of_the_readme_exist():
    text = README.read_text()
    assert set(re.findall(r"\bmimsuite ([a-z]+) [a-z]+=", text)) <= set(TASKS)
    for group in ("experiment", "model", "objective", "mask", "preset"):
        for name in re.findall(rf"\b{group}=([a-z]\w+)", text):
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"{group}={name}"


def test_the_layout_names_every_room_in_order():
    rooms = re.search(r"^ROOMS = \((.*?)^\)", STRUCTURE, re.MULTILINE | re.DOTALL)[1]
    wanted = [room for row in re.findall(r'"([^"]+)"', rooms) for room in row.split()]
    table = (ROOT / "docs" / "layout.md").read_text().split("| room |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert [room for row in rows for room in re.findall(r"`(\w+)/?`", row)] == wanted


def test_files_that_documents_name_exist():
    for page in PAGES[2:]:
        named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|md))`", page.read_text())
        missing = [name for name in named if not any((ROOT / below / name).exists() for below in ("", "mimsuite"))]
        assert [name for name in missing if not re.search("NAME|TASK", name)] == [], page.name


def test_the_changelog_names_every_target_that_moved():
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `mimsuite.")]
    for old, new in MOVED.items():
        (module, _, name), room = old.rpartition("."), new.rpartition(".")[0]
        assert any(f"`{module}." in row and f".{name}`" in row and f"`{room}." in row for row in rows), old


def test_texts_are_plain():
    found = [
        f"{name}: {match[0]!r}; write {instead}"
        for name, text in texts()
        for pattern, instead in PLAIN.items()
        if pattern not in QUOTED.get(name, ())
        for match in [re.search(pattern, re.sub(r"`[^`\n]*`", "", text.split("## 0.1.0")[0]))]
        if match
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_task_has_a_help_text(task):
    keys = (ROOT / "conf" / f"{task}.yaml").read_text().partition("_self_\n")[2]
    lines = [line for line in keys.splitlines() if re.match(r"\w+:", line)]
    assert lines
    assert [line for line in lines if "#: " not in line and not line.startswith("trusted_targets:")] == []
