"""RankMe and alpha-ReQ against spectra whose figures are known."""

import math

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.evaluation.probes.quality import alpha_req, rankme


def with_singular_values(values, n, centred=False, seed=0):
    """An `(n, len(values))` float64 matrix with these singular values."""
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(n, len(values), dtype=torch.float64, generator=g)
    left = torch.linalg.qr(left - left.mean(0) if centred else left).Q
    right = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g)).Q
    return left * torch.as_tensor(values, dtype=torch.float64) @ right


@pytest.mark.parametrize("n", [40, 200])
def test_rankme_of_an_isotropic_matrix_is_its_width(n):
    assert rankme(with_singular_values([3.0] * 40, n)) == pytest.approx(40, rel=1e-4)


def test_rankme_of_wide_features_is_at_most_the_number_of_images():
    assert rankme(with_singular_values([1.0] * 12, 60).T) == pytest.approx(12, rel=1e-4)


def test_rankme_is_exp_of_the_entropy_of_the_values_themselves_not_of_their_squares():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(with_singular_values([3.0, 1.0], 50)) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_rankme_of_collapsed_features_is_one():
    assert rankme(torch.ones(30, 8)) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(30, 8)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("width", [20, 250])  # ranks 4 to 10 and 4 to 100
def test_alpha_of_a_power_law_is_its_exponent(exponent, width):
    eigenvalues = torch.arange(1, width + 1, dtype=torch.float64) ** -exponent
    x = with_singular_values(eigenvalues.sqrt(), 400, centred=True) + 5.0
    assert alpha_req(x) == pytest.approx(exponent, abs=1e-6)


def test_alpha_looks_at_the_ranks_4_to_100_alone():
    eigenvalues = torch.arange(1, 251, dtype=torch.float64) ** -1.0
    eigenvalues[:3], eigenvalues[100:] = 50.0, 1e-9
    assert alpha_req(with_singular_values(eigenvalues.sqrt(), 400, centred=True)) == pytest.approx(1, abs=1e-6)


def test_half_types_are_computed_in_float64():
    x = with_singular_values(torch.linspace(1, 2, 30), 100, centred=True).half()
    assert rankme(x) == rankme(x.double())
    assert alpha_req(x) == alpha_req(x.double())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.ones(14, 50), "needs 15 images and 14 dimensions"),
        (torch.ones(50, 13), "needs 15 images and 14 dimensions"),
        (torch.ones(50, 20), "span fewer than 10 directions"),
        (torch.ones(50), "needs 15 images"),
    ],
)
def test_what_has_no_exponent_is_refused(x, says):
    with pytest.raises(InputError, match=says) as error:
        alpha_req(x)
    assert "\n" not in str(error.value)


def test_rankme_refuses_what_is_no_matrix():
    with pytest.raises(InputError, match="one row per image"):
        rankme(torch.ones(5))
