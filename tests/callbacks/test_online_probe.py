"""The online probe: it keeps its share of the time, leaves training alone, and sees every image once."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coloured import as_json, write_shards
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.callbacks import online_probe
from mimsuite.callbacks.online_probe import OnlineProbe, fits_now, in_order
from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.datamodule import ImageData
from mimsuite.data.open import open_data
from mimsuite.data.tar import RECORD
from mimsuite.errors import InputError
from mimsuite.pictures.curves import read_metrics
from mimsuite.settings.online_probe import read_online_probe

CVT = {"model": "cvt_nano", "image_size": 32, "batch": 16, "steps": 4, "val_every": 1, "workers": 0}
CVT |= {"loader.val_limit": 20, "precision": "32-true"}
SIZES = {"online_probe": True, "callbacks.online_probe.images": 50, "callbacks.online_probe.val_images": 19}
FIGURES = {"knn/top1", "probe/top1", "quality/rankme", "quality/alpha_req"}


@pytest.mark.parametrize(("cost", "step"), [(2.0, 1.0), (0.5, 0.1), (30.0, 1.3)])
def test_rounds_keep_their_share_of_a_run_and_spread_over_it(cost, step):
    share, steps = 0.05, 2000
    elapsed, spent, at = cost, cost, [0]
    for done in range(1, steps):
        elapsed += step
        whole = elapsed * steps / done
        if done % 10 == 0 and fits_now(share, cost, spent=spent, elapsed=elapsed, whole=whole):
            elapsed, spent = elapsed + cost, spent + cost
            at.append(done)
    total = elapsed + step + cost
    assert share - 2 * cost / total < (spent + cost) / total <= share
    gaps = torch.tensor([*at, steps]).diff()
    assert gaps.max() <= 2 * gaps.median() + 20  # the first pays for two rounds


def test_a_short_run_has_the_first_and_the_last_round_only():
    assert not any(fits_now(0.05, 2.0, spent=2.0, elapsed=2.0 + t, whole=42.0) for t in range(40))


def in_processes(parts, count):
    """What `in_order` gives to each process where these are their parts."""
    most = -(-count // len(parts))
    padded = [torch.cat([p, p.new_zeros(most - len(p), *p.shape[1:])]) for p in parts]
    strategy = SimpleNamespace(root_device="cpu", all_gather=lambda _: torch.stack(padded))
    trainer = SimpleNamespace(world_size=len(parts), strategy=strategy)
    return [in_order(trainer, part, count) for part in parts]


@pytest.mark.parametrize("count", [6, 7, 8])
def test_parts_of_processes_are_put_in_order_each_row_once(count):
    rows = torch.arange(2.0 * count).reshape(count, 2) + 1
    for found in in_processes([rows[rank::3] for rank in range(3)], count):
        assert torch.equal(found, rows)


def image_data(rank=0, world=1, micro=4):
    data = ImageData(
        open_data(None),
        image_size=(32, 32),
        mask_unit=None,
        train_transform=CenterCrop((32, 32)),
        masks=(),
        batch=8,
        micro_batch=micro,
        steps=1,
        seed=0,
        workers=0,
    )
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return data


def ids_of(data, part, limit):
    loader, count = data.whole_images(part, limit, labels=True)
    ids = torch.cat([torch.empty(0, dtype=torch.int64), *(batch.ids for batch in loader)])
    return ids, count


@pytest.mark.parametrize(("part", "limit"), [("train", 29), ("val", 18)])
def test_two_processes_share_the_images_of_one(part, limit):
    whole, count = ids_of(image_data(), part, limit)
    assert count == len(whole) == len(set(whole.tolist())) == limit
    halves = [ids_of(image_data(rank, 2), part, limit)[0] for rank in range(2)]
    for found in in_processes(halves, count):
        assert torch.equal(found, whole)


def test_fewer_images_than_processes_are_all_encoded_by_each():
    assert len(ids_of(image_data(rank=3, world=4), "val", 2)[0]) == 2


def config(**values):
    node = {"images": "auto", "val_images": "auto", "share": 0.05, "labels": "auto"} | values
    cfg = {"online_probe": True, "data": "x", "loader": {"val_limit": 5000}, "callbacks": {"online_probe": node}}
    return OmegaConf.create(cfg | {"objective": {"_target_": "mimsuite.objectives.mim.MIMObjective"}})


def index(train=10**6, val=50_000, labels=True):
    counts = {"train": train, "curve": val}
    splits = {"train": (), "test": ()}
    return SimpleNamespace(
        given=None, splits=splits, select=lambda role: role, records=lambda role: Images(counts[role], labels)
    )


class Images:
    """As many images as a set has; `labels` says which have one, or that all or none have."""

    def __init__(self, count, labels):
        self.labels = np.broadcast_to(labels, count) if isinstance(labels, bool) else np.array(labels)

    def __len__(self):
        return len(self.labels)

    def of_curves(self, limit):
        return Images(min(limit, len(self)), self.labels[:limit])

    def row_blocks(self):
        rows = np.zeros(len(self), RECORD)
        rows["label_header"] = self.labels
        yield rows


@pytest.mark.parametrize(
    ("samples", "shown", "expected"),
    [
        ({}, 10**8, (5000, 2000)),
        ({"train": 800, "val": 90}, 10**8, (800, 90)),
        ({}, 28_000, (500, 200)),  # two rounds of 700 are a twentieth of 28,000
        ({}, 1, (100, 40)),
    ],
)
def test_auto_takes_as_many_images_as_a_run_can_afford(samples, shown, expected):
    found = read_online_probe(config(), index(**samples), shown)
    assert (found.images, found.val_images) == expected


def test_of_a_partly_labelled_set_only_images_with_a_label_are_counted():
    found = read_online_probe(config(), index(train=10, val=10, labels=[True, False, True] + [False] * 7), 10**8)
    assert found.labels
    assert (found.images, found.val_images) == (2, 2)


def test_without_labels_the_banner_says_what_is_left_out():
    found = read_online_probe(config(), index(labels=False), 10**8)
    assert not found.labels
    assert "without labels RankMe and alpha-ReQ only" in found.note


@pytest.mark.parametrize(
    ("values", "labels", "says"),
    [
        ({"images": 0}, True, "callbacks.online_probe.images=0 is not a whole number of at least 1; give one, or auto"),
        ({"share": 2}, True, "callbacks.online_probe.share=2 is above 1"),
        ({"share": "x"}, True, "callbacks.online_probe.share=x is not a number above 0"),
        ({"labels": 3}, True, "callbacks.online_probe.labels=3 is not true, false or auto"),
        ({"labels": True}, False, "data=x has no labels of training images; use callbacks.online_probe.labels=false"),
    ],
)
def test_wrong_values_are_named_in_one_line(values, labels, says):
    with pytest.raises(InputError, match=says) as error:
        read_online_probe(config(**values), index(labels=labels), 10**6)
    assert "\n" not in str(error.value)


def test_it_is_off_unless_asked_for():
    for value in (False, "auto"):
        assert read_online_probe(OmegaConf.merge(config(), {"online_probe": value}), index(), 10**6) is None
    with pytest.raises(InputError, match="online_probe=3 is not true, false or auto"):
        read_online_probe(OmegaConf.merge(config(), {"online_probe": 3}), index(), 10**6)


def test_features_that_are_not_finite_give_a_warning_and_no_metrics(monkeypatch, caplog):
    monkeypatch.setattr(OnlineProbe, "_encode", lambda *_: (torch.full((20, 16), torch.nan), None))
    callback = OnlineProbe(images=20, val_images=20, share=0.05, labels=True)
    assert callback._measure(SimpleNamespace(global_step=7), None) == {}
    assert "not finite; no metrics at step 7" in caplog.text


def test_collapsed_features_and_labels_of_several_classes_leave_rankme(monkeypatch, caplog):
    monkeypatch.setattr(OnlineProbe, "_encode", lambda *_: (torch.ones(20, 16), torch.ones(20, 3)))
    callback = OnlineProbe(images=20, val_images=20, share=0.05, labels=True)
    with caplog.at_level("INFO", "mimsuite"):
        assert set(callback._measure(SimpleNamespace(global_step=7), None)) == {"quality/rankme"}
    assert "span fewer than" in caplog.text
    assert "not one class per image" in caplog.text


def pretrain(out, **values):
    return api.call("pretrain", {"out": str(out), **CVT, **values})


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    out = tmp_path_factory.mktemp("without") / "out"
    pretrain(out)
    return out


def state(module):
    """All that a round could disturb."""
    return {
        "random": torch.get_rng_state().clone(),
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
    }


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run with a round at every validation, and the state of the module before and after each."""
    seen, right = [], OnlineProbe._round

    def watched(self, trainer, module):
        before = state(module)
        found = right(self, trainer, module)
        seen.append((before, state(module)))
        return found

    out = tmp_path_factory.mktemp("probed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_probe, "fits_now", lambda *_, **__: True)
        patch.setattr(OnlineProbe, "_round", watched)
        summary = pretrain(out, **SIZES)
    return out, summary, seen


@pytest.mark.slow
def test_weights_and_running_statistics_are_those_of_a_run_without(without, probed):
    assert any("running_mean" in name for name in weights(without))
    assert same(weights(without), weights(probed[0]))


@pytest.mark.slow
def test_a_round_leaves_random_state_weights_gradients_and_modes_alone(probed):
    assert len(probed[2]) == 5
    for before, after in probed[2]:
        assert torch.equal(before["random"], after["random"])
        assert same(before["weights"], after["weights"])
        assert before["modes"] == after["modes"]
        for one, other in zip(before["gradients"], after["gradients"], strict=True):
            assert one is other is None or torch.equal(one, other)


@pytest.mark.slow
def test_values_stand_in_metrics_and_summary(probed):
    out, summary, _ = probed
    series = read_metrics(out / "metrics.csv")
    for name in FIGURES:
        assert series[name][0].tolist() == [0, 1, 2, 3, 4]
        assert summary["metrics"][name] == series[name][1][-1]
    assert 1 < series["quality/rankme"][1][0] < 50
    stored = OmegaConf.load(out / "config.yaml").callbacks.online_probe
    assert (stored.images, stored.val_images, stored.labels) == (50, 19, True)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_its_rounds_to_the_bit(without, probed, monkeypatch, tmp_path):
    right = OnlineProbe._round

    def stops(self, trainer, module):
        found = right(self, trainer, module)
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr(online_probe, "fits_now", lambda *_, **__: True)
    with monkeypatch.context() as patch:
        patch.setattr(OnlineProbe, "_round", stops)
        assert pretrain(tmp_path / "out", **SIZES)["exit_code"] == 143
    summary = pretrain(tmp_path / "out", resume=True, **SIZES)
    assert same(weights(without), weights(tmp_path / "out"))
    series, wanted = (read_metrics(out / "metrics.csv") for out in (tmp_path / "out", probed[0]))
    assert series["quality/rankme"][0].tolist() == [0, 1, 2, 3, 4]  # a stopped run still validates where that is due
    assert summary["metrics"]["quality/rankme"] == wanted["quality/rankme"][1][-1]


@pytest.mark.slow
def test_resuming_may_leave_it_out_and_data_without_labels_has_its_spectrum(without, monkeypatch, tmp_path):
    right = OnlineProbe._round

    def stops(self, trainer, module):
        found = right(self, trainer, module)
        signal.raise_signal(signal.SIGTERM)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(OnlineProbe, "_round", stops)
        pretrain(tmp_path / "out", **SIZES, **{"callbacks.online_probe.labels": False})
    pretrain(tmp_path / "out", resume=True, online_probe=False)
    assert set(read_metrics(tmp_path / "out" / "metrics.csv")) & FIGURES == {"quality/rankme", "quality/alpha_req"}
    assert same(weights(without), weights(tmp_path / "out"))


def test_numbers_that_are_whole_ones_in_a_batch_leave_rankme_and_end_no_run(tmp_path, caplog):
    numbers = iter(range(1000))
    label = as_json(lambda kind, _: kind if next(numbers) < 48 else kind + 0.5)
    data = write_shards(tmp_path / "shards", {"train": 96, "val": 16}, label, names=None, side=32)
    with caplog.at_level("INFO", "mimsuite"):
        summary = api.pretrain(data=data, out=str(tmp_path / "run"), micro_batch=8, **(CVT | SIZES | {"steps": 1}))
    assert summary["status"] == "done"
    assert {name for name in summary["metrics"] if name in FIGURES} <= {"quality/rankme", "quality/alpha_req"}
    assert "not one class per image" in caplog.text
