"""Bands have names, from the metadata of GeoTIFF, OME and ImageJ or from the user, and are chosen and shown by them."""

import io
import json

import numpy as np
import pytest
import tifffile
from pictures import noise, npy, tif
from PIL import Image

from mimsuite.data.checks.inspect import raw_samples
from mimsuite.data.images.bands import band_names_of
from mimsuite.data.images.decode import open_image
from mimsuite.data.images.reading import Reading
from mimsuite.data.images.value_range import ValueRange
from mimsuite.data.index_json import read_index
from mimsuite.data.merge import merge
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError
from mimsuite.pictures.display import channel_words
from mimsuite.settings.channels import read_channels

NAMES = ("B2", "B3", "B4", "B8")


def gdal(names):
    """The tag in which GDAL keeps what bands are called, and more."""
    items = "".join(f'<Item name="DESCRIPTION" sample="{n}" role="description">{x}</Item>' for n, x in enumerate(names))
    text = f'<GDALMetadata>{items}<Item name="TIFFTAG_DATETIME">2026</Item></GDALMetadata>'
    return {"extratags": [(42112, 2, 0, text, True)]}


def scene(pixels, names=NAMES, **options):
    """A GeoTIFF of `(H, W, C)`."""
    own = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None} | gdal(names) | options
    return tif(pixels.transpose(2, 0, 1) if own["planarconfig"] == "separate" else pixels, **own)


STORED = {
    "interleaved": {},
    "in planes": {"planarconfig": "separate"},
    "tiled": {"tile": (16, 16)},
    "tiled planes, deflated": {"tile": (16, 16), "planarconfig": "separate", "compression": "zlib"},
    "as RGB with more bands": {"photometric": "rgb", "extrasamples": ["unspecified"]},
    "big endian": {"byteorder": ">"},
    "big endian BigTIFF": {"byteorder": ">", "bigtiff": True},
}


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8"])
@pytest.mark.parametrize("stored", STORED)
def test_bands_are_found_by_name_however_they_are_stored(stored, dtype):
    pixels = (noise(40, 48, 4, dtype=np.uint8) // 2).astype(dtype)
    data = scene(pixels, **STORED[stored])
    ranged = None if dtype in ("u1", "u2") else ValueRange(-100, 200)
    opened = Reading(bands=("B8", "B2"), range=ranged).recognise(data)
    assert (opened.names, opened.channels) == (("B8", "B2"), 2)
    found = opened.image.pixels()[..., opened.chosen]
    expected = pixels[..., [3, 0]]
    if ranged:
        expected = np.rint((expected.astype(float) + 100) / 300 * 65535)
    assert np.array_equal(found, expected)


def test_names_come_from_ome_and_from_imagej():
    planes = noise(3, 8, 9)
    named = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "mCherry"]}}
    assert band_names_of(tif(planes, ome=True, metadata=named), 3) == ("DAPI", "GFP", "mCherry")
    stack = noise(2, 3, 8, 9)
    labels = {"axes": "ZCYX", "Labels": ["red", "green", "far red"] * 2}
    assert band_names_of(tif(stack, imagej=True, metadata=labels), 3) == ("red", "green", "far red")
    files = {"axes": "CYX", "Labels": ["c:1/3 - a.tif", "c:2/3 - a.tif", "c:3/3 - a.tif"]}
    assert band_names_of(tif(planes, imagej=True, metadata=files), 3) == ()


@pytest.mark.parametrize(
    "names", [("B2", "B2", "B4", "B8"), ("B2", "", "B4", "B8"), ("B2", "B3", "B4"), ("x" * 65, *"abc")]
)
def test_names_that_cannot_tell_bands_apart_are_none(names):
    assert band_names_of(scene(noise(8, 9, 4), names), 4) == ()


def test_a_file_without_names_or_with_damaged_ones_has_none():
    assert band_names_of(tif(noise(8, 9)), 1) == ()
    assert band_names_of(npy(noise(8, 9)), 1) == ()
    broken = {"extratags": [(42112, 2, 0, "<GDALMetadata><Item", True)]}
    assert Reading().recognise(tif(noise(8, 9), metadata=None, **broken)).names == ()


# ---- packed


@pytest.fixture
def scenes(tmp_path):
    src = tmp_path / "in"
    src.mkdir()
    for number in range(6):
        order = list(range(4)) if number else [3, 1, 0, 2]  # of one file the bands are stored in another order
        pixels = np.tile(np.array([100, 200, 300, 400], np.uint16), (16, 20, 1)) + np.uint16(number)
        (src / f"{number}.tif").write_bytes(scene(pixels[..., order], [NAMES[n] for n in order]))
    return src


def of_keys(index):
    return {s.key: open_image(s.data).pixels()[0, 0].tolist() for s in raw_samples(index, "train", 10)}


def test_bands_are_chosen_and_ordered_by_name_in_every_file(scenes, tmp_path):
    index = pack(scenes, tmp_path / "out", reading=Reading(bands=("B4", "B8", "B2")))
    assert (index.bands, index.channels, index.dtype) == (("B4", "B8", "B2"), 3, "uint16")
    assert of_keys(index) == {str(n): [300 + n, 400 + n, 100 + n] for n in range(6)}
    assert json.loads((tmp_path / "out" / "index.json").read_text())["bands"] == ["B4", "B8", "B2"]
    assert read_index(tmp_path / "out") == index


def test_without_a_choice_different_bands_are_refused_and_the_ways_out_work(scenes, tmp_path):
    words = r"images have different bands: .* in \d.tif, .* in \d.tif; use bands=\[...\] to take .*; nothing was kept"
    with pytest.raises(InputError, match=words):
        pack(scenes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert pack(scenes, tmp_path / "none", reading=Reading(band_names=None)).bands is None
    named = pack(scenes, tmp_path / "named", reading=Reading(band_names=("a", "b", "c", "d"), bands=("d", "0")))
    assert named.bands == ("d", "a")
    assert of_keys(named)["1"] == [401, 101]


def test_files_of_one_order_keep_their_bytes_and_their_names(scenes, tmp_path):
    (scenes / "0.tif").unlink()
    index = pack(scenes, tmp_path / "out")
    assert (index.bands, index.channels) == (NAMES, 4)
    assert {s.data for s in raw_samples(index, "train", 9)} == {path.read_bytes() for path in scenes.iterdir()}


WRONG = {
    ("B4", "B9"): r"bands: there is no band B9; there are .*, or 0 to 3 \(in .*\)",
    ("b4",): r"bands: there is no band b4 \(did you mean B4\?\); there are",
    ("4",): "bands: there is no band 4; there are",
    ("B4", "B4"): "bands names B4 twice; name each band once",
}


@pytest.mark.parametrize("bands", WRONG)
def test_wrong_bands_are_refused_in_one_line(bands, scenes, tmp_path):
    with pytest.raises(InputError, match=WRONG[bands]) as error:
        pack(scenes, tmp_path / "out", reading=Reading(bands=bands))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_band_twice_by_name_and_number_and_wrong_names_are_refused(scenes, tmp_path):
    (scenes / "0.tif").unlink()
    for reading, words in (
        (Reading(bands=("B2", "0")), "names a band twice, by its name and its number"),
        (Reading(band_names=("a", "b")), "it has 4 bands, and band_names= names 2"),
        (Reading(band_names=("a", "a", "b", "c")), "band_names=a, a, b, c: a name is empty, very long, or there twice"),
    ):
        with pytest.raises(InputError, match=words):
            pack(scenes, tmp_path / "out", reading=reading)


def test_an_image_that_lacks_a_band_stops_the_pack(scenes, tmp_path):
    (scenes / "z.tif").write_bytes(scene(noise(16, 20, 4, dtype=np.uint16), ("B2", "B3", "B4", "B11")))
    with pytest.raises(InputError, match=r"there is no band B8; there are B2, B3, B4, B11, or 0 to 3 \(in z.tif\)"):
        pack(scenes, tmp_path / "out", reading=Reading(bands=("B8",)))


def test_near_infrared_that_is_marked_as_alpha_is_a_band(tmp_path):
    pixels = noise(8, 9, 4)
    data = scene(pixels, photometric="rgb", extrasamples=["unassalpha"])
    opened = Reading(bands=("B8",)).recognise(data)
    assert np.array_equal(opened.image.pixels()[..., opened.chosen], pixels[..., 3:])


def test_a_stopped_pack_goes_on_only_with_the_same_bands(scenes, tmp_path, monkeypatch):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    reading = Reading(bands=("B4", "B2"))
    with pytest.raises(KeyboardInterrupt):
        pack(scenes, tmp_path / "out", reading=reading, shard_size=2000, progress=stop)
    with pytest.raises(InputError, match=r"other options \(bands: \['B4', 'B2'\] then, \['B2', 'B4'\] now\)"):
        pack(scenes, tmp_path / "out", reading=Reading(bands=("B2", "B4")), shard_size=2000)
    assert of_keys(pack(scenes, tmp_path / "out", reading=reading, shard_size=2000))["5"] == [305, 105]


# ---- afterwards


def test_shards_that_are_packed_again_keep_their_bands_and_their_range(tmp_path):
    (tmp_path / "src").mkdir()
    for number in range(6):
        (tmp_path / "src" / f"{number}.npy").write_bytes(npy(np.full((8, 9, 3), [0.1, 0.2, number / 10], np.float32)))
    names, span = ("red", "green", "nir"), ValueRange(0.0, 1.0)
    first = pack(tmp_path / "src", tmp_path / "a", reading=Reading(band_names=names, range=span))
    again = pack(tmp_path / "a", tmp_path / "b", val_fraction=0.2)
    assert (again.bands, again.value_range) == (first.bands, first.value_range) == (names, (0.0, 1.0))
    assert read_index(tmp_path / "b") == again
    assert "as in the index of the shards: bands red, green, nir; value_range=[0,1]" in again.reading
    chosen = pack(tmp_path / "a", tmp_path / "c", reading=Reading(bands=("nir", "red")))
    assert (chosen.bands, chosen.value_range) == (("nir", "red"), (0.0, 1.0))
    assert of_keys(chosen)["5"] == [32768, 6554]
    assert pack(tmp_path / "a", tmp_path / "d", reading=Reading(band_names=None)).bands is None
    words = r"value_range=\[0,9\] is for the values of files, and src=.*a was packed with value_range=\[0,1\]; pack "
    with pytest.raises(InputError, match=words):
        pack(tmp_path / "a", tmp_path / "e", reading=Reading(range=ValueRange(0.0, 9.0)))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("alpha", "channels"), [("channel", 4), ("drop", 3)])
def test_shards_that_are_packed_again_keep_what_became_of_transparency(alpha, channels, tmp_path):
    (tmp_path / "src").mkdir()
    for number in range(4):
        Image.fromarray(noise(8, 9, 4)).save(tmp_path / "src" / f"{number}.png")
    first = pack(tmp_path / "src", tmp_path / "a", reading=Reading(alpha=alpha))
    again = pack(tmp_path / "a", tmp_path / "b", splits="none")
    assert (again.alpha, again.channels, again.mean) == (alpha, channels, first.mean)
    other = "drop" if alpha == "channel" else "channel"
    assert pack(tmp_path / "a", tmp_path / "c", reading=Reading(alpha=other)).alpha == other


def test_sets_of_one_go_together_only_with_the_same_bands(scenes, tmp_path):
    one, other, plain = (
        pack(scenes, tmp_path / name, reading=reading)
        for name, reading in (
            ("a", Reading(bands=("B4", "B2"))),
            ("b", Reading(bands=("B2", "B4"))),
            ("c", Reading(bands=("0", "1"), band_names=None)),
        )
    )
    with pytest.raises(InputError, match="the sets have different bands"):
        merge([one, other])
    assert merge([plain, other]).bands == ("B2", "B4")
    content = json.loads((tmp_path / "a" / "index.json").read_text()) | {"bands": ["B4", "B4"]}
    (tmp_path / "a" / "index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="are not a name for each of 2 channels"):
        read_index(tmp_path / "a")


def test_channels_are_shown_by_name_and_by_number():
    assert read_channels(["B4", "B3", "B2"], 4, NAMES) == [2, 1, 0]
    assert read_channels(["B4", 1, "0"], 4, NAMES) == [2, 1, 0]
    assert read_channels([3, 1, 0], 4) == [3, 1, 0]
    assert read_channels(None, 4) is None
    for shown, bands, words in (
        (["B4", "B3", "B9"], NAMES, "channels_shown: there is no band B9; there are B2, B3, B4, B8, or 0 to 3"),
        (["B4", "B3", "B2"], (), "channels_shown: there is no band B4; they have no names; use 0 to 3"),
        (["B4"], NAMES, r"is not three channel numbers from 0 to 3; use such as channels_shown=\[0,1,2\], names \(B2,"),
    ):
        with pytest.raises(InputError, match=words):
            read_channels(shown, 4, bands)


def test_what_is_shown_is_called_by_its_names():
    assert channel_words(4, [2, 1, 0], NAMES) == "channels B4, B3, B2 of 4 as red, green, blue"
    assert channel_words(3, None, NAMES[:3]) == "channels B2, B3, B4 of 3 as red, green, blue"
    assert channel_words(2, None, NAMES[:2]) == "channel B2 of 2 as grey"
    assert channel_words(4, [3, 3, 3], NAMES) == "channel B8 of 4 as grey"
    assert channel_words(3, None) == ""


def test_a_stack_of_a_microscope_keeps_its_names_when_channels_are_chosen(tmp_path):
    planes = noise(3, 4, 16, 16, dtype=np.uint16)
    stream = io.BytesIO()
    names = ["DAPI", "GFP", "RFP", "Cy5"]
    tifffile.imwrite(stream, planes, ome=True, metadata={"axes": "ZCYX", "Channel": {"Name": names}})
    opened = Reading(bands=("Cy5", "DAPI")).recognise(stream.getvalue())
    assert np.array_equal(opened.image.pixels()[..., opened.chosen], planes[0, [3, 0]].transpose(1, 2, 0))
