"""VAE, VQ-VAE, VQ-VAE-2 and dVAE: what each is, on shared networks."""

import math

import pytest
import torch

import taming
from taming.errors import UserError
from taming.first_stage import (
    DVAE,
    VAE,
    VQVAE,
    VQVAE2,
    EMAQuantizer,
    GaussianLikelihood,
    GumbelQuantizer,
    LikelihoodLoss,
    LogitLaplaceLikelihood,
    VectorQuantizer,
)
from taming.formats.load import read_checkpoint
from taming.second_stage import GPT, SecondStage, Unconditional
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain

NETS = {"width": 8, "residual_width": 4, "blocks": 1}


def target(name, **params):
    return {"target": f"taming.first_stage.{name}", "params": params}


def vector(codes=16, dim=4):
    return target("VectorQuantizer", num_codes=codes, dim=dim)


MODELS = {
    "vae": target("VAE", **NETS, dim=4, likelihood=target("GaussianLikelihood")),
    "vq-vae": target(
        "VQVAE", **NETS, quantizer=vector(), likelihood=target("GaussianLikelihood", variance=0.1)
    ),
    "fsq": target(
        "VQVAE",
        **NETS,
        quantizer=target("FSQ", levels=[5, 4]),
        likelihood=target("GaussianLikelihood"),
    ),
    "residual": target(
        "VQVAE",
        **NETS,
        quantizer=target("ResidualQuantizer", quantizers=[vector(), vector(8)]),
        likelihood=target("GaussianLikelihood"),
    ),
    "vq-vae-2": target(
        "VQVAE2",
        **NETS,
        quantizers=[target("EMAQuantizer", num_codes=8, dim=4, from_data=True), vector()],
        likelihood=target("GaussianLikelihood"),
    ),
    "dvae": target(
        "DVAE",
        width=4,
        blocks=1,
        quantizer=target("GumbelQuantizer", num_codes=16, dim=32, code_dim=8),
        likelihood=target("LogitLaplaceLikelihood"),
    ),
}


def images(batch=2, height=16, width=24):
    return torch.rand(batch, 3, height, width) * 2 - 1


@pytest.mark.parametrize("name", MODELS)
def test_each_is_trained_and_loaded_by_the_same_verbs(name, tmp_path):
    plain = {
        **first_stage_plain(max_steps=2, validate_every=2),
        "model": MODELS[name],
        "loss": target("LikelihoodLoss"),
    }
    last = run.train(experiment_of(plain), tmp_path / "run")
    model, again = taming.load(last), taming.load(last)
    image = images(2, 16, 16)
    assert torch.equal(model(image).image, again(image).image)
    figures = read_checkpoint(last).figures
    assert math.isfinite(figures["loss"]) and math.isfinite(figures["psnr"])
    assert ("bits_per_dim" in figures) == (name != "dvae") and ("used" in figures) == (
        name != "vae"
    )


def test_the_three_terms_reach_what_they_are_for():
    """Equation 3: the likelihood trains encoder and decoder, the codebook term the codebook alone,
    the commitment the encoder alone.
    """

    def gradients(term):
        torch.manual_seed(0)
        model = VQVAE(
            **NETS,
            quantizer=VectorQuantizer(
                16,
                4,
                codebook_weight=float(term == "codebook"),
                commitment_weight=float(term == "commitment"),
            ),
            likelihood=GaussianLikelihood(0.1),
        )
        result = model(images())
        loss, _ = LikelihoodLoss(weight=float(term == "likelihood")).autoencoder(
            images(), result, model.last_layer, 0
        )
        loss.backward()

        def size(part):
            gradients = (p.grad for p in part.parameters() if p.grad is not None)
            return sum(float(gradient.abs().sum()) for gradient in gradients)

        return [size(part) > 0 for part in (model.encoder, model.quantizer, model.decoder)]

    assert gradients("likelihood") == [True, False, True]
    assert gradients("codebook") == [False, True, False]
    assert gradients("commitment") == [True, False, False]


def test_the_elbo_is_likelihood_and_divergence():
    model, image = VAE(**NETS, dim=4, likelihood=GaussianLikelihood(0.1)).eval(), images()
    posterior, result = model.encode(image), model(image)
    q = torch.distributions.Normal(posterior.mean, (posterior.log_variance / 2).exp())
    kl = (
        torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    )
    assert torch.allclose(posterior.kl(), kl, rtol=1e-4)
    loss, terms = LikelihoodLoss().autoencoder(image, result, model.last_layer, 0)
    assert torch.allclose(loss, terms["nll"] + kl.mean() / image[0].numel())


def test_a_vae_draws_and_interpolates_and_has_no_codes():
    model, image = VAE(**NETS, dim=4, likelihood=GaussianLikelihood()).eval(), images()
    assert (
        torch.equal(model.sample(2, (16, 24), seed=3), model.sample(2, (16, 24), seed=3))
        and model.sample(2, (16, 24)).shape == image.shape
    )
    between = model.interpolate(image[0], image[1], 5)
    assert torch.allclose(between[[0, -1]], model.reconstruct(image), atol=1e-5)
    assert model.num_codes == () and model(image).codes == ()
    with pytest.raises(UserError, match="VAE has no codes"):
        SecondStage(
            model,
            Unconditional(),
            GPT(1, 2, 8, num_codes=16, grid=[4, 6], parts=[{"vocabulary": 1, "length": 1}]),
        )


@pytest.mark.parametrize("levels, size", [(2, (16, 24)), (2, (40, 8)), (3, (16, 48))])
def test_levels_of_a_hierarchy(levels, size):
    model = VQVAE2(
        **NETS,
        quantizers=[EMAQuantizer(8, 4), VectorQuantizer(16, 4), VectorQuantizer(32, 4)][-levels:],
        likelihood=GaussianLikelihood(),
    ).eval()
    image = images(2, *size)
    codes = model.encode(image)
    shrink = [4 * 2**i for i in reversed(range(levels))]
    assert (
        [tuple(c.shape[1:]) for c in codes]
        == [(size[0] // n, size[1] // n) for n in shrink]
        == list(model.grids(*size))
    )
    # Grids one code wide are convolved in another layout
    assert torch.allclose(model.decode(codes), model(image).image, atol=1e-6)
    for level in range(levels):  # the decoder reads every level
        changed = tuple(
            (c + 1) % model.num_codes[level] if i == level else c for i, c in enumerate(codes)
        )
        assert not torch.allclose(model.decode(changed), model.decode(codes))
    with pytest.raises(UserError, match="not divisible"):
        model.encode(
            images(1, size[0] + 4, size[1]) if levels == 2 else images(1, size[0] + 8, size[1])
        )
    with pytest.raises(UserError, match="smaller than the downsampling factor"):
        model.encode(images(1, 4, 4))


def test_one_level_is_no_hierarchy():
    with pytest.raises(ValueError, match="two or more"):
        VQVAE2(**NETS, quantizers=[VectorQuantizer(8, 4)])


def test_the_published_dvae_has_the_published_size():
    with torch.device("meta"):
        model = DVAE(256, GumbelQuantizer(8192, 2048, code_dim=128), LogitLaplaceLikelihood())
    count = lambda *parts: sum(p.numel() for part in parts for p in part.parameters()) / 1e6  # noqa: E731
    assert (
        round(count(model.encoder, model.quantizer.proj), 2) == 53.79
        and round(count(model.decoder, model.quantizer.embedding), 2) == 43.83
    )


def test_the_kl_term_is_per_position_over_the_numbers_of_the_image():
    """Beta / 192 for each position's divergence at f = 8 in colour, whatever the batch."""
    model = DVAE(
        4, GumbelQuantizer(16, 32, kl_weight=6.6, code_dim=8), LogitLaplaceLikelihood(), blocks=1
    ).eval()
    image = images(4, 16, 24)
    q = model.quantizer.proj(model.latent(image)).softmax(dim=1)
    kl = (q * (q * 16).log()).sum(dim=1)
    assert torch.allclose(model(image).quantizer_loss, 6.6 / 192 * kl.mean(), rtol=1e-4)
    assert torch.allclose(
        model(image).quantizer_loss,
        sum(model(one[None]).quantizer_loss for one in image) / 4,
        rtol=1e-5,
    )


def test_schedules_are_half_cosines():
    quantizer = GumbelQuantizer(
        8, 4, kl_weight=6.6, temperature=(1.0, 0.0625), temperature_batches=100, kl_batches=10
    )
    schedule = []
    for batch in (0, 5, 10, 50, 100, 1000):
        quantizer.set_step(batch)
        schedule.append((round(quantizer.temperature, 4), round(quantizer.kl_weight, 4)))
    assert schedule[0] == (1.0, 0.0) and schedule[1][1] == 3.3 and schedule[2][1] == 6.6
    assert schedule[3] == (round((1 + 0.0625) / 2, 4), 6.6) and schedule[4] == schedule[5] == (
        0.0625,
        6.6,
    )


def test_tokens_of_a_dvae_are_free_of_noise():
    model, image = (
        DVAE(4, GumbelQuantizer(16, 32, code_dim=8), LogitLaplaceLikelihood(), blocks=1).train(),
        images(),
    )
    assert torch.equal(model.encode(image)[0], model.encode(image)[0]) and model.training
    assert not torch.equal(model(image).codes[0], model(image).codes[0])


@pytest.mark.parametrize("kind", [EMAQuantizer, VectorQuantizer])
def test_codes_that_begin_as_data_are_all_near_it(kind):
    quantizer, z = kind(16, 4, from_data=True).train(), torch.randn(2, 4, 8, 8) + 50
    assert len(quantizer(z).codes[0].unique()) > 8  # from around 0, all would fall to one or two
    copy = kind(16, 4, from_data=True)
    copy.load_state_dict(quantizer.state_dict())
    before = copy.embedding.weight.detach().clone()
    copy.train()(z)  # does not begin anew
    assert (copy.embedding.weight - before).abs().max() < 1


def test_the_quantizer_of_a_dvae_takes_what_its_encoder_gives():
    with pytest.raises(ValueError, match="make them equal"):
        DVAE(4, GumbelQuantizer(16, 4), LogitLaplaceLikelihood())


def test_a_likelihood_loss_needs_a_likelihood():
    model = VQVAE(**NETS, quantizer=VectorQuantizer(8, 4))
    with pytest.raises(UserError, match="likelihood"):
        LikelihoodLoss().autoencoder(images(), model(images()), model.last_layer, 0)
