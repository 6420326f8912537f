"""Pictures compared, codes counted, and baselines of a likelihood, on inputs with known answers."""

import math

import numpy as np
import pytest
import torch

from taming.evaluation import codebook, likelihood
from taming.evaluation.reconstruction import PERFECT, compared
from taming.first_stage import VQVAE, VectorQuantizer


def test_equal_pictures_are_perfect_and_large_ones_have_ms_ssim():
    pictures = torch.rand(2, 3, 176, 184) * 2 - 1
    same, worse = compared(pictures, pictures.clone(), {}), compared(pictures, -pictures, {})
    assert (same["psnr"] == PERFECT).all() and torch.allclose(same["ssim"], torch.ones(2).double())
    assert (
        torch.allclose(same["ms_ssim"], torch.ones(2).double()) and (worse["ms_ssim"] < 0.5).all()
    )
    assert "ms_ssim" not in compared(pictures[..., :100], pictures[..., :100], {})


def test_psnr_is_that_of_the_definition_for_each_picture():
    pictures = -torch.ones(2, 3, 16, 16)
    found = compared(pictures, torch.stack([pictures[0] + 2 / 255, pictures[1] + 20 / 255]), {})[
        "psnr"
    ]
    torch.testing.assert_close(
        found,
        torch.tensor([20 * math.log10(255), 20 * math.log10(25.5)]).double(),
        rtol=1e-6,
        atol=0,
    )


def test_usage_counts_all_pictures():
    codes = np.array([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], dtype=np.int32)
    found = codebook.usage(codes, 8, seed=0)
    assert (
        found["used"].value == 0.5
        and found["perplexity"].value == pytest.approx(4)
        and found["dead"].value == 4
    )
    np.testing.assert_allclose(codebook.position_entropy(codes, 8), math.log(2))


def test_distances_between_codes_are_those_of_brute_force():
    model = VQVAE(
        quantizer=VectorQuantizer(num_codes=20, dim=3), width=8, residual_width=4, blocks=1
    )
    table = model.quantizer.embedding.weight.detach().double()
    expected = (torch.cdist(table, table) + torch.eye(20) * 1e9).min(dim=1).values
    np.testing.assert_allclose(codebook.neighbour_distances(model), expected.numpy(), rtol=1e-6)
    assert codebook.gallery(model, np.arange(20)).shape[0] == 3


def test_smoothed_frequencies_are_probabilities_and_never_zero():
    frequencies = np.array([[5.0, 0, 3, 0], [0, 0, 0, 9]])
    found = likelihood.smoothed(frequencies, np.full(4, 0.25))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found > 0).all() and found[0].argmax() == 0


def test_baselines_are_the_entropies_of_the_source():
    """Codes that are even overall, but fixed by their place up to a coin."""
    generator = np.random.default_rng(0)
    draw = lambda n: (
        np.arange(16).reshape(4, 4)[None] * 2 + generator.integers(0, 2, (n, 4, 4))
    ).astype(np.int32)  # noqa: E731
    found = likelihood.baselines(draw(500), draw(200), 32)
    assert found["unigram"].mean() / 16 == pytest.approx(math.log(32), rel=0.01)
    assert found["position_unigram"].mean() / 16 == pytest.approx(math.log(2), rel=0.02)
    with_own = likelihood.baselines(None, draw(200), 32)
    assert with_own["position_unigram"].mean() / 16 == pytest.approx(math.log(2), rel=0.02)
