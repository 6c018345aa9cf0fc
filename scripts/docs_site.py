"""Writes the pages of the documentation site into build/docs: docs/, what they link to, and the generated reference.

python scripts/docs_site.py          # then `mkdocs build`; `make docs` does both
python scripts/docs_site.py links    # every address outside of this repository, and the pages that name it

The reference is made of `conf/` (the source of `--help`) and of the docstrings, and is not committed. Files outside of
docs/ that a page links to (README, CHANGELOG, RESULTS with its pictures and files) lie below `project/` in the site. A
bold `Command line` or `Python` alone above a block of code becomes a tab.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mimsuite import __all__ as FUNCTIONS
from mimsuite.cli import TASKS
from mimsuite.config.help import chosen_groups, documented_keys
from mimsuite.models.families import public_homes

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
OUT = ROOT / "build" / "docs"
LINK = re.compile(r"(?<=\])\((?!https?://|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")
FOLDER_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://)([^)#\s]+)\)")
TAB = re.compile(r"^\*\*(Command line|Python)\*\*\n\n(```.*?^```$)\n", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"\]\((https?://[^\s)]+)\)")
PLAIN = re.compile(r"(`[^`]*`)|([\\*_\[\]<>|])")
CONTRACTS = ("Encoder", "EncoderConfig", "FeatureMap", "Batch")


# ---- pages that are committed


def site_path(file: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository lies in the site."""
    return file.relative_to("docs") if file.is_relative_to("docs") else "project" / file


def linked(file: PurePosixPath, text: str) -> Iterator[PurePosixPath]:
    """The files and folders of the repository that a page links to."""
    for target, _ in LINK.findall(text):
        yield PurePosixPath(os.path.normpath(file.parent / target))


def committed_files() -> list[PurePosixPath]:
    """All of docs/, and the files that these pages link to, directly or through each other."""
    todo = sorted(PurePosixPath(f.relative_to(ROOT).as_posix()) for f in (ROOT / "docs").rglob("*") if f.is_file())
    found: dict[PurePosixPath, None] = {}
    while todo:
        file = todo.pop()
        if file not in found and (ROOT / file).is_file():
            found[file] = None
            if file.suffix == ".md":
                todo += linked(file, (ROOT / file).read_text())
    return sorted(found)


def as_page(file: PurePosixPath, text: str) -> str:
    """A page with links as they are in the site, and with tabs; a link to a folder becomes its text."""

    def moved(match: re.Match[str]) -> str:
        target = PurePosixPath(os.path.normpath(file.parent / match[1]))
        return f"({os.path.relpath(site_path(target), site_path(file).parent)}{match[2]})"

    def without_folder(match: re.Match[str]) -> str:
        return match[1] if (ROOT / file.parent / match[2]).is_dir() else match[0]

    def tab(match: re.Match[str]) -> str:
        return f'=== "{match[1]}"\n\n' + "".join(f"    {line}\n" for line in match[2].splitlines())

    return TAB.sub(tab, LINK.sub(moved, FOLDER_LINK.sub(without_folder, text)))


# ---- pages that are generated


def escaped(text: str) -> str:
    """Text of a comment as Markdown shows it: what stands in backticks stays, other signs mean themselves."""
    return PLAIN.sub(lambda match: match[1].replace("|", "\\|") if match[1] else f"\\{match[2]}", text)


def header(lines: list[str]) -> tuple[str, list[str]]:
    """The comment at the top of a YAML file: its sentences, and its commands."""
    intro = [line.removeprefix("#").removeprefix(" ") for line in lines[: next_line(lines)]]
    words = " ".join(line for line in intro if not line.startswith(("  ", "@package")))
    return escaped(words.strip()), [line.strip() for line in intro if line.startswith("  ")]


def next_line(lines: list[str]) -> int:
    """Number of the first line that is no comment."""
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def task_section(task: str) -> str:
    """What `mimsuite TASK --help` tells, as a section."""
    lines = (CONF / f"{task}.yaml").read_text().splitlines()
    words, commands = header(lines)
    groups = chosen_groups(CONF / f"{task}.yaml")
    rows = documented_keys(lines, "")
    for group, choice in groups.items():
        if (file := CONF / group / f"{choice}.yaml").is_file():
            rows += documented_keys(file.read_text().splitlines(), f"{group}.")
    parts = [f"## {task}", "", words or escaped(TASKS[task]), ""]
    parts += ["```bash", *commands, "```", ""] if commands else []
    parts += ["| key | default | meaning |", "|---|---|---|"]
    for key, value, text in rows:
        default = f"`{value.replace('|', chr(92) + '|')}`" if value else "must be given"
        parts.append(f"| `{key}` | {default} | {escaped(text)} |")
    links = [f"[{group}](groups.md#{group})" for group in groups if (CONF / group).is_dir()]
    parts += ["", f"Groups: {', '.join(links)}."] if links else []
    return "\n".join([*parts, ""])


def tasks_page() -> str:
    """The reference of all tasks and their keys."""
    rows = "\n".join(f"| [{task}](#{task}) | {escaped(text)} |" for task, text in TASKS.items())
    intro = (
        "# Tasks and their keys\n\n`mimsuite TASK key=value ...`. This page is made of `conf/`, as is "
        "`mimsuite TASK --help`. A key with a dot belongs to a [group](groups.md). In Python the same names are "
        "arguments: [Python functions](python.md). How values are written: [values](../values.md).\n\n"
    )
    sections = "\n".join(task_section(task) for task in TASKS)
    return f"{intro}| task | what it does |\n|---|---|\n{rows}\n\n{sections}"


def groups_page() -> str:
    """The reference of the config groups: each choice with its file."""
    parts = [
        "# Config groups",
        "",
        "A group is a folder of `conf/`. `mask=block` chooses a file of it, `mask.ratio=0.5` changes one value. "
        "Below are the files. `mimsuite pretrain mask=block --cfg job` prints what a command makes of them.",
        "",
    ]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        parts += [f"## {folder.name}", ""]
        for file in sorted(folder.glob("*.yaml")):
            lines = file.read_text().splitlines()
            words, commands = header(lines)
            parts += [f"### {folder.name}={file.stem}", "", words, ""]
            parts += ["```bash", *commands, "```", ""] if commands else []
            parts += ["```yaml", *lines[next_line(lines) :], "```", ""]
    return "\n".join(parts)


def python_page() -> str:
    """The public Python names, which mkdocstrings fills with signatures and docstrings."""
    functions = [name for name in FUNCTIONS if not name.startswith("_")]
    classes = [f"{home}.{name}" for name, home in sorted(public_homes().items())]
    parts = [
        "# Python functions and classes",
        "",
        "Made of the docstrings. Names of arguments are the keys of the command line, and None means a key's default. "
        "What the keys mean: [tasks](tasks.md). How to use the functions: [library](../library.md).",
        "",
        "## Functions of mimsuite",
        "",
        *(f"::: mimsuite.{name}" for name in functions),
        "",
        "## Classes of mimsuite.models",
        "",
        "Arguments and results are those of Hugging Face's classes of these names: [what differs](../huggingface.md).",
        "",
        *(f"::: {name}" for name in classes),
        "",
        "## Contracts for your own parts",
        "",
        "[Extending](../extending.md) says which files to write.",
        "",
        *(f"::: mimsuite.types.{name}\n    options: {{members: true}}" for name in CONTRACTS),
        "",
    ]
    return "\n\n".join(parts)


GENERATED = {"reference/tasks.md": tasks_page, "reference/groups.md": groups_page, "reference/python.md": python_page}


# ---- the folder, and the links


def write(out: Path = OUT) -> None:
    """Replaces the folder by the pages of the site."""
    shutil.rmtree(out, ignore_errors=True)
    for file in committed_files():
        target = out / site_path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            target.write_text(as_page(file, (ROOT / file).read_text()))
        else:
            shutil.copyfile(ROOT / file, target)
    for name, make in GENERATED.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(make())


def outside_links() -> dict[str, list[str]]:
    """Addresses outside of the repository, each with the pages that name it."""
    found: dict[str, list[str]] = {}
    for file in committed_files():
        if file.suffix == ".md":
            for address in dict.fromkeys(ADDRESS.findall((ROOT / file).read_text())):
                found.setdefault(address, []).append(str(file))
    return dict(sorted(found.items()))


def main() -> None:
    if sys.argv[1:] == ["links"]:
        for address, pages in outside_links().items():
            print(f"{address}  {', '.join(pages)}")
    elif sys.argv[1:]:
        sys.exit(f"{' '.join(sys.argv[1:])} is not known; give `links`, or nothing to write the pages")
    else:
        write()


if __name__ == "__main__":
    main()
