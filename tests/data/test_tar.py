"""A scan of a tar file: the members that it finds, and damage that it names."""

import gzip
import io
import tarfile

import pytest
from opening import refused

from mimsuite.data.hashing import hash_key
from mimsuite.data.tar import header_name, scan_shard
from mimsuite.errors import InputError


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_are_found(form, tmp_path, tar, jpeg):
    names = ["short", "d" * 60 + "/" + "k" * 80, "ünï cöde"]
    if form != tarfile.USTAR_FORMAT:
        names += ["x" * 150, "folder/" * 40 + "y" * 90]
    path = tar(tmp_path / "a.tar", [(f"{n}.jpg", jpeg(0)) for n in names], format=form)
    rows = scan_shard(str(path))
    assert rows["key"].tolist() == [hash_key(name) for name in names]
    content = path.read_bytes()
    for name, row in zip(names, rows, strict=True):
        start, end = int(row["image_offset"] - row["image_header"]), int(row["image_offset"])
        assert header_name(content[start:end], "a") == f"{name}.jpg"
        assert content[end : end + int(row["image_size"])] == jpeg(0)
    assert header_name(content[512:1024], "a") == ""


def test_members_that_are_no_samples_are_passed_over(tmp_path, tar, jpeg):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("folder/link.jpg")
        link.type, link.linkname, link.size = tarfile.SYMTYPE, "other", 0
        for info in (folder, link):
            archive.addfile(info)
        contents = {
            "README": b"no ending",
            "__meta__/x.jpg": b"webdataset passes over this",
            "folder/a.jpg": jpeg(0),
            "folder/a.txt": b"caption",
            "folder/a.seg.png": b"a mask",
            "folder/a.json": b'{"label": 1}',
            "b.cls": b"3",
            "c.d.jpg": b"the ending is d.jpg",
            "e.PNG": jpeg(1, kind="PNG"),
        }
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    rows = scan_shard(str(tmp_path / "a.tar"))
    assert rows["key"].tolist() == [hash_key("folder/a"), hash_key("e")]
    assert (rows["label_header"] > 0).tolist() == [True, False]


def damage(kind, content, folder):
    path = folder / "train-000000.tar"
    if kind == "cut inside a payload":
        path.write_bytes(content[: 512 + 300])
    elif kind == "cut inside a header":
        path.write_bytes(content[: first_end(content) + 100])
    elif kind == "cut between members":
        path.write_bytes(content[: first_end(content)])
    elif kind == "damaged header":
        at = first_end(content)
        path.write_bytes(content[: at + 10] + b"XXXX" + content[at + 14 :])
    elif kind == "empty shard":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"not a tar at all\n" * 200)
    elif kind == "gzip":
        path.write_bytes(gzip.compress(content))
    elif kind == "web page":
        path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 50)
    elif kind == "short web page":
        path.write_bytes(b"<html>404</html>")


def first_end(content):
    size = int(content[124:135], 8)
    return 512 + -(-size // 512) * 512


FAULTS = {
    "cut inside a payload": ["cut inside the payload", "offset 512", "copy it again"],
    "cut inside a header": ["cut inside the header", "offset 2", "copy it again"],
    "cut between members": ["cut before its end blocks", "offset 2", "copy it again"],
    "damaged header": ["damaged", "no tar header at offset 2"],
    "empty shard": ["is empty (0 bytes)"],
    "text": ["is not a tar file", "offset 0", "not a tar at all"],
    "gzip": ["gzip-compressed (unpack it first)", "offset 0"],
    "web page": ["web page", "offset 0", "download it again"],
    "short web page": ["web page", "offset 0"],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_damaged_shard_is_named_with_offset_and_fix(kind, tmp_path, tar, members):
    content = tar(tmp_path / "train-000000.tar", members(0, 3)).read_bytes()
    damage(kind, content, tmp_path)
    message = refused(tmp_path, tmp_path / "cache")
    for words in [*FAULTS[kind], "train-000000.tar"]:
        assert words in message


def test_every_cut_of_a_shard_is_noticed(tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", members(0, 2))
    content = path.read_bytes()
    end = max(i for i, byte in enumerate(content) if byte) // 512 * 512 + 512
    for length in [*range(0, end, 97), *range(0, end + 1, 512)]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a.tar is (cut|empty|not)"):
            scan_shard(str(path))
    path.write_bytes(content[: end + 512])
    assert len(scan_shard(str(path))) == 2


@pytest.mark.parametrize("length", [*range(1, 40), 511])
def test_a_stump_of_a_header_is_an_input_error(length, tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", members(0, 1))
    path.write_bytes(path.read_bytes()[:length])
    assert "offset 0" in refused(path, tmp_path / "cache")


def test_no_single_flipped_byte_of_a_header_breaks_the_scan_in_another_way(tmp_path, tar, members):
    path = tar(tmp_path / "a.tar", [("k" * 120 + ".jpg", b"x"), *members(0, 1)], format=tarfile.PAX_FORMAT)
    content = path.read_bytes()
    for at in range(0, 2048, 11):
        for value in (0, 0xFF, ord("9")):
            path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                assert len(scan_shard(str(path))) in (1, 2)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
