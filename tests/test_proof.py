"""The proof tables: rows of equal compute, pretrained, probed and fine-tuned, from a table to a page of results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from mimsuite.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = {"model": "vit_nano", "batch": 16, "loader.val_limit": 16, "precision": "32-true"}
DECODER = {"head.hidden_size": 24, "head.num_attention_heads": 2, "head.intermediate_size": 48}
FRESH = {"model": "vit_nano", "image_size": 64}
TABLES = {
    "tiny": {
        "title": "Emoji at 64 px",
        "data": None,
        "seeds": [0, 1],
        "reference": "mae",
        "length": {"steps": 4},
        "model": FRESH,
        "pretrain": TINY,
        "probe": {"layers": "last", "preset.epochs": 1, "preset.lrs": [0.1], "preset.norms": ["none"]},
        "finetune": {"steps": 2, "batch": 16, "label_fraction": 0.5, "loader.val_limit": 16, "precision": "32-true"},
        "rows": {
            "mae": {"objective": "mae", "head": "dec1", **DECODER},
            "simmim": {"mask.ratio": 0.6},
            "dreams": {"objective": "dreams"},
        },
    }
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ledger = load("ledger")
proof = load("proof")


@pytest.fixture(scope="module")
def table():
    return proof.Table("tiny", TABLES, Path("unused"))


@pytest.fixture
def root(tmp_path):
    """An empty ledger."""
    folder = tmp_path / "ledger"
    (folder / "results").mkdir(parents=True)
    (folder / "machines.json").write_text('{"A": "a machine"}')
    (folder / "published.json").write_text("[]")
    page = f"before\n{proof.BEGIN}\n{proof.END}\nbetween\n{ledger.BEGIN}\n{ledger.END}\nafter\n"
    (folder / "RESULTS.md").write_text(page)
    return folder


def test_the_tables_of_the_page_are_those_of_the_ledger():
    tables = yaml.safe_load((BENCHMARKS / "proof.yaml").read_text())
    middle = proof.split((BENCHMARKS / "RESULTS.md").read_text())[1]
    assert middle.strip() == proof.rendered(tables, BENCHMARKS).strip()


def test_every_row_spends_the_compute_of_the_reference(table):
    mae, simmim = table.pretraining_cost("mae"), table.pretraining_cost("simmim")
    assert (mae.steps, mae.batch) == (4, 16)
    assert simmim.flops > 1.5 * mae.flops  # it sees whole images
    assert abs(simmim.total - mae.total) <= simmim.flops * simmim.batch / 2  # but for half a step
    equal, longer = table.scratch_costs().values()
    assert equal.steps == 2
    assert abs(longer.total - mae.total - equal.total) <= longer.flops * longer.batch / 2
    found = list(proof.plan(table))
    assert len(found) == 1 + 3 + 2
    assert "dreams     cannot be done: objective=dreams is unknown" in found[3]


def test_a_row_is_measured_in_every_way_and_the_reference_beside_nothing_learned(table):
    stages = list(table.stages("mae", 1))
    assert [(stage.folder, stage.task, stage.start) for stage in stages] == [
        ("mae_s1", "pretrain", None),
        ("mae_s1_probe", "probe", "mae_s1"),
        ("mae_s1_finetune", "finetune", "mae_s1"),
    ]
    assert [stage.values["seed"] for stage in stages] == [1, 1, 1]
    assert stages[1].values["baselines"]
    other = proof.Table(
        "tiny", {"tiny": TABLES["tiny"] | {"rows": {"simmim": {"teacher": True}}, "reference": "simmim"}}, Path()
    )
    teacher = list(other.stages("simmim", 0))[2]
    assert (teacher.folder, teacher.start) == ("simmim_s0_teacher", "simmim_s0/weights-teacher")
    with pytest.raises(InputError, match="nothing is not a row of tiny; use scratch, mae"):
        list(table.stages("nothing", 0))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_table_is_done_entered_and_rendered(table, root, tmp_path, monkeypatch):
    work, done = tmp_path / "work", []

    def do(stage):
        done.append(stage.folder)
        return proof.do(stage, work, 0)

    def enter(stage):
        return proof.enter(table, stage, work, root, "A")

    assert proof.run(table, ["mae", "scratch"], [0], do, enter) == 0
    assert done == ["mae_s0", "mae_s0_probe", "mae_s0_finetune", "scratch_s0_steps", "scratch_s0_compute"]
    entries = {entry["name"]: entry for entry in ledger.entries(root)}
    first = entries["proof_tiny_mae_pretrain_seed0"]
    assert first["flops"]["per_image"] == round(table.pretraining_cost("mae").flops)
    assert entries["proof_tiny_mae_finetune_seed0"]["before"]["flops"] == first["flops"]["total"]
    proof.render(TABLES, root)
    page = (root / "RESULTS.md").read_text()
    rows = [line.split(" | ") for line in proof.split(page)[1].splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows][:3] == ["| `mae`", "| random initialisation", "| raw pixels, 8x8"]
    figures = entries["proof_tiny_mae_probe_seed0"]["figures"]
    assert rows[0][3] == f"{100 * figures['probe/top1']:.1f}"
    assert rows[2][5] == f"{100 * figures['8x8/knn/top1']:.1f}"
    assert rows[3][6] == f"{100 * entries['proof_tiny_scratch_steps_seed0']['figures']['val/top1']:.1f}"
    assert ledger.check(root) == []
    # once more: everything is taken as it is, and a run of another length is refused
    monkeypatch.setattr("mimsuite.pretrain", None)
    assert proof.run(table, ["mae"], [0], do, enter) == 0
    summary = work / "mae_s0" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"images": 32}))
    with pytest.raises(InputError, match="is done with 32 images, and 64 spend the compute of the table"):
        proof.run(table, ["mae"], [0], do, enter)


def test_a_stage_that_a_signal_stopped_ends_the_command_and_enters_nothing(table):
    def enter(stage):
        raise AssertionError(stage)

    assert proof.run(table, ["scratch"], [0], lambda stage: {"status": "interrupted", "exit_code": 143}, enter) == 143
