"""Data is reached through the stores alone, and rows of the tar index are read in one place: scans of the source."""

import ast
from pathlib import Path

import pytest

import mimsuite
from mimsuite.data.augment.rand_augment import RESAMPLING
from mimsuite.data.csv_labels import parse_labels
from mimsuite.data.csv_table import Row
from mimsuite.data.label_table import label_facts
from mimsuite.data.open import open_index
from mimsuite.data.sources import split_name_of
from mimsuite.errors import InputError
from mimsuite.words import INTERPOLATIONS, MOST_CLASSES, SPLITS

PACKAGE = Path(mimsuite.__file__).parent
DATA = PACKAGE / "data"

# Files of `data` that touch files of the machine themselves, and why.
OWN_FILES = {
    "terminal.py": "opens the null device in the place of an output that is lost",
    "workers.py": "asks the system for the state of loader processes",
    "cache.py": "locks, lists and removes copies in the user's cache, which is always a local folder",
    "storage.py": "writes",
    "stores/local.py": "is the local store",
    "tables.py": "writes tables, and maps those of this machine into memory",
    "stores/copies.py": "keeps copies of small files in the user's cache",
    "fetching/locks.py": "locks and reads copies of shards in the cache, which is always a local folder",
    "fetching/shard_cache.py": "lists, checks and removes these copies",
    "remote/scanning.py": "locks and keeps what a scan has found, in the user's cache",
    "remote/opening.py": "looks for the index of a scan, in the user's cache",
    "packing/journal.py": "appends to a file that it locks, in the folder that it writes",
    "packing/shard_writer.py": "writes shards",
}
OF_MODULES = {
    "os": {"stat", "lstat", "open", "pread", "walk", "scandir", "listdir", "replace", "rename", "remove", "unlink"},
    "os.path": {"exists", "isfile", "isdir", "getsize", "getmtime", "lexists"},
    "np": {"load", "save", "memmap", "fromfile", "savez"},
}
OF_PATHS = {"stat", "exists", "is_file", "is_dir", "iterdir", "read_bytes", "read_text", "lstat"}  # without arguments
OF_PATHS_WITH_ARGUMENT = {"write_bytes", "write_text", "glob", "rglob", "rename", "replace", "symlink_to"}


def reaches_a_file(call):
    """Whether a call reaches the file system; a call of a store has arguments where that of a path has none."""
    owner, _, name = ast.unparse(call.func).rpartition(".")
    first = ast.unparse(call.args[0]) if call.args else ""
    if owner in OF_MODULES:
        return name in OF_MODULES[owner] and not in_memory(first)
    if name == "open" or not owner:  # `Image.open`; `dataclasses.replace`
        return name == "open" and not in_memory(first)
    return (name in OF_PATHS and not call.args) or (name in OF_PATHS_WITH_ARGUMENT and len(call.args) == 1)


def in_memory(argument):
    return "BytesIO" in argument or argument == "stream"


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
FIELDS |= {"file_offset", "file_size", "file_header"}
READERS = {"data/members.py", "data/tar.py"}


def reads_a_row(node, path):
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value in FIELDS
    if isinstance(node, ast.Attribute):
        return node.attr in FIELDS - {"file_size"}  # of archives, too
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


def test_a_list_of_words_and_the_tables_that_it_names_agree():
    assert set(RESAMPLING) == set(INTERPOLATIONS)
    assert {split_name_of(name) for name in SPLITS} == set(SPLITS)


@pytest.mark.parametrize(("number", "allowed"), [(MOST_CLASSES - 1, True), (MOST_CLASSES, False)])
def test_shards_and_csv_files_allow_the_same_number_of_classes(number, allowed, shards, tmp_path):
    file, index = tmp_path / "a.csv", open_index(str(shards), tmp_path)
    calls = (
        lambda: parse_labels(file, {"a.png": Row(2, str(number), ""), "b.png": Row(3, "0", "")}),
        lambda: label_facts(index, [0, number]),
    )
    for call in calls:
        if allowed:
            call()
        else:
            with pytest.raises(InputError, match=rf"label '?{number}'? is not a class"):
                call()
