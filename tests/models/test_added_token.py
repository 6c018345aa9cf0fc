"""A mask token that is added between two stages (A2MIM): where it acts, and that hidden pixels still change nothing."""

import pytest
import torch
from omegaconf import OmegaConf
from randomised import randomise
from test_sparse import BIT, CVT, everything, on_pixels, pixels

from mimsuite.errors import InputError
from mimsuite.masked.patches import expand_mask
from mimsuite.models import BitConfig, BitForMaskedImageModeling, CvtConfig, CvtForMaskedImageModeling
from mimsuite.models.load import make_masked_model
from mimsuite.weights.init import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "bit": (BitForMaskedImageModeling, BitConfig, BIT),
    "cvt": (CvtForMaskedImageModeling, CvtConfig, CVT),
}
UNET = {"decoder_hidden_size": 32}
every_model = pytest.mark.parametrize("name", MODELS)
every_layer = pytest.mark.parametrize("layer", [1, 2])


def make(name, layer, **changes):
    cls, config, values = MODELS[name]
    return randomise(cls(config(**values, **changes, mask_layer=layer)))


def a_mask(model, size=(64, 96)):
    """`(2, rows, columns)` bool on the cells of the map with the token, other ones in each image."""
    rows, columns = (side // cell for side, cell in zip(size, model.encoder.mask_stride, strict=True))
    return torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(2)) < 0.6


@every_model
@every_layer
def test_the_token_is_added_to_the_hidden_cells_of_one_map_and_to_no_other(name, layer):
    model = make(name, layer).double().eval()
    token, mask, first = model.encoder.mask_token, a_mask(model), name == "bit"  # whose states begin with the stem
    _, states = model.encoder.features_and_states(pixels().double(), mask, True)
    with torch.no_grad():
        wanted, token.data = token.clone(), torch.zeros_like(token)
    _, plain = model.encoder.features_and_states(pixels().double(), mask, True)
    number = layer if first else layer - 1
    assert all(torch.equal(a, b) for a, b in zip(states[:number], plain[:number], strict=True))
    hidden = expand_mask(mask, states[number].shape[-2:])[:, None]
    torch.testing.assert_close(states[number] - plain[number], (wanted * hidden).expand_as(states[number]))
    assert not torch.equal(states[number + 1], plain[number + 1])
    scale = model.config.stages[layer - 1]
    assert model.encoder.mask_stride == (scale.stride, scale.stride)
    assert wanted.shape == (1, scale.width, 1, 1)


@every_model
@pytest.mark.parametrize(("layer", "head"), [(None, {}), (2, {}), (2, UNET)], ids=["replaced", "added", "unet"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_hidden_pixels_change_no_bit_of_maps_gradients_and_statistics(name, layer, head, training):
    mask, clean = a_mask(make(name, layer)), pixels()
    wanted = everything(make(name, layer, **head).train(training), clean, mask)
    assert all(t.isfinite().all() for t in wanted)
    noise = 100 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    nan, inf = (torch.full_like(clean, float(value)) for value in ("nan", "inf"))
    for spoiled in (noise, nan, inf):
        changed = torch.where(on_pixels(mask), spoiled, clean)
        found = everything(make(name, layer, **head).train(training), changed, mask)
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


@every_model
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_up_to_the_token_hidden_cells_are_the_mean_colour_and_are_seen_as_such(name, training):
    """So the certificate is that of mean-filled maps: sparse ones do not see the colour, either."""
    model, mask = make(name, 2).train(training), a_mask(make(name, 2))
    states = [
        model.encoder.features_and_states(x, m, True)[1]
        for x, m in ((pixels(), mask), (pixels().masked_fill(on_pixels(mask), 0), None))
    ]
    assert torch.equal(states[0][0], states[1][0])
    assert not torch.equal(states[0][-1], states[1][-1])


@every_model
@every_layer
def test_gradients_reach_every_parameter_and_the_fast_loss_equals_the_dense_one(name, layer):
    model = make(name, layer).double().train()
    loss = model.masked_pass(pixels().double(), a_mask(model))[0]
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.eval()
    torch.testing.assert_close(
        model.masked_loss(pixels().double(), a_mask(model)), model(pixels().double(), a_mask(model)).loss
    )


@every_model
def test_recomputed_blocks_change_no_value(name):
    found = []
    for recompute in (False, True):
        model = make(name, 2).train()
        model.encoder.gradient_checkpointing = recompute
        found.append(everything(model, pixels(), a_mask(model)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_model
def test_without_a_mask_and_for_a_classifier_nothing_is_different(name):
    cls, config, values = MODELS[name]
    model, plain = make(name, 2).eval(), cls(config(**values)).eval()
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "mask_token"}
    assert plain.load_state_dict(state, strict=False).missing_keys == [f"{name}.mask_token"]
    assert torch.equal(model(pixels()).reconstruction, plain(pixels()).reconstruction)
    assert model.config.without_masking().to_dict() == config(**values).without_masking().to_dict()


@every_model
def test_weights_begin_with_a_fresh_token_where_it_has_another_map_and_keep_all_else(name, tmp_path):
    cls, config, values = MODELS[name]
    before = randomise(cls(config(**values)))
    before.save_pretrained(tmp_path)
    assert "mask_layer" not in (tmp_path / "config.json").read_text()
    head = OmegaConf.create({"_target_": "mimsuite.heads.simmim.SimMIMHead", "_partial_": True})
    weights = find_weights(str(tmp_path))
    model = make_masked_model(before.config.changed(mask_layer=2), weights, head, ())
    same = {key for key, tensor in before.state_dict().items() if torch.equal(tensor, model.state_dict()[key])}
    assert set(before.state_dict()) - same == {"mask_token"}
    again = make_masked_model(before.config, weights, head, ())
    assert all(torch.equal(a, again.state_dict()[key]) for key, a in before.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "changes", "says"),
    [
        (3, {}, "there are 3; use 1 or 2"),
        (0, {}, "must be at least 1"),
        (1, {"mask_mode": "sparse"}, "hold no mask token"),
    ],
)
@every_model
def test_a_layer_that_cannot_be_is_refused(name, layer, changes, says):
    with pytest.raises(InputError, match=says):
        make(name, layer, **changes)
