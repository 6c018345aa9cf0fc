"""Small shards, written with the standard library's tarfile."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


def encode(seed, size=(24, 32), kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_tar(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(first, count, label=lambda i: i % 3):
    """Members of `count` samples with keys `s0007`, ..., each with a JPEG and a label."""
    for i in range(first, first + count):
        yield f"s{i:04d}.jpg", encode(i)
        yield f"s{i:04d}.cls", str(label(i)).encode()


@pytest.fixture(scope="session")
def jpeg():
    return encode


@pytest.fixture(scope="session")
def tar():
    return write_tar


@pytest.fixture(scope="session")
def members():
    return samples


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A folder of 3 training shards (64 samples) and one validation shard (21), 3 classes."""
    folder = tmp_path_factory.mktemp("shards")
    for number, (first, count) in enumerate([(0, 30), (30, 20), (50, 14)]):
        write_tar(folder / f"train-{number:06d}.tar", samples(first, count))
    write_tar(folder / "val-000000.tar", samples(64, 21))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    return folder
