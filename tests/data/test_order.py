"""The order of samples: frozen, the same for every world size, and found at once."""

import hashlib
import time

import numpy as np
import pytest

from mimsuite.data.hashing import mix_hashes, permute, splitmix64
from mimsuite.data.order import BatchOrder
from mimsuite.errors import InputError

SIZES = [100, 37, 250, 64, 64, 1, 80, 120, 33, 90]


def batches(order, start, stop, rank=0, world=1):
    return [(epoch, numbers.tolist()) for epoch, numbers in order.batches(start, stop, rank, world)]


@pytest.mark.parametrize(
    ("arguments", "golden"),
    [
        ((SIZES, 32, 0, 1, 16), "86dc819614c2b9ff"),
        ((SIZES, 32, 7, 1, 3), "91262db0bc831235"),
        (([50] * 24, 48, 3, 4, 2), "7027005cfef9fc37"),
    ],
)
def test_order_is_frozen(arguments, golden):
    order = BatchOrder(*arguments)
    drawn = batches(order, 0, 3 * order.steps_per_epoch)
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == golden


def test_splitmix_equals_the_published_generator():
    # First outputs of the reference generator with seed 0: state advances by the golden gamma before each.
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert splitmix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert mix_hashes(0) == 0xE220A8397B1DCDAF


def test_permutation_is_the_stable_argsort_of_the_cut_hashes():
    n, seed = 1000, 5
    hashes = splitmix64(np.arange(n, dtype=np.uint64) ^ np.uint64(mix_hashes(seed)))
    assert permute(n, seed).tolist() == np.argsort(hashes >> np.uint64(10), kind="stable").tolist()


@pytest.mark.parametrize(("lanes", "window"), [(1, 16), (1, 2), (2, 2), (8, 1)])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_together_give_the_same_global_batches(lanes, window, world):
    order = BatchOrder(SIZES, 32, 1, lanes, window)
    steps = 2 * order.steps_per_epoch + 1
    ranks = [batches(order, 0, steps, rank, world) for rank in range(world)]
    joined = [(parts[0][0], [n for _, numbers in parts for n in numbers]) for parts in zip(*ranks, strict=True)]
    assert joined == batches(order, 0, steps)


def test_every_sample_is_used_once_per_epoch_but_the_tail():
    order = BatchOrder(SIZES, 32, 0, window=3)
    total = sum(SIZES)
    assert order.steps_per_epoch == total // 32
    for epoch in range(3):
        first = epoch * order.steps_per_epoch
        drawn = batches(order, first, first + order.steps_per_epoch)
        assert {e for e, _ in drawn} == {epoch}
        numbers = [n for _, part in drawn for n in part]
        assert len(set(numbers)) == len(numbers) == total // 32 * 32
        assert min(numbers) >= 0
        assert max(numbers) < total


def test_lanes_never_repeat_a_sample_when_shards_are_uneven():
    order = BatchOrder([5, 0, 7, 3, 9, 11, 2], 6, 0, lanes=3, window=2)
    assert order.steps_per_epoch == 37 // 6
    for epoch in range(20):
        first = epoch * order.steps_per_epoch
        numbers = [n for _, part in batches(order, first, first + order.steps_per_epoch) for n in part]
        assert len(set(numbers)) == len(numbers) == 36


def test_a_lane_reads_its_own_shards_only():
    order = BatchOrder([10] * 8, 8, 0, lanes=2, window=2)
    steps = order.steps_per_epoch
    shards = [{n // 10 for _, part in batches(order, 0, steps, rank, 2) for n in part} for rank in (0, 1)]
    assert shards[0].isdisjoint(shards[1])
    assert len(shards[0]) == len(shards[1]) == 4


def test_epochs_and_seeds_differ():
    order = BatchOrder(SIZES, 32, 0)
    n = order.steps_per_epoch
    assert batches(order, 0, 1)[0][1] != batches(order, n, n + 1)[0][1]
    assert batches(order, 0, 1) != batches(BatchOrder(SIZES, 32, 1), 0, 1)


def test_starting_in_the_middle_gives_the_same_batches():
    order = BatchOrder(SIZES, 32, 0, window=2)
    assert batches(BatchOrder(SIZES, 32, 0, window=2), 17, 60) == batches(order, 0, 60)[17:]


def test_a_position_in_a_billion_samples_is_found_at_once():
    order = BatchOrder(np.full(100_000, 10_000), 4096, 0)
    fastest = 1.0
    for step in (123_456, 600_000, 1_000_000):
        start = time.perf_counter()
        next(order.batches(step, step + 1))
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 1000}, "batch=1000 is more than the 839 training samples; use batch=839 or less"),
        ({"batch": 9, "lanes": 2}, "loader.lanes=2 does not divide batch=9"),
        ({"batch": 0}, "all must be 1 or more"),
    ],
)
def test_impossible_orders_are_refused(arguments, words):
    with pytest.raises(InputError, match=words) as error:
        BatchOrder(SIZES, seed=0, **arguments)
    assert "\n" not in str(error.value)


def test_a_world_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(InputError, match="batch=32 is not a multiple of the 3 devices; use batch=33"):
        next(BatchOrder(SIZES, 32, 0).batches(0, 1, 0, 3))


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_from_every_batch_of_a_thousand_samples_the_order_goes_on_the_same(lanes, world):
    order = BatchOrder([50] * 20, 40, 3, lanes, window=3)
    whole = batches(order, 0, 2 * order.steps_per_epoch)
    for start in range(len(whole)):
        ranks = [
            batches(BatchOrder([50] * 20, 40, 3, lanes, 3), start, len(whole), rank, world) for rank in range(world)
        ]
        joined = [(parts[0][0], [n for _, numbers in parts for n in numbers]) for parts in zip(*ranks, strict=True)]
        assert joined == whole[start:]


@pytest.mark.parametrize(
    "sizes",
    [[160], [1] * 200, [10_000, 1, 3_000], [1, 10, 100, 1_000, 10_000], [16] * 10, [3, 200, 1, 1, 90]],
    ids=[
        "one shard",
        "one sample each",
        "large and tiny",
        "1 to 10,000",
        "fewer shards than ranks x workers",
        "uneven",
    ],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_eight_ranks_use_every_sample_once_but_the_tail_in_equal_batches(sizes, lanes):
    order, total = BatchOrder(sizes, 16, 0, lanes, window=2), sum(sizes)
    for epoch in range(2):
        first = epoch * order.steps_per_epoch
        ranks = [batches(order, first, first + order.steps_per_epoch, rank, 8) for rank in range(8)]
        assert {len(rank) for rank in ranks} == {total // 16}
        assert {len(numbers) for rank in ranks for _, numbers in rank} == {2}
        used = [n for rank in ranks for _, numbers in rank for n in numbers]
        assert len(set(used)) == len(used) == total // 16 * 16
        assert set(used) <= set(range(total))
