"""Between two log points the host asks the device for nothing: no number is read, nothing is copied to the host."""

import sys

import pytest
import torch
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from mimsuite import api
from mimsuite.callbacks import monitor, skipped_steps

ASKING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "_unique2"}
KEYS = {"model": "vit_nano", "batch": 8, "val_every": 100, "save_every": 100, "loader.val_limit": 16, "workers": 0}


class Questions(TorchDispatchMode):
    """Notes the package's line, or else the library's, from which an operator was called that needs the value."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ASKING:
            frame, lines = sys._getframe(1), []
            while frame is not None:
                lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                frame = frame.f_back
            line = next((line for line in lines if "/mimsuite/" in line), lines[0])
            host = "/mimsuite/data/" in line and "on_device" not in line  # the loader's tensors are the host's
            self.found += [] if host else [line]
        return func(*args, **(kwargs or {}))


class Listener(Callback):
    """Listens from the second step to the one before the last, which is logged."""

    def __init__(self):
        self.mode, self.steps = Questions(), 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1 and batch_idx % trainer.accumulate_grad_batches == 0:
            self.mode.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps = trainer.global_step - 1
        if trainer.global_step == 5 and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.mode.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"objective": "mae", "augment.device": "gpu"}),
        ("pretrain", {"model": "cvt_nano", "optim": "lamb", "micro_batch": 4}),
        ("pretrain", {"model": "bit_nano", "optim": "lars"}),
        ("finetune", {"model": "cvt_nano", "optim": "sgd", "objective.mixup": 0.8, "objective.ema": 0.9}),
    ],
)
def test_steps_between_log_points_ask_the_device_nothing(task, changes, tmp_path, monkeypatch):
    monkeypatch.setattr(skipped_steps, "late_steps", lambda device: 8)  # as on a GPU
    monkeypatch.setattr(monitor, "LINE_EVERY", 3600)
    listener = Listener()
    keys = {"out": str(tmp_path / "out"), "steps": 6, "callbacks.monitor.log_every": 6, **KEYS, **changes}
    api.call(task, keys | {"callbacks": [listener]})
    assert sorted(set(listener.mode.found)) == []
    assert listener.steps == 5


def test_the_listener_hears_questions():
    with Questions() as mode:
        torch.ones(2).sum().item()
        bool(torch.ones(1) > 0)
    assert len(mode.found) == 2
