"""What is run on a machine with a GPU, in dry runs on the CPU: a typo is found before a GPU is used."""

import contextlib
import importlib.util
import io
import json
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

import mimsuite
from mimsuite.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
GPU = BENCHMARKS / "gpu"
# The parts call Lightning and transformers as a user's script would, who sees their warnings.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("one_thread")]


def load(name):
    spec = importlib.util.spec_from_file_location(name, GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # of which dataclasses ask for their annotations
    spec.loader.exec_module(module)
    return module


common, check, speed, train, collect, repack = map(load, ("common", "check", "speed", "train", "collect", "repack"))
SOME_CHECKS = {
    "objectives": [name for name in check.all_checks(None) if name.startswith("vit-")],
    "tasks": ["probe", "evaluate-classifier", "evaluate-masked"],  # of the runs before
    "training": ["float16", "ddp", "resume-cvt", "no_waiting-bit", "fused_adamw", "out_of_memory", "memory"],
    "loading": ["copies", "crops_on_device"],
    "compiling": ["compile-vit"],
}
TRAINING = [part for part in train.PARTS if part != "latent_cifar"]  # which trains like them, and is one of the checks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    for name in ("out", "work"):
        (folder / name).mkdir()
    return common.Place(folder / "out", folder / "work", dry=True)


def result(place, part):
    return json.loads((place.out / f"{part}.json").read_text())


@pytest.mark.parametrize("names", SOME_CHECKS.values(), ids=SOME_CHECKS)
def test_checks_pass(place, names):
    found = check.run(place, names)
    outcomes = {name: found[name] for name in names}
    assert {name: outcome for name, outcome in outcomes.items() if outcome["status"] != "passed"} == {}
    assert result(place, "check")["found"] == found


def test_a_check_that_fails_is_told_with_its_reason_and_made_again(tmp_path, monkeypatch):
    made = []

    def broken(place):
        made.append(place)
        raise ValueError("no such kernel")

    monkeypatch.setattr(check, "all_checks", lambda place: {"broken": lambda: broken(place)})
    here = common.Place(tmp_path, tmp_path, dry=True)
    for count in (1, 2):
        outcome = check.run(here)["broken"]
        assert (outcome["status"], outcome["reason"]) == ("failed", "ValueError: no such kernel")
        assert len(made) == count
    assert result(here, "check")["status"] == "failed"


def test_every_case_is_measured(place):
    found = speed.run(place)
    assert set(found) == set(speed.CASES)
    assert {name: facts["failed"] for name, facts in found.items() if "failed" in facts} == {}
    simmim = found["simmim_vit_base_256"]
    assert {"transformers", "transformers, compiled", "ours", "ours, compiled"} == set(simmim["variants"])
    assert len(simmim["ratios"]) == 3
    assert len(simmim["losses"]["losses"]["ours"]) == 3
    assert 40_000 < found["shards_vit_small"]["bytes_per_image"] < 55_000


def test_losses_that_do_not_agree_give_no_time():
    import torch

    one, other = iter([1.0, 0.5, 0.25]), iter([1.0, 0.5, 0.26])
    steps = {"theirs": lambda: torch.tensor(next(one)), "ours": lambda: torch.tensor(next(other))}
    with pytest.raises(AssertionError, match="the losses do not agree"):
        speed.compare_losses(steps, 3)


@pytest.mark.parametrize("part", TRAINING)
def test_a_part_trains_probes_and_enters_the_ledger(place, part):
    assert train.run(place, part) == "done"
    found = result(place, part)["found"]
    assert list(found) == [stage.name for stage in train.PARTS[part]]
    first, probe, tuned, scratch = (found[stage.name]["ledger"] for stage in train.PARTS[part][:4])
    assert {"probe/top1", "random/probe/top1", "8x8/probe/top1", "knn/top1"} <= set(probe["figures"])
    assert tuned["before"]["entry"] == probe["before"]["entry"] == first["name"]
    assert scratch["start"] == "random"
    with tarfile.open(place.out / f"{part}-runs.tar.gz") as archive:
        names = archive.getnames()
    assert f"{first['run']}/curves.png" in names
    assert all(f"{stage.name}/summary.json" in names for stage in train.PARTS[part])


def test_a_part_goes_on_in_the_middle_of_a_run(tmp_path, monkeypatch):
    over = common.Place(tmp_path, tmp_path, dry=True, deadline=time.monotonic())
    monkeypatch.setattr(train, "NEEDED", float("-inf"))
    monkeypatch.setitem(train.DRY_TRAINING, "steps", 3)
    monkeypatch.setitem(train.PARTS, "simmim_cifar", train.PARTS["simmim_cifar"][:1])
    assert train.run(over, "simmim_cifar") == "unfinished"
    stopped = json.loads((train.runs(over) / "cifar_simmim" / "summary.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("interrupted", 1)
    assert train.run(common.Place(tmp_path, tmp_path, dry=True), "simmim_cifar") == "done"
    assert result(over, "simmim_cifar")["found"]["cifar_simmim"]["ledger"]["steps"] == 3


@pytest.mark.parametrize("part", train.PARTS)
def test_the_whole_recipe_can_be_built(part):
    for stage in train.PARTS[part]:
        if stage.task == "probe" or stage.start is not None:
            continue
        values = {key: value for key, value in stage.values.items() if key != "data"}
        module, _, _ = mimsuite.build(stage.task, workers=0, **values)
        assert sum(p.numel() for p in module.model.parameters()) > 5e6


def test_entries_of_another_machine_are_brought_home(place, tmp_path):
    if not (place.out / "mae_cifar.json").is_file():
        pytest.skip("the part was not run")
    root, came = tmp_path / "benchmarks", tmp_path / "came"
    (root / "results").mkdir(parents=True)
    came.mkdir()
    for name in ("machines.json", "RESULTS.md", "published.json"):
        (root / name).write_bytes((BENCHMARKS / name).read_bytes())
    with pytest.raises(InputError, match="of a dry run"):
        collect.collect(place.out, root)
    for part in ("mae_cifar", "check", "speed"):
        content = result(place, part) | {"dry": False}
        content["machine"] |= {"device": "card", "memory_gib": 80, "cuda": "13.0"}
        (came / f"{part}.json").write_text(json.dumps(content))
    page = collect.collect(came, root)
    assert collect.ledger.check(root) == []
    assert len(list((root / "results").glob("cifar_*_seed0.json"))) == len(train.PARTS["mae_cifar"])
    assert json.loads((root / "machines.json").read_text())["C"].startswith("one card (80 GiB)")
    assert "| vit-simmim | passed |" in page
    assert "loop_vit_nano: milliseconds_more:" in page


def test_a_data_set_is_packed_smaller_with_its_keys_and_labels(tmp_path):
    source = tmp_path / "big"
    source.mkdir()
    (source / "classes.txt").write_text("a\nb\n")
    stream = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 100, 50)).save(stream, "JPEG")
    for split in ("train", "test"):
        with tarfile.open(source / f"{split}-000000.tar", "w") as archive:
            for key in ("k1", "k2"):
                repack.add(archive, f"{key}.jpg", stream.getvalue())
                repack.add(archive, f"{key}.cls", b"1")
    target = tmp_path / "small-128.tar.gz"
    repack.repack(source, target, 128, 75, most=1)
    with tarfile.open(target) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    folder = tmp_path / "out" / "small-128"
    assert sorted(file.name for file in folder.iterdir()) == ["classes.txt", "test-000000.tar", "train-000000.tar"]
    with contextlib.closing(tarfile.open(folder / "test-000000.tar")) as archive:
        assert archive.getnames() == ["k1.jpg", "k1.cls"]
        assert Image.open(archive.extractfile("k1.jpg")).size == (192, 128)
        assert archive.extractfile("k1.cls").read() == b"1"
