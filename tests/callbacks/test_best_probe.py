"""The best online probe: its weights are kept beside the last, whatever the clock, and nothing looks at `test`."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.callbacks.best_probe import BestProbe
from mimsuite.callbacks.online_probe import OnlineProbe
from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.datamodule import ImageData
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.metrics.quality import as_score
from mimsuite.objectives.latent import LatentObjective
from mimsuite.objectives.mim import MIMObjective
from mimsuite.settings.online_probe import UNSELECTING, read_keeps, read_online_probe, resolved_probe

KEEP = {"callbacks.best_probe.keep": True}
NANO = {"model": "vit_nano", "image_size": 32, "batch": 16, "steps": 4, "val_every": 1, "workers": 0}
NANO |= {"loader.val_limit": 8, "precision": "32-true", "logger": "null", "save_every": 1}
VALUES = {0: 0.9, 1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5}  # the first does not count; of two that are alike the first stays
LATENT = "mimsuite.objectives.latent.LatentObjective"


def pretrain(out, **values):
    return api.call("pretrain", {"out": str(out), **NANO, **values})


def weights(out, folder="weights"):
    return load_file(out / folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def measured(monkeypatch):
    """Rounds that find given values, without encoding anything; the weights that they were asked about, by step."""
    seen = {}

    def measure(*metrics):
        def found(self, trainer, module):
            seen[trainer.global_step] = {k: v.clone() for k, v in module.model.state_dict().items()}
            return dict.fromkeys(metrics, VALUES[trainer.global_step])

        monkeypatch.setattr(OnlineProbe, "_measure", found)
        return seen

    return measure


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_weights_of_the_best_round_are_kept_also_by_a_run_that_was_stopped(measured, monkeypatch, tmp_path, caplog):
    seen = measured("probe/top1", "knn/top1")
    summary = pretrain(tmp_path / "out", **KEEP)
    found = {key: value for key, value in summary.items() if key.startswith("best")}
    assert found == {"best_step": 2, "best_metric": "probe/top1", "best_value": 0.5}
    assert "selection weights-best/ keeps those of the best online probe" in caplog.text
    assert "best      probe/top1 0.5000 at step 2, 0.9000 before the first: weights in" in caplog.text
    kept, last = weights(tmp_path / "out", "weights-best"), weights(tmp_path / "out")
    assert same(kept, seen[2])
    assert same(last, seen[4])
    assert not same(kept, last)

    right = OnlineProbe._round

    def stops(self, trainer, module):
        made = right(self, trainer, module)
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(OnlineProbe, "_round", stops)
        assert pretrain(tmp_path / "stopped", **KEEP)["exit_code"] == 143
    before = weights(tmp_path / "stopped", "weights-best")
    again = pretrain(tmp_path / "stopped", resume=True)
    assert {key: again[key] for key in found} == found
    assert same(kept, before)
    assert same(kept, weights(tmp_path / "stopped", "weights-best"))
    assert same(last, weights(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_where_the_loss_selects_nothing_the_run_says_so(measured, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(MIMObjective, "loss_selects", False)
    measured("quality/rankme", "quality/alpha_req")
    pretrain(tmp_path / "out", steps=1)
    assert not (tmp_path / "out" / "weights-best").exists()
    assert "the loss of MIMObjective does not tell which weights are better; weights/ are the last" in caplog.text
    assert "online_probe=true keeps the best beside them" in caplog.text
    caplog.clear()
    summary = pretrain(tmp_path / "again", steps=1, **KEEP)
    assert summary["best_metric"] == "quality/rankme"
    assert "quality/rankme needs no labels, and may choose badly: RankMe has chosen our worst checkpoint" in caplog.text


def config(target="mimsuite.objectives.mim.MIMObjective", probe="auto", keep="auto", **more):
    node = {"images": "auto", "val_images": "auto", "share": 0.05, "labels": "auto"}
    callbacks = {"online_probe": node, "best_probe": {"keep": keep, "metric": "auto"}} | more
    cfg = {"online_probe": probe, "data": "x", "loader": {"val_limit": 5000}, "callbacks": callbacks}
    return OmegaConf.create(cfg | {"objective": {"_target_": target}})


@pytest.mark.parametrize(
    ("cfg", "keeps"),
    [
        (config(), False),
        (config(probe=True), False),
        (config(keep=True), True),
        (config(LATENT), True),
        (config(LATENT, keep=False), False),
        (config(LATENT, probe=False), False),
        (config(LATENT, online_probe=None), False),
        (config(LATENT, best_probe=None), False),
    ],
)
def test_the_best_is_kept_where_the_loss_selects_nothing_or_by_choice(cfg, keeps):
    assert read_keeps(cfg) is keeps


def test_an_objective_whose_loss_selects_nothing_is_known_to_the_settings():
    assert MIMObjective.loss_selects.fget(None)
    assert not LatentObjective.loss_selects.fget(None)
    assert UNSELECTING == (LATENT,)


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (config(keep=3), "callbacks.best_probe.keep=3 is not true, false or auto"),
        (config(keep=True, probe=False), "keep=true needs the online probe; use online_probe=true, or"),
        (config(keep=True, best_probe={"keep": True, "metric": "val/loss"}), "best_probe.metric=val/loss"),
    ],
)
def test_wrong_values_are_refused_in_one_line(cfg, says):
    with pytest.raises(InputError, match=says) as error:
        read_keeps(cfg)
    assert "\n" not in str(error.value)


def test_all_rounds_that_may_select_fit_the_share_of_a_run():
    index = open_data(None)
    found = read_online_probe(config(keep=True), index, 56_000, rounds=4)
    assert found.keeps
    assert found.images == 500  # four rounds of 700 are a twentieth of 56,000
    assert "at every validation" in found.note
    assert resolved_probe(config(keep=True), found)["callbacks.best_probe.keep"] is True
    off = resolved_probe(config(), None)
    assert off == {"online_probe": False, "callbacks.best_probe.keep": False}


def ids(index, part, limit, held=0):
    """The images of a part, in the ids that batches name."""
    data = ImageData(
        index,
        image_size=(32, 32),
        mask_unit=None,
        train_transform=CenterCrop((32, 32)),
        masks=(),
        batch=8,
        micro_batch=8,
        steps=1,
        seed=0,
        workers=0,
    )
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    loader, count = data.whole_images(part, limit, labels=True, held=held)
    found = torch.cat([batch.ids for batch in loader]).tolist()
    assert count == len(found) == len(set(found)) <= limit
    return set(found)


def test_what_is_scored_is_neither_in_the_bank_nor_in_test():
    index = open_data(None)
    without_val = replace(index, splits={"train": index.splits["train"], "test": index.splits["val"]})
    test = ids(without_val, "val", 1000)  # what curves are drawn from
    scored, bank = (ids(without_val, part, 30, held=20) for part in ("val", "train"))
    assert (len(scored), len(bank)) == (20, 30)
    assert scored.isdisjoint(bank)
    assert test.isdisjoint(scored | bank)
    assert ids(index, "val", 20, held=20) < test  # a split val is there for it
    assert ids(index, "train", 30, held=20) == ids(index, "train", 30)


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("probe/top1", 0.6, 0.5), ("quality/rankme", 20, 10), ("quality/alpha_req", 0.9, 1.3)],
)
def test_a_better_metric_has_a_larger_score(metric, better, worse):
    assert as_score(metric, better) > as_score(metric, worse)


@pytest.mark.parametrize("metric", ["probe/top1", "knn/top1"])
def test_a_metric_that_needs_labels_is_refused_where_there_are_none(metric):
    cfg = config(keep=True, best_probe={"keep": True, "metric": metric})
    cfg.callbacks.online_probe.labels = False
    with pytest.raises(InputError, match=f"metric={metric} needs labels of training .*; use callbacks.*metric=auto"):
        read_online_probe(cfg, open_data(None), 56_000)


def test_a_metric_that_needs_classes_is_refused_where_labels_are_of_another_kind():
    context = SimpleNamespace(keeps_best=True, save_weights=None)
    keeper = BestProbe(keep=True, metric="knn/top1", context=context)
    keeper._probe = SimpleNamespace(found={"quality/rankme": 3.0})
    with pytest.raises(InputError, match="metric=knn/top1 needs one class per image"):
        keeper.on_validation_end(SimpleNamespace(sanity_checking=True), None)
