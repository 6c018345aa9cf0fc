"""The attentive head against a plain loop, and what it may depend on."""

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.heads.attentive import EPS, AttentiveHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = AttentiveHead(12, 5, queries=4).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.standardise(torch.randn(12), torch.rand(12) + 0.5)
    return made


def cells(batch=3, count=7):
    return torch.randn(batch, count, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_logits_equal_those_of_a_loop_over_images_and_queries(head):
    expected = []
    for image in cells():
        z = (image - image.mean(1, keepdim=True)) / (image.var(1, correction=0, keepdim=True) + EPS).sqrt()
        z = (z - head.mean) / head.std
        values = z @ head.value.weight.T + head.value.bias
        slices = [
            ((z @ query) / 12**0.5).softmax(0) @ values[:, 3 * m : 3 * m + 3] for m, query in enumerate(head.query)
        ]
        expected.append(head.classifier.weight @ torch.cat(slices) + head.classifier.bias)
    torch.testing.assert_close(head(cells()), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_order_of_the_cells_does_not_matter_but_each_cell_does(head):
    x = cells()
    torch.testing.assert_close(head(x[:, torch.randperm(7)]), head(x), rtol=1e-12, atol=1e-12)
    changed = x.clone()
    changed[:, 3] = -changed[:, 3]
    assert ((head(changed) - head(x)).abs() > 1e-6).all()


def test_every_parameter_gets_a_gradient(head):
    head(cells()).square().sum().backward()
    assert all((p.grad != 0).any(-1).all() for p in head.parameters())


def test_default_number_of_queries_divides_the_width():
    assert [len(AttentiveHead(width, 2).query) for width in (192, 2048, 12, 7)] == [32, 32, 4, 1]


def test_queries_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="queries=5 does not divide the width 12"):
        AttentiveHead(12, 2, queries=5)


def test_a_hooked_projection_is_called_and_changes_no_number(head):
    expected, seen = head(cells()), []
    head.value.register_forward_hook(lambda *_: seen.append("called"))
    torch.testing.assert_close(head(cells()), expected, rtol=1e-12, atol=1e-12)
    assert seen == ["called"]
