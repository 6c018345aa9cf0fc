"""TIFF means what its tags say: colours, depth, planes and pages, read right or refused by name."""

import io

import numpy as np
import pytest
import tifffile
from pictures import noise, pixels, refusal, remarks, retag, save, tif
from PIL import Image

from mimsuite.data.images.decode import open_image
from mimsuite.data.images.value_range import ValueRange

# ---- TIFF: PhotometricInterpretation


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted_at_every_depth(dtype, compression, order):
    stored = noise(20, 30, dtype=dtype)
    data = tif(stored, photometric="miniswhite", compression=compression, byteorder=order)
    assert np.array_equal(pixels(data)[..., 0], np.iinfo(dtype).max - stored)
    with_alpha = np.stack([stored, noise(20, 30, dtype=dtype)], axis=-1)
    options = {"planarconfig": "contig", "extrasamples": ["unassalpha"], "compression": compression}
    data = tif(with_alpha, photometric="miniswhite", byteorder=order, **options)
    expected = np.stack([np.iinfo(dtype).max - stored, with_alpha[..., 1]], axis=-1)
    assert np.array_equal(pixels(data, "channel"), expected)


def test_white_is_zero_of_one_bit_is_inverted():
    bits = noise(8, 16) > 128
    data = save(Image.fromarray(bits), "TIFF")
    assert np.array_equal(pixels(data)[..., 0], bits * np.uint8(255))
    assert np.array_equal(pixels(retag(data, "PhotometricInterpretation", 0))[..., 0], ~bits * np.uint8(255))


def test_pages_of_channels_in_which_white_is_zero_are_inverted():
    stored = noise(4, 20, 30, dtype=np.uint16)
    data = tif(stored, photometric="miniswhite", metadata={"axes": "CYX"})
    assert np.array_equal(pixels(data), np.moveaxis(65535 - stored, 0, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_palette_of_8_and_of_16_bits_gives_its_colours(dtype):
    size = np.iinfo(dtype).max + 1
    colours, stored = noise(3, size, dtype=np.uint16), noise(20, 30, dtype=dtype)
    found = pixels(tif(stored, photometric="palette", colormap=colours))
    expected = np.moveaxis(colours[:, stored], 0, 2)
    assert np.array_equal(found, expected if dtype == np.uint16 else expected >> 8)


def test_a_palette_that_was_written_with_8_bits_is_not_black():
    colours, stored = noise(3, 256, dtype=np.uint8), noise(20, 30)
    found = pixels(tif(stored, photometric="palette", colormap=colours.astype(np.uint16)))
    assert np.array_equal(found, np.moveaxis(colours[:, stored], 0, 2))


NOT_READ = {4: "a transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv", 77: "77"}


@pytest.mark.parametrize("number", NOT_READ)
def test_colours_that_are_not_read_are_refused_by_name(number):
    data = retag(tif(noise(20, 30, 3), photometric="rgb"), "PhotometricInterpretation", number)
    assert NOT_READ[number] in refusal(data)
    assert refusal(data).endswith("which are not read; save it as RGB or grey")


def test_ycbcr_and_cmyk_are_pillows_rgb_and_other_inks_are_refused():
    image = Image.fromarray(noise(5, 8, 3).repeat(8, 0).repeat(8, 1))
    for mode, options in (
        ("YCbCr", {}),
        ("RGB", {"compression": "jpeg"}),
        ("CMYK", {}),
        ("CMYK", {"compression": "tiff_lzw"}),
    ):
        data = save(image.convert(mode), "TIFF", **options)
        assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    deep = tif(noise(20, 30, 4, dtype=np.uint16), photometric="separated", planarconfig="contig")
    assert "4 inks of 16 bits; only CMYK of 8 bits is read" in refusal(deep)
    five = tif(noise(20, 30, 5), photometric="separated", planarconfig="contig", extrasamples=["unspecified"])
    assert "5 inks of 8 bits" in refusal(five)


# ---- TIFF: depth, sign, kind of values


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.complex64])
def test_values_of_other_types_are_refused_by_name(dtype):
    assert f"values of type {np.dtype(dtype).name.rstrip('0123456789')}" in refusal(tif(np.ones((20, 30), dtype)))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_whole_numbers_are_read_where_they_fit_into_16_bits_without_sign(dtype):
    good = noise(20, 30).astype(dtype) * 3
    assert np.array_equal(pixels(tif(good))[..., 0], good)
    bad = good.copy()
    bad[3, 4] = -1 if np.iinfo(dtype).min < 0 else 70_000
    assert "outside of 0 to 65535, other numbers than uint8 and uint16 need `mimsuite pack value_range=" in refusal(
        tif(bad)
    )


def twelve_bits(**options):
    """Two values in three bytes: 0x000 0xFFF, 0x123 0x800."""
    data = bytearray(tif(np.zeros((2, 3), np.uint8), metadata=None, **options))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name, value in (("ImageWidth", 2), ("BitsPerSample", 12)):
            size = {3: 2, 4: 4}[tags[name].dtype]
            place = tags[name].valueoffset
            data[place : place + size] = value.to_bytes(size, "big" if file.byteorder == ">" else "little")
        at = file.pages[0].dataoffsets[0]
    data[at : at + 6] = bytes([0x00, 0x0F, 0xFF, 0x12, 0x38, 0x00])
    return bytes(data)


def test_twelve_bits_fill_sixteen():
    assert pixels(twelve_bits())[..., 0].tolist() == [[0, 0xFFFF], [0x1231, 0x8008]]


def test_twelve_bits_with_a_range_are_the_numbers_that_are_stored():
    found = open_image(twelve_bits(), value_range=ValueRange(0.0, 0x123)).pixels()
    assert found[..., 0].tolist() == [[0, 0xFFFF], [0xFFFF, 0xFFFF]]
    found = open_image(twelve_bits(), value_range=ValueRange(0.0, 65535.0)).pixels()
    assert found[..., 0].tolist() == [[0, 0xFFF], [0x123, 0x800]]


@pytest.mark.parametrize("options", [{"photometric": "miniswhite"}, {"byteorder": ">"}], ids=str)
def test_twelve_bits_that_pillow_does_not_know_are_read_by_imagecodecs(options, monkeypatch):
    data = twelve_bits(**options)
    assert "imagecodecs" in refusal(data)
    stored = np.array([[0x000, 0xFFF], [0x123, 0x800]], np.uint16)
    monkeypatch.setattr("mimsuite.data.images.tiff._read_by_tifffile", lambda found: stored.copy())
    full = (stored << 4) | (stored >> 8)
    assert np.array_equal(pixels(data)[..., 0], 0xFFFF - full if "photometric" in options else full)


# ---- TIFF: planes, pages, channels

STACKS = {
    "ImageJ ZC": ((3, 2), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "of 3 planes (ZC)"),
    "ImageJ TZC": ((2, 3, 4), {"imagej": True, "metadata": {"axes": "TZCYX"}}, "of 6 planes (TZC)"),
    "ImageJ Z": ((3,), {"imagej": True, "metadata": {"axes": "ZYX"}}, "of 3 planes (Z)"),
    "ImageJ C": ((3,), {"imagej": True, "metadata": {"axes": "CYX"}}, None),
    "OME TC": ((3, 2), {"ome": True, "metadata": {"axes": "TCYX"}}, "of 3 planes (TC)"),
    "OME CZ": ((2, 3), {"ome": True, "metadata": {"axes": "CZYX"}}, "of 3 planes (CZ)"),
    "OME TCZ": ((2, 3, 4), {"ome": True, "metadata": {"axes": "TCZYX"}}, "of 8 planes (TCZ)"),
    "tifffile ZC": ((4, 3), {"metadata": {"axes": "ZCYX"}}, "of 4 planes (ZC)"),
    "tifffile T": ((4,), {"metadata": {"axes": "TYX"}}, "of 4 planes (T)"),
    "plain pages": ((4,), {"metadata": None}, "of several pages"),
}


@pytest.mark.parametrize("name", STACKS)
def test_of_a_stack_the_first_plane_with_all_channels_is_taken_and_said(name):
    lead, options, says = STACKS[name]
    stored = noise(*lead, 20, 30, dtype=np.uint16)
    axes = (options["metadata"] or {"axes": "ZYX"})["axes"][:-2]
    first = stored[tuple(slice(None) if axis == "C" else 0 for axis in axes)]
    data = tif(stored, photometric="minisblack", **options)
    assert np.array_equal(pixels(data), np.moveaxis(first, 0, 2) if "C" in axes else first[..., None])
    assert remarks(data) == ([f"{says} the first is taken"] if says else [])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize(
    ("axes", "shape", "planes"), [("TCYX", (2, 3), 2), ("ZCYX", (4, 4), 4), ("TZCYX", (2, 5, 3), 10)]
)
def test_channels_that_tifffile_takes_for_colours_are_those_of_the_first_plane(axes, shape, planes, options):
    stored = noise(*shape, 20, 30, dtype=np.uint16)
    colours = {"photometric": "rgb", "planarconfig": "separate"}  # what tifffile chooses for 3 and 4 channels by itself
    data = tif(stored, metadata={"axes": axes}, **colours, **options)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].axes == "SYX"
    first = stored.reshape(-1, shape[-1], 20, 30)[0]
    assert np.array_equal(pixels(data, "channel"), np.moveaxis(first, 0, 2))
    assert remarks(data)[0] == f"of {planes} planes ({axes[:-3]}) the first is taken"


def test_colour_planes_give_the_first_colour_picture():
    stored = noise(4, 20, 30, 3)
    data = tif(stored, photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    assert np.array_equal(pixels(data), stored[0])
    assert remarks(data) == ["of 4 planes (Z) the first is taken"]


def test_one_axis_without_a_name_is_taken_as_channels_and_said():
    stored = noise(5, 20, 30, dtype=np.uint16)
    data = tif(stored, photometric="minisblack")
    assert np.array_equal(pixels(data), np.moveaxis(stored, 0, 2))
    assert remarks(data) == [
        "5 pages of 20 x 30 pixels, of which the file does not say what they are, are taken as channels; if they are "
        "something else, name the axes (tifffile: metadata={'axes': 'ZYX'})"
    ]
    assert "20 pages of 30 x 5 pixels" in remarks(tif(np.moveaxis(stored, 0, 2), photometric="minisblack"))[0]
    assert remarks(tif(stored, photometric="minisblack", metadata={"axes": "CYX"})) == []


def test_several_axes_without_names_are_refused():
    assert "a stack with the axes QQ of (4, 2): which are channels it does not say" in refusal(
        tif(noise(4, 2, 20, 30), photometric="minisblack")
    )


def test_smaller_copies_and_masks_are_passed_over():
    large, small, mask = noise(40, 60), noise(20, 30), noise(40, 60) > 128

    def pages(*kinds):
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as file:
            for array, kind in kinds:
                file.write(array, subfiletype=kind, metadata=None, photometric="minisblack")
        return stream.getvalue()

    for order in ([(small, 1), (large, 0)], [(large, 0), (small, 1), (mask, 4)], [(mask, 4), (large, 0)]):
        data = pages(*order)
        assert np.array_equal(pixels(data)[..., 0], large)
        assert remarks(data) == []
    assert "its pages are thumbnails or masks; export the full picture" in refusal(pages((small, 1)))


def test_a_compression_that_needs_a_package_names_it_in_every_reader():
    data = tif(noise(96, 128, 4, dtype=np.uint16), photometric="minisblack", planarconfig="contig", compression="zlib")
    for number, name in ((50000, "ZSTD"), (5, "LZW"), (34887, "LERC"), (50002, "JPEGXL")):
        assert f"{name} compression needs imagecodecs: pip install imagecodecs" in refusal(
            retag(data, "Compression", number)
        )
