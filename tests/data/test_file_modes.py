"""Every file that is written has the rights that the user's umask gives, whatever library writes it."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.data.open import open_data
from mimsuite.data.packing.pack import pack
from mimsuite.data.scan import index_beside
from mimsuite.data.storage import replacing, write_array, write_json, write_rows, write_text
from mimsuite.pictures.saving import save_image
from mimsuite.weights.files import write_decoder


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_files_and_folders_honour_the_umask(umask, tmp_path, monkeypatch, jpeg, tar, members):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_text(tmp_path / "a.txt", "a")
    write_json(tmp_path / "a.json", {}, durable=True)
    write_array(tmp_path / "a.npy", np.zeros(2))
    write_rows(tmp_path / "rows" / "a.csv", ["a"], [[1]])
    save_image(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    write_decoder(tmp_path, {"bias": torch.zeros(2)})
    with replacing(tmp_path / "of a library") as part:
        part.unlink()
        os.close(os.open(part, os.O_CREAT, 0o600))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(jpeg(0))
    pack(tmp_path / "photos", tmp_path / "shards")
    tar(tmp_path / "foreign" / "train-0.tar", members(0, 2))
    open_data(str(tmp_path / "foreign"))
    index_beside(str(tmp_path / "foreign"))
    open_data(str(tmp_path / "photos"))
    found = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    wrong = {str(path): oct(mode) for path, mode in found.items() if mode != (0o750 if path.is_dir() else 0o640)}
    assert len(found) > 20
    assert not wrong
