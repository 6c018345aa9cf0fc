"""Files that were made to do harm: too deep, too long, too large, in a circle."""

import io
import json
import struct
import zipfile

import numpy as np
import tifffile
import torch
from readers import tif

from mimsuite.data.tar import RECORD

DEEP, DEEP_OBJECT = b"[" * 200_000, b'{"a":' * 100_000


def npy_header(descr: str, shape: str) -> bytes:
    words = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    words += " " * (63 - (10 + len(words)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words.encode()


def zip_bomb() -> bytes:
    """A torch archive whose storage is 64 MB of zeros in 64 kB."""
    stream, written = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1 << 24)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return written.getvalue()


def alias_bomb() -> bytes:
    """YAML whose aliases stand for 10^12 words."""
    lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * 10)}]" for i in range(12)]
    return "\n".join(lines).encode()


def stretched_tensor() -> bytes:
    """A tensor of 10^12 values over one that is stored."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, stream)
    return stream.getvalue()


def changed_tag(name: str, value: int) -> bytes:
    """A TIFF with another value of a tag of 32 bits."""
    data = bytearray(tif(np.zeros((16, 17, 5), np.uint8), photometric="minisblack", planarconfig="contig"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[0].tags[name].valueoffset
    data[at : at + 4] = struct.pack("<I", value)
    return bytes(data)


def circle() -> bytes:
    """A TIFF whose page names itself as the next."""
    data = bytearray(tif(np.zeros((16, 17, 5), np.uint8), photometric="minisblack", planarconfig="contig"))
    at = struct.unpack_from("<I", data, 4)[0]
    end = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
    data[end : end + 4] = struct.pack("<I", at)
    return bytes(data)


def make_files() -> dict[str, tuple[str, bytes]]:
    """By name: the target, and the file."""
    rows = repr(RECORD.descr)
    config = json.dumps({"model_type": "vit", "num_labels": 2**63}).encode()
    return {
        "a config nested 200,000 deep": ("config.json", DEEP),
        "a config of objects nested 100,000 deep": ("config.json", DEEP_OBJECT),
        "a deep value in a config": ("config.json", b'{"model_type":"vit","x":' + DEEP),
        "2**63 labels": ("config.json", config),
        "an endless number of labels": ("config.json", b'{"model_type":"vit","num_labels":' + b"9" * 5000 + b"}"),
        "a deep index": ("index.json", DEEP),
        "a deep index of objects": ("index.json", b'{"format":"mimsuite-2","splits":' + DEEP_OBJECT),
        "an index without an object": ("index.json", b"[]"),
        "a deep label": ("label.json", DEEP),
        "a deep label of objects": ("label.json", DEEP_OBJECT),
        "a label of 5,000 digits": ("label.json", b'{"label":' + b"9" * 5000 + b"}"),
        "safetensors with an endless header": ("model.safetensors", struct.pack("<Q", 1 << 62) + b"{}"),
        "safetensors with a deep header": ("model.safetensors", struct.pack("<Q", len(DEEP)) + DEEP),
        "safetensors of nothing": ("model.safetensors", b""),
        "an archive of three bytes": ("pytorch_model.bin", b"PK\3"),
        "an empty archive": ("pytorch_model.bin", b""),
        "an archive of one byte": ("pytorch_model.bin", b"\x80"),
        "a compressed archive": ("pytorch_model.bin", zip_bomb()),
        "a tensor larger than its file": ("pytorch_model.bin", stretched_tensor()),
        "a table of objects": ("samples.idx.npy", npy_header("'|O'", "(6,)") + b"x" * 600),
        "a table of 6,000,000,000,000 rows": ("samples.idx.npy", npy_header(rows, "(6000000000000,)") + bytes(300)),
        "a table of -6 rows": ("samples.idx.npy", npy_header(rows, "(-6,)") + bytes(300)),
        "a table that points anywhere": ("samples.idx.npy", npy_header(rows, "(6,)") + b"\xff" * 400),
        "keys of -6 rows": ("keys.idx.npy", npy_header("'<u8'", "(-6,)") + bytes(300)),
        "keys that are not there": ("keys.idx.npy", npy_header("'<u8'", "(6000000000000,)") + bytes(8)),
        "a table with a deep header": ("samples.idx.npy", npy_header("[" * 5000, "(6,)")),
        "a table with an endless header": (
            "samples.idx.npy",
            b"\x93NUMPY\x03\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{",
        ),
        "an array of 10,000,000,000 pixels": ("image", npy_header("'|u1'", "(100000,100000)")),
        "an array of 2,000,000,000 channels": ("image", npy_header("'|u1'", "(4,4,2000000000)")),
        "an array of -4 rows": ("image", npy_header("'|u1'", "(-4,4)")),
        "an array without channels": ("image", npy_header("'|u1'", "(4,4,0)")),
        "an array of True rows": ("image", npy_header("'|u1'", "(True,4)")),
        "an array with an endless header": ("image", b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{"),
        "an array with a deep header": ("image", npy_header("[" * 5000, "(6,)")),
        "a TIFF with strips of no rows": ("image", changed_tag("RowsPerStrip", 0)),
        "a TIFF of 2**31 rows": ("image", changed_tag("ImageLength", 2**31)),
        "a TIFF that is its own next page": ("image", circle()),
        "aliases that stand for 10^12 words": ("config.yaml", alias_bomb()),
        "an alias of itself": ("config.yaml", b"a: &a [*a]"),
        "deep YAML": ("config.yaml", b"[" * 20_000),
        "a YAML file of 2 MB": ("config.yaml", b"a: " + b"x" * (2 << 20)),
        "a deep pointer to a checkpoint": ("latest.json", DEEP),
        "a pointer to step Infinity": ("latest.json", b'{"step": Infinity, "file": "step_3.ckpt", "sha256": "0"}'),
        "a list as pointer to a checkpoint": ("latest.json", b"[1]"),
        "deep keys of features": ("features/keys.json", DEEP),
        "endless ids of features": ("features/ids.npy", npy_header("'<i8'", "(2000000000000,)")),
        "a deep head": ("head.json", DEEP),
        "a deep list of shards": ("safetensors.index.json", DEEP),
        "a deep _info.json": ("_info.json", DEEP),
        "a range of 10^12 shards": ("_info.json", b'{"splits":{"train":{"filenames":["{0..999999999999}.tar"]}}}'),
    }
