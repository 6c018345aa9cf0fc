"""The benchmark of training steps: what it times beside ours computes the same; nothing is timed that does not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIT = {
    "embedding_size": 32,
    "hidden_sizes": [32, 32, 64, 64],
    "depths": [1, 1, 1, 1],
    "num_groups": 8,
    "encoder_stride": 32,
}
CVT = {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "encoder_stride": 16}
VIT = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 64}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
pytestmark = pytest.mark.slow
FIELDS = {"ViT": VIT, "Cvt": CVT | {"drop_path_rate": [0.0, 0.0, 0.0]}, "Bit": BIT}


@pytest.fixture(scope="module")
def step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_benchmark", ROOT / "benchmarks" / "step.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", FIELDS)
def test_the_step_of_transformers_has_our_losses(step, family, monkeypatch):
    monkeypatch.setattr(step, "AGREEING", 3)
    case = step.Case(family, FIELDS[family], 64, 2, "fp32", 1.0)
    steps = step.simmim_steps(case, "cpu", False, step.models)
    losses = step.check_losses("tiny", steps, "fp32")
    assert len(set(losses)) == 3  # the steps do train


def test_nothing_is_timed_beside_a_step_with_other_losses(step, monkeypatch):
    monkeypatch.setattr(step, "AGREEING", 2)
    with pytest.raises(SystemExit, match="losses of transformers and ours differ by"):
        step.check_losses("tiny", {"transformers": lambda: 1.00001, "ours": lambda: 1.0}, "fp32")
    with pytest.raises(SystemExit, match="losses of before and ours differ by"):
        step.check_losses("tiny", {"ours": lambda: 1.0, "before": lambda: 1.0 + 1e-15}, "fp32")


def test_a_mae_case_is_measured_and_written_without_local_paths(step, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "AGREEING", 1)
    monkeypatch.setattr(step.torch, "set_num_threads", lambda _: None)
    case = step.Case("ViT", VIT | DECODER | {"decoder_intermediate_size": 64}, 64, 2, "fp32", 1.0)
    monkeypatch.setattr(step, "MAE_CASES", {"tiny_mae": case})
    step.main(["tiny_mae", "--blocks", "1", "--before", str(ROOT), "--out", str(tmp_path / "o" / "r.json")])
    written = json.loads((tmp_path / "o" / "r.json").read_text())
    found = written["cases"]["tiny_mae"]
    assert found["before"][0] > 0
    assert set(found["seconds"]) == {"ours, SimMIM", "ours", "transformers", "before"}
    assert found["flops"]["ours, SimMIM"] > 0
    assert str(tmp_path) not in json.dumps(written)
    assert "of before" in capsys.readouterr().out
