"""The code of docs/library.md runs as it stands there, one block after the other."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, scikit-learn and torch
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "8 of 16 hidden" in out
    assert {"train/loss", "val/loss"} <= names["trainer"].callback_metrics.keys()
    assert names["classifier"].score(names["val"]["features"], names["val"]["labels"]) > 0.3
    assert (tmp_path / "runs" / "mine" / "weights" / "config.json").is_file()
    assert list((tmp_path / "mine").glob("*.ckpt"))
