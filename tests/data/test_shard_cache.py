"""Shards of other machines on this one: fetched once by all processes, checked, never those of another data set."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fault_server import Fault, always, fault_server, first

from mimsuite.data.fetching import trusted
from mimsuite.data.fetching.ahead import Ahead
from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.fetching.locks import Handle
from mimsuite.data.fetching.shard_cache import NoRoomError, ShardCache, list_shards, remove_shard
from mimsuite.data.index import Shard
from mimsuite.data.order import BatchOrder, Stretch
from mimsuite.data.shard_files import ShardFiles
from mimsuite.errors import InputError, RunError

SIZE = 200_000
FORK = multiprocessing.get_context("fork")


def content(number):
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8).tobytes()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    for number in range(6):
        (tmp_path / "served" / f"{number}.tar").write_bytes(content(number))
    with fault_server(tmp_path / "served") as server:
        yield server


@pytest.fixture
def shard(server):
    """A function: shard `number` of the server; without `summed`, its index has no sha256."""

    def shard(number, summed=True):
        sha256 = hashlib.sha256(content(number)).hexdigest() if summed else None
        return Shard(f"{server.address}/{number}.tar", 1, SIZE, sha256, "")

    return shard


@pytest.fixture
def fetching(tmp_path):
    return Fetching(timeout=2, cache=str(tmp_path / "cache"))


def reads(fetching, shard, number):
    """Whether shard `number` is read right, as by a process that has just started."""
    trusted._known[:] = 0
    return ShardFiles(fetching, whole=True).read(shard, 1000, 5000) == content(number)[1000:6000]


def requests(server):
    """How often each shard was asked for as a whole."""
    paths = [
        path for path, asked in server.asked if asked is None or (asked.startswith("bytes=0-") and asked[-1] == "-")
    ]
    return {path: paths.count(path) for path in paths}


@pytest.mark.parametrize("summed", [True, False], ids=["sha256", "ETag"])
def test_a_shard_is_fetched_once(summed, server, shard, fetching):
    assert reads(fetching, shard(0, summed), 0)
    assert reads(fetching, shard(0, summed), 0)
    assert requests(server) == {"/0.tar": 1}
    assert [entry.bytes for entry in list_shards(fetching.folder)] == [SIZE]


def poison(path):
    path.write_bytes(content(99))


def poison_with_the_old_time(path):
    found = path.stat()
    poison(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def cut(path):
    os.truncate(path, SIZE // 2)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def hole(path):
    os.truncate(path, 0)
    os.truncate(path, SIZE)


@pytest.mark.parametrize("summed", [True, False], ids=["sha256", "ETag"])
@pytest.mark.parametrize("spoil", [poison, poison_with_the_old_time, cut, link, hole])
def test_what_is_not_right_is_fetched_again(spoil, summed, server, shard, fetching, caplog):
    assert reads(fetching, shard(0, summed), 0)
    (entry,) = list_shards(fetching.folder)
    spoil(entry.path)
    assert reads(fetching, shard(0, summed), 0)
    assert requests(server) == {"/0.tar": 2}
    assert "is not what was fetched from http://127.0.0.1" in caplog.text
    assert not entry.path.is_symlink()


def test_what_changes_while_a_process_runs_is_looked_at_again(server, shard, fetching):
    files = ShardFiles(fetching, whole=True)
    files.read(shard(0), 0, 10)
    (entry,) = list_shards(fetching.folder)
    poison(entry.path)
    assert files.read(shard(0), 0, 10) == content(0)[:10]
    assert requests(server) == {"/0.tar": 2}


def test_a_shard_without_the_note_of_its_sha256_is_not_used(server, shard, fetching):
    assert reads(fetching, shard(0, False), 0)
    (entry,) = list_shards(fetching.folder)
    entry.path.with_name(entry.path.name + ".sha256").unlink()
    assert reads(fetching, shard(0, False), 0)
    assert requests(server) == {"/0.tar": 2}


def test_the_shard_of_another_data_set_is_not_used(server, shard, fetching):
    assert reads(fetching, shard(0, False), 0)
    (server_folder := fetching.folder.parent / "served" / "0.tar").write_bytes(content(7))
    assert server_folder.is_file()
    assert reads(fetching, shard(0, False), 7)
    assert len(list_shards(fetching.folder)) == 2


def test_a_server_with_wrong_bytes_is_asked_twice_and_told(server, shard, fetching):
    server.play = first(1, Fault(wrong=True))
    assert reads(fetching, shard(0), 0)
    server.play = always(Fault(wrong=True))
    with pytest.raises(RunError, match=r"1\.tar has the sha256 .*, its index says .*: it was replaced or damaged"):
        reads(fetching, shard(1), 1)
    assert len(list_shards(fetching.folder)) == 1


def read_in_a_process(fetching, shards, results):
    results.put([ShardFiles(fetching, whole=True).read(shard, 5, 10) for shard in shards])


def test_four_processes_fetch_each_shard_once(server, shard, fetching):
    server.play = lambda path, number: Fault(rate=1_000_000) if number < 1 else None
    shards, results = [shard(number) for number in range(4)], FORK.Queue()
    runs = [FORK.Process(target=read_in_a_process, args=(fetching, shards, results)) for _ in range(4)]
    for run in runs:
        run.start()
    found = [results.get(timeout=60) for _ in runs]
    for run in runs:
        run.join()
    assert found == [[content(number)[5:15] for number in range(4)]] * 4
    assert requests(server) == {f"/{number}.tar": 1 for number in range(4)}


def test_what_a_killed_process_was_fetching_is_fetched_by_the_next(server, shard, fetching):
    server.play = first(1, Fault(stall=0.5))
    run = FORK.Process(target=read_in_a_process, args=(Fetching(60, fetching.cache), [shard(0)], FORK.Queue()))
    run.start()
    while not server.asked or not list_shards(fetching.folder):
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    began = time.monotonic()
    assert reads(fetching, shard(0), 0)
    assert time.monotonic() - began < 2
    assert [entry.path.suffix for entry in list_shards(fetching.folder)] == [""]


def test_a_process_that_is_stopped_while_it_fetches_is_named(server, shard, fetching):
    with Handle(ShardCache(fetching).path(shard(0)).with_suffix(".part"), writes=True) as other:
        assert other.lock()
        os.utime(other.number, (time.time() - 100, time.time() - 100))
        with pytest.raises(RunError, match=r"another process fetches .*\.part, and has written nothing for 100 s"):
            reads(fetching, shard(0), 0)


def test_who_waits_for_a_shard_does_not_wait_for_those_who_use_it(server, shard, fetching):
    cache, part = ShardCache(fetching), ShardCache(fetching).path(shard(0))
    with Handle(part.with_name(part.name + ".part"), writes=True) as fetches:
        assert fetches.lock()
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(ShardFiles(fetching, whole=True).read, shard(0), 0, 10)
            time.sleep(0.1)
            fetches.write(content(0), 0)
            os.rename(part.with_name(part.name + ".part"), part)
            assert fetches.share()  # as the thread that fetches ahead, which holds it
            assert waits.result(10) == content(0)[:10]
    assert requests(server) == {}
    cache.hold(shard(0)).close()


def room_for(count):
    return count * SIZE / 2**30


def test_room_is_made_by_what_was_used_longest_ago_and_nobody_holds(server, shard, fetching):
    cache = ShardCache(Fetching(2, fetching.cache, room_for(3) + 1e-9))
    held = cache.hold(shard(0))
    for number in (1, 2, 1, 3):
        cache.hold(shard(number)).close()
    kept = {entry.path.name for entry in list_shards(fetching.folder)}
    assert kept == {shard(number).sha256 for number in (0, 1, 3)}
    more = [cache.hold(shard(number)) for number in (1, 3)]
    with pytest.raises(NoRoomError):
        cache.hold(shard(4))
    assert (
        ShardFiles(Fetching(2, fetching.cache, room_for(3) + 1e-9), whole=True).read(shard(4), 7, 9) == content(4)[7:16]
    )  # by range
    for handle in (held, *more):
        handle.close()
    cache.hold(shard(4)).close()


def test_a_range_is_read_from_the_cache_if_it_is_there_and_fetches_nothing(server, shard, fetching):
    files = ShardFiles(fetching)
    assert files.read(shard(0), 5, 10) == content(0)[5:15]
    assert requests(server) == {}
    assert reads(fetching, shard(0), 0)
    before = len(server.asked)
    assert files.read(shard(0), 5, 10) == content(0)[5:15]
    assert len(server.asked) == before


def test_what_was_removed_is_not_kept_open(server, shard, fetching):
    files = ShardFiles(fetching, whole=True)
    files.read(shard(0), 0, 10)
    (entry,) = list_shards(fetching.folder)
    assert remove_shard(entry.path)
    files.read(shard(1), 0, 10)
    names = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
    assert not [name for name in names if name.startswith(str(entry.path))]
    assert pickle.loads(pickle.dumps(files)).read(shard(1), 5, 10) == content(1)[5:15]


def test_a_folder_that_cannot_be_written_is_one_line(server, shard, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"loader.cache=.*file/in cannot be written: Not a directory; use a folder"):
        reads(Fetching(2, str(tmp_path / "file" / "in")), shard(0), 0)


def test_a_full_disk_is_one_line_and_leaves_nothing(server, shard, fetching, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        RunError, match=r"cannot be written: No space left on device; free some space, or use a smaller"
    ):
        reads(fetching, shard(0), 0)
    assert list_shards(fetching.folder) == []


def test_a_forked_process_keeps_no_file_of_the_cache_open(server, shard, fetching):
    cache, results = ShardCache(fetching), FORK.Queue()
    with cache.hold(shard(0)) as handle:
        run = FORK.Process(target=lambda: results.put([os.path.realpath(f"/proc/self/fd/{n}") for n in range(64)]))
        run.start()
        assert os.path.realpath(f"/proc/self/fd/{handle.number}").endswith(shard(0).sha256)
        assert not [name for name in results.get(timeout=30) if name.endswith(shard(0).sha256)]
        run.join()


# ---- ahead of the plan


def wait_for(ready):
    end = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_shards_are_fetched_in_the_order_of_the_plan_as_far_as_there_is_room(server, shard, fetching):
    plan = [Stretch(step, step + 1, (number,)) for step, number in enumerate((3, 1, 0, 2, 4))]
    fetching = Fetching(2, fetching.cache, room_for(2) + 1e-9)
    ahead = Ahead(ShardCache(fetching), [shard(number) for number in range(5)], plan, 0)
    wait_for(lambda: len(requests(server)) == 2)
    time.sleep(0.2)
    assert list(requests(server)) == ["/3.tar", "/1.tar"]
    ahead.passed(1)
    wait_for(lambda: len(requests(server)) == 3)
    time.sleep(0.2)
    assert list(requests(server)) == ["/3.tar", "/1.tar", "/0.tar"]
    assert {entry.path.name for entry in list_shards(fetching.folder)} == {shard(1).sha256, shard(0).sha256}
    ahead.close()


def test_a_shard_that_cannot_be_fetched_ahead_is_left_to_its_reader(server, shard, fetching):
    server.play = lambda path, number: Fault(status=404) if path == "/0.tar" else None
    ahead = Ahead(ShardCache(fetching), [shard(0), shard(1)], [Stretch(0, 9, (0,)), Stretch(0, 9, (1,))], 0)
    wait_for(lambda: requests(server).get("/1.tar"))
    ahead.close()


def shards_by_walking(order, sizes, start, stop, rank, world):
    """Per step the shards of the samples that a rank takes."""
    ends = np.cumsum(sizes)
    for step, (_, numbers) in enumerate(order.batches(start, stop, rank, world), start):
        yield step, set(np.searchsorted(ends, numbers, side="right").tolist())


@pytest.mark.parametrize(("lanes", "world", "window"), [(1, 1, 2), (2, 2, 3), (4, 2, 1), (2, 4, 16)])
def test_the_plan_names_every_shard_that_a_step_needs(lanes, world, window):
    sizes = [7, 0, 13, 5, 9, 1, 21, 6, 3, 11]
    order = BatchOrder(sizes, 8, 5, lanes, window)
    for rank in range(world):
        for start, stop in ((0, 30), (11, 24)):
            stretches = list(order.stretches(start, stop, rank, world))
            assert [s.first for s in stretches] == sorted(s.first for s in stretches)
            assert all(start <= s.first < s.stop <= stop for s in stretches)
            for step, needed in shards_by_walking(order, sizes, start, stop, rank, world):
                planned = {n for s in stretches if s.first <= step < s.stop for n in s.shards}
                assert needed <= planned
                assert 1 not in planned


def test_with_a_lane_per_machine_a_machine_needs_its_own_shards_alone():
    order = BatchOrder([10] * 8, 4, 0, 2, 2)
    first, second = ({n for s in order.stretches(0, 20, rank, 2) for n in s.shards} for rank in (0, 1))
    assert (len(first), len(second)) == (4, 4)
    assert not first & second
