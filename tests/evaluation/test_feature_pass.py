"""The feature pass: the same features for every split, stored once, and used again only where they match."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import distributed, nn
from torch.nn import functional as F

from mimsuite.data.datamodule import eval_loader
from mimsuite.data.images.decode import open_image
from mimsuite.data.index import Selection
from mimsuite.data.label_table import read_labels
from mimsuite.data.open import open_data, open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features import passes as feature_pass
from mimsuite.evaluation.features.exchange import rank_range
from mimsuite.evaluation.features.passes import FeaturePass, pixel_pass
from mimsuite.evaluation.features.pixels import PIXELS
from mimsuite.evaluation.features.stored import StoredFeatures
from mimsuite.evaluation.features.views import check_comparable, evaluation_mode
from mimsuite.masked.normalization import Normalize
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.settings.views import View

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT, BATCH = 22, 5  # the last batch has two


TRAIN, TEST = Selection("train"), Selection("test")
MODELS = {
    "vit": lambda channels: ViTForMaskedImageModeling(
        ViTConfig(
            hidden_size=12,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=16,
            patch_size=8,
            encoder_stride=8,
            image_size=16,
            num_channels=channels,
        )
    ),
    "cvt": lambda channels: CvtForMaskedImageModeling(
        CvtConfig(
            embed_dim=[4, 8, 12],
            num_heads=[1, 2, 3],
            depth=[1, 1, 1],
            mlp_ratio=[2, 2, 2],
            drop_rate=[0.5] * 3,
            num_channels=channels,
        )
    ),
    "bit": lambda channels: BitForMaskedImageModeling(
        BitConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_groups=4, num_channels=channels)
    ),
}


def images(folder, count, channels, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        place = folder / f"class{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 20, channels), dtype=np.uint8)
        if channels == 3:
            Image.fromarray(pixels).save(place / f"{seed}-{i:02}.png")
        else:
            tifffile.imwrite(place / f"{seed}-{i:02}.tif", pixels, photometric="minisblack", planarconfig="contig")


def packed(folder, channels=3):
    for split, count, seed in (("train", COUNT, 0), ("test", 7, 1)):
        images(folder / "photos" / split, count, channels, seed)
    out = folder / "shards"
    pack(folder / "photos", out)
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("data"))


@pytest.fixture
def index(shards):
    return open_index(str(shards))


def model_of(family, channels=3):
    torch.manual_seed(0)
    return MODELS[family](channels).eval()


def made(folder, family="vit", channels=3, **changes):
    encoder = model_of(family, channels).encoder
    normalize = Normalize((0.5,) * channels, (0.25,) * channels)
    before = FeaturePass(encoder, family, normalize, (16, 16), "cpu", BATCH, 0, Path(folder))
    return dataclasses.replace(before, **changes)


def all_images(index, part=TRAIN):
    loader = eval_loader(index, part, image_size=(16, 16), batch=100, workers=0, labels=True)
    return next(iter(loader))


@pytest.mark.parametrize("family", list(MODELS))
def test_views_are_those_of_the_layers_of_whole_images(tmp_path, index, family):
    how = made(tmp_path, family)
    views = [View(2, "mean"), View(3, "mean"), View(3, "grid")] + [View(3, "cls"), View(3, "both")] * (family != "bit")
    stored = how.read(index, TRAIN, views)
    batch = all_images(index)
    middle, last = how.encoder.forward_layers(how.normalize(batch.images), [2, 3])
    expected = {
        View(2, "mean"): middle.grid.mean((2, 3)),
        View(3, "mean"): last.grid.mean((2, 3)),
        View(3, "grid"): last.grid.flatten(2).mT,
    }
    if family != "bit":
        expected[View(3, "cls")] = last.cls
        expected[View(3, "both")] = torch.cat([last.cls, last.grid.mean((2, 3))], 1)
    for view in views:
        found = stored.features(view)
        assert found.x.dtype == (torch.float16 if view.pool == "grid" else torch.float32)
        torch.testing.assert_close(found.x.float(), expected[view].detach(), atol=2e-3, rtol=2e-3)
        assert torch.equal(found.ids, batch.ids)
        assert torch.equal(found.labels, batch.labels)
        assert found.kind.startswith(f"layer {view.layer}, {view.pool}; 16x16 px")
    assert len(set(stored.keys)) == COUNT
    assert stored.keys[0].startswith("train_class")


def test_four_channels(tmp_path):
    index = open_index(str(packed(tmp_path, channels=4)))
    assert index.channels == 4
    for family in MODELS:
        stored = made(tmp_path / "cache", family, channels=4).read(index, TRAIN, [View(1, "mean")])
        assert len(stored.features(View(1, "mean")).x) == COUNT


def test_every_sample_counts_once_whatever_the_batch(tmp_path, index):
    view = View(3, "mean")
    found = [
        made(tmp_path / str(batch), batch=batch).read(index, TRAIN, [view]).features(view) for batch in (1, 5, 11, 64)
    ]
    for one in found:
        torch.testing.assert_close(one.x, found[0].x, atol=2e-3, rtol=2e-3)
        assert torch.equal(one.ids, found[0].ids)
        assert len(one.ids) == COUNT


def test_mode_and_running_statistics_of_a_frozen_encoder_stay_put(tmp_path, index):
    how, view = made(tmp_path, "cvt"), View(3, "mean")
    first = how.read(index, TRAIN, [view]).features(view)
    how.encoder.train()
    before = {k: v.clone() for k, v in how.encoder.state_dict().items()}
    again = dataclasses.replace(how, folder=tmp_path / "other").read(index, TRAIN, [view]).features(view)
    assert all(m.training for m in how.encoder.modules())
    assert all(torch.equal(before[k], v) for k, v in how.encoder.state_dict().items())
    assert torch.equal(first.x, again.x)
    assert first.kind == again.kind


def test_training_and_test_features_of_one_pass_may_be_compared(tmp_path, index):
    how, view = made(tmp_path), View(3, "mean")
    train, test = (how.read(index, part, [view]).features(view) for part in (TRAIN, TEST))
    check_comparable(train, test)
    assert (len(train.x), len(test.x)) == (COUNT, 7)


def other_weights(how):
    with torch.no_grad():
        next(iter(how.encoder.parameters())).add_(1e-3)
    return how


@pytest.mark.parametrize(
    ("changed", "view"),
    [
        (lambda how: how, View(2, "mean")),
        (lambda how: how, View(3, "cls")),
        (lambda how: dataclasses.replace(how, normalize=Normalize((0.5,) * 3, (0.3,) * 3)), View(3, "mean")),
        (lambda how: dataclasses.replace(how, normalize=Normalize((0.5,) * 3, (0.25,) * 3, 254)), View(3, "mean")),
        (lambda how: dataclasses.replace(how, model="other heads"), View(3, "mean")),
        (other_weights, View(3, "mean")),
    ],
    ids=["layer", "pooling", "std", "maximum", "config", "weights"],
)
def test_features_made_in_another_way_are_refused(tmp_path, index, changed, view):
    train = made(tmp_path).read(index, TRAIN, [View(3, "mean")]).features(View(3, "mean"))
    test = changed(made(tmp_path)).read(index, TEST, [view]).features(view)
    with pytest.raises(InputError, match="make both in the same way"):
        check_comparable(train, test)


def test_features_at_another_image_size_are_refused(tmp_path, index):
    view = View(3, "mean")
    train = made(tmp_path, "bit").read(index, TRAIN, [view]).features(view)
    test = made(tmp_path, "bit", image_size=(24, 16)).read(index, TEST, [view]).features(view)
    with pytest.raises(InputError, match="make both in the same way"):
        check_comparable(train, test)


@pytest.fixture
def never(monkeypatch):
    return lambda: monkeypatch.setattr(feature_pass, "eval_loader", lambda *_, **__: pytest.fail("computed again"))


def test_stored_features_are_used_again(tmp_path, index, never):
    how, view = made(tmp_path), View(3, "mean")
    first = how.read(index, TRAIN, [view]).features(view)
    never()
    again = made(tmp_path).read(index, TRAIN, [view]).features(view)
    assert torch.equal(first.x, again.x)
    assert [p.name[:9] for p in tmp_path.iterdir()] == ["features-"]


def test_only_missing_views_are_computed_and_join_the_others(tmp_path, index, never, monkeypatch):
    how = made(tmp_path)
    first = how.read(index, TRAIN, [View(3, "mean")])
    asked = []
    layers = how.encoder.forward_layers
    monkeypatch.setattr(how.encoder, "forward_layers", lambda x, which: asked.append(list(which)) or layers(x, which))
    both = how.read(index, TRAIN, [View(1, "cls"), View(3, "mean")])
    assert {tuple(a) for a in asked} == {(1,)}
    assert both.folder == first.folder
    never()
    assert len(how.read(index, TRAIN, [View(1, "cls"), View(3, "mean")]).features(View(1, "cls")).x) == COUNT
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_data_or_augmentation_are_never_answered_from_what_is_stored(tmp_path, index, shards):
    view = View(3, "mean")
    shutil.copytree(shards, tmp_path / "copy")
    for table in ("index.json",):
        about = json.loads((tmp_path / "copy" / table).read_text())
        about["splits"]["train"][0]["sha256"] = "0" * 64
        (tmp_path / "copy" / table).write_text(json.dumps(about))
    folders = {
        made(tmp_path / "c").read(index, TRAIN, [view]).folder,
        made(tmp_path / "c").read(index, TEST, [view]).folder,
        made(tmp_path / "c").read(index, TRAIN, [view], augmented=1).folder,
        made(tmp_path / "c").read(index, TRAIN, [view], augmented=1, seed=1).folder,
        made(tmp_path / "c").read(open_index(str(tmp_path / "copy")), TRAIN, [view]).folder,
        other_weights(made(tmp_path / "c")).read(index, TRAIN, [view]).folder,
    }
    assert len(folders) == 6


def test_labels_of_a_set_by_itself_are_not_those_of_several_sets_as_one(tmp_path, shards):
    """In `data=[a,b]` the classes of b have other numbers than in `data=b`, and its images are the same."""
    images(tmp_path / "more" / "apple", 4, 3, 5)
    images(tmp_path / "more" / "pear", 4, 3, 6)
    pack(tmp_path / "more", tmp_path / "other", labels="folder")
    alone, both = open_data(str(shards)), open_data([str(tmp_path / "other"), str(shards)])
    assert both.classes[-3:] == alone.classes
    encoder = made(tmp_path / "store")
    for index in (alone, both):
        labels = encoder.read(index, TEST, [View(3, "mean")]).features(View(3, "mean")).labels
        assert labels.tolist() == read_labels(index, index.records(TEST))


def test_a_renamed_folder_is_not_used(tmp_path, index, caplog):
    view = View(3, "mean")
    train = made(tmp_path).read(index, TRAIN, [view])
    test = made(tmp_path).read(index, TEST, [view])
    ids = test.features(view).ids
    shutil.rmtree(test.folder)
    train.folder.rename(test.folder)
    assert torch.equal(made(tmp_path).read(index, TEST, [view]).features(view).ids, ids)
    assert "it holds other features" in caplog.text


@pytest.mark.parametrize("name", ["about.json", "ids.npy", "layer-03-mean.npy", "keys.json"])
def test_a_cut_file_is_computed_again_with_a_warning(tmp_path, index, caplog, name):
    view = View(3, "mean")
    stored = made(tmp_path).read(index, TRAIN, [view])
    x = stored.features(view).x
    whole = (stored.folder / name).read_bytes()
    (stored.folder / name).write_bytes(whole[: len(whole) * 3 // 4])
    assert torch.equal(made(tmp_path).read(index, TRAIN, [view]).features(view).x, x)
    assert "is not usable" in caplog.text
    assert (stored.folder / name).read_bytes() == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_pass_that_ends_early_leaves_nothing(tmp_path, index, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "pwrite", fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else RunError
    with pytest.raises(expected) as caught:
        made(tmp_path).read(index, TRAIN, [View(3, "mean")])
    assert expected is KeyboardInterrupt or "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_pass_left_is_removed_and_never_taken_for_features(tmp_path, index):
    view = View(3, "mean")
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    rest = tmp_path / f".features-{'0' * 32}.{os.uname().nodename}-{killed.pid}.tmp"
    alive = tmp_path / f".features-{'1' * 32}.{os.uname().nodename}-{os.getppid()}.tmp"
    for folder in (rest, alive):
        folder.mkdir()
        (folder / "layer-03-mean.npy").write_bytes(b"half")
    made(tmp_path).read(index, TRAIN, [view])
    assert not rest.exists()
    assert alive.exists()


@pytest.mark.parametrize(("value", "words"), [(torch.nan, "not finite"), (1e6, "too large for float16")])
def test_features_that_do_not_fit_stop_the_pass(tmp_path, index, value, words):
    how = made(tmp_path)
    with torch.no_grad():
        how.encoder.layernorm.bias.fill_(value)
    with pytest.raises(RunError, match=rf"features of 5 of 5 images are {words}.*layer 3, mean; first train_class"):
        how.read(index, TRAIN, [View(3, "mean")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("family", "view", "words"),
    [
        ("bit", View(3, "cls"), "pool=cls, but this layer of the encoder has no class token"),
        ("cvt", View(1, "both"), "pool=both, but this layer"),
        ("vit", View(4, "mean"), "layers 1 to 3"),
    ],
)
def test_views_that_the_encoder_has_not_are_refused(tmp_path, index, family, view, words):
    with pytest.raises(InputError, match=words):
        made(tmp_path, family).read(index, TRAIN, [view])


def test_what_is_no_encoder_is_refused(tmp_path, index):
    with pytest.raises(TypeError, match=r"Linear does not keep the contract types.Encoder"):
        made(tmp_path, encoder=nn.Linear(2, 2)).read(index, TRAIN, [View(1, "mean")])


def test_augmented_copies_follow_the_clean_images_and_repeat(tmp_path, index):
    view = View(3, "mean")
    clean = made(tmp_path).read(index, TRAIN, [view]).features(view)
    stored = made(tmp_path / "a").read(index, TRAIN, [view], augmented=2, seed=3)
    found = stored.features(view)
    again = made(tmp_path / "b", batch=7).read(index, TRAIN, [view], augmented=2, seed=3).features(view)
    parts = found.x.split(COUNT)
    assert torch.equal(parts[0], clean.x)
    assert torch.equal(found.ids, clean.ids.repeat(3))
    assert torch.equal(found.labels, clean.labels.repeat(3))
    assert len(stored.keys) == COUNT
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (parts[one] != parts[other]).any(1).sum() >= COUNT - 3  # a crop of so few pixels may be the whole
    torch.testing.assert_close(again.x, found.x, atol=2e-3, rtol=2e-3)
    check_comparable(found, clean)


def test_undecodable_images_are_skipped(tmp_path, shards, caplog):
    view = View(3, "mean")
    shutil.copytree(shards, tmp_path / "copy")
    index = open_index(str(tmp_path / "copy"))
    whole = made(tmp_path / "a").read(index, TRAIN, [view])
    shard, row = index.records(TRAIN)[3]
    with Path(shard.path).open("r+b") as file:
        file.seek(int(row["image_offset"]))
        file.write(b"x" * int(row["image_size"]))
    left = made(tmp_path / "b").read(index, TRAIN, [view], augmented=1)
    others = [i for i in range(COUNT) if i != 3]
    assert left.keys == [whole.keys[i] for i in others]
    found, before = left.features(view), whole.features(view)
    torch.testing.assert_close(found.x[: COUNT - 1], before.x[others], atol=2e-3, rtol=2e-3)
    assert torch.equal(found.labels, before.labels[others].repeat(2))
    assert f"skipped 1 undecodable images: {whole.keys[3]}" in caplog.text


def test_data_without_labels_gives_features_without_labels(tmp_path):
    images(tmp_path / "photos", 6, 3, 0)
    pack(tmp_path / "photos", tmp_path / "shards", labels="none")
    stored = made(tmp_path / "c").read(open_index(str(tmp_path / "shards")), TRAIN, [View(1, "mean")])
    assert stored.features(View(1, "mean")).labels is None


def test_images_themselves_are_stored_in_the_same_place_and_used_again(index, never, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    how = {"size": 4, "batch": BATCH, "workers": 0}
    stored = pixel_pass(index, (16, 16), **how).read(index, TRAIN, [PIXELS])
    images = all_images(index).images.float()
    expected = F.interpolate(images, (4, 4), mode="bilinear", antialias=True, align_corners=False).flatten(1) / 255
    found = stored.features(PIXELS)
    assert torch.equal(found.x, expected)
    assert stored.folder.parent == tmp_path / "mimsuite" / "features"
    other = pixel_pass(index, (16, 16), **how | {"size": 2}).read(index, TRAIN, [PIXELS])
    assert other.folder != stored.folder
    never()
    assert torch.equal(pixel_pass(index, (16, 16), **how).read(index, TRAIN, [PIXELS]).features(PIXELS).x, found.x)


def test_a_grid_is_read_where_it_lies(tmp_path, index):
    stored = made(tmp_path).read(index, TRAIN, [View(3, "grid")])
    x = stored.features(View(3, "grid")).x
    assert x.shape == (COUNT, 4, 12)
    before = (stored.folder / "layer-03-grid.npy").read_bytes()
    x[0] = 7
    assert (stored.folder / "layer-03-grid.npy").read_bytes() == before


@pytest.mark.parametrize(("count", "batch", "world"), [(22, 5, 2), (3, 5, 4), (100, 7, 3), (10, 5, 2)])
def test_shares_are_whole_batches_of_one_process_alone(count, batch, world):
    shares = [rank_range(count, batch, rank, world) for rank in range(world)]
    assert [share.start for share in shares] == [0, *(share.stop for share in shares[:-1])]
    assert shares[-1].stop == count
    assert all(share.start % batch == 0 or share.start == count for share in shares)


def one_of_two(rank, port, shards, cache):
    torch.set_num_threads(1)
    place = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", place, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    views = [View(3, "mean"), View(2, "grid")]
    stored = made(cache).read(open_index(shards), TRAIN, views, augmented=1)
    again = made(cache).read(open_index(shards), TRAIN, [*views, View(1, "cls")], augmented=1)
    distributed.destroy_process_group()
    assert again.folder == stored.folder
    assert len(again.features(View(1, "cls")).x) == 2 * COUNT


@pytest.mark.slow
def test_two_processes_give_the_features_of_one(tmp_path, shards):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")  # a fresh process would spend its time on importing torch
    runs = [context.Process(target=one_of_two, args=(r, port, str(shards), tmp_path / "two")) for r in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(100)
        run.kill()
    assert [run.exitcode for run in runs] == [0, 0]
    views = [View(3, "mean"), View(2, "grid"), View(1, "cls")]
    one = made(tmp_path / "one").read(open_index(str(shards)), TRAIN, views, augmented=1)
    (folder,) = (tmp_path / "two").iterdir()
    assert folder.name == one.folder.name
    for view in views:
        expected, found = one.features(view), StoredFeatures(folder).features(view)
        for a, b in zip(expected, found, strict=True):
            assert a == b if isinstance(a, str) else torch.equal(a, b)
    assert StoredFeatures(folder).keys == one.keys


def test_progress_counts_every_row(tmp_path, index, monkeypatch, caplog):
    seen = []

    @contextmanager
    def spy(name):
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(feature_pass, "report_progress", spy)
    with caplog.at_level("INFO", logger="mimsuite"), evaluation_mode(nn.Identity()):
        made(tmp_path).read(index, TRAIN, [View(1, "mean")], augmented=1)
    assert seen[0] == (0, 44)
    assert seen[-1] == (44, 44)
    assert "44 images in" in caplog.text


def pictures_with_tags():
    """Pictures whose values depend on what their tags say, encoded without loss."""
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    deep, colour = values * 1000, np.stack([values * n for n in (1, 3, 5)], axis=2).astype(np.uint8)
    see_through = np.dstack([colour, values * 5]).astype(np.uint8)
    palette = Image.fromarray((values % 16).astype(np.uint8), "P")
    palette.putpalette([n * 5 % 256 for n in range(48)])
    for array, options in (
        (deep, {"photometric": "minisblack"}),
        (deep, {"photometric": "miniswhite"}),
        (colour, {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}),
        (see_through, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (see_through, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        (np.stack([deep, deep // 2]), {"photometric": "minisblack", "imagej": True}),
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **options)
        yield stream.getvalue()
    grey = Image.fromarray(np.dstack([values, values * 5]).astype(np.uint8), "LA")
    for picture in (Image.fromarray(deep), Image.fromarray(see_through), grey, palette):
        stream = io.BytesIO()
        picture.save(stream, "PNG", **({"transparency": 3} if picture is palette else {}))
        yield stream.getvalue()


def test_pictures_that_are_read_otherwise_than_before_have_another_format():
    """Stored features of pictures that were read otherwise must not be met: raise `FORMAT` with this hash."""
    seen = hashlib.sha256()
    for data in pictures_with_tags():
        for alpha in ("white", "drop", "channel"):
            pixels = open_image(data, alpha).pixels()
            seen.update(f"{pixels.shape} {pixels.dtype};".encode() + np.ascontiguousarray(pixels).tobytes())
    assert (feature_pass.FORMAT, seen.hexdigest()[:16]) == (2, "f9a9cc74e8be73e7")
