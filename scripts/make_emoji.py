"""Makes the embedded data set `emoji-64` from the npm package `emoji-datasource-google` (16.0.0).

    npm pack emoji-datasource-google@16.0.0
    python scripts/make_emoji.py emoji-datasource-google-16.0.0.tgz OUT

One picture per emoji: 64 x 64 RGB on white, JPEG. Classes are the Unicode categories; skin-tone variants and the
category "Component" are left out, and of emoji that look exactly alike (France and St. Martin) the first in
Unicode order stays, so that no picture is in both splits. The same tarball and Pillow give the same bytes.
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

VAL_FRACTION = 0.16
SIZE = 64


class Emoji(NamedTuple):
    """One picture: its key (file name without ending), its class, the hash that decides its split, its JPEG."""

    key: str
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
                raise SystemExit(
                    f"{tarball} has no file package/{name}; is this emoji-datasource-google 16.0.0?"
                )
            return file.read()

        for entry in sorted(json.loads(member("emoji.json")), key=lambda e: (e["sort_order"], e["unified"])):
            if entry["category"] == "Component":
                continue
            picture = on_white(member(f"img/google/64/{entry['image']}"))
            if picture.tobytes() in seen:
                continue
            seen.add(picture.tobytes())
            label = slug(entry["category"])
            rank = hashlib.sha256(f"{entry['name']} {entry['unified']}".encode()).hexdigest()
            found.append(Emoji(f"{label}_{slug(entry['unified'])}", label, rank, to_jpeg(picture)))
    return found


def split(emoji: list[Emoji]) -> dict[str, list[Emoji]]:
    """Returns train and val: of each class, the `VAL_FRACTION` with the lowest hash is val. Both in hash order."""
    parts: dict[str, list[Emoji]] = {"train": [], "val": []}
    for label in sorted({e.label for e in emoji}):
        members = sorted((e for e in emoji if e.label == label), key=lambda e: e.rank)
        n = round(VAL_FRACTION * len(members))
        parts["val"] += members[:n]
        parts["train"] += members[n:]
    return {name: sorted(part, key=lambda e: e.rank) for name, part in parts.items()}


def write_folder(parts: dict[str, list[Emoji]], out: Path) -> None:
    """Writes OUT/SPLIT/CLASS/KEY.jpg."""
    for name, part in parts.items():
        for e in part:
            path = out / name / e.label / f"{e.key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(e.jpeg)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tarball", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    parts = split(read(args.tarball))
    write_folder(parts, args.out)
    print({name: len(part) for name, part in parts.items()})


if __name__ == "__main__":
    main()
