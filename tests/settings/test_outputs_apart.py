"""No task writes below the data that it reads, nor over the weights that it starts from."""

import pytest

from mimsuite.config.composing import compose_task
from mimsuite.errors import InputError
from mimsuite.settings.finetune import read_finetune
from mimsuite.settings.outputs import check_outside
from mimsuite.settings.pretrain import read_pretrain
from mimsuite.settings.probe import read_probe


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


@pytest.mark.parametrize("overwrite", ["true", "false"])
@pytest.mark.parametrize(
    ("task", "read", "key"),
    [
        ("pretrain", read_pretrain, "init"),
        ("pretrain", read_pretrain, "objective.teacher"),
        ("finetune", read_finetune, "init"),
        ("probe", read_probe, "init"),
    ],
)
def test_the_run_that_the_weights_are_from_is_not_replaced(task, read, key, overwrite, tmp_path):
    (tmp_path / "a" / "weights").mkdir(parents=True)
    (tmp_path / "a" / "config.yaml").touch()
    more = ["objective=latent"] if key == "objective.teacher" else []
    for given in ("a", "a/weights"):
        overrides = [f"{key}={tmp_path}/{given}", f"out={tmp_path}/a", f"overwrite={overwrite}", *more]
        with pytest.raises(InputError, match=f"out=.* holds {key}=.*{given}, which it would replace; use another out="):
            read(compose_task(task, overrides)[0], overrides)
    assert (tmp_path / "a" / "weights").is_dir()
