"""Shared by all tests: threads, the place of the real data sets, and caches that belong to the test run."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("WANDB_API_KEY", raising=False)
    patch.setenv("WANDB_MODE", "disabled")
    yield
    patch.undo()


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
