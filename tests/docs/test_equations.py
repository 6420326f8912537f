"""Every numbered equation of docs/explanations, computed as it stands on the page, in float64 and
with loops, and by the code.
"""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from taming.evaluation.codebook import entropy, usage
from taming.first_stage import (
    DVAE,
    FSQ,
    LFQ,
    VAE,
    VQGAN,
    VQVAE2,
    EMAQuantizer,
    GaussianLikelihood,
    GumbelQuantizer,
    LikelihoodLoss,
    LogitLaplaceLikelihood,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
    VQGANLoss,
)
from taming.first_stage.discriminator import hinge
from taming.first_stage.losses import DELTA, LARGEST
from taming.first_stage.quantizers.gradient import rotated, straight_through
from taming.first_stage.quantizers.gumbel import half_cosine
from taming.first_stage.vae import Posterior
from taming.second_stage import (
    GPT,
    GatedPixelCNN,
    PixelSNAIL,
    SecondStage,
    Unconditional,
    filter_logits,
)
from taming.second_stage.block import SelfAttention
from taming.second_stage.filters import guided
from taming.second_stage.pixelcnn import GatedLayer
from taming.second_stage.window import origin

PAGES = Path(__file__).resolve().parents[2] / "docs" / "explanations"
START = [{"vocabulary": 1, "length": 1}]
EQUATIONS = {}


def equation(page, number):
    """Registers what computes equation (number) of a page twice: value of the page, of the code."""

    def register(function):
        EQUATIONS[page, number] = function
        return function

    return register


def numbered():
    """(page, number) of every equation on the pages."""
    pages = {path.stem: path.read_text() for path in sorted(PAGES.glob("*.md"))}
    return [(p, int(n)) for p, text in pages.items() for n in re.findall(r"\\tag\{(\d+)\}", text)]


def test_every_equation_is_computed():
    assert sorted(EQUATIONS) == sorted(numbered())


@pytest.mark.parametrize("page, number", numbered())
def test_the_page_and_the_code_agree(page, number):
    torch.manual_seed(0)
    for ours, code in EQUATIONS[page, number]():
        code = code.detach().numpy() if isinstance(code, torch.Tensor) else code
        np.testing.assert_allclose(np.asarray(ours, dtype=float), code, rtol=2e-4, atol=2e-5)


def numbers(*shape):
    """Random ones, as a tensor and as an array of float64."""
    tensor = torch.randn(*shape)
    return tensor, tensor.double().numpy()


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def normal_below(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


# VAE


def gaussian_nats(x, mean, variance):
    return (x - mean) ** 2 / (2 * variance) + np.log(variance) / 2 + np.log(2 * np.pi) / 2


def divergence(mean, log_variance):
    return 0.5 * sum(
        m**2 + math.exp(v) - 1 - v for m, v in zip(mean.flatten(), log_variance.flatten())
    )


@equation("vae", 1)
def elbo():
    model = VAE(8, 4, 3, GaussianLikelihood(0.05), blocks=1).eval()
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    reconstruction, posterior = model(image), model.encode(image)
    total, _ = LikelihoodLoss().autoencoder(image, reconstruction, model.last_layer, 0)
    x, mean = image.double().numpy(), reconstruction.image.detach().double().numpy()
    m, v = (t.detach().double().numpy() for t in (posterior.mean, posterior.log_variance))
    each = [gaussian_nats(x[b], mean[b], 0.05).sum() + divergence(m[b], v[b]) for b in range(2)]
    yield np.mean(each) / (3 * 8 * 8), total


@equation("vae", 2)
def kl():
    (mean, m), (log_variance, v) = numbers(1, 3, 2, 2), numbers(1, 3, 2, 2)
    yield [divergence(m, v)], Posterior(mean, log_variance).kl()


@equation("vae", 3)
def gaussian():
    (image, x), (decoded, mean) = numbers(1, 3, 2, 2), numbers(1, 3, 2, 2)
    likelihood = GaussianLikelihood(0.3)
    yield gaussian_nats(x, mean, 0.3), likelihood.negative_log(image, likelihood(decoded))


@equation("vae", 4)
def bits():
    levels, variance = [0, 1, 77, 128, 254, 255], 0.02
    image = (torch.tensor(levels) / 255 * 2 - 1)[None, :, None, None]
    decoded = image + 0.05 * torch.randn_like(image)
    likelihood = GaussianLikelihood(variance)

    def up_to(k, mean):
        middle = -math.inf if k < 0 else math.inf if k == 255 else (2 * k + 1) / 255 - 1
        return normal_below((middle - mean) / math.sqrt(variance))

    means = decoded.flatten().double().tolist()
    ours = [-math.log2(up_to(k, m) - up_to(k - 1, m)) for k, m in zip(levels, means)]
    yield ours, likelihood.bits(image, likelihood(decoded)).flatten()


# VQ-VAE


def search(z, codebook):
    """The nearest code of each row, by looking at all."""
    return [int(np.argmin([((row - e) ** 2).sum() for e in codebook])) for row in z]


def rows(latent):
    """(B, D, h, w) -> (B h w, D) in float64."""
    return latent.detach().double().permute(0, 2, 3, 1).flatten(0, 2).numpy()


@equation("vqvae", 1)
def nearest_code():
    quantizer, latent = VectorQuantizer(7, 3), 0.1 * torch.randn(2, 3, 2, 2)
    codebook, quantized = quantizer.codebook().detach().double().numpy(), quantizer(latent)
    codes = search(rows(latent), codebook)
    yield codes, quantized.codes[0].flatten()
    yield codebook[codes], rows(quantized.latent)


@equation("vqvae", 2)
def straight():
    (z, _), (e, value) = numbers(5, 3), numbers(5, 3)
    z.requires_grad_()
    weights = torch.randn(5, 3)
    quantized = straight_through(z, e)
    (quantized * weights).sum().backward()
    assert torch.equal(quantized.detach(), e)  # to the bit
    yield value, quantized
    yield weights.numpy(), z.grad


@equation("vqvae", 3)
def three_terms():
    beta, quantizer = 0.3, VectorQuantizer(7, 3, commitment_weight=0.3)
    latent = 0.1 * torch.randn(1, 3, 2, 2)
    z, codebook = rows(latent), quantizer.codebook().detach().double().numpy()
    distance = np.mean((z - codebook[search(z, codebook)]) ** 2)
    yield distance + beta * distance, quantizer(latent).loss
    for weights, moved in (((1.0, 0.0), "codebook"), ((0.0, 1.0), "latent")):
        latent.requires_grad_()
        one = VectorQuantizer(7, 3, *weights)
        one(latent).loss.backward()
        gradients = {"codebook": one.embedding.weight.grad, "latent": latent.grad}
        latent = latent.detach()
        assert [name for name, grad in gradients.items() if grad is not None and grad.any()] == [
            moved
        ]


@equation("vqvae", 4)
def moving_average():
    quantizer, latent = EMAQuantizer(5, 3, decay=0.9).train(), torch.randn(2, 3, 4, 4)
    codebook = quantizer.codebook().detach().double().numpy().copy()
    z = rows(latent)
    codes = np.array(search(z, codebook))
    quantizer(latent)
    for j in range(5):
        count = 0.9 + 0.1 * (codes == j).sum()
        total = 0.9 * codebook[j] + 0.1 * z[codes == j].sum(axis=0)
        yield total / count, quantizer.codebook()[j]


@equation("vqvae", 5)
def code_bits():
    quantizer = VectorQuantizer(512, 4)
    grid = quantizer.grids(32, 32)[0]
    yield 9216, grid[0] * grid[1] * math.log2(quantizer.num_codes[0])
    yield 42.7, round(128 * 128 * 3 * 8 / 9216, 1)


# VQ-VAE-2


def hierarchy():
    quantizers = [VectorQuantizer(5, 4), VectorQuantizer(6, 4)]
    return VQVAE2(8, 4, quantizers, blocks=1, halvings=1).eval()


@equation("vqvae2", 1)
def coarse_first():
    model, image = hierarchy(), torch.rand(1, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        fine = model.encoders[0](image)
        coarse = model.encoders[1](fine)
        e_t = model.levels[0](model.project[0](coarse)).latent
        beside = torch.cat([fine, model.context[0](e_t)], dim=1)
        e_b = model.levels[1](model.project[1](beside)).latent
        ours = model.decoder(torch.cat([model.up[0](e_t), e_b], dim=1))
        yield ours.numpy(), model(image).image


@equation("vqvae2", 2)
def two_priors():
    shape = {"parts": START, "grid": [2, 2]}
    top = GatedPixelCNN(1, 8, 3, num_codes=5, **shape)
    below = [*START, {"vocabulary": 5, "grid": [2, 2]}]
    bottom = GatedPixelCNN(1, 8, 3, num_codes=6, grid=[4, 4], parts=below)
    model = SecondStage(hierarchy(), Unconditional(), priors=[top, bottom]).eval()
    codes = (torch.randint(5, (2, 2, 2)), torch.randint(6, (2, 4, 4)))
    condition = model.conditioner({"count": 2})
    with torch.no_grad():
        first = model.levels[0].log_prob(codes[0], condition)
        second = model.levels[1].log_prob(codes[1], model.with_coarser(condition, codes[:1]))
        yield (first + second).numpy(), model.log_prob(codes, condition)


@equation("vqvae2", 3)
def hierarchy_bits():
    model = VQVAE2(4, 2, [VectorQuantizer(512, 4), VectorQuantizer(512, 4)], blocks=1)
    levels = zip(model.grids(256, 256), model.num_codes)
    yield 46080, sum(h * w * math.log2(k) for (h, w), k in levels)


# dVAE


@equation("dvae", 1)
def relaxation():
    quantizer = GumbelQuantizer(6, 3, hard=False, temperature=(0.7, 0.7)).train()
    latent = torch.randn(1, 3, 2, 2)
    logits = rows(quantizer.proj(latent))
    torch.manual_seed(5)
    noise = -torch.empty(1, 6, 2, 2).exponential_().log()  # as torch draws -log(-log u)
    y = softmax((logits + rows(noise)) / 0.7)
    torch.manual_seed(5)
    codebook = quantizer.codebook().detach().double().numpy()
    yield y @ codebook, rows(quantizer(latent).latent)


@equation("dvae", 2)
def temperature():
    quantizer = GumbelQuantizer(6, 3, temperature=(1.0, 1 / 16), temperature_batches=1000)
    for t in (0, 250, 1000, 5000):
        quantizer.set_step(t)
        cosine = (1 + math.cos(math.pi * min(1, t / 1000))) / 2
        yield 1 / 16 + (1 - 1 / 16) * cosine, quantizer.temperature
        yield half_cosine(1.0, 1 / 16, t, 1000), quantizer.temperature


@equation("dvae", 3)
def against_even_use():
    quantizer, latent = GumbelQuantizer(6, 3, kl_weight=1.0).eval(), torch.randn(1, 3, 2, 2)
    q = softmax(rows(quantizer.proj(latent)))
    yield np.mean([sum(p * math.log(6 * p) for p in place) for place in q]), quantizer(latent).loss
    model = DVAE(4, GumbelQuantizer(8, 32, kl_weight=6.6), LogitLaplaceLikelihood()).eval()
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    q = softmax(rows(model.quantizer.proj(model.latent(image))))
    places = sum(p * math.log(8 * p) for place in q for p in place)
    yield 6.6 * places / (16 * 16 * 3), model(image).quantizer_loss


@equation("dvae", 4)
def logit_laplace():
    likelihood, image = LogitLaplaceLikelihood(), torch.rand(1, 3, 2, 2) * 2 - 1
    parameters = torch.randn(1, 6, 2, 2)
    x = 0.8 * (image.double().numpy() + 1) / 2 + 0.1
    mu, log_b = np.split(parameters.double().numpy(), 2, axis=1)
    distance = np.abs(np.log(x / (1 - x)) - mu) / np.exp(log_b)
    ours = distance + log_b + math.log(2) + np.log(x) + np.log(1 - x)
    yield ours, likelihood.negative_log(image, parameters)


# VQ-GAN


class Roughness(nn.Module):
    """In the perceptual network's place."""

    def forward(self, image, output):
        return (image.diff(dim=-1) - output.diff(dim=-1)).square().mean(dim=(1, 2, 3))


def gan():
    """A VQ-GAN, its loss with a perceptual distance and a discriminator, and an image."""
    quantizer = VectorQuantizer(8, 4, normalize=True)
    model = VQGAN(8, [1, 2], quantizer, blocks=1, latent_channels=8, groups=4)
    loss = VQGANLoss("none", perceptual_weight=0.5, adversarial=0.8, adversarial_start=10)
    loss._perceptual = (Roughness(),)
    loss.discriminator.eval()
    return model.eval(), loss, torch.rand(2, 3, 32, 32) * 2 - 1


@equation("vqgan", 1)
def distance():
    model, loss, image = gan()
    output = model(image).output
    x, y = image.double().numpy(), output.detach().double().numpy()
    perceptual = np.mean((np.diff(x) - np.diff(y)) ** 2)
    yield np.abs(x - y).mean() + 0.5 * perceptual, loss.distance(image, output)[0]


@equation("vqgan", 2)
def discriminator_learns():
    (real, a), (fake, b) = numbers(2, 1, 3, 3), numbers(2, 1, 3, 3)
    yield (np.maximum(0, 1 - a).mean() + np.maximum(0, 1 + b).mean()) / 2, hinge(real, fake)


@equation("vqgan", 3)
def generator_learns():
    model, loss, image = gan()
    reconstruction = model(image)
    logits = loss.discriminator(reconstruction.output).detach().double().numpy()
    terms = loss.autoencoder(image, reconstruction, model.last_layer, 10)[1]
    yield -logits.mean(), terms["adversarial"]


@equation("vqgan", 4)
def adaptive():
    assert (DELTA, LARGEST) == (1e-4, 1e4)
    model, loss, image = gan()
    output = model(image).output
    parts = (loss.distance(image, output)[0], -loss.discriminator(output).mean())
    norms = [
        float(torch.autograd.grad(p, model.last_layer, retain_graph=True)[0].norm()) for p in parts
    ]
    terms = loss.autoencoder(image, model(image), model.last_layer, 10)[1]
    yield min(1e4, norms[0] / (norms[1] + 1e-4)), terms["adaptive_weight"]


@equation("vqgan", 5)
def all_together():
    model, loss, image = gan()
    for step, weight in ((9, 0.0), (10, 0.8)):
        total, terms = loss.autoencoder(image, model(image), model.last_layer, step)
        again = model(image)
        lam = terms["adaptive_weight"] if weight else torch.zeros(())
        parts = loss.distance(image, again.output)[0] + again.quantizer_loss
        plain = parts - weight * lam * loss.discriminator(again.output).mean()
        yield plain.detach().numpy(), total
        for name in ("decoder.conv_out.weight", "encoder.conv_in.weight"):
            parameter = model.get_parameter(name)
            code = torch.autograd.grad(total, parameter, retain_graph=True)[0]
            ours = torch.autograd.grad(plain, parameter, retain_graph=True)[0]
            yield (ours / code.abs().max()).numpy(), code / code.abs().max()


# Codebooks


@equation("codebooks", 1)
def perplexity():
    codes = np.array([[[0, 0], [0, 2]], [[0, 3], [3, 0]]])
    shares = [n / 8 for n in (5, 1, 2)]
    figures = usage(codes, 4, seed=0)
    yield math.exp(-sum(p * math.log(p) for p in shares)), figures["perplexity"].value
    yield 3 / 4, figures["used"].value


@equation("codebooks", 2)
def on_the_sphere():
    quantizer, latent = VectorQuantizer(7, 3, normalize=True), torch.randn(1, 3, 2, 2)
    z, e = rows(latent), quantizer.embedding.weight.detach().double().numpy()
    cosine = z @ e.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(e, axis=1)
    codes = quantizer(latent).codes[0].flatten()
    yield cosine.argmax(axis=1), codes
    quantizer = VectorQuantizer(7, 3, 1.0, 0.0, normalize=True)
    quantizer.load_state_dict({"embedding.weight": torch.from_numpy(e).float()})
    yield np.mean(2 - 2 * cosine.max(axis=1)) / 3, quantizer(latent).loss


@equation("codebooks", 3)
def scalar_levels():
    quantizer, latent = FSQ([5, 3, 7]), 2 * torch.randn(1, 3, 2, 2)
    for z, code in zip(rows(latent), quantizer(latent).codes[0].flatten()):
        digits = [
            round((L - 1) * (1 + 1e-3) / 2 * math.tanh(x)) + (L - 1) // 2
            for L, x in zip((5, 3, 7), z)
        ]
        yield digits[0] + digits[1] * 5 + digits[2] * 15, code


@equation("codebooks", 4)
def signs():
    quantizer, latent = LFQ(4), torch.randn(1, 4, 2, 2)
    quantized = quantizer(latent)
    z = rows(latent)
    yield np.sign(z), rows(quantized.latent)
    yield [sum(2**j for j in range(4) if row[j] > 0) for row in z], quantized.codes[0].flatten()


@equation("codebooks", 5)
def entropy_term():
    quantizer = LFQ(3, commitment_weight=0.0, entropy_weight=1.0, temperature=1.5)
    latent = torch.randn(1, 3, 2, 2)
    corners = np.array([[2 * (k >> j & 1) - 1 for j in range(3)] for k in range(8)])
    squares = ((rows(latent)[:, None] - corners) ** 2).sum(axis=-1)
    p = softmax(-squares / 1.5)

    def nats(q):
        return -(q * np.log(q)).sum(axis=-1)

    yield nats(p).mean() - nats(p.mean(axis=0)), quantizer(latent).loss


@equation("codebooks", 6)
def one_map():
    quantizer = SimVQ(6, 3)
    weight, bias, basis = (
        t.detach().double().numpy()
        for t in (quantizer.map.weight, quantizer.map.bias, quantizer.basis)
    )
    yield [weight @ b + bias for b in basis], quantizer.codebook()


@equation("codebooks", 7)
def residuals():
    parts = [VectorQuantizer(4, 3), VectorQuantizer(5, 3), VectorQuantizer(6, 3)]
    quantizer, latent = ResidualQuantizer(parts), torch.randn(1, 3, 2, 2)
    rest, total = rows(latent), 0.0
    quantized = quantizer(latent)
    for part, codes in zip(parts, quantized.codes):
        codebook = part.codebook().detach().double().numpy()
        k = search(rest, codebook)
        yield k, codes.flatten()
        total, rest = total + codebook[k], rest - codebook[k]
    yield total, rows(quantized.latent)


@equation("codebooks", 8)
def rotation():
    (z, a), (e, b) = numbers(1, 3), numbers(1, 3)
    z.requires_grad_()
    (gradient,) = (weights := torch.randn(1, 3)).double().numpy()
    rotated(z, e).mul(weights).sum().backward()
    u, v = a[0] / np.linalg.norm(a), b[0] / np.linalg.norm(b)
    axis = np.cross(u, v)  # R by the formula of Rodrigues
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + cross + cross @ cross / (1 + u @ v)
    scale = np.linalg.norm(b) / np.linalg.norm(a)
    yield scale * turn @ a[0], rotated(z, e)[0]
    yield scale * turn.T @ gradient, z.grad[0]


# PixelCNN, PixelSNAIL


def start_condition(count):
    return Unconditional()({"count": count})


@equation("pixelcnn", 1)
def gate():
    layer = GatedLayer(4, 3, first=False, dropout=0.0)
    x, h = torch.randn(1, 4, 2, 5), torch.randn(1, 4, 1, 5)  # the rows that a kernel of 3 reaches
    with torch.no_grad():
        value, valve = layer.vertical(F.pad(x, (1, 1))).chunk(2, dim=1)
        value_h, valve_h = layer.condition_vertical(h).chunk(2, dim=1)
        code = layer.row(x, h)[1]
    a, b = ((p + q).double().numpy() for p, q in ((value, value_h), (valve, valve_h)))
    yield np.tanh(a) / (1 + np.exp(-b)), code


@equation("pixelcnn", 2)
def sums_to_one():
    grids = torch.tensor(list(itertools.product((0, 1), repeat=4))).view(-1, 2, 2)
    shape = {"num_codes": 2, "grid": [2, 2], "parts": START}
    for prior in (GatedPixelCNN(2, 8, 3, **shape), PixelSNAIL(1, 1, 8, **shape)):
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            yield 1.0, prior.eval().log_prob(grids, start_condition(16)).exp().sum()


# Transformer


@equation("transformer", 1)
def chain_rule():
    prior = GPT(2, 2, 8, num_codes=5, grid=[2, 3], parts=START).eval()
    codes, condition = torch.randint(5, (1, 2, 3)), start_condition(1)
    flat, total = codes.flatten().tolist(), 0.0
    decoder = prior.decoder(condition, (2, 3))
    with torch.no_grad():
        for code in flat:  # one code after another, none seen before its turn
            logits = decoder.logits()[0].double().numpy()
            total += math.log(softmax(logits)[code])
            if decoder.position < 5:
                decoder.extend(torch.tensor([[code]]))
        yield [total], prior.log_prob(codes, condition)


@equation("transformer", 2)
def unigram():
    shares = [n / 8 for n in (5, 1, 2)]
    yield -sum(p * math.log(p) for p in shares), entropy(np.array([5.0, 0.0, 1.0, 2.0]))


@equation("transformer", 3)
def attention():
    layer, x = SelfAttention(6, 2, 0.0), torch.randn(1, 4, 6)
    weight, bias = (p.detach().double().numpy() for p in (layer.qkv.weight, layer.qkv.bias))
    q, k, v = np.split(x[0].double().numpy() @ weight.T + bias, 3, axis=1)
    out = np.zeros((4, 6))
    for head in (slice(0, 3), slice(3, 6)):
        for i in range(4):
            scores = [q[i, head] @ k[j, head] / math.sqrt(3) for j in range(i + 1)]
            out[i, head] = softmax(np.array(scores)) @ v[: i + 1, head]
    weight, bias = (p.detach().double().numpy() for p in (layer.proj.weight, layer.proj.bias))
    yield out @ weight.T + bias, layer(x)[0]


@equation("transformer", 4)
def top_p():
    (logits, l) = numbers(6)
    p = softmax(l)
    order = list(np.argsort(-p))
    size = next(n for n in range(1, 7) if p[order[:n]].sum() >= 0.8)
    yield sorted(order[:size]), filter_logits(logits, top_p=0.8).isfinite().nonzero().flatten()


@equation("transformer", 5)
def guidance():
    (conditioned, a), (null, b) = numbers(5), numbers(5)
    yield b + 3.0 * (a - b), guided(conditioned, null, 3.0)
    yield a, guided(conditioned, null, 1.0)


@equation("transformer", 6)
def window():
    for size, n in ((40, 16), (20, 16), (17, 4)):
        ours = [min(max(i - n // 2, 0), size - n) for i in range(size)]
        yield ours, [origin(i, size, n) for i in range(size)]
