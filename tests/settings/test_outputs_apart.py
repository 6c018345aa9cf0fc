"""No task writes below the data that it reads."""

import pytest

from mimsuite.errors import InputError
from mimsuite.settings.outputs import check_outside


@pytest.mark.parametrize("data", [".", "photos/..", ["elsewhere", "."]])
def test_an_out_below_the_data_is_refused_with_one_that_is_not(data, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"out=run1 lies in data=.*, so what is written there would be read as data"):
        check_outside("run1", data)
    with pytest.raises(InputError, match=r"use an out= beside it \(out=\.\./run1\)"):
        check_outside("run1", ".")


def test_an_out_beside_the_data_a_file_and_a_pattern_are_fine(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.tar").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for data in ("photos", None, "a.tar", "x-{000..001}.tar", ["photos"]):
        check_outside("photos-run", data)
    (tmp_path / "link").symlink_to("photos")
    with pytest.raises(InputError, match="out=link/run lies in data=photos"):
        check_outside("link/run", "photos")
