import torch
import torch.nn.functional as F

from taming.first_stage.quantizers import VectorQuantizer, nearest


def test_every_latent_goes_to_its_nearest_code_whatever_the_offset():
    for offset in (0.0, 10.0, 100.0):
        z, e = torch.randn(300, 8) + offset, torch.randn(50, 8) + offset
        brute = (z.double()[:, None] - e.double()[None]).square().sum(-1).argmin(1)
        assert torch.equal(nearest(z, e), brute)


def test_search_is_float32_under_autocast():
    z, e = torch.randn(300, 8) + 10, torch.randn(50, 8) + 10
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(z, e), (z[:, None] - e[None]).square().sum(-1).argmin(1))


def test_straight_through_is_exact_in_value_and_gradient():
    quantizer = VectorQuantizer(16, 4)
    z = torch.randn(2, 4, 3, 5, requires_grad=True)
    quantized = quantizer(z)
    assert torch.equal(quantized.latent, quantizer.embed(quantized.codes))
    quantized.latent.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert quantizer.embedding.weight.grad is None  # the picture does not teach the codebook


def test_each_weight_acts_on_one_term():
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    only_codebook = VectorQuantizer(16, 4, codebook_weight=1.0, commitment_weight=0.0)
    only_codebook(z).loss.backward()
    assert not z.grad.any() and only_codebook.embedding.weight.grad.any()
    z.grad = None
    only_commitment = VectorQuantizer(16, 4, codebook_weight=0.0, commitment_weight=1.0)
    only_commitment(z).loss.backward()
    assert z.grad.any() and not only_commitment.embedding.weight.grad.any()


def test_loss_value():
    quantizer = VectorQuantizer(16, 4, codebook_weight=0.25, commitment_weight=1.0)
    z = torch.randn(2, 4, 3, 3)
    quantized = quantizer(z)
    assert torch.allclose(quantized.loss, 1.25 * F.mse_loss(z, quantized.latent))


def test_normalised_codes_lie_on_the_sphere():
    quantizer = VectorQuantizer(16, 4, normalize=True)
    latent = quantizer(5 * torch.randn(2, 4, 3, 3)).latent
    assert torch.allclose(latent.norm(dim=1), torch.ones(2, 3, 3))


def test_dead_codes_are_restarted_on_latents_of_the_batch():
    quantizer = VectorQuantizer(8, 2, restart=3).train()
    with torch.no_grad():
        quantizer.embedding.weight[0], quantizer.embedding.weight[1:] = 0.0, 100.0
    z = 0.1 * torch.randn(4, 2, 4, 4)
    for _ in range(5):
        assert (quantizer(z).codes[0] == 0).all()
    quantizer(z)
    restarted = quantizer.embedding.weight[1:]
    latents = z.permute(0, 2, 3, 1).flatten(0, 2)
    assert ((restarted[:, None] - latents[None]).abs().sum(-1).min(dim=1).values == 0).all()
    assert len(quantizer(z).codes[0].unique()) > 1


def test_restart_is_for_training_only():
    quantizer = VectorQuantizer(8, 2, restart=1).eval()
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    for _ in range(3):
        quantizer(torch.randn(1, 2, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
