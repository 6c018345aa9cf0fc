"""Files of named arrays: each kind is recognised by its content, read one tensor at a time, and refused if damaged."""

import argparse
import io
import json
import os
import pickle
import resource
import struct
import sys
import types
import zipfile

import h5py
import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mimsuite import app
from mimsuite.errors import InputError
from mimsuite.weights.containers.recognised import open_file
from mimsuite.weights.containers.torch_file import open_state_dict
from mimsuite.weights.init import find_weights

ARRAYS = {
    "a.kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b": np.array([1, -2, 3], dtype=np.int64),
    "c": np.array(True),
    "d": np.zeros((0, 3), np.float16),
    "e": np.array([0.5], dtype=np.float64),
}
MEMORY = 200 * 2**20  # bytes that a hostile file of a few kB may cost


def as_torch():
    return {name: torch.from_numpy(np.array(value)) for name, value in ARRAYS.items()}


def write_safetensors(path):
    save_file(as_torch(), path)


def write_npz(path):
    np.savez(path, **ARRAYS)


def write_packed_npz(path):
    np.savez_compressed(path, **ARRAYS)


def write_torch(path):
    torch.save({"model": as_torch(), "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)


def write_old_torch(path):
    torch.save({"state_dict": as_torch()}, path, _use_new_zipfile_serialization=False)


def write_h5(path):
    with h5py.File(path, "w") as file:
        for name, value in ARRAYS.items():
            file.create_dataset(name.replace(".", "/"), data=value)


def write_packed_h5(path):
    with h5py.File(path, "w") as file:
        for name, value in ARRAYS.items():
            many = {"compression": "gzip", "shuffle": True} if value.ndim and value.size else {}
            file.create_dataset(name.replace(".", "/"), data=value, **many)


def flax_array(value, code=1):
    content = msgpack.packb((value.shape, value.dtype.name, value.tobytes("C")), use_bin_type=True)
    return msgpack.ExtType(code, content)


def write_msgpack(path):
    tree = {"a": {"kernel": flax_array(ARRAYS["a.kernel"])}, **{n: flax_array(ARRAYS[n]) for n in "bde"}}
    tree["c"] = flax_array(ARRAYS["c"], 3)
    path.write_bytes(msgpack.packb(tree))


def write_msgpack_in_parts(path):
    flat = ARRAYS["a.kernel"].ravel()
    parts = {str(n): flax_array(part) for n, part in enumerate((flat[:10], flat[10:20], flat[20:]))}
    whole = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3, "2": 4}, "chunks": parts}
    path.write_bytes(msgpack.packb({"a": {"kernel": whole}, **{n: flax_array(ARRAYS[n]) for n in "bcde"}}))


WRITERS = {
    "safetensors": write_safetensors,
    "npz": write_npz,
    "packed npz": write_packed_npz,
    "torch": write_torch,
    "old torch": write_old_torch,
    "h5": write_h5,
    "packed h5": write_packed_h5,
    "msgpack": write_msgpack,
    "msgpack in parts": write_msgpack_in_parts,
}


def written(write, path):
    """Written under a name that says nothing, whatever the library appends to it."""
    if write in (write_npz, write_packed_npz):
        with path.open("wb") as file:
            write(file)
    else:
        write(path)
    return path


def refusal(path):
    """The one line that refuses a file, and exit code 2."""
    with pytest.raises(InputError) as caught:
        dict(open_file(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)

    def ask():
        raise caught.value

    assert app.run_guarded(ask, "embed") == 2
    return str(caught.value)


def outcome(path):
    """What is found, or the error; no other error passes."""
    try:
        return f"{len(dict(open_file(path)))} tensors"
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_is_recognised_by_its_content_and_read_by_name(name, tmp_path):
    path = written(WRITERS[name], tmp_path / "weights.txt")
    found = open_file(path)
    named = {key.replace("/", "."): value for key, value in found.items()}
    assert named.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert named[key].dtype == torch.from_numpy(np.array(value)).dtype
        assert np.array_equal(named[key].numpy(), value)
    assert {key.replace("/", "."): shape for key, shape in found.shapes.items()} == {
        k: v.shape for k, v in ARRAYS.items()
    }
    assert all(meta.dtype == found[key].dtype for key, meta in found.metas().items())


def test_bfloat16_is_read_from_safetensors_and_msgpack(tmp_path):
    value = torch.tensor([[1.5, -2.0]]).bfloat16()
    save_file({"x": value}, tmp_path / "a")
    content = msgpack.packb(((1, 2), "bfloat16", value.view(torch.int16).numpy().tobytes()))
    (tmp_path / "b").write_bytes(msgpack.packb({"x": msgpack.ExtType(1, content)}))
    for name in "ab":
        assert torch.equal(open_file(tmp_path / name)["x"], value)


def test_arrays_of_other_byte_orders_and_of_fortran_order_are_read_as_they_are_meant(tmp_path):
    value = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(tmp_path / "x.npz", big=value, fortran=np.asfortranarray(ARRAYS["a.kernel"]))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["big"] = value
    for file in ("x.npz", "x.h5"):
        assert torch.equal(open_file(tmp_path / file)["big"], torch.arange(6.0).reshape(2, 3))
    assert np.array_equal(open_file(tmp_path / "x.npz")["fortran"].numpy(), ARRAYS["a.kernel"])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("keep", [0, 1, 9, 40, 0.5, -1])
def test_a_file_that_is_cut_off_is_refused_in_one_line(name, keep, tmp_path):
    path = written(WRITERS[name], tmp_path / "weights")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refusal(path)


@pytest.mark.parametrize("name", WRITERS)
def test_damage_anywhere_gives_one_line_or_the_same_names(name, tmp_path):
    path = written(WRITERS[name], tmp_path / "weights")
    content, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in draw.integers(0, len(content), 4):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged)
        assert "\n" not in outcome(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a file of weights; known are safetensors, torch archives"),
        (b"hello, world, this is text", "not a file of weights"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a file of weights"),
        (b"GGUF" + bytes(60), "not a file of weights"),
        (b"\x80", "not a file of weights"),
        (b"{" * 40, "not a file of weights"),
    ],
)
def test_a_file_of_something_else_is_refused_with_what_is_known(content, words, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_file(tmp_path / "x.safetensors")


def test_a_zip_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive of 1 other files" in refusal(tmp_path / "x.pth")


# What a file says of itself.


def lying_safetensors(shape, offsets, dtype="F32", size=16):
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def npz_of(header, values=b"", method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        words = f"{{'descr': {header[0]}, 'fortran_order': False, 'shape': {header[1]}, }}"
        words += " " * (63 - (10 + len(words)) % 64) + "\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words.encode() + values)
    return stream.getvalue()


def npz_of_objects():
    stream = io.BytesIO()
    np.savez(stream, a=np.array([{"x": 1}], dtype=object))
    return stream.getvalue()


def zip_with_wrong_sizes():
    """A part that says that it is 2**31 bytes long."""
    content = bytearray(npz_of(("'<f4'", "(4,)"), bytes(16)))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    return bytes(content)


def torch_with_wrong_shape():
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, stream)
    return stream.getvalue()


def torch_of_one_tensor_under_many_names():
    stream, one = io.BytesIO(), torch.zeros(2**18)
    torch.save({f"a{n}": one for n in range(40_000)}, stream)
    return stream.getvalue()


def packed_torch():
    stream, written = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1 << 22)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return written.getvalue()


def deep_msgpack(depth):
    content = flax_array(np.zeros(1, np.float32))
    for _ in range(depth):
        content = {"a": content}
    return msgpack.packb(content)


def flax(*payload, code=1):
    return msgpack.packb({"a": msgpack.ExtType(code, msgpack.packb(payload))})


HOSTILE = {
    "safetensors whose tensor is larger than the file": (lying_safetensors([2**40], [0, 2**42]), "damaged"),
    "safetensors whose shape is not that of its bytes": (lying_safetensors([1000], [0, 16]), "damaged"),
    "safetensors whose places overlap": (lying_safetensors([4], [4, 20]), "damaged"),
    "safetensors of an unknown type": (lying_safetensors([4], [0, 16], "F99"), "damaged"),
    "safetensors of a type that torch has not": (lying_safetensors([4, 4], [0, 16], "F8_E8M0"), "stored as F8_E8M0"),
    "safetensors with an endless header": (struct.pack("<Q", 1 << 62) + b"{}" * 8, "not a file of weights"),
    "safetensors with a deep header": (struct.pack("<Q", 5000) + b"{" + b'"a":{' * 1000, "damaged"),
    "npz of objects": (npz_of_objects(), "holds object, not numbers, and nothing is unpickled"),
    "npz of records": (npz_of(("[('x', '<f4')]", "(4,)"), bytes(16)), "not numbers"),
    "npz of text": (npz_of(("'<U4'", "(1,)"), bytes(16)), "not numbers"),
    "npz of long floats": (npz_of(("'<f16'", "(1,)"), bytes(16)), "not numbers"),
    "npz of 10^12 values": (npz_of(("'<f4'", "(1000000000000,)"), bytes(16)), "has not the 4,000,000,000,128 bytes"),
    "npz of negative sides": (npz_of(("'<f4'", "(-2, -2)"), bytes(16)), "has not the"),
    "npz with a deep header": (npz_of(("[" * 3000, "(4,)"), bytes(16)), "damaged"),
    "npz with wrong sizes": (zip_with_wrong_sizes(), "has not the|damaged"),
    "npz that unpacks to 1 GB": (
        npz_of(("'|u1'", f"({2**29},)"), bytes(2**29), zipfile.ZIP_DEFLATED),
        "would become 536,870,912 in memory",
    ),
    "torch that is packed": (packed_torch(), "its parts are compressed"),
    "torch of a tensor larger than the file": (torch_with_wrong_shape(), r"a tensor of shape \(1000000, 1000000\)"),
    "torch of one tensor under many names": (torch_of_one_tensor_under_many_names(), "would become 41,943,040,000"),
    "torch of a number": (pickle.dumps(3, 2), "cannot be read"),
    "msgpack nested 100 deep": (deep_msgpack(100), "nested deeper than 40"),
    "msgpack nested 100,000 deep": (b"\x81\xa1a" * 100_000, "nested deeper than 40"),
    "msgpack of a list": (b"\x81\xa1a" + b"\x91" * 500, "nested deeper than 40"),
    "msgpack of 2^32 names": (b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 10, "damaged"),
    "msgpack of a list of 2^32": (b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\x01" * 200_000, "more than 100,000 values"),
    "msgpack with a long name": (msgpack.packb({"a" * 5000: 1}), "not a short text"),
    "msgpack with more than its map": (flax((1,), "float32", bytes(4)) + b"\x01", "its map ends after"),
    "msgpack of an unknown extension": (flax((1,), "float32", bytes(4), code=2), "extension of type 2"),
    "msgpack of too few bytes": (flax((1000,), "float32", bytes(4)), "has 4 bytes"),
    "msgpack of a huge shape": (flax((2**40, 2**40), "float32", bytes(4)), "has 4 bytes"),
    "msgpack of a negative shape": (flax((-1, -1), "float32", bytes(4)), "an array of shape"),
    "msgpack of objects": (flax((1,), "object", bytes(8)), "an array of object"),
    "msgpack of a type that is a function": (flax((1,), "save", bytes(8)), "an array of save"),
    "msgpack of numbers": (msgpack.packb({"a": 3, "b": {"c": 1.5}}), "'a' is a int, not an array"),
    "msgpack of text": (msgpack.packb({"a": "text"}), "'a' is a str, not an array"),
    "msgpack of bytes": (msgpack.packb({"a": b"bytes"}), "belong to no array"),
    "msgpack of parts that do not fit": (
        msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 9}, "chunks": {}}}),
        "do not make it",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_without_much_memory(name, tmp_path):
    content, words = HOSTILE[name]
    path = tmp_path / "weights"
    path.write_bytes(content)
    open_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=words):
        open_file(path)
    refusal(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - open_memory) * 1024 < MEMORY


# HDF5, whose files are written by the library.


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = [1.0]
    file["a"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def soft_link(file, _):
    file["x"] = [1.0]
    file["a"] = h5py.SoftLink("/x")


def external_storage(file, folder):
    (folder / "raw").write_bytes(bytes(16))
    file.create_dataset("a", (4,), "f4", external=[(str(folder / "raw"), 0, 16)])


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros(4, np.float32)
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape=(4,))
    file.create_virtual_dataset("a", layout)


def huge(file, _):
    file.create_dataset("a", (2**40,), "f4", chunks=(1024,))


def huge_and_begun(file, _):
    made = file.create_dataset("a", (2**30,), "f4", chunks=(1024,), compression="gzip")
    made[:10] = 1


def packed_zeros(file, _):
    file.create_dataset("a", data=np.zeros(2**28, np.uint8), compression="gzip", chunks=(2**22,))
    file.create_dataset("b", data=np.zeros(2**28, np.uint8), compression="gzip", chunks=(2**22,))


def not_written(file, _):
    file.create_dataset("a", (2**20,), "f4")


def deep(file, _):
    for _ in range(60):
        file = file.create_group("a")
    file["x"] = [1.0]


def circle(file, _):
    file.create_group("a")["b"] = file["/"]


def text(file, _):
    file["a"] = "text"


def records(file, _):
    file["a"] = np.zeros(2, [("x", "f4")])


def named_type(file, _):
    file["a"] = np.dtype("f4")


H5 = {
    external_link: "'a' is a link, which is not followed",
    soft_link: "'a' is a link",
    external_storage: "'a' is not stored in this file",
    virtual: "'a' is not stored in this file",
    huge: "'a' is not stored in this file",
    huge_and_begun: "would become 4,294,967,296 in memory",
    packed_zeros: "would become 536,870,912 in memory",
    not_written: "'a' is not stored in this file",
    deep: "is deeper than 40",
    circle: "group 'a/b' is deeper than 40, or inside itself",
    text: "not numbers",
    records: "not numbers",
    named_type: "not numbers",
}


@pytest.mark.parametrize("make", H5, ids=lambda make: make.__name__)
def test_a_hostile_h5_file_is_refused(make, tmp_path):
    path = tmp_path / "weights"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    with pytest.raises(InputError, match=H5[make]):
        open_file(path)
    refusal(path)


def test_a_missing_library_is_named_with_its_pip_line(tmp_path, monkeypatch):
    path = written(write_h5, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "needs h5py; pip install mimsuite[h5]" in refusal(path)


# Pickles: nothing in them runs.


@pytest.fixture
def cfg_node(monkeypatch):
    """A class under the name that yacs gives its settings: a dict with attributes."""

    class CfgNode(dict):
        def __init__(self, content=()):
            super().__init__(content)
            self.__dict__["__immutable__"] = False

    module = types.ModuleType("yacs.config")
    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode


@pytest.mark.parametrize("new", [True, False])
def test_settings_of_training_programs_are_thrown_away(new, cfg_node, tmp_path, monkeypatch):
    settings = cfg_node({"TRAIN": cfg_node({"LR": 0.1})})
    content = {"model": as_torch(), "config": settings, "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace())}
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=new)
    for name in ("yacs", "yacs.config"):
        monkeypatch.delitem(sys.modules, name)
    assert open_file(tmp_path / "x").keys() == ARRAYS.keys()
    assert not hasattr(argparse.Namespace, "__setstate__")


class Canary:
    def __reduce__(self):
        return open, ("canary", "w")


class Plain:
    pass


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [(Canary(), "io.open"), (Plain(), "test_containers.Plain"), (argparse.Namespace(x=Canary()), "io.open")],
    ids=["code", "a class", "code in settings"],
)
def test_another_class_is_refused_by_name_and_does_not_run(content, name, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": as_torch(), "args": content}, tmp_path / "x", _use_new_zipfile_serialization=new)
    assert f"it holds {name}, which could run code" in refusal(tmp_path / "x")
    assert not (tmp_path / "canary").exists()


def test_settings_do_not_hide_a_call(tmp_path, monkeypatch):
    """A pickle that calls the stand-in with arguments of its own."""
    monkeypatch.chdir(tmp_path)
    code = b"\x80\x02}X\x01\x00\x00\x00acargparse\nNamespace\nX\x06\x00\x00\x00canary\x85Rs."
    (tmp_path / "x").write_bytes(code)
    refusal(tmp_path / "x")


@pytest.mark.parametrize("place", ["model_ema", "model", "state_dict", "module", "teacher", "student", None])
def test_the_place_of_the_tensors_is_found(place, tmp_path):
    content = {"epoch": 3, **(as_torch() if place is None else {place: as_torch()})}
    torch.save(content, tmp_path / "x")
    assert open_file(tmp_path / "x").keys() == ARRAYS.keys()


def test_averaged_weights_win(tmp_path):
    other = {"b": torch.zeros(3)}
    torch.save({"model": other, "model_ema": as_torch()}, tmp_path / "x")
    assert open_file(tmp_path / "x").keys() == ARRAYS.keys()


def test_a_torch_file_without_tensors_says_where_they_are_looked_for(tmp_path):
    torch.save({"weights": as_torch(), "epoch": 3}, tmp_path / "x")
    assert "expected a state dict, bare or under model_ema" in refusal(tmp_path / "x")


@pytest.mark.parametrize("name", WRITERS)
def test_weights_of_no_known_format_say_what_they_hold(name, tmp_path):
    path = written(WRITERS[name], tmp_path / "weights.bin")
    with pytest.raises(InputError, match=r"holds 5 tensors of no known format \(such as .*a.*known are ") as caught:
        find_weights(str(path))
    assert "\n" not in str(caught.value)


# One tensor at a time.


@pytest.mark.parametrize("name", ["safetensors", "h5", "msgpack"])
def test_nothing_but_the_tensor_that_is_asked_for_is_read(name, tmp_path):
    """The values of the others are damaged."""
    path = written(WRITERS[name], tmp_path / "weights")
    content = path.read_bytes()
    place = content.index(ARRAYS["a.kernel"].tobytes())
    path.write_bytes(content[:place] + bytes(ARRAYS["a.kernel"].nbytes) + content[place + ARRAYS["a.kernel"].nbytes :])
    found = open_file(path)
    assert torch.equal(found["b"], torch.tensor([1, -2, 3]))


def test_a_file_that_is_replaced_while_it_is_open_is_read_as_it_was(tmp_path):
    path = tmp_path / "x"
    save_file({"a": torch.ones(3)}, path)
    found = open_file(path)
    save_file({"a": torch.zeros(3)}, tmp_path / "y")
    (tmp_path / "y").replace(path)
    assert torch.equal(found["a"], torch.ones(3))


@pytest.mark.parametrize("open_it", [open_file, open_state_dict])
def test_tensors_that_are_no_plain_arrays_are_refused_by_name(open_it, tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(2, 2).to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: b is sparse or quantized; save it with plain tensors"):
        open_it(tmp_path / "a.pth")


def test_a_name_that_writes_to_the_terminal_is_shown_harmless(tmp_path):
    torch.save({"evil\nTraceback\x1b[31m": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"has a tensor named 'evil.*; give weights with printable names") as error:
        find_weights(str(tmp_path / "a.pth"))
    assert str(error.value).isprintable()


def test_a_call_that_torch_blocks_is_refused_by_name(tmp_path):
    torch.save({"a": torch.ones(2), "b": Call()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth cannot be read: it holds (posix|nt)\.system, which could run code"):
        open_file(tmp_path / "a.pth")


class Call:
    def __reduce__(self):
        return os.system, ("false",)
