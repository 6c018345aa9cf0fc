"""What becomes of each kind of image: its bytes kept, made smaller, or turned into PNG; TIFFs of every layout."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from mimsuite.data.checks.inspect import raw_samples
from mimsuite.data.images.decode import DecodeError, decode, open_image
from mimsuite.data.images.encode import encode_file, kind_of, smaller_size
from mimsuite.data.open import open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def smooth(height, width, channels, dtype=np.uint8):
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [(np.sin(3 * x + i) * np.cos(2 * y - i) + 1) / 2 for i in range(channels)]
    return (np.stack(planes, axis=-1) * np.iinfo(dtype).max).astype(dtype)


def image(pixels, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, kind, **options)
    return stream.getvalue()


def tif(pixels, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.ascontiguousarray(pixels), **options)
    return stream.getvalue()


def npy(pixels):
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


MULTI = {"photometric": "minisblack"}
LAYOUTS = {
    "interleaved": lambda p: tif(p, **MULTI, planarconfig="contig"),
    "planes": lambda p: tif(p.transpose(2, 0, 1), **MULTI, planarconfig="separate"),
    "pages": lambda p: tif(p.transpose(2, 0, 1), **MULTI),
    "imagej": lambda p: tif(p.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}),
    "ome": lambda p: tif(p.transpose(2, 0, 1), ome=True, metadata={"axes": "CYX"}),
    "deflate": lambda p: tif(p, **MULTI, planarconfig="contig", compression="zlib", predictor=True),
    "tiles": lambda p: tif(p, **MULTI, planarconfig="contig", tile=(16, 16)),
    "bigtiff": lambda p: tif(p, **MULTI, planarconfig="contig", bigtiff=True),
    "big endian": lambda p: tif(p, **MULTI, planarconfig="contig", byteorder=">"),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [2, 3, 4, 12])
def test_a_tiff_of_any_layout_gives_its_channels(layout, channels, dtype):
    pixels = noise(20, 30, channels, dtype=dtype)
    found = open_image(LAYOUTS[layout](pixels))
    assert (found.height, found.width, found.channels, found.deep) == (20, 30, channels, dtype == np.uint16)
    assert found.pixels().dtype == dtype
    assert np.array_equal(found.pixels(), pixels)


@pytest.mark.parametrize("size", [(5, 5), (3, 4), (4, 3)])
def test_planes_are_told_by_the_tag_not_by_the_shape(size):
    pixels = noise(*size, 5)
    assert np.array_equal(open_image(LAYOUTS["planes"](pixels)).pixels(), pixels)
    assert np.array_equal(open_image(LAYOUTS["interleaved"](pixels)).pixels(), pixels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_colour_tiff_keeps_16_bits(planar):
    pixels = noise(20, 30, 3, dtype=np.uint16)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    assert np.array_equal(decode(tif(stored, photometric="rgb", planarconfig=planar), 3, "uint16"), pixels)


def test_alpha_of_a_16_bit_tiff_shows_white():
    pixels = np.array([[[100, 200, 300, 65535], [100, 200, 300, 0], [0, 0, 0, 13107]]], dtype=np.uint16)
    found = open_image(tif(pixels, photometric="rgb", extrasamples=["unassalpha"]))
    assert found.channels == 3
    assert found.pixels().tolist() == [[[100, 200, 300], [65535] * 3, [52428] * 3]]
    found = open_image(tif(pixels, photometric="rgb", extrasamples=["assocalpha"]))
    assert found.pixels().tolist()[0][:2] == [[100, 200, 300], [65535] * 3]


def test_a_fourth_band_that_is_no_alpha_is_a_channel():
    pixels = noise(20, 30, 4)
    assert np.array_equal(open_image(tif(pixels, photometric="rgb", extrasamples=["unspecified"])).pixels(), pixels)


def test_the_first_of_plain_pages_is_taken():
    pages = noise(3, 20, 30)
    found = open_image(tif(pages, **MULTI, metadata={"axes": "ZYX"}))
    assert np.array_equal(found.pixels(), pages[0][..., None])


def test_a_turned_16_bit_tiff_comes_upright():
    pixels = noise(20, 30, 5, dtype=np.uint16)
    found = open_image(tif(pixels, **MULTI, planarconfig="contig", extratags=[(274, "H", 1, 6, False)]))
    assert (found.height, found.width) == (30, 20)
    assert np.array_equal(found.pixels(), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tif(noise(20, 30, 5).astype(np.float32), **MULTI, planarconfig="contig"), "float32; other numbers than"),
        (tif(noise(20, 30, 5), **MULTI, planarconfig="contig")[:1500], "TIFF: "),
        (tif(noise(20, 30, 5), **MULTI, planarconfig="contig", compression="zlib")[:1500], "TIFF: "),
    ],
)
def test_a_tiff_that_cannot_be_used_says_why(data, says):
    with pytest.raises(DecodeError, match=says):
        open_image(data).pixels()


def test_channels_that_lie_in_several_files_are_refused(caplog):
    text = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
        <Pixels DimensionOrder="XYCZT" ID="P:0" SizeC="3" SizeT="1" SizeX="30" SizeY="20" SizeZ="1" Type="uint8">
        <TiffData IFD="0" PlaneCount="2"/>
        <TiffData FirstC="2" IFD="0" PlaneCount="1"><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>
        </Pixels></Image></OME>"""
    data = tif(noise(2, 20, 30), **MULTI, metadata=None, description=text)
    with pytest.raises(DecodeError, match="its channels lie in several files; write them into one"):
        open_image(data)


def test_a_tiff_of_far_too_many_values_is_refused_before_it_is_read():
    data = bytearray(tif(noise(20, 30, 5), **MULTI, planarconfig="contig"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for at in places:
        data[at : at + 2] = (13_000).to_bytes(2, "little")
    with pytest.raises(DecodeError, match="845000000 values; at most 715827880 are allowed"):
        open_image(bytes(data))


def test_a_compression_that_is_missing_names_the_package():
    data = bytearray(tif(noise(20, 30, 5), **MULTI, planarconfig="contig", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[0].tags["Compression"].valueoffset
    data[at : at + 2] = (5).to_bytes(2, "little")  # LZW
    with pytest.raises(DecodeError, match="LZW compression needs imagecodecs"):
        open_image(bytes(data)).pixels()


KEPT = {
    "a.jpg": image(noise(20, 30, 3), "JPEG"),
    "b.png": image(noise(20, 30, 3), "PNG"),
    "c.webp": image(noise(20, 30, 3), "WEBP"),
    "d.tif": image(noise(20, 30, 3), "TIFF"),
    "e.npy": npy(noise(20, 30, 3)),
    "f.tiff": LAYOUTS["planes"](noise(20, 30, 3)),
}
TURNED = {
    "g.bmp": image(noise(20, 30, 3), "BMP"),
    "h.ppm": image(noise(20, 30, 3), "PPM"),
    "i.pgm": image(noise(20, 30), "PPM"),
    "j.gif": image(
        noise(20, 30), "GIF", save_all=True, append_images=[Image.fromarray(noise(20, 30)[::-1])], duration=9
    ),
}


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_bytes_of_kinds_that_shards_hold_are_kept_and_others_become_png(tmp_path):
    src = write(tmp_path / "src", KEPT | TURNED)
    found = {s.key: s for s in raw_samples(pack(src, tmp_path / "out"), "train", 99)}
    for name, data in KEPT.items():
        assert found[name[0]].data == data
    assert [found[key].ending for key in "abcdef"] == ["jpg", "png", "webp", "tif", "npy", "tif"]
    for name, data in TURNED.items():
        assert found[name[0]].ending == "png"
        assert np.array_equal(decode(found[name[0]].data, 3, "uint8"), decode(data, 3, "uint8"))


@pytest.mark.parametrize(
    ("kind", "dtype", "channels", "ending"),
    [
        ("JPEG", np.uint8, 3, "jpg"),
        ("JPEG", np.uint8, 1, "jpg"),
        ("PNG", np.uint8, 3, "png"),
        ("PNG", np.uint16, 1, "png"),
        ("WEBP", np.uint8, 3, "png"),
        ("TIFF", np.uint8, 1, "png"),
        ("TIFF", np.uint16, 1, "png"),
        ("planes", np.uint16, 3, "npy"),
        ("interleaved", np.uint8, 7, "npy"),
        ("interleaved", np.uint16, 7, "npy"),
        ("npy", np.uint8, 3, "npy"),
        ("npy", np.uint16, 9, "npy"),
    ],
)
def test_larger_images_are_resized_to_the_short_side(kind, dtype, channels, ending, tmp_path):
    pixels = smooth(60, 90, channels, dtype)
    data = npy(pixels) if kind == "npy" else LAYOUTS[kind](pixels) if kind in LAYOUTS else image(pixels, kind)
    (tmp_path / "a").write_bytes(data)
    found = encode_file(tmp_path / "a", 40)
    assert (found.ending, kind_of(found.data)) == (ending, ending)
    small = open_image(found.data)
    assert (small.height, small.width, small.channels, small.deep) == (40, 60, channels, dtype == np.uint16)
    expected = smooth(40, 60, channels, dtype).astype(float)
    assert np.abs(small.pixels() - expected).max() < 0.05 * np.iinfo(dtype).max
    exact = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((60, 40), Image.Resampling.LANCZOS))
        for plane in decode(data, channels, np.dtype(dtype).name).transpose(2, 0, 1)
    ]
    limit = 8 if ending == "jpg" else 2  # two passes, each rounded; colours of a JPEG at half size
    assert np.abs(small.pixels() - np.stack(exact, axis=-1).clip(0, np.iinfo(dtype).max)).max() <= limit


@pytest.mark.parametrize("size", [40, 41, 100])
def test_images_are_never_enlarged(size, tmp_path):
    data = image(noise(40, 60, 3), "JPEG")
    (tmp_path / "a").write_bytes(data)
    assert encode_file(tmp_path / "a", size).data == data


def test_the_short_side_counts():
    assert smaller_size(100, 300, 50) == (50, 150)
    assert smaller_size(301, 100, 50) == (150, 50)
    assert smaller_size(1, 1000, 1) is None
    assert smaller_size(1000, 3000, 1) == (1, 3)


def test_a_jpeg_is_turned_upright_when_it_is_resized(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = smooth(60, 90, 3)
    (tmp_path / "a").write_bytes(image(pixels, "JPEG", exif=exif, quality=95))
    small = open_image(encode_file(tmp_path / "a", 40).data)
    assert (small.height, small.width) == (60, 40)
    expected = np.asarray(Image.fromarray(np.rot90(pixels, -1)).resize((40, 60), Image.Resampling.LANCZOS))
    assert np.abs(small.pixels().astype(int) - expected).max() < 12


def test_a_packed_set_of_twelve_channels_opens(tmp_path):
    src = write(tmp_path / "src", {f"{i}.tif": LAYOUTS["planes"](noise(20, 30, 12, dtype=np.uint16)) for i in range(3)})
    pack(src, tmp_path / "out")
    index = open_index(str(tmp_path / "out"))
    assert (index.channels, index.dtype, len(index.mean)) == (12, "uint16", 12)


def test_channel_counts_that_do_not_go_together_are_named_with_the_files(tmp_path):
    src = write(tmp_path / "src", {"a.npy": npy(noise(20, 30, 3)), "b.npy": npy(noise(20, 30, 5))})
    with pytest.raises(InputError, match=r"counts: 3 in 1 image, 5 in 1 image \(b.npy\); .* or exclude=b.npy"):
        pack(src, tmp_path / "out")


def test_16_bit_colour_in_png_is_said_to_be_read_as_8(tmp_path, caplog):
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pack(write(tmp_path / "src", {"a.png": data}), tmp_path / "out")
    assert "in 1 of 1 sampled images, 16 bits a value are read as 8" in caplog.text


def test_a_set_of_both_depths_is_said_to_be_read_as_8_bits(tmp_path, caplog):
    files = {"a.tif": image(noise(20, 30, dtype=np.uint16), "TIFF"), "b.tif": image(noise(20, 30), "TIFF")}
    assert pack(write(tmp_path / "src", files), tmp_path / "out").dtype == "uint8"
    assert "1 of 2 sampled images have 16 bits, so all are read as 8 bits" in caplog.text
    caplog.clear()
    assert pack(write(tmp_path / "one", {"a.tif": files["a.tif"]}), tmp_path / "deep").dtype == "uint16"
    assert not caplog.records
