"""What every quantizer keeps, and what each is for."""

import math

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import (
    FSQ,
    LFQ,
    VQGAN,
    EMAQuantizer,
    GumbelQuantizer,
    RemappedQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from taming.first_stage.quantizers.gradient import rotated

MADE = {
    "vector": lambda: VectorQuantizer(16, 4),
    "normalized": lambda: VectorQuantizer(16, 4, normalize=True),
    "rotated": lambda: VectorQuantizer(16, 4, gradient="rotated"),
    "ema": lambda: EMAQuantizer(16, 4),
    "gumbel": lambda: GumbelQuantizer(16, 4),
    "linear": lambda: SimVQ(16, 4),
    "scalar": lambda: FSQ([8, 5, 4, 3]),
    "lookup free": lambda: LFQ(4),
    "residual": lambda: ResidualQuantizer([VectorQuantizer(16, 4), VectorQuantizer(8, 4)]),
    "remapped": lambda: RemappedQuantizer(VectorQuantizer(16, 4), 5),
}


@pytest.mark.parametrize("name", MADE)
def test_codes_stand_for_their_latents(name):
    """The latent given on is bitwise what `embed` makes of the codes, on grids that are not square,
    the same at every call.
    """
    quantizer, z = MADE[name]().eval(), torch.randn(2, 4, 3, 5)
    found, again = quantizer(z), quantizer(z)
    assert len(found.codes) == len(quantizer.num_codes)
    for codes, known, repeated in zip(found.codes, quantizer.num_codes, again.codes):
        assert codes.shape == (2, 3, 5) and codes.dtype == torch.int64
        assert 0 <= int(codes.min()) <= int(codes.max()) < known and torch.equal(codes, repeated)
    if name != "remapped":  # there the latent is the original code's
        assert torch.equal(found.latent, quantizer.embed(found.codes))
    assert found.loss.shape == ()


@pytest.mark.parametrize("name", [n for n in MADE if n not in ("gumbel", "remapped", "residual")])
def test_the_vector_of_a_code_is_quantized_to_it(name):
    quantizer = MADE[name]().eval()
    every = torch.arange(quantizer.num_codes[0])[None, None]
    vectors = quantizer.embed((every,))
    if name == "scalar":  # its input is squashed: give it numbers that come out as the levels
        half = (quantizer.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(quantizer.levels % 2 == 0, 0.5, 0.0)
        levels = vectors.permute(0, 2, 3, 1) * (quantizer.levels // 2)
        vectors = (((levels + offset) / half).atanh() - (offset / half).atanh()).permute(0, 3, 1, 2)
    assert torch.equal(quantizer(vectors).codes[0], every)


@pytest.mark.parametrize("name", ["vector", "ema", "linear", "lookup free", "residual"])
def test_the_gradient_goes_straight_through(name):
    quantizer, z = MADE[name]().train(), torch.randn(2, 4, 3, 5, requires_grad=True)
    weights = torch.randn(2, 4, 3, 5)
    (quantizer(z).latent * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_the_rotation_turns_the_latent_into_its_code():
    """At the latent itself its value is the code; its derivative keeps angles between the latent
    and what moves, scaled by |e| / |z|.
    """
    z, e = (
        torch.randn(6, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(6, 3, dtype=torch.float64),
    )
    assert torch.equal(rotated(z, e), e)
    jacobian = torch.autograd.functional.jacobian(lambda v: rotated(v, e[0]), z.detach()[0])
    scale = e[0].norm() / z[0].norm()
    assert torch.allclose(jacobian @ jacobian.T, scale**2 * torch.eye(3, dtype=torch.float64))
    assert torch.allclose(jacobian @ z.detach()[0], e[0]) and torch.det(jacobian) > 0


def test_search_is_float32_under_autocast():
    for name in ("ema", "linear", "lookup free", "scalar"):
        quantizer, z = MADE[name]().eval(), torch.randn(2, 4, 6, 6)
        with torch.autocast("cpu", torch.bfloat16):
            codes = quantizer(z).codes[0]
        if name != "linear":  # its codebook is a product, which autocast may round
            assert torch.equal(codes, quantizer(z).codes[0]), name


def test_moving_averages_with_decay_zero_are_one_step_of_k_means():
    quantizer, z = EMAQuantizer(8, 2, decay=0.0).train(), torch.randn(1, 2, 20, 20)
    with torch.no_grad():
        quantizer.embedding.weight[7] = 100.0  # nobody's nearest
    before = quantizer.embedding.weight.clone()
    codes = quantizer(z).codes[0].flatten()
    flat = z.permute(0, 2, 3, 1).reshape(-1, 2)
    for k in range(8):
        mean = flat[codes == k].mean(0) if (codes == k).any() else before[k]
        assert torch.allclose(quantizer.embedding.weight[k], mean, atol=1e-6)


def test_unused_codes_stay_and_averages_follow_the_recursion():
    quantizer = EMAQuantizer(4, 2, decay=0.9).train()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[0.0, 0], [5, 5], [90, 90], [-90, 0]]))
        quantizer.sums.copy_(quantizer.embedding.weight)
    z = torch.cat([torch.randn(1, 2, 4, 4), 5 + torch.randn(1, 2, 4, 4)])
    n, m = torch.ones(4), quantizer.sums.clone()
    for _ in range(100):
        codes = quantizer(z).codes[0].flatten()
        flat = z.permute(0, 2, 3, 1).reshape(-1, 2)
        n = 0.9 * n + 0.1 * torch.bincount(codes, minlength=4)
        m = 0.9 * m + 0.1 * torch.zeros(4, 2).index_add_(0, codes, flat)
    assert torch.equal(quantizer.embedding.weight[2:], torch.tensor([[90.0, 90], [-90, 0]]))
    assert torch.allclose(quantizer.embedding.weight[:2], (m / n[:, None])[:2], atol=1e-4)
    evaluated = quantizer.eval().embedding.weight.clone()
    quantizer(z)
    assert torch.equal(quantizer.embedding.weight, evaluated)


def test_dead_codes_restart_with_their_averages():
    quantizer = EMAQuantizer(4, 2, decay=0.5, restart=0.2).train()
    with torch.no_grad():
        quantizer.embedding.weight[3] = 1000.0
        quantizer.sums[3] = 1000.0
    for _ in range(20):
        quantizer(torch.randn(1, 2, 8, 8))
    assert quantizer.embedding.weight.abs().max() < 10 and quantizer.sums[3].abs().max() < 1000


def test_gumbel_is_noisy_in_training_only_and_its_penalty_is_the_distance_from_evenness():
    quantizer = GumbelQuantizer(16, 4, kl_weight=1.0)
    z = torch.randn(2, 4, 8, 8)
    assert not torch.equal(quantizer.train()(z).codes[0], quantizer(z).codes[0])
    with torch.no_grad():
        quantizer.proj.weight.zero_(), quantizer.proj.bias.zero_()
        assert abs(float(quantizer(z).loss)) < 1e-6
        quantizer.proj.bias[3] = 50.0
        assert math.isclose(float(quantizer(z).loss), math.log(16), rel_tol=1e-5)
    soft = GumbelQuantizer(16, 4, hard=False).train()
    # A mixture, no code's vector
    assert (soft(z).latent[0, :, 0, 0] - soft.embedding.weight).abs().sum(1).min() > 1e-4


def test_every_code_of_the_scalar_quantizer_is_reached():
    quantizer = FSQ([5, 4])
    z = torch.stack(
        torch.meshgrid(torch.linspace(-6, 6, 200), torch.linspace(-6, 6, 200), indexing="ij")
    )[None]
    found = quantizer(z)
    assert found.codes[0].unique().tolist() == list(range(20)) and found.latent.abs().max() <= 1


def test_lookup_free_entropy_is_that_of_the_enumerated_codes():
    quantizer, z = LFQ(3, temperature=1.0), torch.randn(7, 3)
    corners = quantizer._vectors(torch.arange(8))
    p = (-(z[:, None] - corners[None]).square().sum(-1)).softmax(-1)
    expected = torch.special.entr(p).sum(-1).mean() - torch.special.entr(p.mean(0)).sum()
    assert torch.allclose(quantizer._entropies(z), expected, atol=1e-5)


def test_lookup_free_gradients_stay_finite_for_codes_that_are_out_of_reach():
    """With sure latents the probability of most codes underflows to 0."""
    quantizer, z = LFQ(12), (10 * torch.randn(1, 12, 4, 4)).requires_grad_()
    quantizer.train()(z).loss.backward()
    assert torch.isfinite(z.grad).all()


def test_each_residual_depth_comes_nearer():
    quantizer = ResidualQuantizer(
        [VectorQuantizer(32, 4), VectorQuantizer(32, 4), VectorQuantizer(32, 4)]
    )
    with torch.no_grad():
        for depth, part in enumerate(quantizer.quantizers):
            part.embedding.weight.normal_(std=0.6**depth)
            part.embedding.weight[0].zero_()  # so that a depth can leave things as they are
    z = torch.randn(1, 4, 16, 16)
    codes, total, errors = quantizer(z).codes, 0.0, []
    for part, grid in zip(quantizer.quantizers, codes):
        total = total + part.embed((grid,))
        errors.append(float((z - total).detach().square().mean()))
    assert errors[0] > errors[1] > errors[2]
    model = VQGAN(8, [1, 2], quantizer, blocks=1, latent_channels=8).eval()
    assert model.num_codes == (32, 32, 32) and len(model.grids(8, 8)) == 3
    assert model.decode(model.encode(torch.randn(1, 3, 8, 8))).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    "made, told",
    [
        (lambda: FSQ([8, 5], 41), "multiply to 40 codes, not 41"),
        (lambda: FSQ([8, 1]), "at least 2"),
        (lambda: LFQ(19), "from 1 to 18"),
        (
            lambda: ResidualQuantizer([VectorQuantizer(4, 2), VectorQuantizer(4, 3)]),
            "make them equal",
        ),
        (lambda: VectorQuantizer(4, 2, gradient="sideways"), "straight_through and rotated"),
        (lambda: RemappedQuantizer(VectorQuantizer(4, 2), "gone.npy"), "does not exist"),
    ],
)
def test_refusals(made, told):
    with pytest.raises((ValueError, UserError), match=told):
        made()
