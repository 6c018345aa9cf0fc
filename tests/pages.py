"""What stands on the pages that people read: commands and blocks of Python code, each with its page."""

import re
import runpy
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = runpy.run_path(str(ROOT / "scripts" / "docs_site.py"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\s*(?:[A-Z_]+=\S+ |srun |torchrun \S+ )*(mimsuite [a-z]+ .*)")


def pages():
    """Name -> text of README, of docs/ and of the generated reference."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {file.name if file.parent == ROOT else f"docs/{file.name}": file.read_text() for file in files} | {
        name: make() for name, make in SITE["GENERATED"].items()
    }


def commands(text):
    """The commands of a page, as lists of words."""
    return [shlex.split(line, comments=True) for line in command_lines(text)]


def command_lines(text):
    """The commands of a page as they stand: of blocks of a shell, indented ones too, and between backticks."""
    rest = FENCE.sub("", text)
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "bash")]
    blocks += [line[4:] for line in rest.splitlines() if line.startswith("    ")]
    blocks += re.findall(r"`(mimsuite [^`\n]+)`", rest)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [found[1] for line in lines if (found := COMMAND.match(line))]


def python_blocks(text):
    """The blocks of Python code of a page."""
    return [block for language, block in FENCE.findall(text) if language == "python"]
