"""Small labelled shards for tests that train or judge."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

NAMES = ("red", "green", "blue")


def as_class(kind, _):
    return [("cls", str(kind).encode())]


def as_json(make):
    """Labels that `make` gives, from the kind of a picture and a generator."""
    return lambda kind, draw: [("json", json.dumps({"label": make(kind, draw)}).encode())]


def write_shards(folder, splits, label=as_class, names=NAMES, *, side=16, contrast=30, broken=()):
    """Noisy pictures whose kind is their mean colour; returns the folder's name.

    Args:
        folder: must not be there.
        splits: how many images each has.
        label: ending and bytes of each label file of a picture, from its kind (0, 1 or 2) and a generator.
        names: of the classes, or None.
        side: pixels.
        contrast: how much brighter a kind's colour is; the noise has a deviation of 60.
        broken: splits whose pictures cannot be decoded.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, count in splits.items():
        with tarfile.open(folder / f"{split}-000000.tar", "w") as archive:
            for i in range(count):
                colour = 100 + contrast * np.eye(3)[i % 3]
                pixels = np.clip(draw.normal(colour, 60, (side, side, 3)), 0, 255).astype(np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                content = b"no picture" if split in broken else picture.getvalue()
                for ending, data in (("png", content), *label(i % 3, draw)):
                    member = tarfile.TarInfo(f"{split}{i:02d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    if names:
        (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return str(folder)
