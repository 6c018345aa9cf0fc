"""Places of data: what an address is, what a local store reads, how files are replaced, how members are read."""

import errno
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimsuite.data.checks.verify import check_shards
from mimsuite.data.members import find_labelled, image_bytes, read_image, read_key, read_label
from mimsuite.data.open import open_data, open_index
from mimsuite.data.scan import index_beside
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.storage import Replacement, move_folder, write_array
from mimsuite.data.stores.address import absolute, remote_store, store_of
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.stores.store import sha256_of
from mimsuite.data.tables import TableFile
from mimsuite.data.tar import RECORD, SampleRow
from mimsuite.errors import InputError

UNKNOWN = ("ftp", "sftp", "gdrive", "FTP")


# ---- addresses


@pytest.mark.parametrize("scheme", UNKNOWN)
def test_an_unknown_kind_of_address_is_refused_by_name_without_the_rest_of_the_address(scheme):
    address = f"{scheme}://user:password@bucket/folder"
    for call in (store_of, open_data, open_index, index_beside, lambda data: list(check_shards(data))):
        with pytest.raises(InputError, match="use a local path, or one of s3://, gs://, az://") as error:
            call(address)
        message = str(error.value)
        assert message.startswith(f"{scheme.lower()}://... cannot be read")
        assert "password" not in message
        assert "\n" not in message


def test_an_address_with_a_scheme_stays_and_a_path_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for address in ("s3://bucket/a/../b", "hf://data sets/x", "https://host//a"):
        assert absolute(address) == address
    assert absolute("data/{000..012}.tar") == f"{tmp_path}/data/{{000..012}}.tar"
    assert absolute("../x") == str(tmp_path.parent / "x")
    assert absolute("~/x") == "/home/me/x"
    assert absolute("/a//b/") == "/a/b"
    assert [scheme_of(text) for text in ("a:b", "C:\\x", "/s3://x", "s3:/x", "://x")] == [""] * 5


def test_the_folder_above_a_link_is_that_of_the_place_it_leads_to(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/below")
    assert absolute("link/../images") == str(tmp_path.resolve() / "real" / "images")
    assert absolute("link/images") == str(tmp_path / "link" / "images")
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path / "real"))
    for address in ("link/..", "~"):
        assert open_data(address).num_samples("train") == 1


def test_a_store_is_that_of_the_server_and_the_keys_that_are_set_now(monkeypatch):
    """In a notebook keys are set between two calls, after the first was refused."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    before = remote_store("s3://bucket/a.tar")
    assert remote_store("s3://bucket/b.tar") is before
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert remote_store("s3://bucket/a.tar") is not before
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert remote_store("s3://bucket/a.tar") is before


# ---- the local store


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.tar", "b/1.tar", "a-b/3.tar", ".hidden/4.tar", "a/.5.tar", "a/deep/6.tar", "x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def relative(folder, names):
    return [os.path.relpath(name, folder) for name in names]


def test_files_are_listed_by_pattern_part_by_part(folder):
    store = LocalStore()
    names = relative(folder, store.list(str(folder), "*/*.tar"))
    assert names == [".hidden/4.tar", "a/.5.tar", "a-b/3.tar", "b/1.tar", "b/2.tar"]  # a before a-b, as paths sort
    assert store.list(str(folder), "*.tar") == []
    (folder / "link").symlink_to(folder / "b")
    assert "link/1.tar" in relative(folder, store.list(str(folder), "*/*.tar"))
    with pytest.raises(OSError, match="nowhere"):
        store.list(str(folder / "nowhere"), "*.tar")


def test_folders_are_walked_in_order(folder):
    walked = [(os.path.relpath(here, folder), list(names)) for here, names in LocalStore().walk(str(folder))]
    assert [here for here, _ in walked] == [".", ".hidden", "a", "a/deep", "a-b", "b"]
    assert walked[-1][1] == ["1.tar", "2.tar"]
    seen = dict(LocalStore().walk(str(folder), hidden=False))
    assert str(folder / ".hidden") not in seen
    assert seen[str(folder / "a")] == []
    errors = []
    assert list(LocalStore().walk(str(folder / "nowhere"), on_error=errors.append)) == []
    assert errors[0].errno == errno.ENOENT


def test_a_version_changes_with_the_time_of_the_file(folder):
    store, name = LocalStore(), str(folder / "x.txt")
    os.utime(name, ns=(1, 123_456_789))
    assert store.stat(name) == (5, "123456789")
    os.utime(name, ns=(1, 123_456_790))
    assert store.stat(name) == (5, "123456790")


def test_ranges_end_where_the_file_ends(folder):
    store, name = LocalStore(), str(folder / "x.txt")
    assert (store.read(name, 1, 2), store.read(name, 3, 9), store.read(name, 9, 9)) == (b".t", b"xt", b"")
    assert store.read_all(name) == b"x.txt"
    assert store.local_copy(name) == Path(name)
    assert (store.is_file(name), store.is_folder(name), store.is_folder(str(folder))) == (True, False, True)
    assert sha256_of(store, name) == hashlib.sha256(b"x.txt").hexdigest()
    again = pickle.loads(pickle.dumps(store))
    assert again.read(name, 0, 1) == b"x"


def test_a_table_is_mapped_and_not_read(folder):
    name = folder / "rows.npy"
    write_array(name, np.arange(5))
    rows = TableFile(str(name)).read(1, 3)
    assert isinstance(rows.base, np.memmap)
    assert rows.tolist() == [1, 2, 3]
    assert not list(folder.glob(".*.part"))


# ---- writing in one step


def test_a_replacement_shows_nothing_until_it_is_committed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    new = Replacement(path, durable=True)
    new.part.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    new.commit()
    assert path.read_bytes() == b"new"
    other = Replacement(path)
    other.part.write_bytes(b"half")
    other.discard()
    other.discard()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"new"


def test_a_finished_folder_of_another_process_stays(tmp_path):
    for name, text in (("mine", "1"), ("theirs", "2"), ("half", "3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("index.json" if name != "half" else "other")).write_text(text)
    move_folder(tmp_path / "mine", tmp_path / "theirs", "index.json")
    assert (tmp_path / "theirs" / "index.json").read_text() == "2"
    with pytest.raises(OSError, match="not empty"):
        move_folder(tmp_path / "mine", tmp_path / "half", "index.json")
    move_folder(tmp_path / "mine", tmp_path / "new", "index.json")
    assert (tmp_path / "new" / "index.json").read_text() == "1"


# ---- members


def test_a_row_names_the_fields_of_the_record():
    assert SampleRow._fields == RECORD.names


def test_members_are_read_whole(shards, tmp_path, jpeg):
    index = open_index(str(shards), tmp_path)
    samples, files = index.records("train"), ShardFiles()
    shard, row = samples[31]
    image, label = read_image(files, shard, row), read_label(files, shard, row)
    assert image == ("s0031.jpg", "s0031", "jpg", jpeg(31))
    assert label == ("s0031.cls", "s0031", "cls", b"1")
    assert read_key(files, shard, row) == "s0031"
    assert find_labelled(samples).all()
    assert image_bytes(samples)[31] == len(jpeg(31))
