"""Pretraining as a whole: what a run writes, that it repeats and resumes to the bit, that it can learn."""

import json
import socket

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from processes import start
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.errors import InputError, RunError
from mimsuite.pictures.curves import read_metrics

pytestmark = pytest.mark.slow

NANO = {"model": "vit_nano", "batch": 16, "steps": 4, "val_every": 2, "loader.val_limit": 32, "precision": "32-true"}


def pretrain(out, **values):
    return api.call("pretrain", {"out": str(out), **NANO, **values})


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    summary = pretrain(out, workers=0)
    return out, summary


def test_a_run_writes_its_folder(run):
    out, summary = run
    assert summary["status"] == "done"
    assert summary["steps"] == 4
    assert summary == json.loads((out / "summary.json").read_text())
    present = {str(p.relative_to(out)) for p in out.rglob("*")}
    assert {
        "config.yaml",
        "overrides.txt",
        "environment.json",
        "metrics.csv",
        "metrics.jsonl",
        "train.log",
        "checkpoints/latest.json",
        "weights/config.json",
        "weights/model.safetensors",
        "weights/preprocessor_config.json",
        "pictures/step_000000.png",
        "pictures/step_000004.png",
        "pictures/curves.png",
    } <= present


def test_metrics_have_the_agreed_names_and_steps(run):
    series = read_metrics(run[0] / "metrics.csv")
    assert set(series) == {
        "train/loss",
        "val/loss",
        "val/loss_mean_colour",
        "val/psnr",
        "optim/lr",
        "optim/grad_norm",
        "perf/img_per_s",
        "perf/data_wait",
        "perf/mfu",
        "quality/cosine",
        "quality/deviation",
    }
    assert series["val/loss"][0].tolist() == [0, 2, 4]


def test_every_auto_is_written_down_resolved(run):
    cfg = OmegaConf.load(run[0] / "config.yaml")
    keys = ("image_size", "channels", "lr", "micro_batch", "mask.unit", "schedule.warmup", "precision")
    assert cfg.save_every == "auto"  # part of it is a time
    assert not [key for key in keys if OmegaConf.select(cfg, key) in ("auto", None)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit(run, workers, tmp_path):
    pretrain(tmp_path / "out", workers=workers)
    assert same(weights(run[0]), weights(tmp_path / "out"))
    assert (
        read_metrics(run[0] / "metrics.csv")["val/loss"][1].tolist()
        == read_metrics(tmp_path / "out" / "metrics.csv")["val/loss"][1].tolist()
    )


def test_another_seed_gives_another_run(run, tmp_path):
    pretrain(tmp_path / "out", workers=0, seed=1)
    assert not same(weights(run[0]), weights(tmp_path / "out"))


def test_accumulated_micro_batches_give_the_same_weights(run, tmp_path):
    pretrain(tmp_path / "out", workers=0, micro_batch=4)
    for name, value in weights(run[0]).items():
        torch.testing.assert_close(weights(tmp_path / "out")[name], value, rtol=1e-4, atol=1e-5)
    one, other = (read_metrics(out / "metrics.csv")["train/loss"][1] for out in (run[0], tmp_path / "out"))
    assert one == pytest.approx(other, rel=1e-4)


def test_pictures_of_fixed_images_have_the_same_left_half(run):
    first, last = (picture(run[0] / "pictures" / f"step_00000{n}.png") for n in (0, 4))
    assert first.shape == last.shape
    width = first.shape[1]
    assert np.array_equal(first[100:240, : width * 2 // 5], last[100:240, : width * 2 // 5])
    assert not np.array_equal(first[100:240, width * 2 // 5 :], last[100:240, width * 2 // 5 :])


def test_a_second_evaluation_gives_the_same_number_to_the_last_bit(run, tmp_path):
    again = pretrain(tmp_path / "out", workers=0, init=str(run[0]), steps=1, lr=1e-12, val_every=1)
    first = read_metrics(tmp_path / "out" / "metrics.csv")["val/loss"][1][0]
    assert first == run[1]["metrics"]["val/loss"]
    assert again["status"] == "done"


def test_the_loss_of_a_run_can_be_chosen_and_validates_as_it_trains(run, tmp_path):
    pretrain(tmp_path / "out", workers=0, steps=2, **{"objective.loss": "mse"})
    start, other = (read_metrics(out / "metrics.csv")["val/loss"][1][0] for out in (tmp_path / "out", run[0]))
    assert start > 1.1 * other  # the square of errors around 1, with some of 2
    assert "loss: mse" in (tmp_path / "out" / "config.yaml").read_text()


DROPPED = {"objective.mask_mode": "drop", "head": "dec1", "mask.unit": 8, "mask.least": 0.2}


@pytest.mark.parametrize(
    ("mask", "values", "hidden"),
    [
        ("block", {"mask.unit": 16}, "7 of 16 hidden"),
        ("inverse_block", {"mask.unit": 16}, "11 of 16 hidden"),
        ("grid", {"mask.unit": 16}, "12 of 16 hidden"),
        ("multi_block", DROPPED, "20 to 47 of 64 hidden"),  # each batch is cut to its smallest, which dropping needs
    ],
)
def test_other_masks_train_and_are_counted(mask, values, hidden, tmp_path, caplog):
    summary = pretrain(tmp_path / "out", workers=0, mask=mask, steps=1, val_every=1, **values)
    assert summary["status"] == "done"
    assert hidden in caplog.text


def test_an_unreachable_wandb_changes_no_weight_and_no_secret_is_written_down(run, tmp_path):
    out, secret = tmp_path / "out", "canary5417" * 4
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # a port where nobody listens
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        env = {"WANDB_API_KEY": secret, "WANDB_BASE_URL": address, "WANDB_MODE": "online", "MY_PASSWORD": secret}
        env |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        code, text = start("pretrain", env=env, out=out, workers=0, **NANO).finish()
    assert code == 0, text
    assert "wandb cannot be reached; switched off for this run" in text or "wandb did not finish" in text
    assert same(weights(out), weights(run[0]))
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in text


def failing_saves(monkeypatch, numbers):
    from mimsuite.runs import checkpoints as checkpoint

    right, count = checkpoint.commit, iter(range(1, 100))

    def commit(*arguments):
        if next(count) in numbers:
            raise OSError(28, "No space left on device")
        right(*arguments)

    monkeypatch.setattr(checkpoint, "commit", commit)


def test_two_failed_saves_cost_nothing_but_a_warning(run, monkeypatch, tmp_path, caplog):
    failing_saves(monkeypatch, {2, 3})
    assert pretrain(tmp_path / "out", workers=0, save_every=1)["status"] == "done"
    assert caplog.text.count("No space left on device; the one before it is kept") == 2
    assert same(weights(tmp_path / "out"), weights(run[0]))


def test_three_failed_saves_in_a_row_stop_the_run_and_the_one_before_goes_on(run, monkeypatch, tmp_path):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        failing_saves(patch, {2, 3, 4})
        with pytest.raises(
            RunError, match=r"3 checkpoints in a row could not be written.*checkpoint of step 1 is whole"
        ):
            pretrain(out, workers=0, save_every=1)
    assert json.loads((out / "checkpoints" / "latest.json").read_text())["step"] == 1
    assert pretrain(out, workers=0, save_every=1, resume=True)["status"] == "done"
    assert same(weights(out), weights(run[0]))


def test_resuming_says_what_of_the_machine_changed(tmp_path, caplog):
    out = tmp_path / "out"
    pretrain(out, workers=0, steps=1, val_every=1)
    file = out / "environment.json"
    facts = json.loads(file.read_text())
    facts["threads"], facts["libraries"]["numpy"] = 99, "1.0"
    file.write_text(json.dumps(facts))
    pretrain(out, workers=0, val_every=1, steps=2, resume=True)
    threads = torch.get_num_threads()
    assert f"resuming with threads {threads}, it was 99: the last bits of the result may differ" in caplog.text
    assert f"resuming with numpy {np.__version__}, it was 1.0" in caplog.text
    assert "resuming with torch" not in caplog.text


def test_a_run_killed_before_it_wrote_its_config_starts_anew(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("train.log", ".config.yaml.part", ".lock"):
        (out / name).write_text("half")
    assert pretrain(out, workers=0, resume=True)["status"] == "done"
    assert same(weights(out), weights(run[0]))


def test_figures_cut_by_a_kill_are_dropped(tmp_path):
    out = tmp_path / "out"
    pretrain(out, workers=0, steps=1, val_every=1)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "train/lo')
    pretrain(out, workers=0, val_every=1, steps=2, resume=True)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][-1] == 2


def test_resuming_refuses_what_would_change_the_result(run):
    with pytest.raises(InputError, match=r"resume=true cannot change lr: the run has .* the command line has 0.1"):
        api.call("pretrain", {"out": str(run[0]), "resume": True, "lr": 0.1})


def test_a_finished_run_resumes_to_nothing_also_by_the_whole_command(run):
    before, overrides = weights(run[0]), (run[0] / "overrides.txt").read_text()
    assert pretrain(run[0], workers=0, resume=True)["status"] == "done"
    assert same(before, weights(run[0]))
    assert (run[0] / "overrides.txt").read_text() == overrides


def test_weights_load_again_and_in_transformers(run):
    import transformers

    model = api.load(str(run[0]))
    theirs = transformers.ViTForMaskedImageModeling.from_pretrained(run[0] / "weights").eval()
    pixels, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 64) < 0.6
    with torch.no_grad():
        ours, other = model(pixels, mask), theirs(pixels, mask)
    torch.testing.assert_close(ours.reconstruction, other.reconstruction, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["cvt", "bit"])
def convolutional(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "out"
    return request.param, out, pretrain(out, workers=0, model=f"{request.param}_nano")


def test_a_convolutional_run_writes_pictures_and_weights_that_load(convolutional):
    family, out, summary = convolutional
    assert summary["status"] == "done"
    assert {p.name for p in (out / "pictures").iterdir()} >= {"step_000000.png", "step_000004.png", "curves.png"}
    model = api.load(str(out))
    assert type(model).__name__ == f"{family.capitalize()}ForMaskedImageModeling"
    keys = weights(out).keys()
    assert "mask_token" in keys
    assert ("layernorm.weight" in keys) == (family == "cvt")
    assert not any(k.startswith((f"{family}.mask_token", f"{family}.layernorm")) for k in keys)
    pixels, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16, 16) < 0.6
    with torch.no_grad():
        before = model(pixels, mask).reconstruction
        hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(pixels)
        assert torch.equal(before, model(pixels.masked_fill(hidden, torch.nan), mask).reconstruction)


def test_a_convolutional_run_learns_with_the_same_loss_as_it_validates(convolutional):
    series = read_metrics(convolutional[1] / "metrics.csv")
    losses = series["val/loss"][1]
    assert losses[-1] < losses[0]


def test_a_convolutional_run_is_reconstructed_and_probed_at_another_size(convolutional, tmp_path):
    _, out, _ = convolutional
    api.reconstruct(init=str(out), out=str(tmp_path / "sheet.png"), image_size=[64, 96], count=2)
    assert picture(tmp_path / "sheet.png").shape[1] > 5 * 96
    with pytest.raises(InputError, match=r"image width 90 is not a multiple of the model's stride 8; use"):
        api.reconstruct(init=str(out), out=str(tmp_path / "no.png"), image_size=[64, 90], count=2)


def test_a_convolutional_run_starts_from_another(convolutional, tmp_path):
    family, out, _ = convolutional
    summary = pretrain(tmp_path / "next", workers=0, init=str(out), model=f"{family}_nano", steps=1, val_every=1)
    first = read_metrics(tmp_path / "next" / "metrics.csv")["val/loss"][1][0]
    assert first == pytest.approx(read_metrics(out / "metrics.csv")["val/loss"][1][-1], rel=1e-6)
    assert summary["status"] == "done"


def test_weights_of_another_family_are_refused(convolutional, tmp_path):
    family, out, _ = convolutional
    with pytest.raises(InputError, match=f"holds a {family}, but model= names a vit; remove model="):
        pretrain(tmp_path / "next", init=str(out), model="vit_nano")


def test_eight_images_can_be_overfitted(tmp_path):
    from mimsuite.metrics.psnr import visible_mean_loss

    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = np.zeros((64, 64, 3), np.uint8) + random.integers(0, 256, 3, dtype=np.uint8)
        pixels[16:48, 16:48] = random.integers(0, 256, 3, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    summary = pretrain(
        tmp_path / "out", data=str(folder), augment="none", batch=8, steps=120, val_every=120, lr=2e-3, workers=0
    )
    cfg = OmegaConf.load(tmp_path / "out" / "config.yaml")
    assert summary["metrics"]["train/loss"] < 0.5 * flat(cfg, visible_mean_loss)


def flat(cfg, loss):
    from mimsuite.data.datamodule import eval_loader
    from mimsuite.data.open import open_data
    from mimsuite.masked.normalization import Normalize
    from mimsuite.masked.samplers import RandomMask

    index = open_data(cfg.data)
    batch = next(
        iter(
            eval_loader(
                index,
                index.select("train"),
                image_size=(64, 64),
                batch=8,
                workers=0,
                labels=False,
                mask=RandomMask(0.6),
                mask_unit=cfg.mask.unit,
            )
        )
    )
    return float(loss(Normalize(index.mean, index.std)(batch.images), batch.mask))
