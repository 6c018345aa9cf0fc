"""The ledger of results: entries made of run folders, tables made of entries, and the ledger that is committed."""

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from mimsuite.errors import InputError
from mimsuite.models import ViTConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
spec = importlib.util.spec_from_file_location("ledger", BENCHMARKS / "ledger.py")
ledger = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ledger)

ENVIRONMENT = {"mimsuite": "0.1.0", "python": "3.11.7", "libraries": {"torch": "2.13.0"}, "device": "CPU, 1 threads"}
LOG = """2026-11-21 10:00:00,000 mimsuite 0.1.0 {task} -> out
2026-11-21 10:00:01,000 length    6 steps of 4 images (1.5 epochs), seed 0
2026-11-21 10:00:10,500 step 3/6  loss 0.5
2026-11-21 11:00:00,000 weights   start -> ViT: freshly initialised: decoder
2026-11-21 11:00:00,100 mimsuite 0.1.0 {task} -> out
2026-11-21 11:00:05,000 done: 6 steps
"""
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
IMAGE = {"image_size": 16, "patch_size": 4, "encoder_stride": 4}
DECODER = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
N, C, WIDTH = 16, 3 * 4 * 4, 8  # patches, values of a patch, features


def block(tokens, width, inner):
    """Multiply-adds of a transformer block."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner


def run_folder(out, task, model, metrics, *, overrides=(), init=None, summary=None, **cfg):
    (out / "weights").mkdir(parents=True)
    (out / "weights" / "config.json").write_text(json.dumps(ViTConfig(**SIZES, **IMAGE, **model).to_dict()))
    config = {"data": "/data/sets/cifar10-jpeg", "init": init, "out": str(out), "image_size": [16, 16], "seed": 0}
    (out / "config.yaml").write_text(json.dumps(config | {"batch": 4} | cfg))
    given = ["data='/data/sets/cifar10-jpeg'", f"out={out}", *([f"init={init}"] if init else []), *overrides]
    (out / "overrides.txt").write_text("".join(f"{line}\n" for line in given))
    (out / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (out / "train.log").write_text(LOG.format(task=task))
    content = {"task": task, "status": "done", "steps": 6, "metrics": metrics, "mimsuite": "0.1.0"} | (summary or {})
    (out / "summary.json").write_text(json.dumps(content))
    return out


def pretraining(out, *, drops=True, **more):
    kind = {"target": "norm_pixels", "loss": "mse"} if drops else {"target": "pixels", "loss": "l1"}
    model = {"mim_target": kind["target"], "mask_mode": "drop" if drops else "replace"}
    model |= {f"decoder_{key}": value for key, value in DECODER.items()} if drops else {}
    return run_folder(
        out,
        "pretrain",
        model,
        {"val/loss": 0.5, "perf/img_per_s": 9.0},
        mask={"unit": 4, "ratio": 0.75},
        objective=kind,
        **more,
    )


def finetuning(out, top1, *, seed=0, init=None, **more):
    metrics = {"train/loss": 1.0, "val/loss": 1.1, "val/top1": 0.9, "test/top1": top1, "test/top5": 0.95}
    summary = {"seconds": 60.0, "images": 24, "init": init} | more.pop("summary", {})
    overrides = ["optim.layer_decay=0.75", "logger=none", f"seed={seed}", *more.pop("overrides", ())]
    return run_folder(
        out,
        "finetune",
        {"num_labels": 10},
        metrics,
        overrides=overrides,
        init=init,
        summary=summary,
        seed=seed,
        **({"label_fraction": 0.1} | more),
    )


@pytest.fixture
def root(tmp_path):
    """An empty ledger."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    (folder / "results").mkdir()
    (folder / "machines.json").write_text('{"A": "a machine"}')
    (folder / "published.json").write_text("[]")
    (folder / "RESULTS.md").write_text(f"before\n{ledger.BEGIN}\n{ledger.END}\nafter\n")
    return folder


def added(root, run, **more):
    return json.loads(ledger.add(run, root, "A", **more).read_text())


def test_the_committed_ledger_is_in_order():
    assert ledger.check(BENCHMARKS) == []


def test_the_check_needs_no_torch():
    tree = ast.parse((BENCHMARKS / "ledger.py").read_text())
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in modules if name.startswith(("mimsuite", "torch", "omegaconf"))} == {"mimsuite.errors"}


def test_a_fine_tuning_run_becomes_an_entry(root, tmp_path):
    entry = added(root, finetuning(tmp_path / "f", 0.8))
    assert entry["name"] == "finetune_random_vit_cifar10_10pct_seed0"
    assert (entry["task"], entry["data"], entry["label_fraction"]) == ("finetune", "cifar10-jpeg", 0.1)
    assert (entry["steps"], entry["images"], entry["epochs"], entry["seconds"]) == (6, 24, 1.5, 60)
    assert (entry["start"], entry["recipe"]) == ("random", ["optim.layer_decay=0.75"])
    assert (entry["date"], entry["machine"], entry["libraries"]["torch"]) == ("2026-11-21", "A", "2.13.0")
    assert entry["figures"]["test/top1"] == 0.8


def test_a_model_that_transformers_must_not_load_becomes_an_entry(root, tmp_path):
    run = finetuning(tmp_path / "f", 0.8)
    ViTConfig(**SIZES, **IMAGE, num_labels=10, position="sincos2d").save_pretrained(run / "weights")
    content = json.loads((run / "weights" / "config.json").read_text())
    (run / "weights" / "config.json").write_text(json.dumps(content | {"model_type": "mimsuite_vit"}))
    assert added(root, run)["model"]["family"] == "vit"


def test_flops_of_a_classifier_are_counted_as_by_hand(root, tmp_path):
    entry = added(root, finetuning(tmp_path / "f", 0.8))
    by_hand = N * C * WIDTH + block(N + 1, WIDTH, 16) + WIDTH * 10
    assert entry["flops"] == {"per_image": 3 * 2 * by_hand, "total": 24 * 3 * 2 * by_hand}


def test_flops_of_mae_leave_out_what_it_drops_and_have_the_decoder(root, tmp_path):
    entry = added(root, pretraining(tmp_path / "p"))
    visible, hidden, width = 4, 12, DECODER["hidden_size"]
    encoder = N * C * WIDTH + block(visible + 1, WIDTH, 16)
    decoder = (N + 1) * WIDTH * width + block(N + 1, width, 8) + hidden * width * C
    assert entry["flops"]["per_image"] == 3 * 2 * (encoder + decoder)
    assert entry["objective"] == "MAE"


def test_flops_of_simmim_are_of_whole_images(root, tmp_path):
    entry = added(root, pretraining(tmp_path / "p", drops=False))
    by_hand = N * C * WIDTH + block(N + 1, WIDTH, 16) + 12 * WIDTH * C
    assert entry["flops"]["per_image"] == 3 * 2 * by_hand
    assert entry["objective"] == "SimMIM"


def test_time_is_that_of_all_starts_without_the_pause(root, tmp_path):
    assert added(root, pretraining(tmp_path / "p"))["seconds"] == 10 + 5


def test_figures_hold_no_speed(root, tmp_path):
    assert added(root, pretraining(tmp_path / "p"))["figures"] == {"val/loss": 0.5}


def test_compute_is_that_of_pretraining_and_fine_tuning(root, tmp_path):
    first = added(root, pretraining(tmp_path / "p"))
    second = added(root, finetuning(tmp_path / "f", 0.8, init=str(tmp_path / "p" / "weights")))
    assert second["start"] == "pretrain_mae_vit_cifar10"
    assert second["before"] == {"entry": first["name"], "flops": first["flops"]["total"], "seconds": 15}
    third = added(root, finetuning(tmp_path / "g", 0.8, init=str(tmp_path / "f"), overrides=["lr=1"]), name="third")
    assert third["before"]["flops"] == first["flops"]["total"] + second["flops"]["total"]
    [row] = [line for line in ledger.rendered(root).splitlines() if "pretrain_mae_vit_cifar10 |" in line]
    assert "| 60 s + 15 s |" in row


def test_weights_of_unknown_origin_are_refused_until_something_is_said_of_them(root, tmp_path):
    run = finetuning(tmp_path / "f", 0.8, init="/elsewhere/w")
    with pytest.raises(InputError, match="0 trained runs of the ledger are called w"):
        ledger.add(run, root, "A")
    assert added(root, run, pretrained=["w=unknown"])["before"] == {"entry": None, "flops": None, "seconds": None}
    assert "| 60 s + ? |" in ledger.rendered(root)
    assert added(root, run, pretrained=["w=random"], name="other")["start"] == "random"


def test_a_named_entry_stands_for_the_weights(root, tmp_path):
    first = added(root, pretraining(tmp_path / "p"))
    run = finetuning(tmp_path / "f", 0.8, init="/elsewhere/w")
    assert added(root, run, pretrained=[f"w={first['name']}.json"])["before"]["entry"] == first["name"]


def test_seeds_are_one_row_with_mean_deviation_and_range(root, tmp_path):
    for seed, top1 in enumerate((0.80, 0.82, 0.84)):
        added(root, finetuning(tmp_path / f"f{seed}", top1, seed=seed))
    rows = [line for line in ledger.rendered(root).splitlines() if "test/top1" in line]
    assert len(rows) == 1
    assert "| test/top1 **82.0 ± 2.0 % (80.0 to 84.0)** |" in rows[0]
    assert "| 3: [0](results/" in rows[0]


def test_one_seed_is_called_one_seed(root, tmp_path):
    added(root, finetuning(tmp_path / "f", 0.8))
    assert "| one seed: [0](results/finetune_random_vit_cifar10_10pct_seed0.json) |" in ledger.rendered(root)


def test_other_shares_of_the_labels_are_other_rows(root, tmp_path):
    added(root, finetuning(tmp_path / "f", 0.8))
    added(root, finetuning(tmp_path / "g", 0.9, seed=1, label_fraction=None))
    rows = [line for line in ledger.rendered(root).splitlines() if "test/top1" in line]
    assert ["| 10 % |" in row for row in rows].count(True) == 1
    assert ["| all |" in row for row in rows].count(True) == 1


@pytest.mark.parametrize("key", ledger.ALIKE)
def test_runs_that_differ_in_more_than_the_seed_are_other_rows(key):
    one = {"name": "a", "seed": 0} | dict.fromkeys(ledger.ALIKE, 1)
    assert ledger.grouped([one, one | {"seed": 1}]) == [[one, one | {"seed": 1}]]
    assert len(ledger.grouped([one, one | {"seed": 1, key: 2}])) == 2


def test_rows_are_told_apart_by_all_that_makes_a_figure():
    assert {"data", "label_fraction", "model", "start", "recipe", "steps", "batch", "machine"} < set(ledger.ALIKE)


def test_a_seed_counts_once(root, tmp_path):
    added(root, finetuning(tmp_path / "f", 0.8))
    added(root, finetuning(tmp_path / "g", 0.8), name="again")
    with pytest.raises(InputError, match="one recipe with one seed"):
        ledger.rendered(root)


def test_an_entry_is_not_replaced_by_another_run(root, tmp_path):
    added(root, finetuning(tmp_path / "f", 0.8))
    added(root, tmp_path / "f")
    with pytest.raises(InputError, match="is there already"):
        ledger.add(finetuning(tmp_path / "g", 0.8), root, "A")


def test_a_run_that_is_not_done_is_refused(root, tmp_path):
    with pytest.raises(InputError, match="is interrupted; only runs that are done"):
        ledger.add(finetuning(tmp_path / "f", 0.8, summary={"status": "interrupted"}), root, "A")


def test_an_undescribed_machine_is_refused(root, tmp_path):
    with pytest.raises(InputError, match=r"machine B is not in machines\.json"):
        ledger.add(finetuning(tmp_path / "f", 0.8), root, "B")


def test_commands_name_no_local_folder():
    given = ["data='/a b/sets/cifar10'", "init=../runs/p/weights/", "out=~/o", "x=[/a/b.yaml,../c/d]", "resume=true"]
    lines = ledger.cleaned(given)
    assert lines == ["data=cifar10", "init=p", "out=o", "x=[b.yaml,d]"]
    assert ledger.cleaned(["data=s3://bucket/a/b"]) == ["data=s3://bucket/a/b"]
    assert ledger.cleaned(["init=/runs/a/weights-teacher"]) == ["init=a/weights-teacher"]


@pytest.mark.parametrize("text", ['"/work/x"', "out=/tmp/x", "see /home/me", "[/a]", "~/x"])
def test_an_absolute_path_is_found(root, tmp_path, text):
    added(root, finetuning(tmp_path / "f", 0.8))
    ledger.render(root)
    assert ledger.check(root) == []
    (root / "machines.json").write_text(json.dumps({"A": f"a machine {text}"}))
    assert [problem.split(":")[0] for problem in ledger.check(root)] == ["machines.json"]


def test_render_leaves_the_rest_of_the_page_alone(root, tmp_path):
    added(root, finetuning(tmp_path / "f", 0.8))
    ledger.render(root)
    ledger.render(root)
    page = (root / "RESULTS.md").read_text()
    assert page.startswith(f"before\n{ledger.BEGIN}\n")
    assert page.endswith(f"{ledger.END}\nafter\n")
    assert page.count("test/top1") == 1


def test_check_tells_a_changed_table_and_a_broken_entry(root, tmp_path):
    file = ledger.add(finetuning(tmp_path / "f", 0.8), root, "A")
    assert ledger.check(root) == [
        "RESULTS.md: the generated part is not what `python benchmarks/ledger.py render` writes"
    ]
    ledger.render(root)
    assert ledger.check(root) == []
    shutil.copy(file, file.with_name("copy.json"))
    assert ledger.check(root) == [f"copy.json: name is {file.stem}"]
    (root / "results" / "copy.json").write_text('{"name": "copy"}')
    assert ledger.check(root)[0].startswith("copy.json: no run, command")


def test_published_figures_stand_beside_a_row_only_where_all_is_alike(root, tmp_path):
    entry = added(root, finetuning(tmp_path / "f", 0.8))
    fact = {"what": "w", "model": "m", "data": "d", "figure": "99.9 % top-1", "source": "A paper"}
    link = {
        "task": "finetune",
        "data": "cifar10-jpeg",
        "model": entry["model"]["text"],
        "recipe": "optim.layer_decay=0.75",
    }
    (root / "published.json").write_text(json.dumps([fact | {"link": link}]))
    rows = ledger.rendered(root).splitlines()
    assert rows[2].endswith("| published |")
    assert rows[4].endswith("| 99.9 % top-1 (A paper) |")
    (root / "published.json").write_text(json.dumps([fact | {"link": link | {"data": "imagenet"}}]))
    assert "99.9" not in ledger.rendered(root).split("### Published")[0]
