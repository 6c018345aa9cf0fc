"""Many runs in the same two processes, one after the other: as cheap as two processes are.

Each pair of processes is one of the team that `torchrun` would start; a run of the list meets at a port of its own.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from lightning import Callback
from lightning.pytorch.strategies import DDPStrategy
from processes import FORKED

import mimsuite.pictures.curves
from mimsuite import api
from mimsuite.runs.processes import free_port


class Exchanges(Callback):
    """Counts the exchanges of gradients in a run: of DDP's buckets, and of FSDP's blocks."""

    def __init__(self, file):
        self.file, self.count = Path(file), 0
        names = ("reduce_scatter_single", "reduce_scatter_tensor")  # what FSDP2 calls, before and since torch 2.13
        self.name = next(name for name in names if hasattr(torch.distributed, name))
        self.scatter = getattr(torch.distributed, self.name)

    def on_train_start(self, trainer, pl_module):
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy.model.register_comm_hook(None, self.exchange)
        setattr(torch.distributed, self.name, self.reduce_scatter)

    def exchange(self, _, bucket):
        self.count += 1
        done = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    def reduce_scatter(self, *args, **kwargs):
        self.count += 1
        return self.scatter(*args, **kwargs)

    def on_train_end(self, trainer, pl_module):
        setattr(torch.distributed, self.name, self.scatter)
        if trainer.is_global_zero:
            self.file.write_text(json.dumps(self.count))


def run_all(runs):
    """Runs tasks `(task, values)` in two processes; `values["count"]` is a file that gets the number of exchanges."""
    ports = [free_port() for _ in runs]
    (reader, writer), pairs = FORKED.Pipe(duplex=False), []
    for rank in range(2):
        pairs.append(FORKED.Process(target=be_one, args=(rank, ports, runs, writer)))
        pairs[-1].start()
    writer.close()
    problems = []
    try:
        for _ in pairs:
            problems.append(reader.recv() if reader.poll(500) else "no answer")
            if problems[-1]:
                break
    finally:
        for process in pairs:
            process.join(10 if not any(problems) else 0.1)
            process.kill()
    assert not any(problems), "\n".join(filter(None, problems))


def be_one(rank, ports, runs, writer):
    """What one of the processes does."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    mimsuite.pictures.curves.draw_curves = lambda *_, **__: None  # half the time of a short run
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    problem = None
    for port, (task, values) in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        counted = {"callbacks": [Exchanges(values["count"])]} if "count" in values else {}
        try:
            api.call(task, {key: value for key, value in values.items() if key != "count"} | counted)
        except BaseException:
            problem = f"process {rank}, {task} {values}:\n{traceback.format_exc()}"
            break
    writer.send(problem)
