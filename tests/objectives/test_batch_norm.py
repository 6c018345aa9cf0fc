"""BatchNorm over the images of two processes: what one process computes of all of them."""

import pytest
import torch
from processes import FORKED
from torch import distributed, nn

from mimsuite.errors import InputError
from mimsuite.objectives.batch_norm import SyncedBatchNorm, synchronize_batch_norms
from mimsuite.runs.processes import free_port

pytestmark = pytest.mark.timeout(120)
SHARES = (5, 3)  # images of each process
KEPT = ("running_mean", "running_var", "num_batches_tracked")


def batch():
    draw = torch.Generator().manual_seed(0)
    images = 100 + 3 * torch.randn(8, 4, 6, 5, generator=draw)  # far from 0: squares alone would cancel
    return images, torch.randn(8, 4, 6, 5, generator=draw)


def norm(momentum):
    found = nn.BatchNorm2d(4, momentum=momentum)
    torch.nn.init.normal_(found.weight, generator=torch.Generator().manual_seed(1))
    return found


def step(module, images, factors):
    """Output, gradients and statistics of two training steps and an evaluation."""
    for _ in range(2):
        module.zero_grad()
        x = images.clone().requires_grad_()
        out = module(x)
        (out * factors).sum().backward()
    made = {"out": out.detach(), "images": x.grad, "evaluated": module.eval()(images).detach()}
    module.train()
    return made, {n: p.grad for n, p in module.named_parameters()}, {n: getattr(module, n) for n in KEPT}


def of_process(rank, port, momentum, compiled, writer):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    holder = nn.Sequential(norm(momentum))
    synchronize_batch_norms(holder)
    if compiled:
        holder[0].compile(backend="aot_eager", fullgraph=True)
    own = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    made, gradients, kept = step(holder[0], *(t[own] for t in batch()))
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    writer.send([{k: v.detach().clone().numpy() for k, v in d.items()} for d in (made, gradients, kept)])
    distributed.destroy_process_group()


@pytest.mark.parametrize(("momentum", "compiled"), [(0.1, False), (None, False), (0.1, True)])
def test_two_processes_compute_what_one_does(momentum, compiled):
    port, readers, started = free_port(), [], []
    for rank in range(2):
        reader, writer = FORKED.Pipe(duplex=False)
        process = FORKED.Process(target=of_process, args=(rank, port, momentum, compiled, writer))
        process.start()
        readers.append(reader)
        started.append(process)
    found = [[{k: torch.from_numpy(v) for k, v in d.items()} for d in reader.recv()] for reader in readers]
    for process in started:
        process.join(10)
    made, gradients, kept = step(norm(momentum), *batch())
    for name, value in made.items():
        torch.testing.assert_close(torch.cat([f[0][name] for f in found]), value, rtol=1e-5, atol=1e-5)
    for _, theirs, statistics in found:
        for name, value in gradients.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-4)
        for name, value in kept.items():
            torch.testing.assert_close(statistics[name], value, rtol=1e-6, atol=1e-6)


def test_alone_it_is_the_plain_one_to_the_bit():
    plain, synced = norm(0.1), nn.Sequential(norm(0.1))
    synchronize_batch_norms(synced)
    assert type(synced[0]) is SyncedBatchNorm
    assert synced.state_dict().keys() == {f"0.{name}" for name in plain.state_dict()}
    for found, wanted in zip(step(synced[0], *batch()), step(plain, *batch()), strict=True):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (nn.Linear(2, 2), "trainer.sync_batchnorm=true, but the model has no BatchNorm; remove the key"),
        (nn.BatchNorm1d(2), "takes BatchNorm2d only, and the model has BatchNorm1d"),
    ],
)
def test_models_without_such_layers_are_refused(module, line):
    with pytest.raises(InputError, match=line):
        synchronize_batch_norms(module)
