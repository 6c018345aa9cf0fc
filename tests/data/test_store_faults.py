"""Faults of a server are no data errors: what passes is tried again in its time, the rest is told at once."""

import hashlib
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from fault_server import Fault, always, fault_server, first

from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.fetching.retry import Attempts
from mimsuite.data.index import Shard
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.stores.fault import StoreError
from mimsuite.errors import RunError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "a.tar").write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(folder):
    with fault_server(folder) as server:
        yield server


@pytest.fixture
def read(server, tmp_path):
    """A function: reads a range of `a.tar`, through the cache if `whole`."""

    def read(whole, timeout=20.0, offset=70_000, size=100_000):
        fetching = Fetching(timeout=timeout, cache=str(tmp_path / "cache"))
        name = server.address.replace("http://", "http://me:hunter2@") + "/a.tar?signature=hunter2"
        shard = Shard(name, 1, len(CONTENT), SHA256, "")
        assert ShardFiles(fetching, whole=whole).read(shard, offset, size) == CONTENT[offset : offset + size]

    return read


PASSING = {
    "500 three times": (3, Fault(status=500)),
    "408": (1, Fault(status=408)),
    "503": (1, Fault(status=503)),
    "429": (1, Fault(status=429, retry_after=0)),
    "dropped at half": (1, Fault(drop=0.5)),
    "dropped at once": (1, Fault(drop=0.0)),
    "short body": (1, Fault(length=-1000)),
    "longer than said": (1, Fault(length=1000, drop=1.0)),
}


@pytest.mark.parametrize("whole", [False, True], ids=["by range", "whole"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_not_noticed(fault, whole, server, read):
    server.play = first(*PASSING[fault])
    read(whole)


@pytest.mark.parametrize("whole", [False, True], ids=["by range", "whole"])
@pytest.mark.parametrize("fault", [Fault(stall=0.3), Fault(rate=1000)], ids=["stall", "1 KB/s"])
def test_what_comes_too_slowly_is_tried_again_in_time(fault, whole, server, read):
    server.play = first(1, fault)
    began = time.monotonic()
    read(whole, timeout=1.5)
    assert time.monotonic() - began < 1.5


LASTING = {
    "500": (Fault(status=500), "HTTP 500 Internal Server Error; tried for 0.6 s, check the connection"),
    "drops": (Fault(drop=0.0), "tried for 0.6 s"),
    "stall": (Fault(stall=0.0), "tried for 0.6 s"),
    "1 KB/s": (Fault(rate=1000), r"only \d+ bytes came in \d+ s; tried for 0.6 s"),
}


@pytest.mark.parametrize("whole", [False, True], ids=["by range", "whole"])
@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_ends_in_one_line_with_the_address(fault, whole, server, read):
    server.play = always(LASTING[fault][0])
    began = time.monotonic()
    with pytest.raises(RunError, match=LASTING[fault][1]) as error:
        read(whole, timeout=0.6)
    assert time.monotonic() - began < 3
    message = str(error.value)
    assert "127.0.0.1" in message
    assert "a.tar" in message
    assert message.endswith("resume the run")
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.parametrize("whole", [False, True], ids=["by range", "whole"])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_told_at_once(status, whole, server, read):
    server.play = always(Fault(status=status))
    with pytest.raises(RunError, match=rf"shard http://.*a\.tar.*HTTP {status} .*: check the") as error:
        read(whole)
    assert len(server.asked) == 1
    assert "hunter2" not in str(error.value)


def test_credentials_that_expire_are_told_at_once(server, read):
    server.play = lambda path, number: Fault(status=403) if number >= 2 else None
    read(False)
    read(False)
    with pytest.raises(RunError, match="HTTP 403 Forbidden: check the credentials"):
        read(False)
    assert len(server.asked) == 3


def test_a_server_that_asks_to_wait_is_not_asked_before(server, read):
    server.play = first(1, Fault(status=429, retry_after=1))
    began = time.monotonic()
    read(False)
    assert 1 <= time.monotonic() - began < 3


def test_a_server_that_asks_for_more_than_there_is_time_is_asked_once_more(server, read):
    server.play = first(1, Fault(status=503, retry_after=3600))
    began = time.monotonic()
    read(True, timeout=0.7)
    assert 0.6 <= time.monotonic() - began < 3


@pytest.mark.parametrize("whole", [False, True], ids=["by range", "whole"])
def test_a_server_that_ignores_ranges_is_read_as_whole_shards(whole, server, read):
    server.ranges = False
    read(whole)
    read(whole, offset=7, size=10)
    assert sum(asked is None for _, asked in server.asked) == 1  # the shard itself, once


def test_a_server_that_ignores_ranges_needs_room_for_whole_shards(server, tmp_path):
    server.ranges = False
    shard = Shard(f"{server.address}/a.tar", 1, len(CONTENT), None, "")
    with pytest.raises(RunError, match=r"ignores Range, and loader.cache_gib=0 has no room for whole shards"):
        ShardFiles(Fetching(cache=str(tmp_path), cache_gib=0)).read(shard, 10, 10)


def test_what_came_before_a_fault_is_not_asked_for_again(server, read):
    server.play = first(2, Fault(stall=0.5))
    read(True, timeout=1.5)
    starts = [int(asked[len("bytes=") : -1]) for _, asked in server.asked if asked and asked.endswith("-")]
    assert starts == sorted(starts)
    assert len(set(starts)) == 2


def test_a_pause_grows_and_takes_nothing_from_the_random_numbers_of_a_run(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    random.seed(1)
    expected = random.Random(1).random()
    attempts = Attempts(20)
    for _ in range(8):
        attempts.wait(StoreError("http://a", "x", passes=True))
    assert random.random() == expected
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    assert len(set(pauses)) == 8


def test_a_shard_that_was_replaced_is_told(server, tmp_path):
    fetching = Fetching(cache=str(tmp_path))
    shard = Shard(f"{server.address}/a.tar", 1, len(CONTENT) + 512, None, "")
    with pytest.raises(RunError, match="has 3000000 bytes, its index says 3000512: it was replaced or damaged"):
        ShardFiles(fetching, whole=True).read(shard, 0, 10)
    longer = replace(shard, bytes=1024, sha256="0" * 64)
    with pytest.raises(RunError, match="has more than the 1024 bytes that its index says"):
        ShardFiles(fetching, whole=True).read(longer, 0, 10)
