"""No way to compute a training step lets a hidden pixel into the gradients and statistics of sparse maps."""

import pytest
import torch
from test_sparse import SIZE, a_mask, make, on_pixels, pixels

from mimsuite.masked.patches import expand_mask
from mimsuite.objectives.batch_norm import synchronize_batch_norms

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {
    "plain": lambda model: None,
    "recomputed blocks": lambda model: setattr(model.encoder, "gradient_checkpointing", True),
    "compiled blocks": lambda model: [block.compile(backend="aot_eager") for block in model.encoder.blocks()],
    "sync_batchnorm": lambda model: synchronize_batch_norms(model) if model.config.model_type == "cvt" else None,
}


def accumulated(model, x, masks):
    """Gradients and running statistics of several micro-batches of the same images, the masks of which differ."""
    for mask in masks:
        loss = model(x, mask).reconstruction.square().mean()
        (loss / len(masks)).backward()
    return [t.detach().clone() for t in (*(p.grad for p in model.parameters()), *model.buffers())]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["bit", "cvt"])
def test_no_way_to_compute_a_step_lets_a_hidden_pixel_into_gradients_and_statistics(name, way):
    clean, hidden = pixels(4), torch.ones(4, 1, *SIZE, dtype=torch.bool)
    masks = [a_mask(make(name), 4), ~a_mask(make(name), 4).flip(2)]
    for mask in masks:
        hidden &= on_pixels(mask)
    assert hidden.any()
    bad = torch.tensor([float("inf"), float("-inf"), float("nan"), 1e30])
    bad = bad[torch.randint(4, clean.shape, generator=torch.Generator().manual_seed(5))]
    found = []
    for x in (clean, torch.where(hidden, bad, clean), clean + 1):
        torch._dynamo.reset()
        model = make(name).train()
        WAYS[way](model)
        found.append(accumulated(model, x, masks))
    wanted, spoiled, other = found
    assert all(t.isfinite().all() for t in wanted)
    assert all(torch.equal(a, b) for a, b in zip(wanted, spoiled, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(wanted[:3], other[:3], strict=True))


def test_statistics_of_an_image_know_nothing_of_the_masks_of_others_but_those_of_a_batch_do():
    """GroupNorm is per image; BatchNorm weighs every image by what it shows."""
    x, mask = pixels(), a_mask(make("bit"))
    others = torch.stack([mask[0], ~mask[1]])
    bit, cvt = make("bit").train(), make("cvt").train()
    assert torch.equal(*(bit.encoder.forward_features(x, m).grid[0] for m in (mask, others)))
    mask, others = (expand_mask(m[:, ::2, ::2], (4, 6)) for m in (mask, others))
    assert not torch.equal(*(cvt.encoder.forward_features(x, m).grid[0] for m in (mask, others)))
    cvt.eval()
    assert torch.equal(*(cvt.encoder.forward_features(x, m).grid[0] for m in (mask, others)))
