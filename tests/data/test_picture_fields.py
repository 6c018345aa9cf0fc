"""Pictures mean what their metadata says: fields of TIFF, PNG, JPEG and .npy, read right or refused by name."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.images.encode import encode_file
from mimsuite.data.index_json import read_index
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.data.reader import ImageReader
from mimsuite.data.scan import index_beside


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def tif(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def save(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def retag(data, name, value):
    """Another value of a tag of 16 bits."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at, order = file.pages[0].tags[name].valueoffset, file.byteorder
    return data[:at] + struct.pack(order + "H", value) + data[at + 2 :]


def png(rows, width, bits, kind, *chunks):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def pixels(data, alpha="white"):
    image = open_image(data, alpha)
    found = image.pixels()
    assert found.shape == (image.height, image.width, image.channels)
    assert found.dtype == (np.uint16 if image.deep else np.uint8)
    return found


def values(data, alpha="white"):
    found = pixels(data, alpha)
    return found.reshape(-1, found.shape[2]).squeeze(-1).tolist() if found.shape[2] == 1 else found[0].tolist()


def remarks(data, alpha="white"):
    return [remark.text for remark in open_image(data, alpha).remarks()]


def refusal(data):
    with pytest.raises(DecodeError) as error:
        open_image(data).pixels()
    assert "\n" not in str(error.value)
    return str(error.value)


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
    assert "0 to 65535 (16 bits) is allowed" in refusal(tif(bad))


def test_twelve_bits_fill_sixteen():
    """Two values in three bytes: 0x000 0xFFF, 0x123 0x800."""
    data = bytearray(tif(np.zeros((2, 3), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        places = {name: tags[name].valueoffset for name in ("ImageWidth", "BitsPerSample")}
        at = file.pages[0].dataoffsets[0]
    data[places["ImageWidth"]], data[places["BitsPerSample"]] = 2, 12
    data[at : at + 6] = bytes([0x00, 0x0F, 0xFF, 0x12, 0x38, 0x00])
    assert pixels(bytes(data))[..., 0].tolist() == [[0, 0xFFFF], [0x1231, 0x8008]]


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


def test_colour_planes_give_the_first_colour_picture():
    stored = noise(4, 20, 30, 3)
    data = tif(stored, photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    assert np.array_equal(pixels(data), stored[0])
    assert remarks(data) == ["of 4 planes (Z) the first is taken"]


def test_axes_without_names_are_refused():
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


# ---- alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", None])
def test_alpha_of_a_tiff_is_laid_on_white_dropped_or_kept(kind, dtype):
    top = np.iinfo(dtype).max
    stored = np.array([[[30, 60, 90, top], [30, 60, 90, 0], [30, 60, 90, top // 3]]], dtype)
    data = tif(stored, photometric="rgb", extrasamples=[kind] if kind else ["unspecified"])
    if kind is None:  # not declared: the tag becomes one that nobody knows
        data = data.replace(struct.pack("<HHI", 338, 3, 1), struct.pack("<HHI", 65000, 3, 1))
    if kind == "assocalpha":
        third = [90, 180, 270] if dtype == np.uint16 else [90, 180, 255]
        white = [[30, 60, 90], [top] * 3, [30 + top - top // 3, 60 + top - top // 3, 90 + top - top // 3]]
        plain = [[30, 60, 90], None, third]
    else:
        white = [[30, 60, 90], [top] * 3, [round((v + 2 * top) / 3) for v in (30, 60, 90)]]
        plain = [[30, 60, 90]] * 3
    assert np.abs(pixels(data)[0].astype(int) - np.minimum(white, top)).max() <= 1
    for alpha in ("drop", "channel"):
        found = values(data, alpha)
        assert [v[:3] for v, p in zip(found, plain, strict=True) if p] == [p for p in plain if p]
        assert alpha == "drop" or [v[3] for v in found] == [top, 0, top // 3]
    said = "of which the file says nothing, is taken as" if kind is None else "is"
    assert f"the fourth channel{', ' if kind is None else ' '}{said} alpha and is laid on white" in remarks(data)[0]


PALETTE = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]))
PNGS = {  # data, what white, drop and channel give
    "2 bits, one grey is transparent": (
        png([b"\x1b"], 4, 2, 0, (b"tRNS", b"\0\1")),
        ([0, 255, 170, 255], [0, 85, 170, 255], [[0, 255], [85, 0], [170, 255], [255, 255]]),
    ),
    "1 bit, white is transparent": (
        png([b"\xa0"], 4, 1, 0, (b"tRNS", b"\0\1")),
        ([255, 0, 255, 0], [255, 0, 255, 0], [[255, 0], [0, 255], [255, 0], [0, 255]]),
    ),
    "16 bits, one grey is transparent": (
        png([struct.pack(">3H", 0, 256, 65535)], 3, 16, 0, (b"tRNS", b"\1\0")),
        ([0, 65535, 65535], [0, 256, 65535], [0, 256, 65535]),
    ),
    "16 bits of grey and alpha": (
        png([struct.pack(">4H", 1000, 65535, 256, 0)], 2, 16, 4),
        ([3, 255], [3, 1], [[3, 255], [1, 0]]),
    ),
    "16 bits of colour, one is transparent": (
        png(
            [struct.pack(">6H", 1000, 2000, 3000, 65535, 0, 1)],
            2,
            16,
            2,
            (b"tRNS", struct.pack(">3H", 1000, 2000, 3000)),
        ),
        ([[255] * 3, [255, 0, 0]], [[3, 7, 11], [255, 0, 0]], [[3, 7, 11, 0], [255, 0, 0, 255]]),
    ),
    "16 bits of colour and alpha": (
        png([struct.pack(">8H", 1000, 2000, 3000, 65535, 65535, 0, 1, 0)], 2, 16, 6),
        ([[3, 7, 11], [255] * 3], [[3, 7, 11], [255, 0, 0]], [[3, 7, 11, 255], [255, 0, 0, 0]]),
    ),
    "a palette with alpha": (
        png([b"\x1b"], 4, 2, 3, PALETTE, (b"tRNS", bytes([255, 0]))),
        (
            [[255, 0, 0], [255] * 3, [0, 0, 255], [9] * 3],
            [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9] * 3],
            [[255, 0, 0, 255], [0, 255, 0, 0], [0, 0, 255, 255], [9, 9, 9, 255]],
        ),
    ),
    "gamma, background and significant bits change nothing": (
        png(
            [bytes([10, 20, 30])],
            1,
            8,
            2,
            (b"gAMA", struct.pack(">I", 100000)),
            (b"sBIT", b"\5\6\5"),
            (b"bKGD", bytes(6)),
        ),
        ([[10, 20, 30]],) * 3,
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_transparency_and_depth_of_a_png(name):
    data, expected = PNGS[name]
    assert tuple(values(data, alpha) for alpha in ("white", "drop", "channel")) == tuple(expected)
    assert any("16 bits a value are read as 8" in text for text in remarks(data)) == (data[24] == 16 and data[25] != 0)


def test_alpha_is_kept_in_the_index_and_holds_for_training_and_evaluation(tmp_path, caplog):
    stored = noise(20, 30, 4)
    for folder in ("src", "shards"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        (tmp_path / "src" / f"{number}.png").write_bytes(save(Image.fromarray(stored), "PNG"))
    found = {}
    for alpha in ("white", "drop", "channel"):
        caplog.clear()
        assert pack(tmp_path / "src", tmp_path / alpha, alpha=alpha).alpha == alpha
        lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        done = {"white": "laid on white", "drop": "dropped", "channel": "kept as a channel"}[alpha]
        assert len(lines) == 1
        assert f"in 3 of 3 sampled images, the fourth channel is alpha and is {done}" in lines[0]
        index = open_index(str(tmp_path / alpha))
        assert (index.alpha, index.channels) == (alpha, 3 + (alpha == "channel"))
        sample = ImageReader(index, index.records("train"), CenterCrop((20, 20)), seed=None, labels=False)[0, 0, 0]
        found[alpha] = sample.image.permute(1, 2, 0).numpy()
        assert np.array_equal(found[alpha], pixels(save(Image.fromarray(stored), "PNG"), alpha)[:, 5:25])
    shard = tmp_path / "channel" / "train-000000.tar"
    (tmp_path / "shards" / shard.name).write_bytes(shard.read_bytes())
    index_beside(str(tmp_path / "shards"), "drop")
    assert read_index(tmp_path / "shards").alpha == "drop"


def test_kinds_that_are_rewritten_keep_alpha_where_it_is_asked_for(tmp_path):
    image = Image.fromarray(noise(20, 30)).convert("P")
    (tmp_path / "a.gif").write_bytes(save(image, "GIF", transparency=3))
    kept, white = encode_file(tmp_path / "a.gif", None, "channel"), encode_file(tmp_path / "a.gif", None)
    assert (kept.ending, kept.channels, white.ending, white.channels) == ("npy", 4, "png", 3)
    assert np.array_equal(pixels(kept.data), pixels((tmp_path / "a.gif").read_bytes(), "channel"))


# ---- JPEG and others


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_the_orientation_of_exif_and_of_xmp_is_applied(kind, where):
    image, exif = Image.fromarray(noise(5, 8, 3).repeat(8, 0).repeat(8, 1)), Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = save(image, kind, **({"exif": exif} if where == "exif" else {"xmp": xmp}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == (64, 40, 3)
    assert np.abs(pixels(data).astype(int) - expected).max() <= 2


def test_a_jpeg_that_stores_rgb_is_not_taken_for_ycbcr():
    image = Image.fromarray(noise(5, 8, 3).repeat(8, 0).repeat(8, 1))
    data = save(image, "JPEG", keep_rgb=True, quality=95)
    assert np.abs(pixels(data).astype(int) - np.asarray(image)).max() < 8


OTHERS = {
    "MPO": lambda i: save(i, "MPO", save_all=True, append_images=[ImageOps.invert(i)], quality=95, subsampling=0),
    "JPEG 2000": lambda i: save(i, "JPEG2000"),
    "AVIF": lambda i: save(i, "AVIF", quality=100, subsampling="4:4:4"),
    "PBM": lambda i: save(i.convert("1"), "PPM"),
    "PPM of 16 bits": lambda i: b"P6 64 40 65535\n" + (np.asarray(i).astype(">u2") * 257).tobytes(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_rare_kinds_are_read(name):
    image = Image.fromarray(noise(5, 8, 3).repeat(8, 0).repeat(8, 1))
    expected = np.asarray(image.convert("1").convert("L"))[..., None] if name == "PBM" else np.asarray(image)
    assert np.abs(pixels(OTHERS[name](image)).astype(int) - expected).max() < 40  # three are lossy
    assert np.abs(pixels(OTHERS[name](image)).astype(int) - expected).mean() < 4


# ---- numpy


def test_an_array_whose_first_axis_looks_like_channels_gets_a_hint_and_no_channels_are_refused():
    assert "(3, 64, 96) is read as (H, W, C), with 96 channels" in remarks(npy(np.zeros((3, 64, 96), np.uint8)))[0]
    assert remarks(npy(np.zeros((64, 96, 3), np.uint8))) == []
    assert remarks(npy(np.zeros((8, 8, 64), np.uint8))) == []
    assert "no channels" in refusal(npy(np.zeros((4, 4, 0), np.uint8)))


@pytest.mark.parametrize(("kind", "shape"), [("bool", (4, 4)), ("int16", (4, 4)), ("uint8", (2, 4, 4, 3))])
def test_other_arrays_are_refused_by_name(kind, shape):
    named = kind if len(shape) == 2 else "shape (2, 4, 4, 3)"
    assert f"npy array of {named}; " in refusal(npy(np.zeros(shape, kind)))


# ---- noise of libraries


def test_libraries_say_nothing_themselves(capfd):
    """Damaged data under libtiff, an unknown tag under Pillow, a broken OME description under tifffile."""
    lzw = bytearray(save(Image.fromarray(noise(20, 30, 3)), "TIFF", compression="tiff_adobe_deflate"))
    lzw[40:60] = bytes(20)
    cut = tif(noise(20, 30, 5), photometric="minisblack", planarconfig="contig", compression="zlib")[:900]
    broken = tif(noise(2, 20, 30), photometric="minisblack", metadata=None, description="<?xml version='1.0'?><OME")
    for data in (bytes(lzw), cut, broken):
        try:
            open_image(data).remarks()
            open_image(data).pixels()
        except DecodeError as error:
            assert str(error).startswith("TIFF: ")  # noqa: PT017
    assert capfd.readouterr() == ("", "")
