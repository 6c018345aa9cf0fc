"""Makes a data set of shards smaller: short side 128 pixels, JPEG quality 75, one archive.

python benchmarks/gpu/repack.py FOLDER ARCHIVE.tar.gz [--side 128] [--quality 75] [--most N]

The archive holds one folder, named as the archive, with a shard for each split and `classes.txt`. Keys and labels stay.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tarfile
import tempfile
from pathlib import Path

from PIL import Image


def smaller(data: bytes, side: int, quality: int) -> bytes:
    """A JPEG whose short side is `side` pixels, or less if it was smaller."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = min(1.0, side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def members(shards: list[Path]) -> list[tuple[str, bytes]]:
    """Name and bytes of every member."""
    found = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    found.append((member.name, file.read()))
    return found


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Writes one member; owner and time are 0, so that the same input gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def repack(source: Path, target: Path, side: int, quality: int, most: int | None = None) -> None:
    """Writes the archive; of each split the first `most` samples."""
    name = target.name.removesuffix(".tar.gz")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for split, shards in itertools.groupby(sorted(source.glob("*.tar")), lambda file: file.name.split("-")[0]):
            with tarfile.open(folder / f"{split}-000000.tar", "w") as archive:
                for member, data in members(list(shards))[: None if most is None else 2 * most]:
                    add(archive, member, smaller(data, side, quality) if member.endswith(".jpg") else data)
        (folder / "classes.txt").write_bytes((source / "classes.txt").read_bytes())
        with tarfile.open(target, "w:gz") as archive:
            for file in sorted(folder.iterdir()):
                add(archive, f"{name}/{file.name}", file.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--most", type=int, help="samples of a split (default: all)")
    given = parser.parse_args()
    repack(given.source, given.target, given.side, given.quality, given.most)
