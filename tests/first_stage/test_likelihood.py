import math

import pytest
import torch

from taming.first_stage import GaussianLikelihood, LogitLaplaceLikelihood
from taming.first_stage.likelihood import inset


def everywhere(points: int = 20001, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64).view(1, 1, 1, -1)


def test_gaussian_density_is_one_in_all():
    likelihood, x = GaussianLikelihood(0.04), everywhere(low=-9.0, high=9.0)
    density = (-likelihood.negative_log(x, likelihood(torch.full_like(x, 0.3)))).exp()
    assert math.isclose(float(torch.trapezoid(density.flatten(), x.flatten())), 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("mean, variance", [(0.3, 0.04), (-1.4, 0.5), (0.999, 1e-4), (0.0, 30.0)])
def test_the_256_levels_share_all_of_the_mass(mean, variance):
    likelihood = GaussianLikelihood(variance)
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(1, 1, 1, -1)
    bits = likelihood.bits(levels, likelihood(torch.full_like(levels, mean)))
    assert torch.isfinite(bits).all() and math.isclose(float((2**-bits).sum()), 1.0, rel_tol=1e-9)


def test_levels_far_out_in_either_tail_cost_the_same():
    likelihood = GaussianLikelihood(1e-4)
    ends = torch.tensor([-100 / 127.5 - 0.5 / 127.5, 100 / 127.5 + 0.5 / 127.5]).view(1, 1, 1, 2)
    bits = likelihood.bits(ends, likelihood(torch.zeros_like(ends)))
    assert (
        torch.isfinite(bits).all()
        and math.isclose(float(bits[..., 0]), float(bits[..., 1]), rel_tol=1e-4)
        and bits.min() > 1000
    )


def test_a_learned_variance_ends_at_the_mean_squared_error():
    likelihood, image = GaussianLikelihood(), torch.randn(4, 3, 16, 16) * 0.3
    optimizer = torch.optim.Adam(likelihood.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        likelihood.negative_log(image, likelihood(torch.zeros_like(image))).mean().backward()
        optimizer.step()
    assert math.isclose(
        float(likelihood.log_variance.detach().exp()), float(image.square().mean()), rel_tol=1e-3
    )
    assert not GaussianLikelihood(0.1).log_variance.requires_grad


@pytest.mark.parametrize("location, scale", [(0.0, 1.0), (2.0, 0.3), (-1.0, 0.5)])
def test_logit_laplace_is_one_in_all(location, scale):
    """Over the mapped pixels in (0, 1), of which pictures use [0.1, 0.9]."""
    likelihood, x = LogitLaplaceLikelihood(), everywhere(400001, -1.25 + 1e-7, 1.25 - 1e-7)
    parameters = torch.cat(
        [torch.full_like(x, location), torch.full_like(x, math.log(scale))], dim=1
    )
    density = (-likelihood.negative_log(x, parameters)).exp().flatten()
    assert math.isclose(float(torch.trapezoid(density, inset(x).flatten())), 1.0, rel_tol=2e-3)
    assert likelihood.bits(x, parameters) is None


def test_logit_laplace_shows_its_median():
    likelihood, x = LogitLaplaceLikelihood(), everywhere(101)
    decoded = torch.cat([torch.logit(inset(x)), torch.zeros_like(x)], dim=1)
    assert torch.allclose(likelihood.picture(likelihood(decoded)), x, atol=1e-6)
