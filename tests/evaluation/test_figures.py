"""Pictures compared, codes counted, and baselines of a likelihood, on inputs with plain answers."""

import math

import numpy as np
import pytest
import torch

from taming.evaluation import codebook, likelihood
from taming.evaluation.reconstruction import PERFECT, compared
from taming.first_stage import VQVAE, VectorQuantizer
from taming.first_stage.interface import FirstStage


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
    figures = compared(pictures, torch.stack([pictures[0] + 2 / 255, pictures[1] + 20 / 255]), {})[
        "psnr"
    ]
    torch.testing.assert_close(
        figures,
        torch.tensor([20 * math.log10(255), 20 * math.log10(25.5)]).double(),
        rtol=1e-6,
        atol=0,
    )


def test_usage_counts_all_pictures():
    codes = np.array([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], dtype=np.int32)
    figures = codebook.usage(codes, 8, seed=0)
    assert (
        figures["used"].value == 0.5
        and figures["perplexity"].value == pytest.approx(4)
        and figures["dead"].value == 4
    )
    np.testing.assert_allclose(codebook.position_entropy(codes, 8), math.log(2))


def test_distances_between_codes_are_those_of_brute_force():
    model = VQVAE(
        quantizer=VectorQuantizer(num_codes=20, dim=3), width=8, residual_width=4, blocks=1
    )
    table = model.quantizer.embedding.weight.detach().double()
    expected = (torch.cdist(table, table) + torch.eye(20) * 1e9).min(dim=1).values
    np.testing.assert_allclose(codebook.neighbour_distances(model), expected.numpy(), rtol=1e-6)


def test_the_gallery_shows_each_code_in_the_order_of_how_often_it_occurs():
    """Codes that decode to a grey of their own each, so that a patch says which code it is."""

    class Greys(FirstStage):
        num_codes, stride, key = (20,), 8, "image"

        def __init__(self):
            torch.nn.Module.__init__(self)

        def decode(self, codes):
            grey = codes[0][:, None].float() / 10 - 0.9
            return grey.repeat_interleave(8, -1).repeat_interleave(8, -2).expand(-1, 3, -1, -1)

    frequencies = np.array([(7 * code) % 20 for code in range(20)], dtype=float)
    sheet = codebook.gallery(Greys(), frequencies)
    cell = sheet.shape[-1] // 16
    middles = sheet[0, cell // 2 :: cell, cell // 2 :: cell].flatten()[:20]
    order = ((middles + 0.9) * 10).round().int().tolist()
    assert order == sorted(range(20), key=lambda code: -frequencies[code])


def test_smoothed_frequencies_are_probabilities_and_never_zero():
    frequencies = np.array([[5.0, 0, 3, 0], [0, 0, 0, 9]])
    figures = likelihood.smoothed(frequencies, np.full(4, 0.25))
    np.testing.assert_allclose(figures.sum(axis=1), 1)
    assert (figures > 0).all() and figures[0].argmax() == 0


def test_baselines_are_the_entropies_of_the_source():
    """Codes that are even overall, but fixed by their place up to a coin."""
    generator = np.random.default_rng(0)

    def draw(n: int) -> np.ndarray:
        coins = generator.integers(0, 2, (n, 4, 4))
        return (np.arange(16).reshape(4, 4)[None] * 2 + coins).astype(np.int32)

    figures = likelihood.baselines(draw(500), draw(200), 32)
    assert figures["unigram"].mean() / 16 == pytest.approx(math.log(32), rel=0.01)
    assert figures["position_unigram"].mean() / 16 == pytest.approx(math.log(2), rel=0.02)
    with_own = likelihood.baselines(None, draw(200), 32)
    assert with_own["position_unigram"].mean() / 16 == pytest.approx(math.log(2), rel=0.02)
