"""Loader workers that are killed, stopped or too slow end in one line, never in a hang; shared memory that is small."""

import gc
import multiprocessing.queues
import os
import signal
import threading
import time
import types

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mimsuite.data import batch_loader, collate, datamodule, workers
from mimsuite.data.batch_loader import Loading
from mimsuite.data.datamodule import ImageData, eval_loader
from mimsuite.data.open import open_index
from mimsuite.data.workers import PREFETCH, StoppedWaitingError, fit_shared_memory, state_of
from mimsuite.errors import RunError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="looks at processes as Linux has them"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture
def index(shards, tmp_path):
    return open_index(str(shards), tmp_path)


@pytest.fixture
def begun(index, monkeypatch):
    """A function: the batches of 2 of 64 images after the first, and the two workers of their loader."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # instead of 5 s
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(workers, "STOPPED_FOR", 0.3)

    def begin(**changes):
        loading = Loading(**{"workers": 2} | changes)
        monkeypatch.setattr(datamodule, "Loading", lambda *_: loading)
        loader = eval_loader(index, "train", image_size=(16, 16), batch=2, workers=2, labels=True, keys=True)
        seen = []
        watch = workers.WorkerWatch
        monkeypatch.setattr(batch_loader, "WorkerWatch", lambda found, *more: seen.extend(found) or watch(found, *more))
        begun.append(iter(loader))
        next(begun[0])
        return begun[0], seen

    begun = []
    yield begin
    begun.pop().close()
    gc.collect()  # or the workers of the next test would hold this loader, and end it


def rest(batches):
    return sum(len(batch.ids) for batch in batches)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            signal.SIGKILL,
            r"loader worker 2 of 2 was killed \(SIGKILL\): out of memory\? use fewer workers=, or a smaller",
        ),
        (
            signal.SIGBUS,
            r"loader worker 2 of 2 found /dev/shm full; give it more \(docker run --shm-size=8g",
        ),
        (signal.SIGSTOP, r"loader worker 2 of 2 is stopped \(SIGSTOP, or a debugger\), and no batch came"),
    ],
)
def test_a_lost_worker_is_one_line(number, message, begun, capfd):
    batches, own = begun()
    os.kill(own[1].pid, number)
    with pytest.raises(RunError, match=message):
        rest(batches)
    end = time.monotonic() + 5
    while any(worker.exitcode is None for worker in own):  # nor is any left behind
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_batch_that_finds_no_shared_memory_ends_its_worker(begun, monkeypatch, capfd):
    """Torch prints the error, drops the batch, and waits for it for ever."""

    own, dumps = os.getpid(), multiprocessing.queues._ForkingPickler.dumps

    def full(batch, protocol=None):
        if os.getpid() == own:
            return dumps(batch, protocol)
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(multiprocessing.queues._ForkingPickler, "dumps", full)
    with pytest.raises(RunError, match=r"loader worker . of 2 found /dev/shm full; give it more"):
        begun()


def test_images_that_find_no_shared_memory_are_one_line(begun, monkeypatch):
    def full(images):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(collate, "default_collate", full)
    with pytest.raises(RunError, match=r"^a loader worker found /dev/shm full; give it more"):
        begun()


def test_a_worker_that_goes_on_soon_is_waited_for(begun):
    batches, own = begun()
    os.kill(own[1].pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (own[1].pid, signal.SIGCONT)).start()
    assert rest(batches) == 62


def test_workers_that_give_nothing_are_given_up_in_time(begun, monkeypatch):
    monkeypatch.setattr(workers, "STOPPED_FOR", 100)
    batches, own = begun(patience=0.4)
    for worker in own:
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(RunError, match="no batch came from 2 loader workers for 0 s: the storage hangs or is too slow"):
        rest(batches)


def test_a_signal_is_answered_while_no_batch_comes(begun, monkeypatch):
    monkeypatch.setattr(workers, "STOPPED_FOR", 100)
    batches, own = begun(asked=lambda: True)
    os.kill(own[0].pid, signal.SIGSTOP)
    with pytest.raises(StoppedWaitingError):
        rest(batches)


def test_a_death_is_found_when_a_batch_is_awaited_and_nowhere_else(begun):
    """An error in the middle of an optimizer's step would leave weights of two steps."""
    before = signal.getsignal(signal.SIGCHLD)
    batches, own = begun()
    assert signal.getsignal(signal.SIGCHLD) is before
    own[0].kill()
    own[0].join(5)
    time.sleep(0.1)
    with pytest.raises(RunError, match="loader worker 1 of 2 was killed"):
        rest(batches)


def test_errors_that_are_no_worker_s_death_stay_what_they_are(begun):
    batches, own = begun()
    watch = workers.WorkerWatch(own, 600, lambda: False)
    with pytest.raises(RuntimeError, match="a defect"), watch.waiting():
        raise RuntimeError("a defect")
    watch.close()
    assert rest(batches) == 62


@pytest.mark.parametrize(
    ("free", "wanted", "processes", "found"),
    [
        (None, 8, 1, (8, PREFETCH)),
        (1000, 8, 1, (8, PREFETCH)),
        (64, 8, 1, (2, 2)),  # 25 MiB, 5 batches
        (64, 1, 1, (1, PREFETCH)),
        (40, 4, 1, (1, 3)),
        (160, 4, 2, (3, 2)),
        (20, 4, 1, (0, PREFETCH)),
        (0, 4, 1, (0, PREFETCH)),
    ],
)
def test_workers_fit_into_the_shared_memory(free, wanted, processes, found, monkeypatch):
    monkeypatch.setattr(workers, "free_shared_memory", lambda: None if free is None else free * 2**20)
    *fitting, line = fit_shared_memory(wanted, 5 * 2**20, processes)
    assert tuple(fitting) == found
    assert (line is None) == (found == (wanted, PREFETCH))
    if line is not None:
        assert line.startswith(f"/dev/shm has {free} MiB free, too few for")
        assert "docker run --shm-size" in line


def test_a_loader_with_little_shared_memory_gives_the_same_batches(index, monkeypatch, caplog):
    def batches():
        return list(eval_loader(index, "train", image_size=(16, 16), batch=8, workers=2, labels=True))

    whole = batches()
    few = os.statvfs_result((4096, 4096, 30, 30, 20, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: few)
    with caplog.at_level("WARNING", logger="mimsuite"):
        found = batches()
    assert "/dev/shm has 0 MiB free" in caplog.text
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole, found, strict=True))


def test_the_ids_of_a_batch_stay_on_the_host(index):
    """Reading them from a device would wait for it at every micro-batch."""
    data = ImageData(
        index,
        image_size=(16, 16),
        mask_unit=None,
        train_transform=datamodule.CenterCrop((16, 16)),
        masks=(),
        batch=4,
        micro_batch=4,
        steps=1,
        seed=0,
        workers=0,
        labels=True,
    )
    data.trainer = types.SimpleNamespace(global_rank=0, world_size=1, global_step=0)
    (batch,) = data.train_dataloader()
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
    assert moved.ids.tolist() == batch.ids.tolist()
    assert (moved.bad, moved.mask, moved.hidden) == (batch.bad, None, None)
    assert {part.device.type for part in batch.to("meta") if hasattr(part, "device")} == {"meta"}


def test_a_process_that_is_not_there_has_no_state():
    assert state_of(os.getpid()) == "R"
    assert state_of(None) == ""
