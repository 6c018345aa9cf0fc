"""Everything that reads files of users, each with a right file and what damages it."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch
from mutations import VALUES, either, mutate, mutate_json
from PIL import Image
from safetensors.torch import save

from mimsuite.config.yaml_files import read_yaml
from mimsuite.data import csv_labels, csv_table
from mimsuite.data import open as opening
from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.images.decode import Box, DecodeError, conform, open_image
from mimsuite.data.index import Samples
from mimsuite.data.index_json import read_classes
from mimsuite.data.labels import parse_label
from mimsuite.data.packing.journal import Journal
from mimsuite.data.reader import ImageReader
from mimsuite.data.scan import index_beside
from mimsuite.data.sources import read_info
from mimsuite.data.tar import holds_label, scan_shard
from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features.stored import open_stored
from mimsuite.models import AutoConfig, AutoImageProcessor, BitConfig, CvtConfig, ViTConfig
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs.checkpoints import goes_on_from
from mimsuite.runs.environment import warn_of_changes
from mimsuite.runs.life import finished_before
from mimsuite.runs.loggers.files import read_rows_until
from mimsuite.runs.loggers.wandb import read_wandb_state
from mimsuite.settings.probe_head import find_head
from mimsuite.settings.views import View
from mimsuite.weights.checkpoints import newest_checkpoint
from mimsuite.weights.files import read_folder, read_tensors
from mimsuite.weights.init import find_weights

LARGE = 3e7  # values of an image that is only opened

OURS: tuple[type[Exception], ...] = (InputError, RunError)


class Target(NamedTuple):
    """A reader: how a damaged file is made, what reads it, which errors are declared, how often it is tried."""

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    weight: int


# ---- images


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tif(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def image_seeds() -> list[bytes]:
    g = np.random.default_rng(0)
    rgb = Image.fromarray(g.integers(0, 255, (40, 33, 3), dtype=np.uint8))
    grey, deep = rgb.convert("L"), Image.fromarray(g.integers(0, 65535, (20, 31), dtype=np.uint16))

    def u2(*shape: int) -> np.ndarray:
        return g.integers(0, 65535, shape, dtype=np.uint16)

    return [
        encode(rgb, "JPEG"),
        encode(rgb, "JPEG", progressive=True),
        encode(grey, "JPEG"),
        encode(rgb.convert("CMYK"), "JPEG"),
        encode(rgb, "PNG"),
        encode(deep, "PNG"),
        encode(rgb.convert("P"), "PNG"),
        encode(rgb.convert("RGBA"), "PNG"),
        *(encode(rgb, kind) for kind in ("WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")),
        encode(rgb, "TIFF", compression="tiff_lzw"),
        encode(rgb, "TIFF", compression="tiff_adobe_deflate"),
        encode(rgb.convert("P"), "TIFF"),
        npy(g.integers(0, 255, (9, 8, 5), dtype=np.uint8)),
        npy(u2(9, 8)),
        tif(u2(5, 16, 17)),
        tif(u2(16, 17, 3), photometric="rgb"),
        tif(g.integers(0, 255, (16, 17, 7), dtype=np.uint8), compression="zlib", tile=(16, 16)),
        tif(u2(3, 2, 16, 17), imagej=True, metadata={"axes": "ZCYX"}),
        tif(u2(2, 3, 16, 17), ome=True, metadata={"axes": "TCYX"}),
        tif(u2(16, 17), photometric="miniswhite", byteorder=">"),
        tif(u2(16, 17, 4), photometric="rgb", extrasamples=["assocalpha"], bigtiff=True),
    ]


def read_image(data: bytes) -> None:
    for alpha in ("white", "channel"):
        image = open_image(data, alpha)
        if image.height * image.width * max(1, image.channels) < LARGE:
            image.remarks()
            conform(image.pixels(), image.channels, "uint16" if image.deep else "uint8")
            image.pixels(Box(0, 0, max(1, image.height // 2), max(1, image.width // 2)), (4, 4))


# ---- shards and their index


def make_tar(form: int, seeds: list[bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for i in range(6):
            pax = form == tarfile.PAX_FORMAT
            key = ("d/" * (30 if i == 3 else 1) + "é" * (60 if i == 2 else 1)) if pax else "x" * (150 if i == 2 else 3)
            for ending, data in (
                ((".jpg", seeds[0]), (".cls", b"3")) if pax else ((".png", seeds[4]), (".json", b'{"label":3}'))
            ):
                member = tarfile.TarInfo(f"{key}{i:03d}{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def with_checksums(data: bytes) -> bytes:
    """A tar whose damaged headers have right checksums."""
    b = bytearray(data)
    for offset in range(0, len(b) - 511, 512):
        block = b[offset : offset + 512]
        if block[257:262] == b"ustar":
            b[offset + 148 : offset + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return bytes(b)


def read_all(folder: Path) -> None:
    index = opening.open_index(str(folder))
    for split in list(index.splits):
        samples = index.records(split)
        reader = ImageReader(index, samples, CenterCrop((16, 16)), seed=None, labels=True)
        for number in range(min(len(samples), 8)):
            sample = reader[0, number, 0]
            if isinstance(sample, Exception):
                raise sample
    index.select("train")
    index.select("curve")
    Samples(next(iter(index.splits.values()))).smallest(3, 1)


# ---- everything that is read


def make_targets(folder: Path) -> dict[str, Target]:
    """All readers; their files lie in `folder`."""
    seeds = image_seeds()
    pax, gnu = make_tar(tarfile.PAX_FORMAT, seeds), make_tar(tarfile.GNU_FORMAT, seeds)
    data = folder / "data"
    data.mkdir()
    (data / "train-000000.tar").write_bytes(pax)
    (data / "test-000000.tar").write_bytes(gnu)
    index_beside(str(data))
    index, table = (data / "index.json").read_bytes(), (data / "samples.idx.npy").read_bytes()
    keys = (data / "keys.idx.npy").read_bytes()

    def put(name: str, content: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
        return path

    def read_index_json(content: bytes) -> None:
        (data / "keys.idx.npy").write_bytes(keys)
        (data / "samples.idx.npy").write_bytes(table)
        (data / "index.json").write_bytes(content)
        read_all(data)

    def read_table(content: bytes) -> None:
        (data / "index.json").write_bytes(index)
        (data / "keys.idx.npy").write_bytes(keys)
        (data / "samples.idx.npy").write_bytes(content)
        read_all(data)

    def read_keys(content: bytes) -> None:
        (data / "index.json").write_bytes(index)
        (data / "samples.idx.npy").write_bytes(table)
        (data / "keys.idx.npy").write_bytes(content)
        read_all(data)

    tensors = save({"a": torch.zeros(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)})
    header = struct.unpack("<Q", tensors[:8])[0]

    def damaged_tensors(rnd: random.Random) -> bytes:
        if rnd.random() < 0.4:
            return mutate(tensors, rnd)
        words = mutate_json(json.loads(tensors[8 : 8 + header]), rnd)
        length = rnd.choice((len(words),) * 3 + (len(words) + 1, 0, 1 << 63, (1 << 64) - 1, 100_000_001))
        return struct.pack("<Q", length) + words + tensors[8 + header :]

    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3, 4)}, stream)
    archive = stream.getvalue()
    small = [
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16),
        CvtConfig(embed_dim=[8, 8, 8], depth=[1, 1, 1], num_heads=[1, 2, 2]),
        BitConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_groups=4),
    ]
    configs = [json.loads(c.to_json_string()) | {"model_type": c.model_type} for c in small]
    further = [
        "num_labels",
        "id2label",
        "head",
        "mim_target",
        "classifier_pool",
        "architectures",
        "num_hidden_layers",
        "dtype",
    ]

    def damaged_config(rnd: random.Random) -> bytes:
        config = dict(rnd.choice(configs))
        if rnd.random() < 0.2:
            return mutate(json.dumps(config).encode(), rnd)
        for _ in range(rnd.choice((1, 1, 2))):
            config[rnd.choice([*config, *further])] = rnd.choice(VALUES)
        return json.dumps(config).encode()

    def read_config(content: bytes) -> None:
        put("model/config.json", content)
        AutoConfig.from_pretrained(str(folder / "model"))
        find_weights(str(folder / "model")).image_size  # noqa: B018 - it looks into the file

    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "resample": 2}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "crop_size": 16}

    def read_processor(content: bytes) -> None:
        put("prepared/preprocessor_config.json", content)
        AutoImageProcessor.from_pretrained(str(folder / "prepared"))

    shards = {"metadata": {"total_size": 4}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    put("parts/model-1.safetensors", tensors)

    def read_parts(content: bytes) -> None:
        put("parts/model.safetensors.index.json", content)
        read_folder(folder / "parts")

    tables = [
        b"file,label\na/1.png,3\nb/2.png,4\nc.png,1\n",
        b"path;class;pat\na/1.png;x|y;p\nb/2.png;y;q\nc.png;z;q\n",
        "\ufefffile\tlabel\na/1.png\t0.5\nb/2.png\t1e5\nc.png\t-3\n".encode(),
    ]

    def read_table_of_labels(content: bytes) -> None:
        path = put("labels.csv", content)
        names = {"path_column": None, "label_column": None, "group": None}
        csv_labels.parse_labels(path, csv_table.read_rows(path, folder, ["a/1.png", "b/2.png", "c.png"], **names))

    def read_label(content: bytes) -> None:
        holds_label(content)
        parse_label(content, "json", "k", None)
        parse_label(content, "json", "k", 5)

    labels = [b'{"label":3}', b'{"label":[1,2]}', b'{"label":0.5}', b"12", b"-1", b'{"label":1e999}']
    info = json.dumps({"splits": {"train": {"filenames": ["a-{0..3}.tar"], "shard_lengths": [1, 2, 3, 4]}}}).encode()

    def read_timm(content: bytes) -> None:
        put("_info.json", content)
        read_info(str(folder))

    checkpoint = io.BytesIO()
    torch.save({"state_dict": {"model.a": torch.zeros(2)}, "global_step": 3, "mimsuite": {"config": {}}}, checkpoint)
    latest = json.dumps({"step": 3, "file": "step_3.ckpt", "sha256": "0" * 64, "bytes": 9}).encode()

    def read_latest(content: bytes) -> None:
        put("run/checkpoints/step_3.ckpt", checkpoint.getvalue())
        put("run/checkpoints/latest.json", content)
        goes_on_from(folder / "run" / "checkpoints")
        newest_checkpoint(folder / "run" / "checkpoints")

    def read_checkpoint(content: bytes) -> None:
        put("run/checkpoints/step_3.ckpt", content)
        put("run/checkpoints/latest.json", latest)
        find_weights(str(folder / "run"))

    about = json.dumps({"fingerprint": "f", "made": "m", "samples": 2, "copies": 0}).encode()
    features = {
        "about.json": about,
        "keys.json": b'["a", "b"]',
        "ids.npy": npy(np.arange(2)),
        "labels.npy": npy(np.arange(2)),
    }
    features["layer-01-mean.npy"] = npy(np.zeros((2, 4), np.float16))

    def read_features(name: str) -> Callable[[bytes], None]:
        def read(content: bytes) -> None:
            for other, right in features.items():
                put(f"features/{other}", content if other == name else right)
            stored = open_stored(folder / "features", "f")
            if stored is not None and stored.has(View(1, "mean")):
                stored.features(View(1, "mean"))

        return read

    head = {"init": "demo:vit", "model_type": "vit", "layer": 1, "pool": "mean", "image_size": [16, 16], "mean": [0.5]}
    head |= {"std": [0.5], "maximum": 255, "layernorm": False, "kind": "classes", "classes": ["a"]}
    put("head/head.safetensors", save({"weight": torch.zeros(2, 4).double(), "bias": torch.zeros(2).double()}))

    def read_head(content: bytes) -> None:
        put("head/head.json", content)
        find_head(folder / "head")

    yaml = b"a: &x [1, 2]\nb: {c: *x, d: 0.5}\nmask:\n  _target_: mimsuite.masked.samplers.RandomMask\n  ratio: 0.6\n"
    metrics = b"step,train/loss,val/loss\n1,0.5,\n2,0.4,0.6\n"
    environment = json.dumps({"torch": "2.0", "cpus": 2, "libraries": {"numpy": "1.0"}}).encode()
    summary = json.dumps({"task": "pretrain", "status": "done", "steps": 4, "metrics": {"val/loss": 0.5}}).encode()
    rows = b'{"step": 1, "train/loss": 0.5}\n{"step": 2, "val/loss": NaN}\n'
    (folder / "done" / "weights").mkdir(parents=True)

    def read_environment(content: bytes) -> None:
        warn_of_changes(put("done/environment.json", content).parent, {})

    def read_finished(content: bytes) -> None:
        out = put("done/summary.json", content).parent
        settings = SimpleNamespace(inputs=SimpleNamespace(out=out, resume=True), budget=SimpleNamespace(steps=4))
        finished_before(settings)  # type: ignore[arg-type]

    journal = io.BytesIO()
    journal.write(json.dumps({"format": "mimsuite-pack-1", "options": {"a": 1}, "files": "x"}).encode() + b"\n")
    line = {"file": "train-0.tar", "split": "train", "sha256": "0", "bytes": 1, "samples": 1, "after": 1, "bad": []}
    journal.write(json.dumps(line | {"channels": {"3": "a.png"}}).encode() + b"\n")

    def read_journal(content: bytes) -> None:
        shutil.rmtree(folder / "half", ignore_errors=True)
        put("half/pack.journal", content)
        with Journal(folder / "half", {"a": 1}, "x"):
            pass

    def read_names(content: bytes) -> None:
        put("named/classes.txt", content)
        read_classes(str(folder / "named"))

    def of(content: bytes) -> Callable[[random.Random], bytes]:
        return lambda rnd: mutate(content, rnd)

    def of_json(content: bytes) -> Callable[[random.Random], bytes]:
        return lambda rnd: either(content, rnd)

    targets = {
        "image": Target(lambda rnd: mutate(rnd.choice(seeds), rnd), read_image, (DecodeError,), 10),
        "shard.tar": Target(
            lambda rnd: (with_checksums if rnd.random() < 0.6 else bytes)(mutate(rnd.choice((pax, gnu)), rnd)),
            lambda content: scan_shard(str(put("t.tar", content))),
            OURS,
            5,
        ),
        "index.json": Target(of_json(index), read_index_json, OURS, 2),
        "samples.idx.npy": Target(of(table), read_table, OURS, 2),
        "keys.idx.npy": Target(of(keys), read_keys, OURS, 2),
        "model.safetensors": Target(
            damaged_tensors, lambda content: read_tensors(put("w.safetensors", content)), OURS, 4
        ),
        "pytorch_model.bin": Target(of(archive), lambda content: read_tensors(put("w.bin", content)), OURS, 2),
        "safetensors.index.json": Target(of_json(json.dumps(shards).encode()), read_parts, OURS, 1),
        "config.json": Target(damaged_config, read_config, OURS, 4),
        "preprocessor_config.json": Target(of_json(json.dumps(processor).encode()), read_processor, OURS, 2),
        "labels.csv": Target(lambda rnd: mutate(rnd.choice(tables), rnd), read_table_of_labels, OURS, 2),
        "label.json": Target(lambda rnd: mutate(rnd.choice(labels), rnd), read_label, OURS, 2),
        "label.cls": Target(of(b"12\n"), lambda content: parse_label(content, "cls", "k", 5), OURS, 1),
        "classes.txt": Target(of(b"a\nb\n"), read_names, OURS, 1),
        "_info.json": Target(of_json(info), read_timm, OURS, 1),
        "latest.json": Target(of_json(latest), read_latest, OURS, 1),
        "step.ckpt": Target(of(checkpoint.getvalue()), read_checkpoint, OURS, 1),
        "head.json": Target(of_json(json.dumps(head).encode()), read_head, OURS, 1),
        "config.yaml": Target(of(yaml), lambda content: read_yaml(put("c.yaml", content), "fix it"), OURS, 1),
        "metrics.csv": Target(of(metrics), lambda content: read_metrics(put("metrics.csv", content)), OURS, 1),
        "environment.json": Target(of_json(environment), read_environment, OURS, 1),
        "summary.json": Target(of_json(summary), read_finished, OURS, 1),
        "metrics.jsonl": Target(of(rows), lambda content: read_rows_until(put("metrics.jsonl", content), 1), OURS, 1),
        "wandb/run.json": Target(
            of_json(b'{"id": "a1", "starts": 2}'), lambda content: read_wandb_state(put("run.json", content)), OURS, 1
        ),
        "pack.journal": Target(of(journal.getvalue()), read_journal, OURS, 1),
    }
    for name, content in features.items():
        make = of_json(content) if name.endswith(".json") else of(content)
        targets[f"features/{name}"] = Target(make, read_features(name), OURS, 1)
    return targets
