"""Numbers of any type become 16 bits by a declared range; without one they are refused, and the key is named."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from pictures import noise, npy, refusal, save, tif
from PIL import Image

from mimsuite.data.checks.inspect import raw_samples
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.images.reading import Reading
from mimsuite.data.images.value_range import ValueRange
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError
from mimsuite.settings.pack import read_range

TYPES = ["i1", "i2", "u4", "i4", "f2", "f4", "f8"]


def values(kind, *shape):
    return (np.arange(np.prod(shape)) % 100 - (0 if kind[0] == "u" else 50)).astype(kind).reshape(shape)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(10, 20), (10, 20, 3), (10, 20, 5)])
def test_values_of_every_type_are_mapped_to_16_bits(kind, shape, order):
    stored = values(kind, *shape)
    expected = np.rint((stored.astype(float) + 25).clip(0, 50) / 50 * 65535).reshape(10, 20, -1)
    options = {"photometric": "rgb" if shape[2:] == (3,) else "minisblack", "byteorder": order}
    options |= {"planarconfig": "contig"} if stored.ndim == 3 else {}
    for data in (tif(stored, **options), npy(stored.astype(order + kind))):
        image = open_image(data, value_range=ValueRange(-25, 25))
        assert image.deep
        assert np.array_equal(image.pixels(), expected)
        assert image.pixels().dtype == np.uint16


@pytest.mark.parametrize(
    "data", [npy(np.zeros((8, 8), np.float32)), tif(np.zeros((8, 8), np.float32)), npy(values("i2", 8, 8))]
)
def test_without_a_range_the_refusal_names_the_key(data):
    assert "need `mimsuite pack value_range=[LOWEST,HIGHEST]`" in refusal(data)


def test_pictures_of_8_and_16_bits_are_mapped_too():
    grey = noise(8, 9)
    found = open_image(save(Image.fromarray(grey), "PNG"), value_range=ValueRange(0, 100)).pixels()[..., 0]
    assert np.array_equal(found, np.rint(grey.clip(0, 100) / 100 * 65535))
    deep = noise(8, 9, 4, dtype=np.uint16)
    ranged = open_image(tif(deep, photometric="rgb", extrasamples=["unassalpha"]), value_range=ValueRange(0, 65535))
    assert np.array_equal(ranged.pixels(), deep)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_nan_and_infinity_are_counted_and_refused(kind):
    stored = np.zeros((10, 20, 2), kind)
    stored[0, :3, 1], stored[1, 0, 1] = np.nan, np.inf
    with pytest.raises(DecodeError, match=r"4 of 200 values of channel 1 are NaN or infinite; .* use nodata=nan"):
        open_image(npy(stored), value_range=ValueRange(0, 1)).pixels()
    with pytest.raises(DecodeError, match="1 of 200 values of channel 1 are NaN"):
        open_image(npy(stored), value_range=ValueRange(0, 1, np.nan)).pixels()


def test_pixels_without_data_are_0():
    stored = np.array([[-9999, 0.5, 1.0]], np.float32)
    assert open_image(npy(stored), value_range=ValueRange(0, 1, -9999)).pixels().ravel().tolist() == [0, 32768, 65535]
    stored[0, 0] = np.nan
    assert open_image(npy(stored), value_range=ValueRange(0, 1, np.nan)).pixels().ravel().tolist() == [0, 32768, 65535]
    lowest = np.array([[np.finfo(np.float32).min, 3]], np.float32)  # as GDAL writes it, with fewer digits
    assert open_image(npy(lowest), value_range=ValueRange(-5, 5, -3.4028235e38)).pixels().ravel().tolist() == [0, 52428]
    beyond = np.array([[np.inf, 3]], np.float32)  # of float32 there is no 1e300
    with pytest.raises(DecodeError, match="1 of 2 values are NaN or infinite"):
        open_image(npy(beyond), value_range=ValueRange(-5, 5, 1e300)).pixels()
    assert (
        open_image(npy(np.array([[65535, 10]], np.uint16)), value_range=ValueRange(0, 20, 65535)).pixels()[0, 0, 0] == 0
    )


@pytest.mark.parametrize(
    "options", [{"photometric": "miniswhite"}, {"photometric": "palette", "colormap": noise(3, 256).astype("u2")}]
)
def test_a_range_is_refused_where_numbers_are_no_values(options):
    with pytest.raises(DecodeError, match="value_range= is for real numbers with black as zero"):
        open_image(tif(noise(8, 9), **options), value_range=ValueRange(0, 1))


def test_a_folder_of_floats_is_packed_and_the_index_keeps_the_range(tmp_path, caplog):
    src = tmp_path / "in"
    src.mkdir()
    for number in range(5):
        (src / f"{number}.tif").write_bytes(tif(values("f4", 40, 50) / 50))
    (src / "bad.tif").write_bytes(tif(np.full((40, 50), np.nan, np.float32)))
    index = pack(src, tmp_path / "out", image_size=20, reading=Reading(range=ValueRange(-1, 1)))
    assert (index.dtype, index.value_range, index.channels) == ("uint16", (-1, 1), 1)
    assert "bad.tif (2,000 of 2,000 values are NaN or infinite" in caplog.text
    assert open_image(next(raw_samples(index, "train", 1)).data).pixels().shape == (20, 25, 1)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["value_range"] == [-1, 1]


def test_a_range_that_most_values_lie_outside_of_is_said(tmp_path, caplog):
    (tmp_path / "a.npy").write_bytes(npy(values("f4", 9, 9)))
    pack(tmp_path, tmp_path / "out", reading=Reading(range=ValueRange(0, 0.5)))
    assert (
        "in 1 of 1 images, more than half of the values lie at or beyond the ends of value_range=[0,0.5]" in caplog.text
    )


def test_bands_that_are_not_chosen_need_no_numbers_in_the_range(tmp_path, caplog):
    src, span = tmp_path / "in", ValueRange(-1.0, 1.0)
    src.mkdir()
    pixels = np.dstack([np.full((9, 9), np.nan), values("f4", 9, 9) / 100, np.full((9, 9), 7.0)]).astype(np.float32)
    (src / "a.npy").write_bytes(npy(pixels))
    index = pack(src, tmp_path / "out", reading=Reading(bands=("1",), range=span))
    found = open_image(next(raw_samples(index, "train", 1)).data).pixels()[..., 0]
    assert np.array_equal(found, np.rint((pixels[..., 1].astype(np.float64) + 1) * (65535 / 2)))
    assert "at or beyond the ends" not in caplog.text
    with pytest.raises(InputError, match="none of 1 images can be decoded"):
        pack(src, tmp_path / "all", reading=Reading(bands=("1", "0"), range=span))


WRONG = {
    "value_range=[1, 0] is": {"value_range": [1, 0]},
    "value_range=[1]": {"value_range": [1]},
    "value_range=5": {"value_range": 5},
    "value_range=[0, inf]": {"value_range": [0, float("inf")]},
    "value_range=['a', 'b']": {"value_range": ["a", "b"]},
    "value_range=[0, 1e-320]: the difference of its ends is too": {"value_range": [0, 1e-320]},
    "value_range=[-1.7e+308, 1.7e+308]: the diff": {"value_range": [-1.7e308, 1.7e308]},
    "value_range=[0, 1000": {"value_range": [0, 10**400]},
    "nodata=1000": {"nodata": 10**400, "value_range": [0, 1]},
    "nodata=-9999 needs value_range": {"nodata": -9999},
    "nodata=x is not a number": {"nodata": "x", "value_range": [0, 1]},
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_ranges_are_refused(words):
    config = OmegaConf.create({"value_range": None, "nodata": None} | WRONG[words])
    with pytest.raises(InputError) as error:
        read_range(config)
    assert str(error.value).startswith(words)


def test_nan_is_a_word_for_no_data():
    found = read_range(OmegaConf.create({"value_range": [0, 1], "nodata": float("nan")}))
    assert found is not None
    assert np.isnan(found.nodata)
