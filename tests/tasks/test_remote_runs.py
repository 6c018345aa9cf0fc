"""Runs on data of other machines: the weights of the local run bit for bit, and no secret in what is written."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mimsuite
from mimsuite.data.open import EMBEDDED
from mimsuite.errors import InputError
from tests.processes import start
from tests.servers import s3_server, upload, web_server

SMALL = {"model": "vit_nano", "image_size": 32, "batch": 8, "workers": 0, "loader.val_limit": 8, "save_every": 3}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A packed folder on a web server and in a bucket."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(EMBEDDED, folder / "emoji")
    with web_server(folder) as web, s3_server() as client:
        upload(client, folder)
        yield web


@pytest.fixture(scope="module")
def runs(servers, tmp_path_factory):
    """Three runs of six steps: on the local folder, from the bucket, and from the web server with a signed address."""
    top = tmp_path_factory.mktemp("runs")
    signed = (
        servers.address.replace("://", "://me:hush-hush@")
        + "/emoji?X-Amz-Credential=canary-key&X-Amz-Signature=canary-signature"
    )
    places = {"local": str(EMBEDDED), "s3": "s3://pictures/emoji", "http": signed}
    tasks = {}
    for name, data in places.items():
        tasks[name] = start("pretrain", data=f"'{data}'", out=top / name, steps=6, **SMALL)
        code, text = tasks[name].finish()
        assert code == 0, text
        (top / name / "printed.txt").write_text(text)
    return top, signed


@pytest.mark.parametrize("name", ["s3", "http"])
def test_a_run_from_another_machine_has_the_weights_of_the_local_run(runs, name):
    folders = [next((runs[0] / run).glob("weights/*.safetensors")) for run in ("local", name)]
    local, remote = map(load_file, folders)
    assert local.keys() == remote.keys()
    assert all(torch.equal(local[key], remote[key]) for key in local)


def test_no_secret_is_in_anything_that_a_run_writes(runs):
    top, _ = runs
    files = [path for path in (top / "http").rglob("*") if path.is_file()]
    assert not [(path.name, word) for path in files for word in (b"hush-hush", b"canary") if word in path.read_bytes()]
    written = (top / "http" / "config.yaml").read_text()
    assert "<secret>@127.0.0.1" in written
    assert "/emoji?<secret>" in written


def test_a_run_with_a_redacted_address_says_how_it_goes_on_and_moves_to_a_copy(runs):
    top, signed = runs
    values = {"out": str(top / "http"), "resume": True, "steps": 8}
    with pytest.raises(InputError, match="was written down without its password or signature; give data="):
        mimsuite.pretrain(**values)
    code, text = start("pretrain", data=EMBEDDED, **values).finish()
    assert code == 0, text
    assert Path(top, "http", "data.json").read_text() == Path(top, "local", "data.json").read_text()
    code, text = start("pretrain", data=f"'{signed}'", **(values | {"steps": 9})).finish()
    assert code == 0, text
    assert "hush" not in text
