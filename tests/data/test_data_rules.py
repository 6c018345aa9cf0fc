"""Data is reached through the stores alone, and rows of the tar index are read in one place: scans of the source."""

import ast
from pathlib import Path

import pytest

import mimsuite

PACKAGE = Path(mimsuite.__file__).parent
DATA = PACKAGE / "data"

# Files of `data` that touch files of the machine themselves, and why.
OWN_FILES = {
    "storage.py": "writes",
    "stores/local.py": "is the local store",
    "stores/store.py": "maps a store's local copy of a table into memory",
    "packing/journal.py": "appends to a file that it locks, in the folder that it writes",
    "packing/pack.py": "writes shards",
}
IN_OS = {"stat", "lstat", "open", "pread", "walk", "scandir", "listdir", "replace", "rename", "remove", "unlink"}
IN_OS_PATH = {"exists", "isfile", "isdir", "getsize", "getmtime", "lexists"}
IN_NUMPY = {"load", "save", "memmap", "fromfile", "savez"}
OF_PATHS = {"stat", "exists", "is_file", "is_dir", "iterdir", "read_bytes", "read_text", "lstat"}  # without arguments
OF_PATHS_WITH_ARGUMENT = {"write_bytes", "write_text", "glob", "rglob", "rename", "replace", "symlink_to"}


def reaches_a_file(call):
    """Whether a call reaches the file system; a call of a store has arguments where that of a path has none."""
    owner, _, name = ast.unparse(call.func).rpartition(".")
    first = ast.unparse(call.args[0]) if call.args else ""
    if owner == "os":
        return name in IN_OS
    if owner == "os.path":
        return name in IN_OS_PATH
    if "BytesIO" in first or first == "stream":
        return False
    if owner == "np":
        return name in IN_NUMPY
    if name == "open":
        return True
    if not owner:  # `dataclasses.replace`
        return False
    return (name in OF_PATHS and not call.args) or (name in OF_PATHS_WITH_ARGUMENT and len(call.args) == 1)


def file_calls(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Call) and reaches_a_file(node)]


def test_data_is_reached_through_the_stores_alone():
    names = [path.relative_to(DATA).as_posix() for path in sorted(DATA.rglob("*.py"))]
    found = [f"{name}: {call}" for name in names if name not in OWN_FILES for call in file_calls(DATA / name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", OWN_FILES)
def test_each_exception_is_needed(file):
    assert file_calls(DATA / file)


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('rb')",
        "os.stat(path)",
        "path.stat()",
        "os.walk(path)",
        "os.path.isfile(path)",
        "path.is_file()",
        "path.read_bytes()",
        "np.load(path, mmap_mode='r')",
        "folder.glob('*.tar')",
        "path.write_text(text)",
        "os.replace(a, b)",
    ],
)
def test_the_scan_sees_each_way_to_reach_a_file(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert file_calls(tmp_path / "a.py") == [line]


# Field names that nothing else has; `key` and `image_size` are names of other things, too.
FIELDS = {"image_offset", "image_header", "label_offset", "label_size", "label_header"}
READERS = {"data/members.py", "data/tar.py"}


def reads_a_row(node, path):
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value in FIELDS
    if isinstance(node, ast.Attribute):
        return node.attr in FIELDS
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "row":
        return path.is_relative_to(DATA)
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "column":
        return (path, ast.unparse(node)) != (DATA / "index.py", "self.column('key')")
    return False


def row_reads(path):
    return [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if reads_a_row(node, path)]


def test_rows_of_the_tar_index_are_read_in_members_alone():
    names = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
    found = [f"{name}: {text}" for name in names if name not in READERS for text in row_reads(PACKAGE / name)]
    assert not found, "\n".join(found)
    assert all(row_reads(PACKAGE / name) for name in READERS)


def test_no_file_of_the_room_is_longer_than_450_lines():
    assert [path.name for path in DATA.rglob("*.py") if len(path.read_text().splitlines()) > 450] == []
