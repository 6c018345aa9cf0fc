"""Activations, drop path and attention."""

import math
import pickle

import pytest
import torch
import transformers

from mimsuite import models
from mimsuite.encoders.activations import activation_function
from mimsuite.encoders.layers import attend, drop_path, drop_path_rates, init_truncated_normal, use_plain_attention
from mimsuite.errors import InputError

X = torch.linspace(-4, 4, 101, dtype=torch.float64)


def test_gelu_is_exact():
    torch.testing.assert_close(activation_function("gelu")(X), X * 0.5 * (1 + torch.erf(X / math.sqrt(2))))


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_gelu_new_is_the_tanh_form(name):
    inner = math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)
    torch.testing.assert_close(activation_function(name)(X), 0.5 * X * (1 + torch.tanh(inner)))


def test_quick_gelu():
    torch.testing.assert_close(activation_function("quick_gelu")(X), X * torch.sigmoid(1.702 * X))


@pytest.mark.parametrize("name", sorted(transformers.activations.ACT2FN))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_activations_are_those_of_transformers(name, dtype):
    ours, theirs = activation_function(name), transformers.activations.ACT2FN[name]
    mine, other = (X.clone().to(dtype).requires_grad_() for _ in range(2))
    if name == "prelu":
        ours, theirs = ours.to(dtype), theirs.to(dtype)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    found, wanted = ours(mine), theirs(other)
    torch.testing.assert_close(found, wanted, **close)
    for one in (found, wanted):
        one.sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, **close)
    assert pickle.loads(pickle.dumps(ours)) is not None


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_activations_with_parameters_are_modules_of_their_own(name):
    one, other = activation_function(name), activation_function(name)
    theirs = transformers.activations.ACT2FN[name]
    assert one is not other
    found, wanted = ({k: (t.dtype, t.shape, t.tolist()) for k, t in one.state_dict().items()} for one in (one, theirs))
    assert found == wanted
    one(X.float()).sum().backward()
    assert all(p.grad is not None for p in one.parameters())


VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 8}
BIT = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_groups": 2}


@pytest.mark.parametrize("act", ["prelu", "xielu", "relu2"])
@pytest.mark.parametrize(
    ("family", "config"),
    [("ViT", VIT | {"image_size": 16}), ("Bit", BIT), ("Bit", BIT | {"layer_type": "bottleneck"})],
    ids=["ViT", "BiT", "BiT v1.5"],
)
def test_what_an_activation_learned_goes_from_and_to_transformers(family, config, act, tmp_path):
    torch.manual_seed(0)
    acts = {"hidden_act": act} | ({"pooler_act": act} if family == "ViT" else {})
    theirs = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**config, **acts)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.add_(0.3 * ("activation" in name))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(models, f"{family}Model").from_pretrained(tmp_path / "theirs")  # a warning would be an error
    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = theirs(pixels)
        for found in (ours(pixels), again(pixels)):
            torch.testing.assert_close(found.last_hidden_state, wanted.last_hidden_state)
            torch.testing.assert_close(found.pooler_output.flatten(), wanted.pooler_output.flatten())


def test_a_function_is_its_own_activation():
    assert activation_function(torch.sin) is torch.sin


def test_an_unknown_activation_lists_the_known():
    with pytest.raises(InputError, match=r"mish.*gelu.*relu"):
        activation_function("gelus")


def test_drop_path_zeroes_whole_samples_and_scales_the_rest():
    torch.manual_seed(0)
    out = drop_path(torch.ones(1000, 2, 3), 0.25, training=True)
    assert ((out == out[:, :1, :1]).all()).item()
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert 200 < int((out[:, 0, 0] == 0).sum()) < 300


def test_drop_path_does_nothing_in_eval_mode():
    x = torch.randn(4, 3)
    assert drop_path(x, 0.9, training=False) is x


def test_drop_path_of_one_drops_everything():
    assert not drop_path(torch.ones(4, 3), 1.0, training=True).any()


def test_drop_path_rates_rise_linearly():
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0.0]


def test_auto_attention_is_plain_only_on_cpu_in_bfloat16_with_gradients():
    table = {
        (d, t, g): use_plain_attention("auto", d, t, g)
        for d in ("cpu", "cuda")
        for t in (torch.bfloat16, torch.float32)
        for g in (True, False)
    }
    assert [k for k, plain in table.items() if plain] == [("cpu", torch.bfloat16, True)]


@pytest.mark.parametrize(("name", "plain"), [("eager", True), ("sdpa", False)])
def test_a_named_back_end_is_used_everywhere(name, plain):
    assert use_plain_attention(name, "cpu", torch.bfloat16, True) is plain
    assert use_plain_attention(name, "cuda", torch.float32, False) is plain


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_mask", [True, False])
def test_the_back_ends_agree_in_values_and_gradients(with_bias, with_mask):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True) if with_bias else None
    head_mask = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64) if with_mask else None
    results = []
    for implementation in ("sdpa", "eager"):
        out, weights = attend(
            *inputs,
            scale=0.3,
            dropout=0.0,
            bias=bias,
            head_mask=head_mask,
            implementation=implementation,
            need_weights=False,
        )
        assert weights is None
        wanted = [*inputs, bias] if bias is not None else inputs
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_fresh_weights_have_the_asked_deviation():
    torch.manual_seed(0)
    part = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.LayerNorm(200))
    part[1].weight.data.fill_(3)
    init_truncated_normal(part, 0.02)
    assert part[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert part[0].weight.abs().max() > 0.06  # not cut at two deviations
    assert not part[0].bias.any()
    assert torch.equal(part[1].weight, torch.ones(200))
