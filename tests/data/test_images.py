"""Images as people have them: each becomes the pixels that Pillow gives, or a `DecodeError` with a reason."""

import base64
import collections
import io
import json
import struct
import subprocess
import sys
import zlib
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps
from run_facts import context_of

from mimsuite.callbacks.bad_samples import BadSamples
from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.hashing import hash_key
from mimsuite.data.images.decode import Box, DecodeError, decode, open_image
from mimsuite.data.open import open_index
from mimsuite.data.reader import ImageReader
from mimsuite.errors import InputError
from mimsuite.types import BadSample

pytestmark = pytest.mark.slow

JPEG_TOLERANCE = 2  # grey levels: two versions of libjpeg-turbo, each rounding its own way
y, x = np.mgrid[0:45, 0:70]
SMOOTH = np.clip(np.stack([x * 3, y * 4, x + 2 * y], axis=-1), 0, 255).astype(np.uint8)
PICTURE = Image.fromarray(SMOOTH)
OTHER, LAST = ImageOps.invert(PICTURE), ImageOps.mirror(PICTURE)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def difference(data, expected):
    found = decode(data, expected.shape[2], "uint8")
    assert found.shape == expected.shape
    return np.abs(found.astype(int) - expected).max()


def reason(data, channels=3):
    with pytest.raises(DecodeError) as error:
        decode(data, channels, "uint8")
    message = str(error.value)
    assert 0 < len(message) < 200
    assert "\n" not in message
    return message


# ---- damaged

JPEG, PNG = encode(PICTURE, "JPEG"), encode(PICTURE, "PNG")
WEBP, TIFF, GIF = (encode(PICTURE, kind) for kind in ("WEBP", "TIFF", "GIF"))
SCAN = JPEG.index(b"\xff\xda")


def spoilt(seed, count):
    """The JPEG with `count` bytes of its entropy-coded data exchanged."""
    random, data = np.random.default_rng(seed), bytearray(JPEG)
    for at in random.integers(SCAN + 14, len(JPEG) - 2, count):
        data[at] = random.integers(0, 255)
    return bytes(data)


DAMAGED = {
    "0 bytes": (b"", "the file is empty"),
    "1 byte": (b"\xff", "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "text": (b"This is not a picture.\n" * 20, "not an image"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "a web page, and not an image"),
    "JPEG of three bytes": (JPEG[:3], "JPEG: cut inside the header"),
    "JPEG without image data": (JPEG[:SCAN], "JPEG: "),
    "JPEG cut in its data": (JPEG[:-100], "JPEG: Premature end|JPEG: Corrupt"),
    "JPEG without its last marker": (JPEG[:-2], "JPEG: Premature end"),
    "JPEG that ends too early": (JPEG[: SCAN + 60] + b"\xff\xd9", "JPEG: Corrupt JPEG data"),
    "JPEG with codes that do not exist": (JPEG[: SCAN + 30] + b"\xff\x00" * 20 + JPEG[SCAN + 70 :], "JPEG: Corrupt"),
    "PNG cut in its data": (PNG[: len(PNG) // 2], "header: image file is truncated"),
    "PNG with a wrong check sum": (PNG[:50] + bytes([PNG[50] ^ 1]) + PNG[51:], "header: broken data stream"),
    "WebP cut in its data": (WEBP[: len(WEBP) // 2], "not an image|header: |WEBP: "),
    "TIFF cut in its pixels": (TIFF[:8] + TIFF[-400:], "TIFF|header|not an image"),
    "GIF cut in its data": (GIF[: len(GIF) // 2], "GIF: "),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_has_a_reason_of_one_line(name):
    data, words = DAMAGED[name]
    assert reason(data).startswith(tuple(words.split("|")))


@pytest.mark.parametrize("seed", range(8))
def test_a_jpeg_with_exchanged_bytes_is_refused_at_full_and_at_reduced_scale(seed):
    assert reason(spoilt(seed, 8)).startswith("JPEG: ")
    with pytest.raises(DecodeError, match="JPEG: "):
        open_image(spoilt(seed, 8)).pixels(Box(0, 0, 40, 64), cover=(5, 8))


OTHERS = {
    "an empty file": (b"", "the file is empty"),
    "a photo of a phone": (b"\0\0\0\x18ftypheic" + bytes(90), "a HEIC picture, and not an image of"),
    "a scan without its header": (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", "a DICOM file without a header (no DICM at byte"),
    "a download that failed": (b"\n<!DOCTYPE html><html>", "a web page, and not an image of a supported kind; get the"),
    "a drawing": (b'<?xml version="1.0"?><svg>', "an SVG drawing, and not an image of"),
    "a clone without LFS": (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, and not"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_with_the_ending_of_an_image_are_called_by_their_kind(name):
    data, words = OTHERS[name]
    assert reason(data).startswith(words)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "TGA"])
def test_formats_of_rare_decoders_are_not_opened(kind):
    """Pillow would start Ghostscript for an EPS, whatever the name of the file."""
    assert "not an image of a supported kind" in reason(encode(Image.new("RGB", (32, 32)), kind))


# ---- extreme sizes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_one_pixel_is_an_image(kind):
    data = encode(Image.new("RGB", (1, 1), (200, 100, 50)), kind)
    assert difference(data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= (kind == "JPEG") * 2


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_line_of_a_hundred_thousand_pixels_is_an_image_and_can_be_cropped(kind, size):
    line = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encode(Image.fromarray(line), kind)
    assert np.array_equal(decode(data, 3, "uint8"), line)
    crop = CenterCrop((8, 8))
    image = open_image(data)
    box = crop.box(image.height, image.width, None)
    assert (box.height, box.width) == (1, 1)
    assert crop(image.pixels(box, crop.size), None).shape == (3, 8, 8)


def test_a_jpeg_of_the_longest_line_is_an_image():
    data = encode(Image.new("RGB", (65_500, 1), (9, 99, 199)), "JPEG")
    assert difference(data, np.asarray(Image.open(io.BytesIO(data)))) <= JPEG_TOLERANCE


def png_bomb(side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(1)
    rows = b"".join([*(packer.compress(bytes(side // 8 + 1)) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb(side):
    """Mid-grey: each block is the code of no change (00) and the end of block (1010), four of them in three bytes."""
    data = encode(Image.new("L", (8, 8), 128), "JPEG")
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    head = data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 : scan + 10]
    return head + bytes.fromhex("28a28a") * (side * side // 256) + b"\xff\xd9"


BOMBS = {"PNG": png_bomb, "JPEG": jpeg_bomb}

WATCHED = """
import sys
from mimsuite.data.images.decode import DecodeError, open_image
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
data = open(sys.argv[1], "rb").read()
before = peak()
try:
    open_image(data).pixels(cover=(224, 224))
except DecodeError as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_built_right(kind):
    """The same bytes at a harmless size are a whole image; else the next test would test nothing."""
    assert decode(BOMBS[kind](256), 1, "uint8").shape == (256, 256, 1)


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_by_its_header_without_its_memory(kind, tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak of memory is read from /proc")
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[kind](20_000))
    assert path.stat().st_size < 5_000_000
    result = subprocess.run([sys.executable, "-c", WATCHED, str(path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    message, megabytes = result.stdout.splitlines()
    assert "178956970" in message  # the limit; for PNG it is Pillow that says it
    assert int(megabytes) < 50


def test_a_large_image_below_the_limit_is_read_without_a_warning():
    data = png_bomb(9_600)  # 92 million pixels: Pillow warns from 89 on
    image = open_image(data)
    assert (image.height, image.width) == (9_600, 9_600)


# ---- several frames


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_counts(kind, options):
    frames = {} if kind == "TIFF" else {"duration": 100, "loop": 0}
    data = encode(PICTURE, kind, save_all=True, append_images=[OTHER, LAST], **frames, **options)
    image = Image.open(io.BytesIO(data))
    assert image.n_frames == 3
    expected = np.asarray(image.convert("RGB"))
    assert difference(data, expected) == 0
    assert np.abs(expected.astype(int) - SMOOTH).mean() < 20  # not another one


def test_the_first_picture_of_a_phone_camera_counts():
    data = encode(PICTURE, "MPO", save_all=True, append_images=[OTHER])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert difference(data, np.asarray(Image.open(io.BytesIO(data)))) <= JPEG_TOLERANCE


# ---- colours


def adobe(transform):
    """A CMYK JPEG whose Adobe marker says 0 (CMYK) or 2 (YCCK)."""
    data = bytearray(encode(PICTURE.convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = transform
    return bytes(data)


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_are_pillows_rgb(transform):
    data = adobe(transform)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(data, expected) == 0
    box = Box(4, 8, 20, 30)
    assert np.array_equal(open_image(data).pixels(box, cover=(5, 5)), expected[4:24, 8:38])


def test_the_adobe_marker_matters():
    assert not np.array_equal(decode(adobe(0), 3, "uint8"), decode(adobe(2), 3, "uint8"))


def with_alpha(mode):
    image = PICTURE.convert(mode.removesuffix("A")) if mode != "PA" else PICTURE.quantize(64).convert("PA")
    image.putalpha(Image.fromarray(SMOOTH[..., 1]))
    return image


def on_white(image):
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_on_white(mode, kind):
    data = encode(with_alpha(mode), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    image = Image.open(io.BytesIO(data))
    assert image.has_transparency_data
    assert difference(data, np.asarray(on_white(image))) <= (kind == "TIFF")  # our own rounding


def test_a_palette_with_alpha_is_laid_on_white():
    image = PICTURE.quantize(64)
    alpha = bytes(range(0, 256, 4))
    data = encode(image, "PNG", transparency=alpha)
    stored = Image.open(io.BytesIO(data))
    assert stored.mode == "P"
    assert stored.info["transparency"] == alpha
    assert difference(data, np.asarray(on_white(stored))) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_one_bit_is_black_and_white(kind):
    bits = (SMOOTH[..., :1] > 100).astype(np.uint8) * 255
    data = encode(Image.fromarray(bits[..., 0]).convert("1"), kind)
    assert difference(data, bits) == 0
    assert set(np.unique(decode(data, 3, "uint8"))) == {0, 255}


def test_sixteen_bit_grey_png_keeps_every_value():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = encode(Image.fromarray(values), "PNG")
    assert np.array_equal(decode(data, 1, "uint16")[..., 0], values)
    assert np.array_equal(decode(data, 1, "uint8")[..., 0], np.round(values / 257).astype(np.uint8))


# ---- kinds of JPEG


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_progressive_and_subsampled_jpegs_of_all_orientations(subsampling, progressive, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 92, "progressive": progressive, "subsampling": subsampling, "exif": exif}
    data = encode(PICTURE, "JPEG", **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert difference(data, expected) <= JPEG_TOLERANCE + (subsampling != "4:4:4") * 2  # chroma is spread otherwise


# 24 x 17 pixels, red 10 x, green 14 y, blue 255 - 5 x - 5 y, written by libjpeg-turbo with `arith_code`.
ARITHMETIC = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00IF40RaI50RaI50s;a81OoyB0s;jD1Oo&H1qKEN1qKEN2MGuU2MGrT1_%oX2?`1d3JL}Y3k(Yi3<("
    "Mf3jf;xLjeK;0s;a81p@;G3I_%U3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JMAe3JU+p01*fP5dati0TBQK5"
    "di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#0OKX%2-%%r8@VJ%cF3uj;SQdLR$>5<b%!W?SGnk?^BOm*YX1Nu=1Cm~{{XCZ5@ekYQEy0"
    "9<#Z*Ep1dZlxerZ+xG&NXk#=;}`Dao)wgIQSkEY2Ky^q0*llP<a=!Qt}(qX79GV+6WuQfEyHT){WJpyc`rhg2-s&|mEb8nvO+CL>g|Je"
)


def test_arithmetic_coding_is_read():
    data = base64.b85decode(ARITHMETIC)
    assert b"\xff\xc9" in data
    rows, columns = np.mgrid[0:17, 0:24]
    written = np.stack([columns * 10, rows * 14, 255 - columns * 5 - rows * 5], axis=-1)
    assert difference(data, written) <= 4
    assert difference(data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= JPEG_TOLERANCE


def test_bytes_after_the_end_do_no_harm():
    for data in (JPEG, PNG):
        assert np.array_equal(decode(data + b"\0 trailing" * 9, 3, "uint8"), decode(data, 3, "uint8"))


# ---- through the reader


@pytest.fixture(scope="module")
def sparse(tmp_path_factory, tar):
    """4,000 samples in two shards, 0.05 % of them damaged: one each in its own way."""
    folder = tmp_path_factory.mktemp("sparse")
    small = [encode(Image.new("RGB", (16, 16), (i, 255 - i, 128)), "JPEG") for i in range(256)]
    content = [(f"k{i:04d}.jpg", small[i % 256]) for i in range(4000)]
    content[700] = ("k0700.jpg", small[0][:-40])
    content[3999] = ("k3999.jpg", b"")
    tar(folder / "train-000000.tar", content[:2000])
    tar(folder / "train-000001.tar", content[2000:])
    tar(folder / "test-000000.tar", [(f"t{i}.jpg", small[i]) for i in range(20)])
    return open_index(str(folder), folder / "cache")


def test_few_bad_samples_are_replaced_by_the_next_good_ones_and_named(sparse):
    reader = ImageReader(sparse, sparse.records("train"), CenterCrop((8, 8)), seed=0, labels=False)
    ids = [int(np.uint64(hash_key(f"k{i:04d}")).astype(np.int64)) for i in range(4000)]
    bad = {}
    for number in range(4000):
        sample = reader[0, number, 0]
        if sample.bad:
            bad[number] = sample.bad
        expected = {700: 701, 3999: 0}.get(number, number)
        assert sample.id == ids[expected]
    first, second = (shard.path for shard in sparse.splits["train"])
    named = {number: [(b.shard, b.key) for b in found] for number, found in bad.items()}
    assert named == {700: [(first, "k0700")], 3999: [(second, "k3999")]}
    assert bad[700][0].reason.startswith("JPEG: ")
    assert bad[3999][0].reason.startswith("the file is empty")


def test_replacements_and_names_are_the_same_for_any_workers_and_again(sparse):
    seen = []
    for workers in (0, 2, 2):
        loader = eval_loader(sparse, "train", image_size=(8, 8), batch=100, workers=workers, labels=False)
        batches = list(loader)
        seen.append(([i for b in batches for i in b.ids.tolist()], [bad for b in batches for bad in b.bad]))
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][0]) == 4000
    assert collections.Counter(bad.key for bad in seen[0][1]) == {"k0700": 1, "k3999": 1}


def test_a_run_goes_on_over_few_bad_samples_and_writes_each_down_once(sparse, tmp_path):
    watch = BadSamples(max_fraction=0.001, context=context_of(tmp_path, samples=4000))
    for _ in range(3):
        for batch in eval_loader(sparse, "train", image_size=(8, 8), batch=500, workers=0, labels=False):
            watch.note(batch)
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["key"]) for line in lines] == [
        (sparse.splits["train"][0].path, "k0700"),
        (sparse.splits["train"][1].path, "k3999"),
    ]
    assert all(line["reason"] for line in lines)


@pytest.mark.parametrize(("samples", "allowed"), [(100, 20), (20_000, 20), (30_000, 30)])
def test_too_many_bad_samples_stop_the_run_with_the_list(samples, allowed, sparse, tmp_path):
    watch = BadSamples(max_fraction=0.001, context=context_of(tmp_path, samples=samples))
    batch = next(iter(eval_loader(sparse, "test", image_size=(8, 8), batch=1, workers=0, labels=False)))
    bad = [BadSample("a.tar", f"k{i}", "why") for i in range(allowed + 1)]
    watch.note(batch._replace(bad=bad[:allowed]))
    with pytest.raises(InputError, match=f"{allowed + 1} samples could not be read, {allowed} are allowed"):
        watch.note(batch._replace(bad=bad))
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == allowed + 1


@pytest.mark.parametrize(("others", "refused"), [(range(20), False), (range(11, 31), True)])
def test_a_bad_sample_that_several_processes_have_met_counts_once(others, refused, sparse, tmp_path, monkeypatch):
    """Of 30 that are allowed each process has met 20: the same ones in later epochs, or 31 in all."""
    watch = BadSamples(max_fraction=0.001, context=context_of(tmp_path, samples=30_000))
    batch = next(iter(eval_loader(sparse, "test", image_size=(8, 8), batch=1, workers=0, labels=False)))
    watch.note(batch._replace(bad=[BadSample("a.tar", f"k{i}", "why") for i in range(20)]))
    strategy = SimpleNamespace(root_device="cpu", reduce=lambda value, **_: value + 20)

    def gather(every, own):
        every[:] = [own, {("a.tar", f"k{i}") for i in others}]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with pytest.raises(InputError, match="31 samples could not be read, 30 are") if refused else nullcontext():
        watch.on_validation_epoch_end(SimpleNamespace(world_size=2, strategy=strategy), None)
