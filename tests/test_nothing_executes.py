"""Nothing that comes from elsewhere runs: each hostile item would make a file, the canary, which never appears."""

import copy
import io
import json
import os
import pickle
import tarfile
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from mimsuite import api, app
from mimsuite.config.instantiate import instantiate
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.images import pixels as shared
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.index_json import write_index
from mimsuite.data.label_table import labelled_part
from mimsuite.data.open import open_index
from mimsuite.data.scan import build_index, scan_files
from mimsuite.data.storage import write_bytes
from mimsuite.data.tar import scan_shard
from mimsuite.errors import InputError
from mimsuite.runs.checkpoints import CommittedCheckpointIO

pytestmark = pytest.mark.slow

KEYS = "mimsuite.objectives.schedules.WarmupCosine"  # a target that is allowed


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The file that a hostile item would make; looked for when the test is over."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def slow_canary(canary):
    """The same for items that would start a process and not wait for it."""
    yield canary
    time.sleep(0.3)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary):
        self.command = f"touch {canary}"

    def __reduce__(self):
        return os.system, (self.command,)


def outcome(capsys, task, **values):
    code = app.run_guarded(lambda: int(api.call(task, values).get("exit_code", 0)), task)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def picture(kind="PNG", size=(8, 8), **options):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read_all(folder, *, labels=False):
    """Opens a folder of shards and decodes every sample, or those with a label, with it."""
    index = open_index(str(folder), folder.parent / "cache")
    index = labelled_part(index) if labels else index
    loader = eval_loader(index, "train", image_size=(8, 8), batch=4, workers=0, labels=labels)
    return [batch for batch in loader if len(batch.images)]


# ---- the canary itself


def test_the_hostile_items_would_work_elsewhere(tmp_path):
    """Otherwise the tests below would prove nothing."""
    import webdataset

    for number, act in enumerate(
        (
            lambda path: pickle.loads(pickle.dumps(Bomb(path))),
            lambda path: torch.load(saved(path, tmp_path), weights_only=False),
            lambda path: np.load(io.BytesIO(objects(path)), allow_pickle=True),
            lambda path: webdataset.gopen(f"pipe:touch {path}").close(),
        )
    ):
        path = tmp_path / str(number)
        act(path)
        assert path.exists()


def saved(canary, folder, name="bomb.bin"):
    path = folder / name
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(canary)}, path)
    return path


def objects(canary):
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


# ---- values of keys


@pytest.mark.parametrize(
    ("task", "key", "more"),
    [
        ("inspect", "data", {"out": "looks"}),
        ("pretrain", "data", {"out": "run"}),
        ("pretrain", "init", {"out": "run"}),
        ("pack", "src", {"out": "shards"}),
        ("probe", "init", {"out": "probe"}),
        ("finetune", "init", {"out": "run"}),
        ("finetune", "data", {"out": "run"}),
        ("evaluate", "init", {"out": "looks"}),
        ("reconstruct", "init", {"out": "x.png"}),
    ],
)
def test_a_pipe_is_a_path_that_is_not_there(task, key, more, slow_canary, capsys):
    code, line = outcome(capsys, task, **{key: f"pipe:touch {slow_canary}"}, **more)
    assert code == 2
    assert "pipe:touch" in line


@pytest.mark.parametrize("name", ["pipe:touch canary.tar", "|touch canary", "`touch canary`", "$(touch canary)"])
def test_a_shard_with_the_name_of_a_command_is_a_file(name, slow_canary, tmp_path):
    path = tmp_path / "data" / f"{name.removesuffix('.tar')}.tar"
    path.parent.mkdir()
    write_tar(path, [("a.png", picture())])
    assert len(read_all(path.parent)) == 1


def test_gopen_rewrite_changes_nothing(slow_canary, tmp_path, monkeypatch):
    monkeypatch.setenv("GOPEN_REWRITE", f"/=pipe:touch {slow_canary} #;.=pipe:touch {slow_canary} #")
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture())
    api.pack(src=str(tmp_path / "images"), out=str(tmp_path / "data"))
    assert (tmp_path / "data" / "index.json").is_file()
    assert read_all(tmp_path / "data")


# ---- members of shards


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax(name, **fields):
    info = tarfile.TarInfo(name)
    info.pax_headers = {key.replace("_", "."): value for key, value in fields.items()}
    return info


def hostile_members(canary):
    bomb = pickle.dumps(Bomb(canary))
    return {
        "pickles": [(f"b.{ending}", bomb) for ending in ("pyd", "pkl", "pickle", "pth", "pt", "py", "txt", "json")],
        "a label that is a pickle": [("b.png", picture()), ("b.json", bomb)],
        "names that climb": [("../canary.png", picture()), ("../../canary.cls", b"1"), ("x/../../canary", b"")],
        "absolute names": [(f"{canary}.png", picture()), (str(canary), b"text"), (f"{canary}", picture())],
        "links": [
            (special("canary.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (special("hard.png", tarfile.LNKTYPE, "/etc/passwd"), b""),
            (special("dir", tarfile.SYMTYPE, str(canary.parent)), b""),
            ("dir/canary", b"text"),
        ],
        "devices": [
            (special("null.png", tarfile.CHRTYPE), b""),
            (special("block.png", tarfile.BLKTYPE), b""),
            (special("fifo.png", tarfile.FIFOTYPE), b""),
        ],
        "extended headers": [
            (pax("b.png", path=f"{canary}.png", linkpath="/etc/passwd", hdrcharset="BINARY"), picture()),
            (pax("c.png", GNU_sparse_major="1", GNU_sparse_name=str(canary), GNU_sparse_realsize="9" * 15), picture()),
            (pax("d.png", uid="0", mode="4755", comment="$(touch canary)", SCHILY_xattr="touch canary"), picture()),
        ],
    }


MEMBERS = (
    *("pickles", "a label that is a pickle", "names that climb", "absolute names", "links", "devices"),
    "extended headers",
)


@pytest.mark.parametrize("kind", MEMBERS)
def test_members_are_read_as_bytes_and_never_extracted(kind, canary, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    members = [("a.png", picture()), *hostile_members(canary)[kind], ("z.png", picture())]
    write_tar(tmp_path / "data" / "train-0.tar", members)
    before = sorted(os.listdir(tmp_path))
    batches = read_all(tmp_path / "data")
    assert all(batch.bad == [] for batch in batches)
    if kind == "a label that is a pickle":
        with pytest.raises(InputError, match=r"b\.json is .*fix it"):
            read_all(tmp_path / "data", labels=True)
    elif open_index(str(tmp_path / "data"), tmp_path / "cache").has_labels:
        assert all(batch.bad == [] for batch in read_all(tmp_path / "data", labels=True))
    api.inspect(data=str(tmp_path / "data"), out=str(tmp_path / "looks"))
    assert sorted(os.listdir(tmp_path)) == sorted({*before, "cache", "looks"})
    assert os.listdir(tmp_path / "data") == ["train-0.tar"]


def test_an_array_of_objects_is_a_bad_sample(canary, tmp_path):
    (tmp_path / "data").mkdir()
    write_tar(
        tmp_path / "data" / "train-0.tar", [("a.npy", objects(canary)), *((f"{i}.png", picture()) for i in "bcd")]
    )
    bad = [b for batch in read_all(tmp_path / "data") for b in batch.bad]
    assert [b.key for b in bad] == ["a"]
    assert "object" in bad[0].reason


def test_a_table_of_objects_is_refused(canary, tmp_path):
    write_tar(tmp_path / "train-0.tar", [("a.png", picture())])
    write_index(tmp_path, build_index(str(tmp_path), scan_files([str(tmp_path / "train-0.tar")], tmp_path, {})))
    (tmp_path / "samples.idx.npy").write_bytes(objects(canary))
    with pytest.raises(InputError, match=r"samples.idx.npy cannot be read"):
        read_all(tmp_path)


# ---- targets

TARGETS = [
    "os.system",
    "os.popen",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "torch.load",
    "torch.hub.load",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load_inline",
    "numpy.load",
    "pickle.loads",
    "runpy.run_path",
    "importlib.import_module",
    "functools.partial",
    "webdataset.gopen",
    "webdataset.WebDataset",
    "hydra.utils.call",
    "mimsuite.data.storage.os.system",
    "mimsuite.tasks.demo.shutil.rmtree",
    "mimsuite.config.instantiate.importlib.import_module",
    "mimsuite.data.shard_files.ShardFiles.read.__globals__",
    "mimsuite.errors.InputError.__class__",
    "torch.optim.AdamW.__init__.__globals__.get",
    "lightning.pytorch.Trainer.fit",
    # Ours, and yet no part of a model or a run: they compose configs, write files, clear folders.
    "mimsuite.api.call",
    "mimsuite.pretrain",
    "mimsuite.app.main",
    "mimsuite.cli.main",
    "mimsuite.tasks.pack.run",
    "mimsuite.config.instantiate.instantiate",
    "mimsuite.runs.folder.write_text",
    "mimsuite.runs.folder.RunFolder",
    "mimsuite.data.packing.pack.pack",
    "mimsuite.data.storage.write_bytes",
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_no_part_of_ours_is_refused_at_any_depth(target, canary):
    hostile = {"_target_": target, "_args_": [f"touch {canary}"]}
    nodes = [
        hostile,
        {"_target_": KEYS, "steps": hostile, "warmup": 1},
        {"_target_": KEYS, "steps": [1, {"deep": [hostile]}], "warmup": 1},
        {"_target_": KEYS, "_args_": [hostile, 1]},
        {"_target_": KEYS, "steps": {"_target_": KEYS, "_partial_": True, "steps": hostile}, "warmup": 1},
        {**hostile, "_partial_": True},
    ]
    for node in nodes:
        with pytest.raises(InputError, match="is not allowed") as error:
            instantiate(OmegaConf.create(node))
        assert "\n" not in str(error.value)


def test_a_target_hidden_behind_two_resolutions_is_refused(slow_canary):
    inner = f"{{_target_:webdataset.gopen,url:'pipe:touch {slow_canary}'}}"
    for text, words in ((f"${{oc.create:{inner}}}", "is not allowed"), (f"\\${{oc.create:{inner}}}", "second time")):
        with pytest.raises(InputError, match=words):
            instantiate(OmegaConf.create({"_target_": KEYS, "steps": text, "warmup": 1}))


@pytest.mark.parametrize("group", ["mask", "augment", "objective", "optim", "schedule", "head", "model"])
def test_a_hostile_target_in_any_group_ends_a_run(group, canary, tmp_path, capsys):
    values = {"out": str(tmp_path / "run"), "model": "vit_nano", "steps": 1, "batch": 8, "workers": 0}
    changes = {f"{group}._target_": "os.system", f"+{group}.command": f"touch {canary}"}
    code = app.run_guarded(lambda: int(api.call("pretrain", {**values, **changes}).get("exit_code", 0)), "pretrain")
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert "_target_=os.system is not allowed" in last


# ---- config files


def config_folder(folder, text):
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "hostile.yaml").write_text(text)
    return ["--config-dir", str(folder / "conf"), "experiment=hostile", f"out={folder / 'run'}"]


def command(*arguments):
    import subprocess
    import sys

    line = [sys.executable, "-m", "mimsuite.cli", "pretrain", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_trust_in_a_config_file_is_refused(canary, tmp_path):
    text = (
        f"# @package _global_\ntrusted_targets: [os.system]\nmask:\n  _target_: os.system\n  command: touch {canary}\n"
    )
    result = command(*config_folder(tmp_path, text))
    assert result.returncode == 2
    assert "trusted_targets=['os.system'] stands in a config file; give it on the command line" in result.stderr


@pytest.mark.parametrize(
    "tag", ["object/apply:os.system ['touch {}']", "object/new:os.system ['touch {}']", "name:os.system"]
)
def test_tags_of_python_in_yaml_are_refused(tag, canary, tmp_path):
    text = f"# @package _global_\nseed: !!python/{tag.format(canary)}\n"
    result = command(*config_folder(tmp_path, text))
    assert result.returncode != 0
    assert "python/" in result.stderr
    with pytest.raises(Exception, match="could not determine a constructor"):
        OmegaConf.load(tmp_path / "conf" / "experiment" / "hostile.yaml")


HYDRA_NODES = {
    "callback": "# @package _global_\nhydra:\n  callbacks:\n    x: NODE\n",
    "callback by package": "# @package hydra.callbacks.x\nNODE\n",
    "callback by defaults": "# @package _global_\ndefaults:\n  - x@hydra.callbacks: y\n",
    "escaped": '# @package _global_\n"\\x68ydra": {callbacks: {x: NODE}}\n',
    "quoted": '# @package _global_\n"hydra": {callbacks: {x: NODE}}\n',
    "logging": "# @package _global_\nhydra: {job_logging: {handlers: {h: {(): os.system, command: COMMAND}}}}\n",
}


@pytest.mark.parametrize("name", HYDRA_NODES)
def test_what_configures_hydra_in_a_config_file_is_refused(name, tmp_path):
    canary = tmp_path / "canary"
    node = f"{{_target_: webdataset.gopen, url: 'pipe:touch {canary}'}}"
    text = HYDRA_NODES[name].replace("NODE", node).replace("COMMAND", f"touch {canary}")
    result = command(*config_folder(tmp_path, text), "steps=0")
    time.sleep(0.3)
    assert not canary.exists()
    assert result.returncode == 2
    assert "configures Hydra itself" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_config_folder_may_mention_hydra_in_comments(tmp_path):
    text = "# @package _global_\n# works with Hydra\nsteps: 0  # hydra\n"
    result = command(*config_folder(tmp_path, text))
    assert "steps=0 is not a whole number" in result.stderr


def test_an_abbreviated_flag_is_looked_at_too(tmp_path):
    canary = tmp_path / "canary"
    text = HYDRA_NODES["callback"].replace("NODE", f"{{_target_: webdataset.gopen, url: 'pipe:touch {canary}'}}")
    flag, *rest = config_folder(tmp_path, text)
    result = command(flag[:-2], *rest)
    assert (result.returncode, canary.exists()) == (2, False)
    assert "configures Hydra itself" in result.stderr


def test_another_config_path_is_refused(tmp_path):
    result = command("--config-path", str(tmp_path), f"out={tmp_path / 'run'}")
    assert result.returncode == 2
    assert "--config-path is not allowed" in result.stderr


def test_a_search_path_for_configs_is_refused(tmp_path):
    result = command(f"hydra.searchpath=[file://{tmp_path}]", f"out={tmp_path / 'run'}")
    assert result.returncode == 2
    assert "hydra.searchpath is not allowed" in result.stderr


# ---- checkpoints

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def weights_folder(folder, **more):
    folder.mkdir()
    config = {"model_type": "vit", "image_size": 16, "patch_size": 8, "encoder_stride": 8, **SIZES, **more}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused_by_load(init):
    with pytest.raises(InputError) as error:
        api.load(str(init))
    assert "\n" not in str(error.value)
    return str(error.value)


def legacy(canary, path):
    path.write_bytes(pickle.dumps({"weight": Bomb(canary)}))


def archive(canary, path):
    saved(canary, path.parent, path.name)


def forged(canary, path):
    """A torch archive whose pickle was exchanged by hand."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(canary), protocol=2))
        file.writestr("archive/version", "3\n")


@pytest.mark.parametrize("write", [legacy, archive, forged])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_hostile_hugging_face_folder_is_refused(write, sharded, canary, tmp_path):
    folder = weights_folder(tmp_path / "vit")
    name = "shard-1.bin" if sharded else "pytorch_model.bin"
    write(canary, folder / name)
    if sharded:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
    assert "which could run code" in refused_by_load(folder)


@pytest.mark.parametrize("name", ["../bomb.bin", "/bomb.bin"])
def test_a_weight_map_leads_to_no_code_outside_the_folder(name, canary, tmp_path):
    folder = weights_folder(tmp_path / "vit")
    archive(canary, tmp_path / "bomb.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
    refused_by_load(folder)


def test_code_beside_the_weights_is_not_imported(canary, tmp_path):
    maps = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    folder = weights_folder(tmp_path / "vit", auto_map=maps, architectures=["modeling.Model"], trust_remote_code=True)
    (folder / "modeling.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "__init__.py").write_text(f"open({str(canary)!r}, 'w')\n")
    assert "weights" in refused_by_load(folder)


def commit_bomb(canary, folder, write):
    path = folder / "checkpoints" / "step_000000001.ckpt"
    path.parent.mkdir(parents=True)
    write(canary, path)
    import hashlib

    content = path.read_bytes()
    latest = {"step": 1, "file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_bytes(path.parent / "latest.json", json.dumps(latest).encode())
    return path


@pytest.mark.parametrize("write", [legacy, archive, forged])
def test_a_hostile_run_folder_is_refused_as_init(write, canary, tmp_path):
    path = commit_bomb(canary, tmp_path / "run", write)
    assert f"checkpoint {path} cannot be read" in refused_by_load(tmp_path / "run")
    with pytest.raises(InputError, match="cannot be read"):
        CommittedCheckpointIO().load_checkpoint(path, weights_only=False)


def test_a_hostile_checkpoint_is_refused_on_resume(canary, tmp_path, capsys):
    from hydra import compose, initialize_config_dir

    from mimsuite.config.folder import conf_dir

    run = tmp_path / "run"
    commit_bomb(canary, run, archive)
    start = ["model=vit_nano", "steps=2", "batch=8", "workers=0", f"out={run}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose(config_name="pretrain", overrides=start)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    (run / "overrides.txt").write_text("".join(f"{line}\n" for line in start))
    code = app.run_guarded(
        lambda: int(api.call("pretrain", {"out": str(run), "resume": True}).get("exit_code", 0)), "x"
    )
    assert code == 2
    assert "step_000000001.ckpt cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_a_stored_config_gives_no_trust_on_resume(canary, tmp_path, capsys):
    run = tmp_path / "run"
    commit_bomb(canary, run, archive)
    mask = {"_target_": "os.system", "command": f"touch {canary}"}
    hostile = {"trusted_targets": ["os.system"], "mask": mask, "micro_batch": None}
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(hostile)))
    (run / "overrides.txt").write_text("trusted_targets=[os.system]\n")
    code, line = outcome(capsys, "pretrain", out=str(run), resume=True)
    assert code == 2
    assert "trusted_targets=['os.system'] stands in a config file" in line


# ---- fuzz: only declared errors

FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def mutated(draw, originals):
    """One of the originals with a few bytes exchanged, cut out, put in or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "tail", "repeat"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "tail":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + 64]
    return bytes(data)


def image_bytes():
    yield from (picture(kind, (16, 12)) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF"))
    yield picture("JPEG", (16, 12), progressive=True)
    yield picture("TIFF", (16, 12), compression="tiff_lzw")
    for array in (np.zeros((5, 4, 7), np.uint16), np.zeros((5, 4), np.uint8)):
        stream = io.BytesIO()
        np.save(stream, array)
        yield stream.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6
    yield picture("JPEG", (16, 12), exif=exif)
    yield picture("PNG", (16, 12), exif=exif)
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((5, 6, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    yield stream.getvalue()


IMAGES = list(image_bytes())
MAGICS = [
    b"",
    b"\xff\xd8\xff",
    b"\x93NUMPY\x01\x00",
    b"II*\0",
    b"MM\0*",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF",
    b"GIF89a",
    b"BM",
]


@FUZZ
@given(data=st.one_of(mutated(IMAGES), st.tuples(st.sampled_from(MAGICS), st.binary(max_size=300)).map(b"".join)))
def test_fuzz_any_bytes_are_an_image_or_a_decode_error(data):
    limit, shared.MAX_PIXELS = shared.MAX_PIXELS, 1_000_000
    try:
        image = open_image(data)
        pixels = image.pixels(cover=(4, 4))
        assert pixels.dtype in (np.uint8, np.uint16)
        assert pixels.ndim == 3
    except DecodeError as error:
        assert str(error)  # noqa: PT017
    finally:
        shared.MAX_PIXELS = limit


def shard_bytes(folder):
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        with tarfile.open(folder / name, "w", format=form) as archive:
            for key in ("a", "k" * (90 if name == "ustar" else 150), "b"):
                for ending, data in (("png", picture()), ("cls", b"1")):
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        yield (folder / name).read_bytes()


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return list(shard_bytes(tmp_path_factory.mktemp("tars")))


def with_checksums(data):
    """Makes the check sums of all blocks right that look like headers, so that mutations get past them."""
    data = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            total = sum(data[at : at + 512]) - sum(data[at + 148 : at + 156]) + 256
            data[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(data)


@FUZZ
@given(data=st.data())
def test_fuzz_any_bytes_are_a_shard_or_an_input_error(data, tars, tmp_path):
    content = data.draw(st.one_of(mutated(tars), mutated(tars).map(with_checksums), st.binary(max_size=2000)))
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    try:
        rows = scan_shard(str(path))
        ends = rows["image_offset"].astype(object) + rows["image_size"]
        assert max(ends) <= len(content)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**30, "\0", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """The path of every value inside a nested container."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    for name in ("train-000000.tar", "train-000001.tar", "val-000000.tar"):
        write_tar(folder / name, [("a.png", picture()), ("a.cls", b"0"), ("b.png", picture()), ("b.cls", b"1")])
    (folder / "classes.txt").write_text("x\ny\n")
    write_index(folder, build_index(str(folder), scan_files(sorted(map(str, folder.glob("*.tar"))), folder, {})))
    return folder, json.loads((folder / "index.json").read_text())


def look_into(folder):
    """An index that can be opened can be used, or says why not."""
    try:
        index = open_index(str(folder), folder / "cache")
        for role in ("train", "curve", "test"):
            chosen = index.select(role)
            samples = index.records(chosen)
            assert len(samples.keys()) == len(samples) == index.num_samples(chosen)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


@FUZZ
@given(data=st.data())
def test_fuzz_any_changed_index_is_read_or_refused(data, indexed):
    folder, original = indexed
    content = copy.deepcopy(original)
    where = data.draw(st.sampled_from([p for p in places(original) if p]))
    holder = content
    for key in where[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[where[-1]] = data.draw(JSON)
    else:
        del holder[where[-1]]
    (folder / "index.json").write_text(json.dumps(content))
    look_into(folder)


@FUZZ
@given(data=st.data())
def test_fuzz_any_json_and_any_bytes_are_an_index_or_refused(data, indexed):
    folder, original = indexed
    real = json.dumps(original).encode()
    content = data.draw(st.one_of(JSON.map(json.dumps).map(str.encode), mutated([real]), st.binary(max_size=50)))
    (folder / "index.json").write_bytes(content)
    look_into(folder)


def test_json_that_is_nested_too_deeply_is_refused(indexed):
    folder, _ = indexed
    (folder / "index.json").write_text("[" * 100_000)
    look_into(folder)
