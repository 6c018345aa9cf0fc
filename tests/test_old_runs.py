"""Run folders of version 0.1.0: they go on, they are read, and the same commands give the same runs.

The folders lie in `data/runs_0_1_0` and stay as they are. On a machine like the one that wrote them results are equal
to the bit, elsewhere nearly. `python tests/test_old_runs.py` writes what is read from them, `figures.json`, anew.
"""

import csv
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from frozen import bare_targets, machine
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

import mimsuite

pytestmark = pytest.mark.usefixtures("one_thread")

OLD = Path(__file__).parent / "data" / "runs_0_1_0"
FIGURES = OLD / "figures.json"
WRITTEN_IN = "/home/somebody/runs"  # the one absolute path that configs and heads name
RUNS = ["pretrain", "mae", "cvt", "bit", "finetune"]
STATISTICS = ("image_mean", "image_std", "rescale_factor", "resample")
WITH_WEIGHTS = {"pretrain": ["weights"], "mae": ["weights"], "finetune": ["weights", "weights-last"]}
WRITTEN = {
    *("config.yaml", "overrides.txt", "environment.json", "metrics.csv", "metrics.jsonl", "summary.json", "train.log"),
    *("checkpoints", "weights", "pictures"),
}
# Another processor adds in another order. Adam makes full steps of the noise of gradients that are nearly zero, such as
# those of a key's bias; so weights are compared on the whole.
LOSS, SHARE, WEIGHTS = 5e-4, 0.05, 2e-3


def unpack(folder):
    """Copies all runs to `folder`, and tells those that were made from others where these are now."""
    shutil.copytree(OLD, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md", "figures.json"))
    for file in (*folder.glob("*/config.yaml"), *folder.glob("*/head.json")):
        file.write_text(file.read_text().replace(WRITTEN_IN, str(folder)))
    return folder


@pytest.fixture
def runs(tmp_path):
    return unpack(tmp_path / "runs")


def task_of(run):
    return mimsuite.finetune if run == "finetune" else mimsuite.pretrain


def series(out):
    """The figures in `metrics.csv` but those of speed, by name and step."""
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        f"{name} {row['step']}": float(value)
        for row in rows
        for name, value in row.items()
        if name != "step" and value and not name.startswith("perf/")
    }


def bits():
    """Whether this machine must give the stored results to the bit."""
    return machine() == json.loads(FIGURES.read_text())["machine"]


YOUNGER = ("val/loss_mean_colour", "perf/mfu", "quality/cosine", "quality/deviation")
LEFT_OUT = "top5"  # which runs of five classes or fewer reported, too


def near(name, value):
    if isinstance(value, str):
        return value
    if "top1" in name or "top5" in name:  # a share of images, single ones of which may change sides
        return pytest.approx(value, abs=SHARE)
    return pytest.approx(value, rel=LOSS, abs=1e-6)


def assert_same(found, wanted):
    """Figures by their names, in any order; a younger metric may be there, too, and one may be left out."""
    found = {name: value for name, value in found.items() if name in wanted or not name.startswith(YOUNGER)}
    wanted = {name: value for name, value in wanted.items() if name in found or LEFT_OUT not in name}
    assert sorted(found) == sorted(wanted)
    exact = bits()
    apart = {name: (found[name], value) for name, value in wanted.items() if found[name] != value}
    rounded = {name for name in apart if "psnr" in name}  # summed in steps of 2**-20 dB today
    assert all(apart[name][0] == pytest.approx(apart[name][1], abs=2e-6) for name in rounded if exact)
    assert not {n: pair for n, pair in apart.items() if (exact and n not in rounded) or pair[0] != near(n, pair[1])}


def tensors(folder):
    return {f"{file.name} {k}": v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_same_weights(folder, wanted):
    ours, theirs = tensors(folder), tensors(wanted)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    if bits():
        assert not [name for name, value in theirs.items() if not torch.equal(ours[name], value)]
    apart = torch.cat([(ours[name] - value).flatten() for name, value in theirs.items()])
    assert apart.norm() < WEIGHTS * torch.cat([value.flatten() for value in theirs.values()]).norm()
    config, old_config, processor, old = (
        json.loads((place / name).read_text())
        for name in ("config.json", "preprocessor_config.json")
        for place in (folder, wanted)
    )
    assert config == old_config
    assert [processor[key] for key in STATISTICS] == [old[key] for key in STATISTICS]
    assert processor["size"] == old["size"]
    assert processor["image_processor_type"] in (old["image_processor_type"], "PerceiverImageProcessor")


def assert_same_run(out, run, summary):
    assert (summary["task"], summary["status"], summary["steps"]) == (task_of(run).__name__, "done", 8)
    done = OLD / f"{run}_done"
    assert_same(series(out), series(done))
    for folder in WITH_WEIGHTS.get(run, ()):
        assert_same_weights(out / folder, done / folder)
    if (done / "summary.json").is_file():
        stored = json.loads((done / "summary.json").read_text())
        assert summary.keys() == stored.keys()
        assert summary["metrics"].keys() - set(YOUNGER) == stored["metrics"].keys() - set(YOUNGER)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_an_old_run_goes_on_to_its_old_end(run, runs):
    out = runs / f"{run}_interrupted"
    assert_same_run(out, run, task_of(run)(out=str(out), resume=True))


@pytest.mark.slow
def test_an_old_run_goes_on_with_a_probe_beside_it(runs):
    out = runs / "pretrain_interrupted"
    mimsuite.pretrain(out=str(out), resume=True, online_probe=True)
    wanted, found = series(OLD / "pretrain_done"), series(out)
    assert_same({name: found[name] for name in wanted}, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_the_same_command_writes_the_same_run(run, runs, tmp_path):
    old, out = runs / f"{run}_interrupted", tmp_path / "out"
    parsed = OverridesParser.create().parse_overrides((old / "overrides.txt").read_text().splitlines())
    keys = {override.key_or_group: override.value() for override in parsed} | {"out": str(out)}
    if "init" in keys:
        keys["init"] = str(runs / "pretrain_done")
    assert_same_run(out, run, task_of(run)(**keys))
    assert {path.name for path in out.iterdir()} >= WRITTEN | set(WITH_WEIGHTS.get(run, ()))
    ours, theirs = config_of(out), config_of(old)
    assert known_keys(ours, theirs) == theirs  # there may be new keys


def known_keys(ours, theirs):
    """The parts of a nested config of which the older one has the keys; new keys are not changes."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return ours
    return {key: known_keys(ours[key], value) for key, value in theirs.items() if key in ours}


def config_of(run):
    """What `config.yaml` says, but for the place of the run and of classes."""
    content = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert content.pop("out")
    return bare_targets(content)


def evaluated(init):
    return lambda runs, out: mimsuite.evaluate(init=str(runs / init), out=str(out), workers=0)["metrics"]


def reconstructed(init):
    def read(runs, out):
        found = mimsuite.reconstruct(init=str(runs / init), out=f"{out}.png", count=4, **{"mask.unit": 8})
        with Image.open(found.pop("out")) as picture:
            return found | {"width": picture.width}  # its height is that of the words below, too

    return read


def loaded(init):
    """Class and size of a model, and how long its features of a fixed picture are."""

    def read(runs, out):
        model = mimsuite.load(str(runs / init))
        pixels = torch.linspace(-2, 2, 3 * 32 * 32).sin().view(1, 3, 32, 32)
        with torch.no_grad():
            grid = model.encoder.forward_features(pixels).grid
        shape = "x".join(map(str, grid.shape))
        parameters = sum(value.numel() for value in model.parameters())
        return {"class": type(model).__name__, "parameters": parameters, "grid": shape, "length": grid.norm().item()}

    return read


def probed(runs, out):
    keys = {"workers": 0, "baselines": False, "layers": "all", "pool": "mean", "shots": [1]}
    metrics = mimsuite.probe(init=str(runs / "pretrain_done"), out=str(out), **keys)["metrics"]
    head = tensors(out)
    return metrics | {name: "x".join(map(str, value.shape)) for name, value in head.items()}


def embedded(runs, out):
    found = mimsuite.embed(init=str(runs / "pretrain_done"), out=f"{out}.npz", workers=0, map=False)
    with np.load(found["out"]) as table:
        length = float(np.linalg.norm(table["features"]))
    return {name: found[name] for name in ("samples", "width", "layer", "pool", "split")} | {"length": length}


def plotted(runs, out):
    folders = [str(runs / name) for name in ("pretrain_done", "cvt_interrupted", "finetune_done")]
    last = mimsuite.plot(runs=folders, out=f"{out}.png")["runs"]
    with Image.open(f"{out}.png") as picture:
        assert picture.width > 100
    return {f"{name} {metric}": value for name, values in last.items() for metric, value in values.items()}


READS = (
    {f"evaluate {run}": evaluated(run) for run in ("finetune_done", "probe_done", "pretrain_done", "mae_interrupted")}
    | {f"reconstruct {run}": reconstructed(run) for run in ("pretrain_done", "mae_done", "cvt_interrupted")}
    | {f"load {run}_interrupted": loaded(f"{run}_interrupted") for run in RUNS}
    | {f"load {run}_done": loaded(f"{run}_done") for run in WITH_WEIGHTS}
    | {"probe": probed, "embed": embedded, "plot": plotted}
)


@pytest.mark.parametrize("name", READS)
def test_an_old_run_is_read_as_it_was(name, runs, tmp_path):
    assert_same(READS[name](runs, tmp_path / "out"), json.loads(FIGURES.read_text())["reads"][name])


def test_a_probe_says_what_it_said():
    """The figures of the stored probe are those that reading it gives."""
    stored = json.loads((OLD / "probe_done" / "summary.json").read_text())["metrics"]
    found = json.loads(FIGURES.read_text())["reads"]
    assert {name: found["probe"][name] for name in stored} == stored
    assert found["evaluate probe_done"]["val/top1"] == stored["probe/top1"]


def test_no_path_of_a_machine_is_stored():
    for file in OLD.rglob("*"):
        if file.is_file() and file.name != "README.md":
            assert not [place for place in (b"/work", b"/tmp", b"/root") if place in file.read_bytes()], file


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        old = unpack(Path(place) / "runs")
        figures = {name: read(old, Path(place) / str(number)) for number, (name, read) in enumerate(READS.items())}
    FIGURES.write_text(json.dumps({"machine": machine(), "reads": figures}, indent=1) + "\n")
