"""Pictures mean what their metadata says: alpha, and fields of PNG, JPEG and .npy, read right or refused by name."""

import io
import logging
import struct

import numpy as np
import pytest
from pictures import noise, npy, pixels, png, refusal, remarks, save, tif, values
from PIL import Image, ImageOps

from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.images.encode import encode_file
from mimsuite.data.images.reading import Reading
from mimsuite.data.index_json import read_index
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.data.reader import ImageReader
from mimsuite.data.scan import index_beside

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
        assert pack(tmp_path / "src", tmp_path / alpha, reading=Reading(alpha)).alpha == alpha
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
    kept, white = encode_file(tmp_path / "a.gif", None, Reading("channel")), encode_file(tmp_path / "a.gif", None)
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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "value"), [(3, "HH"), (4, "I"), (8, "hh"), (9, "i"), (1, "4B")], ids=str)
def test_the_orientation_of_a_jpeg_may_be_a_number_of_any_length(kind, value, order):
    held = struct.pack(order + value, *(6, 0, 0, 0)[: len(struct.unpack(value, bytes(4)))])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    exif = b"Exif\0\0" + head + struct.pack(order + "HHI", 0x0112, kind, 1) + held + bytes(4)
    plain = save(Image.fromarray(noise(5, 8, 3).repeat(8, 0).repeat(8, 1)), "JPEG")
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((40, 64, 3) if kind == 1 else (64, 40, 3))  # bytes are no number there
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


def test_jpeg_2000_of_16_bits_in_colours_is_said_to_be_read_as_8():
    plain = save(Image.fromarray(noise(64, 64, 3)), "JPEG2000")
    deep = bytearray(plain)
    start = plain.index(b"\xff\x4f\xff\x51") + 42
    assert [deep[start + 3 * channel] for channel in range(3)] == [7, 7, 7]
    for channel in range(3):
        deep[start + 3 * channel] = 15
    said = "16 bits a value are read as 8, because Pillow reads no more; TIFF keeps 16"
    assert (remarks(plain), remarks(bytes(deep))) == ([], [said])
    grey = save(Image.fromarray(noise(64, 64, dtype=np.uint16)), "JPEG2000")
    assert grey[grey.index(b"\xff\x4f\xff\x51") + 42] == 15
    assert remarks(grey) == []


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
