"""Pictures of any size, channel count and depth go the whole way: pack, inspect, pretrain, reconstruct, probe."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mimsuite import api
from mimsuite.data.open import open_data

pytestmark = pytest.mark.slow

SIZE = (96, 160)
RUN = {"batch": 8, "steps": 3, "val_every": 3, "workers": 0, "precision": "32-true", "image_size": list(SIZE)}
MAE = {"objective": "mae", "head": "dec1", "head.hidden_size": 48, "head.num_attention_heads": 3}
CLASSES = ("left", "right")


def blobs(channels, dtype, size=SIZE, each=16):
    """Two classes of `each` pictures `(H, W, C)`: a blob left or right, bright in the last or first channels."""
    random, limit = np.random.default_rng(0), np.iinfo(dtype).max
    rows, columns = np.mgrid[: size[0], : size[1]]
    for side, label in enumerate(CLASSES):
        strength = np.linspace(0.2, 0.9, channels)[:: (-1) ** side]
        for number in range(each):
            row, column = random.integers(20, size[0] - 20), size[1] * (1 + 2 * side) // 4 + random.integers(-15, 16)
            blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 400)[..., None] * strength
            values = 0.05 + 0.9 * blob + 0.03 * random.random((*size, channels))
            yield f"{label}/{number:02d}", (values.clip(0, 1) * limit).astype(dtype)


def packed(folder, channels, dtype, ending="tif", **options):
    """The index of a set of blobs that was written as files in class folders and packed."""
    for name, pixels in blobs(channels, dtype, **options):
        path = folder / "images" / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "tif":
            plane = {"planarconfig": "contig"} if channels > 1 else {}
            tifffile.imwrite(path, pixels.squeeze(), photometric="minisblack", **plane)
        else:
            np.save(path, pixels)
    api.pack(src=str(folder / "images"), out=str(folder / "shards"), val_fraction=0.25)
    return open_data(str(folder / "shards"))


def pretrain(index, out, **values):
    summary = api.call("pretrain", {"data": str(index.root), "out": str(out), **RUN, **values})
    assert summary["status"] == "done"
    assert np.isfinite(list(summary["metrics"].values())).all()
    return summary


def look(index, run, out):
    """A sheet of two of the set's pictures as a run reconstructs them; its size must hold five columns."""
    figures = api.reconstruct(init=str(run), images=str(index.root), out=str(out), count=2)
    assert np.isfinite([v for k, v in figures.items() if k != "out"]).all()
    with Image.open(out) as sheet:
        assert sheet.width >= 5 * SIZE[1]
        assert sheet.height >= 2 * SIZE[0]
        return np.asarray(sheet)


def probe(index, run, out):
    summary = api.probe(init=str(run), data=str(index.root), out=str(out), workers=0, baselines=False)
    assert summary["image_size"] == list(SIZE)
    return summary["metrics"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """32 pictures of four channels and 16 bits, 96 pixels high and 160 wide."""
    return packed(tmp_path_factory.mktemp("scans"), 4, np.uint16)


def test_four_deep_channels_are_packed_and_counted(scans, tmp_path):
    assert (scans.channels, scans.dtype, scans.image_size) == (4, "uint16", SIZE)
    facts = api.inspect(data=str(scans.root), out=str(tmp_path / "look"), verify=True)
    assert facts["problems"] == []
    assert facts["splits"]["train"]["height"] == [96, 96, 96]
    assert facts["splits"]["val"]["width"] == [160, 160, 160]
    assert len(scans.mean) == len(scans.std) == 4
    pixels = np.stack([p for _, p in blobs(4, np.uint16)]) / 65535
    np.testing.assert_allclose(scans.mean, pixels.mean((0, 1, 2)), rtol=0.05)
    np.testing.assert_allclose(scans.std, pixels.std((0, 1, 2)), rtol=0.1)


@pytest.mark.parametrize("model", ["vit_nano", "cvt_nano", "bit_nano"])
def test_four_deep_channels_go_the_whole_way(model, scans, tmp_path):
    run = tmp_path / "run"
    pretrain(scans, run, model=model)
    config = json.loads((run / "weights" / "config.json").read_text())
    processor = json.loads((run / "weights" / "preprocessor_config.json").read_text())
    assert config["num_channels"] == 4
    assert config.get("image_size", list(SIZE)) == list(SIZE)
    assert processor["size"] == {"height": 96, "width": 160}
    np.testing.assert_allclose(processor["image_mean"], scans.mean, rtol=1e-6)
    np.testing.assert_allclose(processor["image_std"], scans.std, rtol=1e-6)
    assert processor["rescale_factor"] == 1 / 65535
    loaded = api.load(str(run))
    with torch.no_grad():
        assert loaded(torch.zeros(1, 4, *SIZE)).reconstruction.shape == (1, 4, *SIZE)
    first, last = (np.asarray(Image.open(run / "pictures" / f"step_00000{n}.png")) for n in (0, 3))
    assert first.shape == last.shape
    assert first.shape[1] >= 5 * SIZE[1]
    look(scans, run, tmp_path / "sheet.png")
    metrics = probe(scans, run, tmp_path / "probe")
    assert metrics["probe/top1"] >= 0.75  # of two classes


@pytest.mark.parametrize(
    ("channels", "dtype", "ending"),
    [(1, np.uint8, "tif"), (2, np.uint16, "npy"), (5, np.uint16, "tif"), (12, np.uint8, "npy")],
    ids=["1 tif", "2 npy", "5 tif", "12 npy"],
)
def test_any_number_of_channels_trains(channels, dtype, ending, tmp_path):
    index = packed(tmp_path, channels, dtype, ending, size=(64, 64), each=6)
    assert (index.channels, index.dtype) == (channels, np.dtype(dtype).name)
    summary = pretrain(index, tmp_path / "run", model="vit_nano", image_size=64, steps=2, val_every=2)
    assert summary["steps"] == 2
    model = api.load(str(tmp_path / "run"))
    assert model.config.num_channels == channels
    api.reconstruct(init=str(tmp_path / "run"), images=str(index.root), out=str(tmp_path / "sheet.png"), count=2)


@pytest.mark.parametrize("objective", [{}, MAE | {"head.intermediate_size": 96}], ids=["simmim", "mae"])
def test_rectangular_patches_go_the_whole_way(objective, scans, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    run = tmp_path / "run"
    pretrain(scans, run, model="vit_nano", **{"model.patch_size": [8, 16]}, **objective)
    assert "geometry  image 96x160, patch 8x16, stride 8x16, grid 12x10" in caplog.text
    assert "units of 16 px" in caplog.text
    config = api.load(str(run)).config
    assert config.patch_size == [8, 16]
    assert config.encoder_stride == [8, 16]
    look(scans, run, tmp_path / "sheet.png")
    assert 0 <= probe(scans, run, tmp_path / "probe")["knn/top1"] <= 1
