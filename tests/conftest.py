"""Shared by all tests: threads, the place of the real data sets, and caches that belong to the test run."""

import gc
import logging
import os
import resource
from pathlib import Path

import pytest
import torch

BESIDE = "PYTEST_XDIST_WORKER" in os.environ  # another worker wants the other core
if BESIDE:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: the last of them would run while the other worker has nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What was imported stays: without a look through it the garbage collector costs a tenth of the time less."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(1 if BESIDE else 2)


@pytest.fixture(scope="module")
def one_thread():
    """For tests that compare bits, fork, or have tensors so small that a second thread costs time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("WANDB_API_KEY", raising=False)
    patch.setenv("WANDB_MODE", "disabled")
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def heard():
    """A test that silences our log, or plays a process which does not lead, leaves it as it was."""
    log = logging.getLogger("mimsuite")
    level = min(log.level, logging.INFO)
    yield
    log.disabled = False
    if log.level > logging.INFO:
        log.setLevel(level)


@pytest.fixture(autouse=True)
def alone():
    """A test that joins processes leaves this one alone again."""
    yield
    assert not torch.distributed.is_initialized(), "this test leaves a process group behind"


@pytest.fixture
def processor_seconds():
    """A function: the seconds on a processor of the processes that this test started and that have ended.

    Those on the clock depend on what else the machine does, such as other tests.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    def seconds():
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        return now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime

    return seconds


@pytest.fixture(scope="session")
def tiny_imagenet():
    return real("tiny-imagenet-mini")


@pytest.fixture(scope="session")
def imagenette():
    return real("imagenette-224")


def real(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"data set {name} is not beside the project")
    return folder
