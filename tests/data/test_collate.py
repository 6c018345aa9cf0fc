"""What a batch gets that samples do not have: one sampler of several, equal counts, and how many are hidden."""

import pytest
import torch

from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.collate import Collate, same_count
from mimsuite.data.datamodule import ImageData, eval_loader
from mimsuite.data.hashing import mix_hashes
from mimsuite.data.open import open_index
from mimsuite.data.reader import Sample
from mimsuite.errors import InputError
from mimsuite.masked.samplers import BlockMask, NoMask, RandomMask

GRID = (6, 6)
THREE = (RandomMask(0.25), RandomMask(0.5), RandomMask(0.75))
COUNTS = {9, 18, 27}


def samples(*seeds, shared=0):
    return [Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), seed, seed, None, (), shared) for seed in seeds]


def counts(batch):
    return batch.mask.flatten(1).sum(1).tolist()


def test_of_several_samplers_a_batch_takes_one_for_all_its_samples():
    draw = Collate(THREE, GRID)
    batches = [draw(samples(*range(first, first + 5), shared=first)) for first in range(0, 300, 5)]
    for batch in batches:
        assert counts(batch) == [batch.hidden] * 5
    taken = [batch.hidden for batch in batches]
    assert set(taken) == COUNTS
    assert min(taken.count(count) for count in COUNTS) > 10


def test_what_a_step_s_samples_share_chooses_alone():
    draw = Collate(THREE, GRID)
    for step in range(20):
        wanted = draw(samples(1, shared=step)).hidden
        assert {draw(samples(*others, shared=step)).hidden for others in ([1], [2, 3], [99] * 7)} == {wanted}


def test_a_sample_has_the_same_mask_whoever_stands_beside_it():
    draw = Collate((RandomMask(0.5), BlockMask(0.5)), GRID)
    alone = [Collate((sampler,), GRID)(samples(7)).mask[0] for sampler in (RandomMask(0.5), BlockMask(0.5))]
    seen = [draw(samples(1, 7, shared=step)).mask[1] for step in range(20)]
    assert all(any(torch.equal(mask, one) for one in alone) for mask in seen)
    assert len({tuple(mask.flatten().tolist()) for mask in seen}) == 2


def test_one_sampler_draws_what_it_drew_when_there_was_no_choice():
    draw = Collate((RandomMask(0.5),), GRID)(samples(3, 4)).mask
    source = torch.Generator()
    wanted = [RandomMask(0.5)(GRID, source.manual_seed(mix_hashes(seed, 2))) for seed in (3, 4)]
    assert torch.equal(draw, torch.stack(wanted))


def test_hidden_is_none_where_counts_differ():
    draw = Collate((RandomMask([0.2, 0.9]),), GRID)
    batch = draw(samples(*range(12)))
    assert len(set(counts(batch))) > 1
    assert batch.hidden is None
    assert draw(samples(0)).hidden == counts(draw(samples(0)))[0]


def test_hidden_is_none_without_masks_and_0_where_nothing_is_hidden():
    assert Collate()(samples(1, 2)).hidden is None
    assert Collate()(samples(1, 2)).mask is None
    empty = Collate((NoMask(),), GRID)(samples(1, 2))
    assert empty.hidden == 0
    assert not empty.mask.any()


@pytest.mark.parametrize(("rows", "wanted"), [([[1, 0], [0, 1]], 1), ([[1, 1], [0, 1]], None), ([[0, 0], [0, 0]], 0)])
def test_same_count_is_that_of_every_mask(rows, wanted):
    assert same_count(torch.tensor(rows, dtype=torch.bool)[:, None]) == wanted


def test_an_error_among_the_samples_takes_the_batch_s_place():
    error = InputError("no such file")
    assert Collate(THREE, GRID)([*samples(1), error]) is error


@pytest.fixture(scope="module")
def index(shards, tmp_path_factory):
    return open_index(str(shards), tmp_path_factory.mktemp("cache"))


def module(index, **changes):
    arguments = {
        "image_size": (24, 24),
        "mask_unit": 4,
        "train_transform": RandomResizedCrop((24, 24)),
        "masks": THREE,
        "batch": 8,
        "micro_batch": 8,
        "steps": 16,
        "seed": 0,
        "workers": 0,
    }
    return ImageData(index, **(arguments | changes))


# More workers than this machine may have cores.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_makes_the_same_choices(index, workers):
    one = list(module(index).train_dataloader())
    assert {batch.hidden for batch in one} == COUNTS
    for batch, other in zip(one, module(index, workers=workers).train_dataloader(), strict=True):
        assert counts(batch) == [batch.hidden] * 8
        assert torch.equal(batch.mask, other.mask)
        assert batch.hidden == other.hidden


def test_micro_batches_of_a_step_choose_alike(index):
    whole = [batch.mask for batch in module(index).train_dataloader()]
    batches = [batch.mask for batch in module(index, micro_batch=2).train_dataloader()]
    for step, mask in enumerate(whole):
        assert torch.equal(torch.cat(batches[4 * step : 4 * step + 4]), mask)


def test_epochs_and_seeds_choose_anew(index):
    chosen = [batch.hidden for batch in module(index).train_dataloader()]
    assert chosen[:8] != chosen[8:]
    assert chosen != [batch.hidden for batch in module(index, seed=1).train_dataloader()]


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_validation_uses_the_first_sampler_only_whatever_the_batch(index, micro):
    batches = list(module(index, micro_batch=micro).val_dataloader())
    assert {batch.hidden for batch in batches} == {9}
    masks = torch.cat([batch.mask for batch in batches])
    alone = module(index, masks=THREE[:1], seed=5).val_dataloader()
    assert torch.equal(masks, torch.cat([batch.mask for batch in alone]))
    whole = eval_loader(
        index, "val", image_size=(24, 24), batch=21, workers=0, labels=False, mask=THREE[0], mask_unit=4
    )
    assert torch.equal(masks, next(iter(whole)).mask)
