"""Makes the embedded data set `emoji-64` from the npm package `emoji-datasource-google` (16.0.0).

    npm pack emoji-datasource-google@16.0.0
    python scripts/make_emoji.py emoji-datasource-google-16.0.0.tgz mimsuite/data/emoji-64

One picture per emoji: 64 x 64 RGB on white, JPEG. Classes are the Unicode categories. Skin-tone variants and
the category "Component" are left out; of emoji that look exactly alike (France and St. Martin) the first in
Unicode order stays, so that no picture is in both splits. The same tarball and Pillow give the same bytes.
LICENSE and NOTICE are written by hand and stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from webdataset.writer import TarWriter

from mimsuite.data.index_json import write_index
from mimsuite.data.scan import build_index, scan_files

VAL_FRACTION = 0.16
SIZE = 64


class Emoji(NamedTuple):
    """One picture: its code points, such as "1f600", its class, the hash that decides its split, its JPEG."""

    code: str
    label: str
    rank: str
    jpeg: bytes


def slug(text: str) -> str:
    """Returns `text` as lower-case words joined by hyphens: "Smileys & Emotion" -> "smileys-emotion"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def on_white(png: bytes) -> Image.Image:
    """Returns the picture composited on white, RGB."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    if picture.size != (SIZE, SIZE):
        raise SystemExit(f"expected a {SIZE} x {SIZE} picture, got {picture.size}; is this version 16.0.0?")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def to_jpeg(picture: Image.Image) -> bytes:
    """Returns the picture as JPEG, with parameters that are fixed here."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90, subsampling=2, optimize=True)
    return out.getvalue()


def read(tarball: Path) -> list[Emoji]:
    """Returns the emoji of the package in Unicode order, each picture once."""
    found, seen = [], set()
    with tarfile.open(tarball) as archive:

        def member(name: str) -> bytes:
            file = archive.extractfile(f"package/{name}")
            if file is None:
                raise SystemExit(f"{tarball}: package/{name} is not a file; is this version 16.0.0?")
            return file.read()

        for entry in sorted(json.loads(member("emoji.json")), key=lambda e: (e["sort_order"], e["unified"])):
            if entry["category"] == "Component":
                continue
            picture = on_white(member(f"img/google/64/{entry['image']}"))
            if picture.tobytes() in seen:
                continue
            seen.add(picture.tobytes())
            rank = hashlib.sha256(f"{entry['name']} {entry['unified']}".encode()).hexdigest()
            found.append(Emoji(slug(entry["unified"]), slug(entry["category"]), rank, to_jpeg(picture)))
    return found


def split(emoji: list[Emoji]) -> dict[str, list[Emoji]]:
    """Returns train and val; of each class, the `VAL_FRACTION` with the lowest hashes is val."""
    parts: dict[str, list[Emoji]] = {"train": [], "val": []}
    for label in sorted({e.label for e in emoji}):
        members = sorted((e for e in emoji if e.label == label), key=lambda e: e.rank)
        n = round(VAL_FRACTION * len(members))
        parts["val"] += members[:n]
        parts["train"] += members[n:]
    return parts


def write_shard(emoji: list[Emoji], labels: list[str], path: Path) -> None:
    """Writes one shard, shuffled by a hash; not that of the split, of which each class has its own range."""

    def order(e: Emoji) -> str:
        return hashlib.sha256(f"order {e.code}".encode()).hexdigest()

    # An integer time: a float costs two tar blocks per member for its fraction.
    with (
        path.open("wb") as stream,
        TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False) as tar,
    ):
        for e in sorted(emoji, key=order):
            tar.write({"__key__": f"{e.label}_{e.code}", "jpg": e.jpeg, "cls": str(labels.index(e.label)).encode()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    emoji, out = read(args.tarball), args.out.absolute()
    labels = sorted({e.label for e in emoji})
    out.mkdir(parents=True, exist_ok=True)
    (out / "classes.txt").write_text("".join(f"{label}\n" for label in labels))
    shards = []
    for name, part in split(emoji).items():
        shards.append(out / f"{name}-000000.tar")
        write_shard(part, labels, shards[-1])
        print(f"{name}: {len(part)} images, {shards[-1].stat().st_size:,} bytes")
    hashes = {str(shard): hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
    write_index(out, build_index(str(out), scan_files(hashes, out, hashes)))


if __name__ == "__main__":
    main()
