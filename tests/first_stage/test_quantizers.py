"""What every quantizer keeps, and what each is for."""

import copy
import math

import numpy as np
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

QUANTIZERS = {
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


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_stand_for_their_latents(name):
    """The latent that comes out is bitwise what `embed` makes of the codes, on grids that are not
    square, the same at every call.
    """
    quantizer, z = QUANTIZERS[name]().eval(), torch.randn(2, 4, 3, 5)
    quantized, again = quantizer(z), quantizer(z)
    assert len(quantized.codes) == len(quantizer.num_codes)
    for codes, count, repeated in zip(quantized.codes, quantizer.num_codes, again.codes):
        assert codes.shape == (2, 3, 5) and codes.dtype == torch.int64
        assert 0 <= int(codes.min()) <= int(codes.max()) < count and torch.equal(codes, repeated)
    if name != "remapped":  # there the latent is the original code's
        assert torch.equal(quantized.latent, quantizer.embed(quantized.codes))
    assert quantized.loss.shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_latents_come_back_in_the_dtype_they_had_and_the_search_is_in_float32(
    name, training, dtype
):
    quantizer, z = QUANTIZERS[name]().train(training), torch.randn(2, 4, 3, 5).to(dtype)
    torch.manual_seed(1)
    expected = copy.deepcopy(quantizer)(z.float())
    torch.manual_seed(1)
    quantized = quantizer(z)
    assert quantized.latent.dtype == dtype
    assert torch.equal(quantized.latent, expected.latent.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(quantized.codes, expected.codes))
    assert torch.equal(quantized.loss.float(), expected.loss)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_weights_in_half_precision_are_no_obstacle(name):
    quantizer, z = QUANTIZERS[name]().bfloat16(), torch.randn(2, 4, 3, 5, dtype=torch.bfloat16)
    quantized = quantizer.eval()(z)
    assert quantized.latent.dtype == torch.bfloat16
    if name != "remapped":
        assert torch.equal(quantized.latent, quantizer.embed(quantized.codes).bfloat16())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantized_latent_is_differentiable_in_the_latent(name, training):
    quantizer = QUANTIZERS[name]().train(training)
    z = torch.randn(2, 4, 3, 5, requires_grad=True)
    (quantizer(z).latent * torch.randn(2, 4, 3, 5)).sum().backward()
    assert z.grad.isfinite().all() and z.grad.any()


@pytest.mark.parametrize(
    "name", [n for n in QUANTIZERS if n not in ("gumbel", "remapped", "residual")]
)
def test_the_vector_of_a_code_is_quantized_to_it(name):
    quantizer = QUANTIZERS[name]().eval()
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
    quantizer, z = QUANTIZERS[name]().train(), torch.randn(2, 4, 3, 5, requires_grad=True)
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


@pytest.mark.parametrize("name", QUANTIZERS)
def test_search_is_float32_under_autocast(name):
    quantizer, z = QUANTIZERS[name]().eval(), 10 + torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = quantizer(z)
        embedded = quantizer.embed(autocast.codes)
    plain = quantizer(z)
    assert all(torch.equal(a, b) for a, b in zip(autocast.codes, plain.codes))
    assert torch.equal(embedded, quantizer.embed(plain.codes))


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
    quantized = quantizer(z)
    assert quantized.codes[0].unique().tolist() == list(range(20))
    assert quantized.latent.abs().max() <= 1


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
    assert model.decode(model.encode(torch.rand(1, 3, 8, 8) * 2 - 1)).shape == (1, 3, 8, 8)


def in_parts(quantizer, batch, z, parts):
    """One batch of training in so many micro-batches."""
    for i, part in enumerate(z.chunk(parts)):
        quantizer.set_step(batch, i, parts)
        quantizer(part)


@pytest.mark.parametrize("nested", [False, True])
def test_moving_averages_follow_batches_whatever_the_accumulation(nested):
    one = EMAQuantizer(8, 4, decay=0.5).train()
    four = copy.deepcopy(one)
    outer = ResidualQuantizer([four]) if nested else four
    for batch in range(5):
        z = torch.randn(8, 4, 5, 5)
        in_parts(one, batch, z, 1), in_parts(outer, batch, z, 4)
        assert torch.equal(one.counts, four.counts)
        assert torch.allclose(one.sums, four.sums, atol=1e-5)
        assert torch.allclose(one.embedding.weight, four.embedding.weight, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_unused_codes_are_counted_and_restarted_in_batches(parts):
    """`restart: 3` acts every third batch, and a code that any part chose is in use."""
    quantizer = VectorQuantizer(8, 4, restart=3).train()
    with torch.no_grad():
        quantizer.embedding.weight.fill_(100.0)
        quantizer.embedding.weight[0], quantizer.embedding.weight[1] = -1.0, 1.0
    z = torch.cat([torch.full((2, 4, 2, 2), -1.0), torch.full((2, 4, 2, 2), 1.0)])
    for batch in range(5):
        in_parts(quantizer, batch, z, parts)
        assert int(quantizer.batches) == batch + 1
        assert quantizer.unseen[:2].tolist() == [0, 0] and int(quantizer.unseen[7]) == batch + 1
    assert (quantizer.embedding.weight[2:] == 100).all()
    in_parts(quantizer, 5, z, parts)
    assert (quantizer.embedding.weight[2:].abs() == 1).all()


@pytest.mark.parametrize("parts", [1, 4])
def test_averages_restart_once_a_batch(parts, monkeypatch):
    calls = []
    monkeypatch.setattr(EMAQuantizer, "_restart_unused", lambda self, flat: calls.append(1))
    quantizer = EMAQuantizer(8, 4, restart=0.1).train()
    for batch in range(3):
        in_parts(quantizer, batch, torch.randn(4, 4, 3, 3), parts)
    assert len(calls) == 3


@pytest.mark.parametrize("kind", [EMAQuantizer, VectorQuantizer])
def test_codes_begin_as_data_once_whatever_the_accumulation(kind, monkeypatch):
    calls, start = [], kind._start
    monkeypatch.setattr(kind, "_start", lambda self, flat: calls.append(start(self, flat)))
    quantizer = kind(8, 4, from_data=True).train()
    for batch in range(2):
        in_parts(quantizer, batch, torch.randn(4, 4, 3, 3), 4)
    assert len(calls) == 1


def test_without_set_step_every_forward_pass_is_a_batch():
    stepped, plain = EMAQuantizer(8, 4).train(), EMAQuantizer(8, 4).train()
    plain.load_state_dict(stepped.state_dict())
    for batch in range(3):
        z = torch.randn(2, 4, 3, 3)
        stepped.set_step(batch)
        stepped(z), plain(z)
    assert torch.equal(stepped.embedding.weight, plain.embedding.weight)


def vector(dim):
    return VectorQuantizer(4, dim)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: FSQ([8, 5], 41), "multiply to 40 codes, not 41"),
        (lambda: FSQ([2] * 25), "over 16777216"),
        (lambda: ResidualQuantizer([vector(2), vector(3)]), "make them equal"),
        (lambda: ResidualQuantizer([GumbelQuantizer(4, 4, code_dim=2)]), "make them equal"),
        (lambda: VectorQuantizer(4, 2, gradient="sideways"), "straight_through and rotated"),
        (lambda: RemappedQuantizer(vector(2), "gone.npy"), "does not exist"),
        (lambda: RemappedQuantizer(vector(2), 5), "reach 4, but the quantizer has 0 to 3"),
        (lambda: RemappedQuantizer(vector(2), 3, "far"), "nearest, extra or a number below 3"),
        (lambda: RemappedQuantizer(vector(2), 3, 3), "nearest, extra or a number below 3"),
        (lambda: RemappedQuantizer(ResidualQuantizer([vector(2)] * 2), 3), "several codes"),
    ],
)
def test_refusals(build, words):
    with pytest.raises((ValueError, UserError), match=words):
        build()


@pytest.mark.parametrize(
    "codes, words",
    [
        (np.array([0.5, 1.0]), "list of integers"),
        (np.array([[0, 1]]), "list of integers"),
        (np.array(["a", "b"]), "list of integers"),
        (np.array([0, 0, 1]), "each once"),
        (np.array([1]), "two or more"),
        (np.array([-1, 1]), "from 0"),
        (np.array([0, 4]), "reach 4"),
        (np.array([{}], dtype=object), "used.npy"),
        (None, "used.npy"),
    ],
)
def test_a_bad_list_of_used_codes_is_one_line(codes, words, tmp_path):
    path = tmp_path / "used.npy"
    path.write_bytes(b"no list") if codes is None else np.save(path, codes, allow_pickle=True)
    with pytest.raises((ValueError, UserError), match=words) as error:
        RemappedQuantizer(vector(2), str(path))
    assert "\n" not in str(error.value)
