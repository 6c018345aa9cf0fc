"""Remote stores: what they read, list and refuse, from a web server and from an S3 server in this process."""

import os
import pickle
import subprocess
import sys

import pytest
from fault_server import fault_server

from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.names import REMOTE, bare, below, check_address, join, last_name, parent_of, shown
from mimsuite.data.stores.remote import RemoteStore
from mimsuite.errors import InputError, RunError
from tests.servers import s3_server, upload, web_server

BYTES = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    for name in ("data/b/2.tar", "data/b/1.tar", "data/a/3.tar", "data/x.tar", "data/.y.tar"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(name.encode())
    (place / "data" / "big.bin").write_bytes(BYTES)
    (place / "data" / "empty").write_bytes(b"")
    return place


@pytest.fixture(scope="module")
def s3(folder):
    with s3_server() as client:
        upload(client, folder)
        yield client


@pytest.fixture
def web(folder):
    with web_server(folder) as server:
        yield server


@pytest.fixture(params=["s3", "http"])
def place(request):
    """The address of the folder `data` on a server."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://pictures/data"
    return request.getfixturevalue("web").address + "/data"


# ---- addresses


def test_addresses_are_taken_apart_and_put_together():
    signed = "https://me:pw@Host:8/a/b%20c.tar?X-Sig=1"
    assert join("https://h/a/?sig=1", "b c/0.tar") == "https://h/a/b%20c/0.tar?sig=1"
    assert join("s3://b/a?/", "x#.tar") == "s3://b/a?/x#.tar"
    assert (last_name(signed), last_name("s3://b/c%20d/"), last_name("/x/y.tar")) == ("b c.tar", "c%20d", "y.tar")
    assert parent_of(signed) == "https://me:pw@Host:8/a?X-Sig=1"
    assert bare(signed) == "https://host:8/a/b%20c.tar"
    assert shown(signed) == "https://<secret>@Host:8/a/b%20c.tar?<secret>"
    assert shown("/a:/me@b?c") == "/a:/me@b?c"
    assert below("https://h/a?sig=1", "https://me:pw@h/a/b%20c/0.tar?sig=2") == "b c/0.tar"
    assert below("s3://b/a", "s3://b/ab/0.tar") is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("https://<secret>@h/a", "was written down without its password or signature; give data= with the whole"),
        (
            "s3://key:word@b/a",
            "data=s3://<secret>@b/a holds a user or a password; s3:// takes credentials from the env",
        ),
        ("hf://datasets/org", "is no data set of the hub; use hf://datasets/ORG/NAME"),
        ("s3:///", "names nothing"),
        ("https://me:pass/word@h/a", "names no server; use https://HOST/FOLDER or .* write %2F for / in a password"),
        ("https://h:8x/word@", "names no server"),
        ("https:///word@", "names no server"),
        ("https://h/a b/c.tar?sig=word@", "data=https://... holds a space; write %20 for it"),
        ("https://h/c.tar?sig=1'word@", "holds '; write %27 for it"),
        ("https://h/c.tar?sig=[word@", r"holds \[; write %5B for it"),
    ],
)
def test_addresses_that_cannot_be_right_are_refused(address, why):
    with pytest.raises(InputError, match=why) as error:
        check_address(address)
    assert "word@" not in str(error.value)


@pytest.mark.parametrize("error", [InputError, RunError])
def test_no_error_shows_a_password_or_a_signature(error):
    text = "data=['https://me:p@w@h/a?X-Amz-Signature=5;6&b=7', 's3://key:word@b/c'] cannot be read"
    assert str(error(text)) == "data=['https://<secret>@h/a?<secret>', 's3://<secret>@b/c'] cannot be read"


def test_other_schemes_are_refused_by_name():
    with pytest.raises(
        InputError, match=r"^ftp://\.\.\. cannot be read; use a local path, or one of s3://, gs://, az://"
    ):
        store_of("ftp://me:pw@host/a")


# ---- reading


def test_files_are_read_by_range_and_as_a_stream(place):
    store, name = store_of(place), f"{place}/big.bin"
    assert store is store_of(place)
    assert store.stat(name).size == len(BYTES)
    assert store.stat(name).version == store.stat(name).version != ""
    assert store.read(name, 1000, 300) == BYTES[1000:1300]
    assert store.read(name, len(BYTES) - 5, 10) == BYTES[-5:]
    assert (store.read(name, len(BYTES), 10), store.read(name, 5, 0)) == (b"", b"")
    assert b"".join(store.stream(name)) == BYTES
    assert b"".join(store.stream(name, 70_000)) == BYTES[70_000:]
    assert (store.stat(f"{place}/empty").size, store.read_all(f"{place}/empty")) == (0, b"")
    assert [store.is_file(f"{place}/{other}") for other in ("big.bin", "nothing")] == [True, False]
    again = pickle.loads(pickle.dumps(store))
    assert again.read(name, 0, 2) == b"\0\1"


def test_a_file_that_is_missing_is_named_with_its_address(place):
    for call in (lambda s, n: s.stat(n), lambda s, n: s.read(n, 0, 4), lambda s, n: list(s.stream(n))):
        with pytest.raises(StoreError, match="HTTP 404 Not Found: check the address") as error:
            call(store_of(place), f"{place}/nothing")
        assert (error.value.status, error.value.passes, error.value.filename) == (404, False, f"{place}/nothing")
        assert pickle.loads(pickle.dumps(error.value)).status == 404


def test_a_table_is_copied_once_and_again_when_it_changes(web, folder, monkeypatch, tmp_path):
    import numpy as np

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store, name = store_of(web.address), f"{web.address}/rows.npy?sig=1"
    for values in ([1, 2], [3, 4]):
        np.save(folder / "rows.npy", np.array(values))
        web.asked.clear()
        for _ in range(2):
            assert np.load(store.local_copy(name)).tolist() == values
        assert [path for path, part, *_ in web.asked if part is None] == ["/rows.npy"]
    assert len(list((tmp_path / "mimsuite" / "remote").rglob("*.npy"))) == 2


def test_a_bucket_is_listed_by_pattern_part_by_part(s3):
    store, top = store_of("s3://pictures"), "s3://pictures/data"
    assert store.list(top, "*.tar") == [f"{top}/.y.tar", f"{top}/x.tar"]
    assert store.list(f"{top}/", "*/*.tar") == [f"{top}/a/3.tar", f"{top}/b/1.tar", f"{top}/b/2.tar"]
    assert [entry.stat.size for entry in store.matches(top, "x.tar")] == [10]
    assert [store.is_folder(name) for name in (top, f"{top}/b", "s3://pictures", f"{top}/none")] == [True] * 3 + [False]
    walked = [(here, list(names)) for here, names in store.walk(top, hidden=False)]
    assert walked == [(top, ["big.bin", "empty", "x.tar"]), (f"{top}/a", ["3.tar"]), (f"{top}/b", ["1.tar", "2.tar"])]
    with pytest.raises(StoreError, match="404"):
        store.list("s3://nowhere", "*.tar")


# ---- servers that do not do as they should


def test_a_server_that_ignores_ranges_is_never_misread(web):
    web.ranges, store, name = False, store_of(web.address), f"{web.address}/data/big.bin"
    assert store.stat(name).size == len(BYTES)
    with pytest.raises(StoreError, match="ignores Range and sends whole files") as error:
        store.read(name, 1000, 10)
    assert not error.value.passes
    with pytest.raises(StoreError, match="ignores Range"):
        store.read(name, 0, 10)
    assert b"".join(store.stream(name, 70_000)) == BYTES[70_000:]


def test_another_range_than_the_one_asked_for_is_an_error(web):
    web.shift, store = 7, RemoteStore("http")
    with pytest.raises(StoreError, match="asked for bytes from 1000 on, the server sends bytes 1007-1016/512000"):
        store.read(f"{web.address}/data/big.bin", 1000, 10)


def test_a_body_that_ends_too_early_passes(web):
    web.missing, store = 100, RemoteStore("http")
    with pytest.raises(StoreError) as error:
        list(store.stream(f"{web.address}/data/x.tar"))
    assert error.value.passes


@pytest.mark.parametrize(("status", "passes"), [(401, False), (403, False), (408, True), (429, True), (503, True)])
def test_each_answer_is_asked_for_once_and_says_whether_it_may_pass(web, status, passes):
    web.answers["/data/x.tar"] = status
    with pytest.raises(StoreError, match=f"HTTP {status}") as error:
        RemoteStore("http").read(f"{web.address}/data/x.tar", 0, 4)
    assert (error.value.status, error.value.passes, len(web.asked)) == (status, passes, 1)


def test_a_server_that_is_not_there_may_come_back(web):
    for address in ("http://127.0.0.1:9/a?sig=1", "s3://pictures/data/x.tar"):
        os.environ["AWS_ENDPOINT_URL"], before = "http://127.0.0.1:9", os.environ.get("AWS_ENDPOINT_URL")
        try:
            with pytest.raises(StoreError) as error:
                RemoteStore(address.partition(":")[0]).read(address, 0, 4)
        finally:
            os.environ.pop("AWS_ENDPOINT_URL")
            if before:
                os.environ["AWS_ENDPOINT_URL"] = before
        assert error.value.passes
        assert "sig=1" not in str(error.value)


def test_a_web_server_is_neither_listed_nor_written_to(web, tmp_path):
    store = store_of(web.address)
    assert not store.is_folder(f"{web.address}/data")
    with pytest.raises(StoreError, match="a folder of a web server cannot be listed"):
        store.list(f"{web.address}/data", "*.tar")


def test_user_and_password_of_an_address_reach_the_server_and_nobody_else(web, caplog):
    address = web.address.replace("://", "://me:hush-hush@") + "/data/x.tar?X-Amz-Signature=0815"
    assert store_of(address).read_all(address) == b"data/x.tar"
    assert web.asked[-1][2:] == ("X-Amz-Signature=0815", "Basic bWU6aHVzaC1odXNo")
    web.answers["/data/x.tar"] = 403
    with pytest.raises(StoreError) as error:
        store_of(address).stat(address)
    assert "hush" not in str(error.value) + repr(error.value) + caplog.text
    assert "0815" not in str(error.value) + repr(error.value) + caplog.text


# ---- processes


def test_a_web_address_is_sent_as_it_was_written_and_what_is_not_ascii_is_escaped(web, folder):
    (folder / "a b").mkdir()
    (folder / "a b" / "donn\u00e9es#50%.bin").write_bytes(b"here")
    name = f"{web.address}/a%20b/donn\u00e9es#50%.bin?sig=a%2Fb+c"
    assert store_of(web.address).read_all(name) == b"here"
    assert web.asked[-1][::2] == ("/a%20b/donn%C3%A9es%2350%25.bin", "sig=a%2Fb+c")
    assert store_of(web.address).read_all(join(f"{web.address}/a%20b", "donn\u00e9es#50%.bin")) == b"here"


@pytest.mark.parametrize("place", ["/away", "ftp://h/a", "file:///etc/passwd"])
def test_a_server_that_sends_elsewhere_in_vain_is_told_at_once(web, place):
    web.answers["/away"] = place
    with pytest.raises(StoreError, match="sends to an address that cannot be read, or in a circle") as error:
        store_of(web.address).stat(f"{web.address}/away?sig=word")
    assert not error.value.passes
    assert "passwd" not in str(error.value)


def test_an_answer_that_is_not_http_is_not_called_a_status(web, folder):
    (folder / "few").write_bytes(b"few")
    web.missing = -9  # less than nothing
    with pytest.raises(StoreError, match="its answer is not HTTP") as error:
        RemoteStore("http").stat(f"{web.address}/few")
    assert (error.value.status, error.value.passes) == (None, True)


def test_a_file_that_is_too_large_for_an_index_is_given_up(web, folder, monkeypatch, tmp_path):
    from mimsuite.data.stores import copies, remote

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (folder / "large").write_bytes(bytes(20))
    for module in (copies, remote):
        monkeypatch.setattr(module, "LARGEST", 19)
    for read in (store_of(web.address).read_all, store_of(web.address).local_copy):
        with pytest.raises(StoreError, match="it has more than"):
            read(f"{web.address}/large")
    assert not [path for path in tmp_path.rglob("*large*") if path.parent != folder]


def test_a_table_without_a_version_is_never_an_old_copy(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with fault_server(folder) as server:
        server.versions = False
        for text in ("one", "two"):
            (folder / "names").write_text(text)
            assert store_of(server.address).local_copy(f"{server.address}/names").read_text() == text


def test_a_fork_connects_by_itself(place):
    store, name = store_of(place), f"{place}/big.bin"
    assert store.read(name, 0, 4) == BYTES[:4]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.read(name, 4, 4) == BYTES[4:8] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read(name, 8, 4) == BYTES[8:12]


def test_no_cloud_library_is_imported_before_it_is_used():
    names = "'fsspec s3fs gcsfs adlfs aiohttp botocore huggingface_hub'"
    code = (
        "import sys, mimsuite, mimsuite.api, mimsuite.data.open, mimsuite.data.stores.address as a\n"
        "import mimsuite.tasks.pretrain, mimsuite.settings.training\n"
        f"a.store_of('s3://a/b'), a.store_of('hf://datasets/a/b')\nassert not set({names}.split()) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("scheme", "missing", "extra"),
    [("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure"), ("s3", "s3fs", "s3"), ("https", "aiohttp", "http")],
)
def test_a_library_that_is_missing_is_named_with_its_pip_line(monkeypatch, scheme, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(InputError, match=rf'^{scheme}://... needs .*{missing}.*pip install "mimsuite\[{extra}\]"$'):
        RemoteStore(scheme).stat(f"{scheme}://bucket/a")


def test_the_schemes_that_are_read_are_listed():
    assert REMOTE == ("s3", "gs", "az", "http", "https", "hf")
