"""Blocks that are computed again in the backward pass: every number stays, with dropout and drop path, too."""

import pytest
import torch

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models.parts import blocks_of
from mimsuite.objectives.preparing import prepare_model

VIT = {
    **{"model": "vit_nano", "model.hidden_size": 24, "model.num_hidden_layers": 3, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 48, "model.patch_size": 4, "model.drop_path_rate": 0.3},
    **{"model.hidden_dropout_prob": 0.2, "image_size": 32},
}
FAMILIES = {
    "vit": VIT,
    "mae": VIT | {"objective": "mae", "head": "dec1", "head.hidden_size": 24, "head.num_attention_heads": 2},
    "master weights": VIT | {"optim.master_weights": True},
    "bit": {"model": "bit_nano", "model.drop_path_rate": 0.3, "image_size": 32},
    "cvt": {
        **{"model": "cvt_nano", "model.depth": [1, 2], "model.embed_dim": [8, 24], "image_size": 32},
        **{"model.drop_rate": [0.2, 0.2], "model.drop_path_rate": [0.0, 0.3]},
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread(one_thread):
    """Bits are compared."""


def step(family, **more):
    """Loss, gradients and buffers of a training step, and how often blocks were computed."""
    values = {"steps": 1, "batch": 8, "workers": 0, **FAMILIES[family], **more}
    built = api.build("pretrain", **values)
    (batch,) = built.data.blank(8)
    draw = torch.Generator().manual_seed(0)
    batch = batch._replace(images=torch.randint(0, 256, batch.images.shape, dtype=torch.uint8, generator=draw))
    calls = []
    model = built.module.trained_model
    for block in blocks_of(model):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(7)
    loss = built.module.training_step(batch, 0)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | gradients | dict(model.named_buffers()), len(calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_that_of_a_plain_step(family):
    wanted, once = step(family)
    found, again = step(family, **{"trainer.checkpoint_activations": True})
    assert again == 2 * once > 0
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_model_that_cannot_is_refused():
    class Plain(torch.nn.Module):
        is_gradient_checkpointing = False

        def gradient_checkpointing_enable(self):
            pass

    with pytest.raises(InputError, match="but no part of the model has `gradient_checkpointing`"):
        prepare_model(Plain(), activations=True, norms=False)
