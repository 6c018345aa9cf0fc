"""Data sets on other machines: how they are named, opened, merged and indexed, and what is refused."""

import json
import shutil
import threading
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mimsuite.data.checks.duplicates import find_duplicates
from mimsuite.data.checks.inspect import summarize_data
from mimsuite.data.checks.verify import verify
from mimsuite.data.fingerprint import difference, fingerprint
from mimsuite.data.index import EVERY_SPLIT, Selection
from mimsuite.data.index_json import INDEX
from mimsuite.data.label_table import read_labels
from mimsuite.data.members import read_image, read_label
from mimsuite.data.open import open_data, open_index
from mimsuite.data.remote.opening import index_remote
from mimsuite.data.scan import index_beside
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.stores import address as store_addresses
from mimsuite.errors import InputError
from mimsuite.evaluation.features.tables import name_columns
from tests.servers import s3_server, upload, web_server


@pytest.fixture(scope="module")
def top(tmp_path_factory, shards):
    """`bare` holds three shards for training and one for validation, `packed` their index as well."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("bare", "packed"):
        shutil.copytree(shards, folder / name)
    index_beside(str(folder / "packed"))
    for number, name in enumerate(("train", "val")):
        (folder / "inner" / name).mkdir(parents=True)
        shutil.copy(sorted(shards.glob("*.tar"))[number], folder / "inner" / name / "0.tar")
    (folder / "images").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.png")
    return folder


@pytest.fixture(scope="module")
def s3(top):
    with s3_server() as client:
        upload(client, top)
        yield client


@pytest.fixture
def web(top):
    with web_server(top) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mimsuite"


@pytest.fixture(params=["s3", "http"])
def place(request, cache):
    """The address of the folders on a server."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://pictures"
    return request.getfixturevalue("web").address


def contents(index):
    """Every image and label of a data set, by split."""
    files = ShardFiles(index.fetching)
    found = {}
    for split in index.splits:
        samples = index.records(split)
        rows = [samples[number] for number in range(len(samples))]
        found[split] = [(read_image(files, *row), read_label(files, *row)) for row in rows]
    return found


def facts(index):
    """What does not depend on where the data lie."""
    return (
        *(index.classes, index.channels, index.dtype, index.mean, index.std, index.image_size, index.has_labels),
        {split: [(s.samples, s.bytes, s.sha256) for s in shards] for split, shards in index.splits.items()},
    )


# ---- forms of addresses


def test_a_packed_folder_is_the_same_data_as_its_local_copy(place, top):
    index, local = open_data(f"{place}/packed"), open_data(str(top / "packed"))
    assert index.root == f"{place}/packed"
    assert facts(index) == facts(local)
    assert fingerprint(index) == fingerprint(local)
    assert contents(index) == contents(local)
    assert open_data(f"{place}/packed/").splits == index.splits


def test_opening_by_an_index_asks_nothing_of_a_shard(web, cache):
    index = open_data(f"{web.address}/packed")
    assert {path for path, *_ in web.asked} == {f"/packed/{INDEX}"}
    index.records("train").keys()
    assert not [path for path, *_ in web.asked if path.endswith(".tar")]


@pytest.mark.parametrize("name", ["bare/train-{000000..000002}.tar", "bare/{train-000000,val-000000}.tar"])
def test_a_pattern_is_scanned_into_the_cache_once(place, top, name, cache):
    local = open_index(str(top / name), cache / "local")
    for _ in range(2):
        index = open_data(f"{place}/{name}")
        assert facts(index)[:-1] == facts(local)[:-1]
        assert difference(fingerprint(local), fingerprint(index)) is None
    assert contents(index) == contents(local)
    assert len(list((cache / "index").glob("[!.]*"))) == 1
    if place.startswith("http"):
        assert open_data(f"{place}/{name}?sig={{1}}").shards_of("train")[-1].path.endswith(".tar?sig={1}")
    assert index.splits["train"][0].sha256 is not None


def test_one_shard_and_folders_of_a_bucket_are_data(s3, top, cache):
    for name in ("bare/train-000001.tar", "bare", "inner"):
        local, index = open_index(str(top / name), cache / "local"), open_data(f"s3://pictures/{name}")
        assert facts(index)[:-1] == facts(local)[:-1]
        assert list(index.splits) == list(local.splits)
        assert contents(index) == contents(local)


def test_timms_info_names_the_shards_of_a_web_server(web, top, cache):
    info = {"splits": {"train": {"filenames": ["train-{000000..000001}.tar"], "shard_lengths": [30, 20]}}}
    (top / "bare" / "_info.json").write_text(json.dumps(info))
    try:
        index = open_data(f"{web.address}/bare")
        assert [shard.samples for shard in index.shards_of("train")] == [30, 20]
    finally:
        (top / "bare" / "_info.json").unlink()


def test_remote_and_local_sets_are_one_set(place, top, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(top / "bare" / "val-000000.tar", tmp_path / "more" / "train-9.tar")
    shutil.copy(top / "bare" / "classes.txt", tmp_path / "more")
    both = open_data([f"{place}/packed", str(tmp_path / "more")])
    alone = open_data([str(top / "packed"), str(tmp_path / "more")])
    assert fingerprint(both) == fingerprint(alone)
    assert contents(both) == contents(alone)


def test_an_index_of_10000_shards_is_opened_without_a_request_for_each(web, top, cache):
    content = json.loads((top / "packed" / INDEX).read_text())
    first = content["splits"]["train"][0]
    content["splits"] = {"train": [first | {"file": f"train-{n:06d}.tar"} for n in range(10_000)]}
    (top / "many").mkdir()
    (top / "many" / INDEX).write_text(json.dumps(content))
    index = open_data(f"{web.address}/many")
    assert index.num_samples("train") == 300_000
    assert len(index.shards_of("train")) == 10_000
    assert {path for path, *_ in web.asked} == {"/many/index.json"}


# ---- passes over all samples

PASSES = {
    "labels": lambda index: read_labels(index, index.records("train")),
    "names": lambda index: name_columns(index, Selection("train"), np.arange(index.num_samples("train"))),
    "copies": find_duplicates,
    "inspect": summarize_data,
    "verify": lambda index: list(verify(index, lambda done, total: None)),
}
MOST = {"verify": 7}  # requests of a shard: verify also reads what lies on the other machine, for its checksum


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("folder", ["packed", "bare/train-{000000..000002}.tar"])
def test_a_pass_over_a_split_fetches_shards_and_asks_for_no_sample(web, cache, folder, name):
    index = open_data(f"{web.address}/{folder}")
    web.asked.clear()
    PASSES[name](index)
    asked = Counter(path for path, *_ in web.asked if path.endswith(".tar"))
    assert 0 < max(asked.values()) <= MOST.get(name, 2) < 30, "a shard has 20 or 30 samples"


def test_verify_looks_into_a_shard_that_is_not_the_one_of_its_index(web, top, cache):
    shutil.copytree(top / "packed", top / "changed")
    path = top / "changed" / "train-000001.tar"
    data = bytearray(path.read_bytes())
    index = open_data(f"{web.address}/changed")
    at = int(index.records("train")[30][1]["image_offset"])
    data[at : at + 4] = b"nope"
    path.write_bytes(data)
    found = list(verify(index, lambda done, total: None))
    assert [problem.offset for problem in found] == [-1, at]
    assert found[0].reason.startswith("its sha256 is not the one in index.json")


def test_of_a_few_samples_only_those_are_asked_for(web, cache):
    index = open_data(f"{web.address}/packed")
    web.asked.clear()
    read_labels(index, index.records("train").take(np.arange(5)))
    assert all(part for path, part, *_ in web.asked if path.endswith(".tar"))


# ---- a scan


def test_a_scan_that_was_stopped_goes_on_where_it_was(web, top, cache):
    address = f"{web.address}/bare/train-{{000000..000002}}.tar"
    web.answers["/bare/train-000002.tar"] = 403
    with pytest.raises(InputError, match="HTTP 403 Forbidden"):
        open_data(address)
    web.answers.clear()
    original = (top / "bare" / "train-000002.tar").read_bytes()
    try:
        (top / "bare" / "train-000002.tar").write_bytes(original[:2000])
        with pytest.raises(InputError, match=r"train-000002.tar is cut"):
            open_data(address)
    finally:
        (top / "bare" / "train-000002.tar").write_bytes(original)
    web.asked.clear()
    open_data(address)
    whole = {path for path, part, *_ in web.asked if part is None}
    assert "/bare/train-000002.tar" in whole
    assert "/bare/train-000000.tar" not in whole


def test_large_members_are_passed_over(web, top, cache, tar, jpeg):
    rest = bytes(9 << 20)
    tar(top / "large" / "train-0.tar", [("a.jpg", jpeg(0)), ("a.raw", rest), ("b.jpg", jpeg(1)), ("b.raw", rest)])
    index = open_data(f"{web.address}/large/train-0.tar")
    assert index.num_samples("train") == 2
    assert index.splits["train"][0].sha256 is None
    assert any(part and not part.endswith("-0") for path, part, *_ in web.asked if path.endswith(".tar"))


def test_two_threads_that_open_the_same_shards_scan_them_once(web, cache):
    found, address = [], f"{web.address}/bare/train-{{000000..000002}}.tar"
    threads = [threading.Thread(target=lambda: found.append(open_data(address))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len([path for path, part, *_ in web.asked if part is None and path.endswith("0000.tar")]) == 1


# ---- an index beside the shards


def test_an_index_is_written_beside_the_shards_of_a_bucket(s3, top, cache, tmp_path):
    upload(s3, top / "bare", "to-index/")
    assert index_remote("s3://pictures/to-index", tmp_path / "out", "white") == "s3://pictures/to-index"
    assert not (tmp_path / "out").exists()
    shutil.rmtree(cache)
    index = open_data("s3://pictures/to-index")
    assert not (cache / "index").exists()
    assert facts(index) == facts(open_data(str(top / "packed")))
    (tmp_path / "copy").mkdir()
    for entry in s3.list_objects(Bucket="pictures", Prefix="to-index/")["Contents"]:
        s3.download_file("pictures", entry["Key"], str(tmp_path / "copy" / entry["Key"].rpartition("/")[2]))
    downloaded = open_data(str(tmp_path / "copy"))
    assert downloaded.shards_of("val")[0].path == str(tmp_path / "copy" / "val-000000.tar")
    assert contents(downloaded) == contents(index)
    with pytest.raises(InputError, match=r"has an index\.json; move it away"):
        index_remote("s3://pictures/to-index", tmp_path / "out", "white")


def test_an_index_of_a_web_server_is_written_to_out_and_opened_there(web, top, cache, tmp_path, caplog):
    pattern = web.address.replace("://", "://me:hush-hush@") + "/bare/train-{000000..000002}.tar?sig=0815"
    with caplog.at_level("INFO", "mimsuite"):
        assert index_remote(pattern, tmp_path / "out", "white") == str(tmp_path / "out")
    written = (tmp_path / "out" / INDEX).read_text()
    index = open_data(str(tmp_path / "out"))
    assert index.shards_of("train")[0].path == f"{web.address}/bare/train-000000.tar"
    assert contents(index)["train"] == contents(open_index(str(top / "bare"), cache / "local"))["train"]
    everything = written + caplog.text + "".join(p.read_text() for p in cache.rglob("*.json"))
    assert "hush" not in everything
    assert "0815" not in everything


@pytest.mark.parametrize(
    ("root", "file"), [("/etc", "a.tar"), ("ftp://h/a", "a.tar"), ("s3://b", "../a.tar"), ("s3://b", "s3://c/a.tar")]
)
def test_an_index_that_points_elsewhere_is_refused(top, tmp_path, root, file):
    content = json.loads((top / "packed" / INDEX).read_text())
    content["root"] = root
    content["splits"]["train"][0]["file"] = file
    (tmp_path / INDEX).write_text(json.dumps(content))
    with pytest.raises(InputError, match="is damaged"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("http://me:hush@127.0.0.1:1/packed", r"names shards on another server, http://<secret>@127.0.0.1:1/packed"),
        ("s3://pictures/packed", "names shards on another server, s3://pictures/packed"),
        ("s3://", "names nothing"),
    ],
)
def test_an_index_of_a_server_does_not_lead_to_another_one(web, top, cache, root, why):
    content = json.loads((top / "packed" / INDEX).read_text()) | {"root": root}
    (top / "leads").mkdir(exist_ok=True)
    (top / "leads" / INDEX).write_text(json.dumps(content))
    with pytest.raises(InputError, match=why):
        open_data(f"{web.address}/leads")
    content["root"] = f"{web.address}/packed"
    (top / "leads" / INDEX).write_text(json.dumps(content))
    assert open_data(f"{web.address}/leads").shards_of("val")[0].path == f"{web.address}/packed/val-000000.tar"


# ---- what is refused


def test_what_is_no_data_is_refused_in_one_line(place):
    for name, why in {
        "bare/train-{000000..000009}.tar": "7 of 10 shards are missing, the first is",
        "bare/none.tar": "does not exist",
        "images/a.png": "is an image on another machine; copy it here, or pack it",
    }.items():
        with pytest.raises(InputError, match=why) as error:
            open_data(f"{place}/{name}")
        assert "\n" not in str(error.value)


def test_folders_without_shards_say_what_to_do(s3, web, cache):
    for address, why in {
        "s3://pictures/images": "holds no .tar shard and 1 images: a folder of images is read on this machine alone",
        "s3://pictures/nothing": "does not exist",
        "s3://nowhere/x": "does not exist",
        f"{web.address}/bare": "is a folder of a web server, which cannot be listed, and neither index.json nor",
    }.items():
        with pytest.raises(InputError, match=why):
            open_data(address)


def test_an_unfinished_pack_is_refused(s3, cache):
    s3.put_object(Bucket="pictures", Key="half/pack.journal", Body=b"{}")
    with pytest.raises(InputError, match="holds a half-finished pack"):
        open_data("s3://pictures/half")


def test_an_address_with_secrets_opens_and_shows_none(web, cache, caplog):
    web.answers["/bare/train-000009.tar"] = 403
    signed = web.address.replace("://", "://me:hush-hush@") + "/packed?X-Amz-Signature=0815"
    with caplog.at_level("INFO", "mimsuite"):
        index = open_data(signed)
        samples = index.records(EVERY_SPLIT)
        read_image(ShardFiles(), *samples[0])
    assert web.asked[-1][2] == "X-Amz-Signature=0815"
    with pytest.raises(InputError) as error:
        open_data(signed.replace("/packed?", "/bare/train-000009.tar?"))
    shown = f"{index.root} {fingerprint(index)} {caplog.text} {error.value}"
    assert index.root == web.address.replace("://", "://<secret>@") + "/packed?<secret>"
    assert "hush" not in shown
    assert "0815" not in shown


def test_tables_of_a_packed_folder_are_read_where_they_are_needed(web, cache, top):
    index, local = open_data(f"{web.address}/packed"), open_data(str(top / "packed"))
    assert np.array_equal(index.records("train").keys(), local.records("train").keys())
    assert index.records("val")[3][1] == local.records("val")[3][1]


# ---- the hub


def test_a_data_set_of_the_hub_is_opened(top, tmp_path, cache, monkeypatch):
    """A folder of files plays the hub: listings and files have the addresses that they have there."""
    constants = pytest.importorskip("huggingface_hub.constants")
    served, names = tmp_path / "hub", sorted(path.name for path in (top / "bare").iterdir())
    for name in ("bare", "packed"):
        shutil.copytree(top / name, served / "datasets" / "me" / "set" / "resolve" / "v1" / name)
    sizes = {name: (top / "bare" / name).stat().st_size for name in names}
    rows = [{"type": "file", "path": f"bare/{name}", "size": size, "oid": name} for name, size in sizes.items()]
    (served / "api" / "datasets" / "me" / "set" / "tree" / "v1").mkdir(parents=True)
    (served / "api" / "datasets" / "me" / "set" / "tree" / "v1" / "bare").write_text(json.dumps(rows))
    with web_server(served) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(store_addresses, "_remote", {})
        monkeypatch.setenv("HF_TOKEN", "hf_canary")
        packed = open_data("hf://datasets/me/set@v1/packed")
        assert contents(packed) == contents(open_data(str(top / "packed")))
        local, bare = open_index(str(top / "bare"), cache / "local"), open_data("hf://datasets/me/set@v1/bare")
        assert facts(bare)[:-1] == facts(local)[:-1]
        assert contents(bare) == contents(local)
        with pytest.raises(InputError, match="does not exist"):
            open_data("hf://datasets/me/set@v1/nothing")
    assert {access for path, _, _, access in server.asked if path.endswith(".tar")} == {"Bearer hf_canary"}
