"""What IBQ and the quantizer of scales are for: every code gets a gradient; coarse grids first."""

import torch
import torch.nn.functional as F

from taming.first_stage import IBQ, VQGAN, MultiScaleQuantizer
from taming.first_stage.quantizers import nearest
from taming.second_stage import GPT, SecondStage, Unconditional


def test_the_largest_product_is_not_the_nearest():
    quantizer = IBQ(2, 1)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[1.0], [10.0]]))
    z = torch.full((1, 1, 1, 1), 1.1)
    assert quantizer(z).codes[0].item() == 1
    assert nearest(z.view(1, 1), quantizer.codebook()).item() == 0


def test_every_code_gets_a_gradient_and_the_value_is_the_codes():
    quantizer = IBQ(16, 4, entropy_weight=0.0).train()
    z = torch.randn(2, 4, 3, 5, requires_grad=True)
    quantized = quantizer(z)
    assert torch.equal(quantized.latent, quantizer.embed(quantized.codes))
    (quantized.latent * torch.randn(2, 4, 3, 5)).sum().backward()
    gradient = quantizer.embedding.weight.grad
    assert (gradient.abs().sum(dim=1) > 0).all() and z.grad.any()


def test_its_gradient_is_the_published_one():
    """Of onehot + p - sg[p] times the codebook, as in the paper's equation 4."""
    quantizer, z = IBQ(8, 4, entropy_weight=0.0).train(), torch.randn(1, 4, 2, 3)
    direction = torch.randn(1, 4, 2, 3)
    gradients = []
    for published in (False, True):
        quantizer.zero_grad()
        x, book = z.clone().requires_grad_(), quantizer.embedding.weight
        if published:
            logits = torch.einsum("bdhw,kd->bkhw", x, book)
            p = logits.softmax(dim=1)
            hard = F.one_hot(logits.argmax(dim=1), 8).permute(0, 3, 1, 2).float()
            latent = torch.einsum("bkhw,kd->bdhw", hard - p.detach() + p, book)
        else:
            latent = quantizer(x).latent
        (latent * direction).sum().backward()
        gradients.append((x.grad.clone(), book.grad.clone()))
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, atol=1e-6)


def test_scales_lie_on_their_own_grids():
    quantizer = MultiScaleQuantizer(16, 4, [1, 2, 4])
    assert quantizer.grids(4, 4) == ((1, 1), (2, 2), (4, 4))
    assert quantizer.grids(4, 6) == ((1, 2), (2, 3), (4, 6))
    model = VQGAN(8, [1, 2], quantizer, blocks=1, latent_channels=4).eval()
    codes = model.encode(torch.rand(2, 3, 8, 12) * 2 - 1)
    assert [tuple(level.shape) for level in codes] == [(2, 1, 2), (2, 2, 3), (2, 4, 6)]
    assert model.decode(codes).shape == (2, 3, 8, 12)


def test_the_coarsest_code_says_the_mean_and_each_finer_one_what_is_missing():
    quantizer, z = MultiScaleQuantizer(16, 4, [1, 2, 4]).eval(), torch.randn(2, 4, 4, 4)
    quantized = quantizer(z)
    mean = z.mean(dim=(2, 3))
    assert torch.equal(quantized.codes[0].flatten(), nearest(mean, quantizer.codebook()))
    coarser = quantizer._part(quantized.codes[0], 0, (4, 4)) + quantizer._part(
        quantized.codes[1], 1, (4, 4)
    )
    rest = (z - coarser).permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.equal(quantized.codes[2].flatten(), nearest(rest, quantizer.codebook()))


def test_priors_over_scales():
    """Each scale is a level: its prior reads the coarser ones."""
    first = VQGAN(8, [1, 2], MultiScaleQuantizer(16, 4, [1, 2, 4]), blocks=1, latent_channels=4)
    priors = [GPT(1, 2, 16) for _ in range(3)]
    model = SecondStage(first, Unconditional(), priors=priors, size=8).eval()
    codes = model.encode(torch.rand(1, 3, 8, 8) * 2 - 1)
    with torch.no_grad():
        assert model.log_prob(codes, model.conditioner({"count": 1})).item() < 0
    assert model.sample({"count": 1}, seed=1).shape == (1, 3, 8, 8)
