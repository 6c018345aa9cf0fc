"""Runs on shards of another machine give the weights of the local run to the bit, through faults, kills and resumes."""

import random
import shutil
from dataclasses import replace

import pytest
from fault_server import Fault, fault_server
from safetensors.torch import load_file

import mimsuite
from mimsuite.data.fetching import trusted
from mimsuite.data.fetching.shard_cache import list_shards
from mimsuite.data.open import open_data
from mimsuite.errors import RunError
from mimsuite.settings import training

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
STEPS = 8


def run(out, data, **values):
    fixed = {
        "model": "vit_nano",
        "image_size": 32,
        "batch": 16,
        "steps": STEPS,
        "val_every": 4,
        "workers": 0,
        "logger": None,
    }
    fixed |= {"loader.window": 2, "callbacks.monitor.log_every": 2}
    mimsuite.pretrain(data=str(data), out=str(out), **(fixed | values))
    return load_file(out / "weights" / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.fixture(scope="module")
def local(shards, tmp_path_factory):
    """The weights of the run on local files."""
    return run(tmp_path_factory.mktemp("local") / "run", shards)


@pytest.fixture
def server(shards, monkeypatch):
    """A server of the shards; whatever is opened here is read from there."""
    trusted._known[:] = 0
    with fault_server(shards) as server:

        def open_far(data, alpha):
            index = open_data(data, alpha)
            return replace(
                index,
                splits={
                    split: tuple(
                        replace(shard, path=f"{server.address}/{shard.path.rpartition('/')[2]}") for shard in own
                    )
                    for split, own in index.splits.items()
                },
            )

        monkeypatch.setattr(training, "open_data", open_far)
        yield server


@pytest.mark.parametrize("gib", [1, 0], ids=["cached", "by request"])
def test_faults_lose_no_sample_and_change_no_bit(gib, local, server, shards, tmp_path):
    chance = random.Random(5)

    def play(path, number):
        drawn = chance.random()
        return Fault(drop=0.5) if drawn < 0.05 else Fault(status=503) if drawn < 0.07 else None

    server.play = play
    cache = {"loader.cache": str(tmp_path / "cache"), "loader.cache_gib": gib}
    assert equal(run(tmp_path / "run", shards, **cache, workers=2 if gib else 0), local)
    assert len(list_shards(tmp_path / "cache")) == (4 if gib else 0)
    assert (len(server.asked) > 100) == (gib == 0)


def test_a_run_ends_with_a_checkpoint_when_its_server_is_gone_and_goes_on_elsewhere(local, server, shards, tmp_path):
    server.play = lambda path, number: Fault(status=503) if len(server.asked) > 110 else None
    cache = {"loader.cache": str(tmp_path / "cache"), "loader.timeout": 0.5}
    with pytest.raises(
        RunError, match=r"shard http://127.*tar cannot be read at offset \d+: HTTP 503 .*tried for 0.5 s"
    ):
        run(tmp_path / "run", shards, **cache, **{"loader.cache_gib": 0})
    asked = [path for path, _ in server.asked[111:]]
    assert len(asked) < 12  # one image was tried for 0.5 s, and not each of its batch
    committed = sorted(path.stem for path in (tmp_path / "run" / "checkpoints").glob("step_*.ckpt"))
    assert committed[-1] == "step_000000004"  # Lightning asks for a batch ahead: that of step 6 ends step 5
    server.play = lambda path, number: None
    cache |= {"loader.cache_gib": 50, "loader.timeout": 20}  # a busy machine is no server that is gone
    for state in ("empty", "half", "poisoned"):
        copy = shutil.copytree(tmp_path / "run", tmp_path / state)
        if state != "empty":
            first, *others = [entry.path for entry in list_shards(tmp_path / "cache")]
            if state == "half":
                first.unlink()
                others[0].rename(others[0].with_name(others[0].name + ".part"))
            else:
                for path in (first, *others):
                    path.write_bytes(bytes(path.stat().st_size))
        trusted._known[:] = 0
        assert equal(run(copy, shards, **cache, resume=True, workers=0 if state == "half" else 2), local), state


def test_a_cache_that_is_too_small_for_a_window_is_told_at_the_start(local, server, shards, tmp_path, caplog):
    cache = {"loader.cache": str(tmp_path / "cache"), "loader.cache_gib": 1e-5}
    assert equal(run(tmp_path / "run", shards, **cache), local)
    assert caplog.text.count("loader.cache_gib=1e-05 is too small for the 2 shards whose samples are mixed") == 1
