"""Copies of image folders in the cache: named after the folder, shared, finished after a kill, removed when old."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from mimsuite.data import cache
from mimsuite.data.cache import clean_cache, find_copy, list_packed, packed_folder, remove
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.tasks.doctor import check_cache


@pytest.fixture
def photos(tmp_path, monkeypatch, jpeg):
    """A folder of two images, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_held", {})
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    return folder


def release():
    """As if this process had ended."""
    for handle in cache._held.values():
        os.close(handle)
    cache._held.clear()


def test_the_data_have_the_name_of_the_folder(photos):
    index = open_data(str(photos))
    assert index.root == str(photos)
    assert index.splits["train"][0].path.startswith(str(packed_folder()))
    assert index.reading == ("train  2 images, no labels",)


def test_a_changed_folder_leaves_no_old_copy(photos, jpeg):
    open_data(str(photos))
    (photos / "notes.txt").write_text("no image: nothing is packed again")
    open_data(str(photos))
    (old,) = list_packed()
    (photos / "2.jpg").write_bytes(jpeg(2))
    assert open_data(str(photos)).num_samples("train") == 3
    assert {entry.path for entry in list_packed()} > {old.path}  # this process may still read the old one
    release()
    (photos / "3.jpg").write_bytes(jpeg(3))
    open_data(str(photos))
    assert len(list(list_packed())) == 1


def test_the_copy_of_one_image_is_kept_as_long_as_the_image_is_there(photos):
    open_data(str(photos / "0.jpg"))
    assert [entry.old for entry in list_packed()] == [""]
    (photos / "0.jpg").unlink()
    assert [entry.old for entry in list_packed()] == [f"of {photos / '0.jpg'}, which is gone"]


def test_a_copy_that_was_removed_by_hand_is_made_and_kept_again(photos):
    folder = Path(open_data(str(photos)).splits["train"][0].path).parent
    shutil.rmtree(folder)
    assert open_data(str(photos)).num_samples("train") == 2
    assert not remove(folder)


def test_a_killed_packing_goes_on_and_another_process_waits(photos, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    calls, begun = [], threading.Event()

    def stopped(part):
        (part / "half").write_text("done")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        find_copy(photos, "abc", stopped)
    assert [entry.old for entry in list_packed()] == ["not finished"]

    def make(part):
        begun.set()
        while "waiting for it" not in caplog.text:
            pass
        calls.append((part / "half").read_text())
        (part / "index.json").write_text("{}")

    first = threading.Thread(target=find_copy, args=(photos, "abc", make))
    first.start()
    begun.wait()
    folder = find_copy(photos, "abc", make)
    first.join()
    assert calls == ["done"]
    assert json.loads((folder / "source.json").read_text()) == {"source": str(photos)}


def test_copies_over_the_limit_go_those_used_longest_ago_first(photos, tmp_path, monkeypatch, jpeg):
    others = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(jpeg(7))
        others.append(open_data(str(tmp_path / name)))
    folders = [os.path.dirname(index.splits["train"][0].path) for index in others]
    release()
    os.utime(folders[1], (1, 1))
    size = sum(entry.bytes for entry in list_packed())
    monkeypatch.setenv(cache.LIMIT, str(size * 1.2 / 2**30))
    open_data(str(photos))
    assert not os.path.exists(folders[1])
    assert os.path.exists(folders[0])
    for text in ("many", "-1", "nan"):
        monkeypatch.setenv(cache.LIMIT, text)
        with pytest.raises(InputError, match=f"{cache.LIMIT}={text} is not a number of GiB"):
            open_data(str(photos))


def test_the_cache_is_cleaned_of_what_is_old_or_of_all_but_what_is_in_use(photos, tmp_path):
    used = open_data(str(photos))
    folder = packed_folder()
    for name in ("0123456789abcdef0123456789abcdef.4711", "0123.part"):
        (folder / name).mkdir()
        (folder / name / "train-000000.tar").write_bytes(bytes(1000))
    gone = tmp_path / "gone"
    photos.rename(gone)
    assert {e.old for e in list_packed()} == {"not finished", "of an earlier version", f"of {photos}, which is gone"}
    removed, kept = clean_cache("old")
    assert removed == 2000
    assert [str(path) for path in kept] == [os.path.dirname(used.splits["train"][0].path)]
    release()
    (folder.parent / "features").mkdir()
    (folder.parent / "features" / "rows").write_bytes(bytes(10))
    assert clean_cache("all")[0] > 10
    assert list(list_packed()) == []
    assert not (folder.parent / "features").exists()
    assert remove(folder / "never there")


def test_the_doctor_tells_of_the_cache_and_cleans_it(photos, monkeypatch):
    def told(clean=None):
        return [(found.level, found.text, found.fix) for found in check_cache(clean)]

    monkeypatch.setenv(cache.LIMIT, "7")
    copy = os.path.dirname(open_data(str(photos)).splits["train"][0].path)
    (packed_folder() / "0123.part").mkdir()
    (packed_folder() / "0123.part" / "train-000000.tar").write_bytes(bytes(2**20))
    counts, old = told()
    assert counts[:2] == (
        "ok",
        f"2 copies of image folders (0.00 GiB), at most {cache.LIMIT}=7 GiB; features 0.00 GiB, index 0.00 GiB, "
        "remote 0.00 GiB, shards 0.00 GiB",
    )
    assert old == ("note", "0123.part (0.00 GiB) is not finished", "mimsuite doctor clean=old")
    removed, counts = told("old")
    assert removed[:2] == ("ok", "removed 0.00 GiB")
    assert counts[1].startswith("1 copy of image folders")
    _, used, _ = told("all")
    assert used == ("note", f"{copy} is in use and stays", "clean again when no run uses it")
    release()
    assert told("all")[1][1].startswith("0 copies of image folders")
    assert not os.path.exists(copy)


def test_a_cache_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"the cache folder .* cannot be written: .*; set XDG_CACHE_HOME"):
        open_data(str(photos))
