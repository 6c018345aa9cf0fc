"""Encoded pictures of every kind, and what is read from them."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile

from mimsuite.data.images.decode import DecodeError, open_image


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
