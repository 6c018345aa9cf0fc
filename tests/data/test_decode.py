"""Decoding: every kind of image becomes the pixels that Pillow's own conversion gives."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mimsuite.data.images import pixels
from mimsuite.data.images.decode import Box, DecodeError, conform, decode, jpeg_reduction, open_image


def smooth(height=45, width=70, channels=3):
    """A picture without noise, so that JPEG changes it little; no symmetry, so that every turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 3, y * 4, x + 2 * y, 255 - 2 * x][:channels]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey_alpha():
    image = Image.fromarray(smooth()[..., 0]).convert("LA")
    image.putalpha(Image.fromarray(smooth()[..., 1]))
    return image


def on_white(image):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


PICTURE = Image.fromarray(smooth())
KINDS = {
    "1 png": (PICTURE.convert("1"), "PNG", lambda i: i.convert("L")),
    "L png": (PICTURE.convert("L"), "PNG", lambda i: i),
    "LA png": (grey_alpha(), "PNG", lambda i: on_white(i).convert("L")),
    "P png": (PICTURE.quantize(32), "PNG", lambda i: i.convert("RGB")),
    "RGB png": (PICTURE, "PNG", lambda i: i),
    "RGBA png": (Image.fromarray(smooth(channels=4)), "PNG", lambda i: on_white(i).convert("RGB")),
    "RGBA webp": (Image.fromarray(smooth(channels=4)), "WEBP", lambda i: on_white(i).convert("RGB")),
    "RGB webp": (PICTURE, "WEBP", lambda i: i.convert("RGB")),
    "RGB tiff": (PICTURE, "TIFF", lambda i: i),
    "CMYK tiff": (PICTURE.convert("CMYK"), "TIFF", lambda i: i.convert("RGB")),
    "YCbCr tiff": (PICTURE.convert("YCbCr"), "TIFF", lambda i: i.convert("RGB")),
    "CMYK jpeg": (PICTURE.convert("CMYK"), "JPEG", lambda i: i.convert("RGB")),
    "L jpeg": (PICTURE.convert("L"), "JPEG", lambda i: i),
    "RGB jpeg": (PICTURE, "JPEG", lambda i: i),
    "progressive jpeg": (PICTURE, "JPEG", lambda i: i),
    "RGB bmp": (PICTURE, "BMP", lambda i: i),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_equals_pillows_conversion(name):
    image, kind, expect = KINDS[name]
    data = encode(image, kind, **({"progressive": True} if "progressive" in name else {}))
    expected = np.asarray(expect(Image.open(io.BytesIO(data))))
    expected = expected if expected.ndim == 3 else expected[..., None]
    exact = kind != "JPEG" or image.mode == "CMYK"
    found = decode(data, expected.shape[2], "uint8")
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= (0 if exact else 2)  # two versions of libjpeg-turbo
    coloured = decode(data, 3, "uint8")
    assert np.array_equal(coloured, found if expected.shape[2] == 3 else found.repeat(3, axis=2))


def test_transparent_palette_and_transparent_colour_show_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert decode(encode(palette, "PNG", transparency=0), 3, "uint8").tolist() == [[[255] * 3, [0, 0, 255]]]
    plain = Image.fromarray(np.array([[[10, 20, 30], [1, 2, 3]]], dtype=np.uint8))
    data = encode(plain, "PNG", transparency=(10, 20, 30))
    assert decode(data, 3, "uint8").tolist() == [[[255] * 3, [1, 2, 3]]]
    assert decode(data, 3, "uint8", box=Box(0, 0, 1, 1)).tolist() == [[[255] * 3]]


def test_ycck_jpeg_is_decoded_as_pillow_does():
    data = bytearray(encode(PICTURE.convert("CMYK"), "JPEG"))
    at = data.index(b"Adobe")
    assert data[at + 11] in (0, 2)
    data[at + 11] = 2  # the transform byte: YCCK
    expected = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    assert np.array_equal(decode(bytes(data), 3, "uint8"), expected)


def test_grey_of_a_colour_picture_is_pillows_luma():
    data = encode(PICTURE, "PNG")
    assert np.array_equal(decode(data, 1, "uint8")[..., 0], np.asarray(PICTURE.convert("L")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept_or_scaled_by_rule(kind):
    values = np.array([[0, 1, 128, 129], [256, 257, 32768, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), kind)
    image = open_image(data)
    assert image.deep
    assert image.channels == 1
    assert np.array_equal(decode(data, 1, "uint16")[..., 0], values)
    assert decode(data, 1, "uint8")[..., 0].tolist() == [[0, 0, 0, 1], [1, 1, 128, 255]]
    eight = np.arange(256, dtype=np.uint8)[None, :, None]
    assert np.array_equal(conform(conform(eight, 1, "uint16"), 1, "uint8"), eight)
    assert conform(eight, 1, "uint16").max() == 65535


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(PICTURE, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = open_image(data)
    assert (image.height, image.width) == expected.shape[:2]
    assert np.abs(image.pixels().astype(int) - expected).max() <= (2 if kind == "JPEG" else 0)
    box = Box(3, 5, 20, 16)
    cut = image.pixels(box).astype(int)
    assert np.abs(cut - expected[3:23, 5:21]).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_scaled_decode_shows_the_same_part(orientation, factor):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = (243, 322) if orientation < 5 else (322, 243)
    data = encode(Image.fromarray(smooth(*stored) // 2), "JPEG", quality=95, exif=exif)
    image = open_image(data)
    height, width = 12 * factor, 16 * factor
    box = Box(factor, 2 * factor, height, width)
    small = image.pixels(box, cover=(12, 16)).astype(float)
    assert small.shape == (12, 16, 3)
    mean = image.pixels(box).reshape(12, factor, 16, factor, 3).mean(axis=(1, 3))
    assert np.abs(small - mean).mean() < 3 * factor * (factor - 1) / 8 + 1.5  # a turned image: less than a pixel off


def test_reduction_never_goes_below_the_cover():
    assert jpeg_reduction(800, 800, (100, 100)) == 8
    assert jpeg_reduction(799, 800, (100, 100)) == 4
    assert jpeg_reduction(200, 400, (100, 100)) == 2
    assert jpeg_reduction(199, 400, (100, 100)) == 1
    assert jpeg_reduction(10, 10, (100, 100)) == 1


def array(values, **options):
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
def test_arrays_of_many_channels_are_kept(dtype):
    values = np.arange(4 * 5 * 7).reshape(4, 5, 7).astype(dtype)
    image = open_image(array(values))
    assert (image.height, image.width, image.channels) == (4, 5, 7)
    native = "uint8" if dtype == "uint8" else "uint16"
    assert np.array_equal(decode(array(values), 7, native), values)
    assert np.array_equal(decode(array(values), 7, native, box=Box(1, 2, 3, 2)), values[1:4, 2:4])
    assert np.array_equal(decode(array(np.asfortranarray(values)), 7, native), values)
    assert open_image(array(values[..., 0])).channels == 1


JPEG = encode(PICTURE, "JPEG")
PNG = encode(PICTURE, "PNG")
BROKEN = {
    "nothing": (b"", "the file is empty"),
    "text": (b"hello, this is text", "not an image"),
    "cut JPEG header": (JPEG[:100], "cut inside the header"),
    "cut JPEG data": (JPEG[:-200], "JPEG"),
    "JPEG of zeros": (JPEG[:3] + bytes(500), "damaged header"),
    "cut PNG": (PNG[: len(PNG) // 2], "truncated"),
    "cut PNG header": (PNG[:20], "header"),
    "pickled array": (array(np.array([{}], dtype=object), allow_pickle=True), "npy"),
    "float array": (array(np.zeros((4, 4))), "float64"),
    "flat array": (array(np.zeros(4, dtype=np.uint8)), "shape"),
    "cut array": (array(np.zeros((9, 9), dtype=np.uint8))[:-3], "npy"),
    "float TIFF": (
        encode(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"),
        "TIFF: values of type float32; other numbers than uint8 and uint16 need `mimsuite pack value_range=",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_named(name):
    data, words = BROKEN[name]
    with pytest.raises(DecodeError, match=words):
        decode(data, 3, "uint8")


def test_wrong_channel_count_is_refused():
    with pytest.raises(DecodeError, match="3 channels where the data set has 4"):
        decode(PNG, 4, "uint8")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "npy"])
def test_bombs_are_refused_before_their_pixels_are_read(kind, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 45 * 70 - 1)
    data = array(smooth()) if kind == "npy" else encode(PICTURE, kind)
    with pytest.raises(DecodeError, match="45 x 70 pixels; at most 3149 are allowed"):
        open_image(data)


def test_a_huge_jpeg_header_is_refused():
    data = bytearray(JPEG)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(DecodeError, match="65535 x 65535"):
        open_image(bytes(data))
