import copy

import pytest
import torch
from torch import nn

from taming import config
from taming.errors import UserError
from taming.first_stage import (
    VQGAN,
    LikelihoodLoss,
    MaskLoss,
    PatchDiscriminator,
    VectorQuantizer,
    VQGANLoss,
    losses,
)
from taming.first_stage.interface import Reconstruction
from taming.first_stage.losses import DELTA


def model_and_loss(**options):
    torch.manual_seed(0)
    model = VQGAN(8, [1, 2], VectorQuantizer(16, 4), blocks=1, latent_channels=8)
    return model, VQGANLoss("none", discriminator=PatchDiscriminator(width=8, layers=2), **options)


def published_gradients(model, loss, image, weight):
    """The published way: two backward passes to the last layer, then one through everything."""
    reconstruction = model(image)
    nll = (image - reconstruction.output).abs().mean()
    adversarial = -loss.discriminator(reconstruction.output).mean()
    norms = [
        torch.autograd.grad(t, model.last_layer, retain_graph=True)[0].norm()
        for t in (nll, adversarial)
    ]
    adaptive = (norms[0] / (norms[1] + DELTA)).clamp(0, 1e4).detach()
    total = nll + adaptive * weight * adversarial + reconstruction.quantizer_loss
    return total, adaptive, torch.autograd.grad(total, list(model.parameters()))


@pytest.mark.parametrize("form", ["hinge", "vanilla"])
def test_one_backward_pass_gives_the_published_gradients(form):
    model, loss = model_and_loss(adversarial=0.8, form=form)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    total, adaptive, gradients = published_gradients(model, loss, image, 0.8)
    ours, terms = loss.autoencoder(image, model(image), model.last_layer, step=0)
    assert torch.allclose(ours, total, rtol=1e-5)
    assert torch.allclose(terms["adaptive_weight"], adaptive, rtol=1e-5)
    largest = max(g.abs().max() for g in gradients)
    for a, b in zip(torch.autograd.grad(ours, list(model.parameters())), gradients):
        assert (a - b).abs().max() <= 1e-5 * largest


def test_the_generators_step_leaves_no_gradient_in_the_discriminator():
    model, loss = model_and_loss()
    image = torch.rand(2, 3, 16, 16)
    loss.autoencoder(image, model(image), model.last_layer, step=0)[0].backward()
    assert all(p.grad is None for p in loss.discriminator.parameters())


def test_the_discriminators_step_leaves_no_gradient_in_the_generator():
    model, loss = model_and_loss()
    image = torch.rand(2, 3, 16, 16)
    loss.adversary(image, model(image).output)[0].backward()
    assert all(p.grad is None for p in model.parameters()) and all(
        p.grad is not None for p in loss.discriminator.parameters()
    )


def test_start_and_ramp_in_batches_or_as_a_share_of_the_run():
    loss = VQGANLoss("none", adversarial=1.0, adversarial_start=10, adversarial_ramp=3)
    assert [loss.adversary_weight(s) for s in (0, 9, 10, 11, 12, 13, 99)] == [
        0,
        0,
        0.25,
        0.5,
        0.75,
        1,
        1,
    ]
    share = VQGANLoss("none", adversarial_start=0.25)
    share.set_length(400)
    assert share.adversary_weight(99) == 0 and share.adversary_weight(100) > 0


def test_before_the_start_the_loss_is_reconstruction_alone():
    model, loss = model_and_loss(adversarial_start=5)
    image = torch.rand(2, 3, 16, 16)
    reconstruction = model(image)
    total, terms = loss.autoencoder(image, reconstruction, model.last_layer, step=4)
    assert (
        torch.allclose(
            total, (image - reconstruction.output).abs().mean() + reconstruction.quantizer_loss
        )
        and "adversarial" not in terms
    )


def test_perceptual_weights_stay_out_of_the_checkpoint_and_out_of_train_mode():
    loss = VQGANLoss("stlpips").train()
    assert not loss.perceptual.training and not any(
        p.requires_grad for p in loss.perceptual.parameters()
    )
    assert not any("perceptual" in name for name in loss.state_dict())


def test_mask_losses_are_the_textbook_ones():
    labels, logits = torch.randint(0, 5, (2, 4, 4)), torch.randn(2, 5, 4, 4)
    reconstruction = Reconstruction(logits, logits, (), torch.zeros(()))
    chosen = logits.log_softmax(1).gather(1, labels[:, None])
    assert torch.allclose(
        MaskLoss().autoencoder(labels, reconstruction, None, 0)[0], -chosen.mean()
    )
    onehot = nn.functional.one_hot(labels, 5).permute(0, 3, 1, 2).float()
    by_hand = -(
        onehot * logits.sigmoid().log() + (1 - onehot) * (1 - logits.sigmoid()).log()
    ).mean()
    assert torch.allclose(
        MaskLoss("bce").autoencoder(labels, reconstruction, None, 0)[0], by_hand, atol=1e-5
    )


@pytest.mark.parametrize(
    "loss, image, words",
    [
        (lambda: MaskLoss(), torch.rand(1, 3, 8, 8), "MaskLoss compares label maps"),
        (lambda: MaskLoss("bce"), torch.rand(1, 3, 8, 8), "MaskLoss compares label maps"),
        (lambda: VQGANLoss("none"), torch.zeros(1, 8, 8).long(), "take MaskLoss"),
        (lambda: LikelihoodLoss(), torch.zeros(1, 8, 8).long(), "take MaskLoss"),
    ],
)
def test_a_loss_for_other_inputs_is_refused(loss, image, words):
    output = torch.rand(1, 3, 8, 8)
    reconstruction = Reconstruction(output, output, (), torch.zeros(()))
    with pytest.raises(UserError, match=words):
        loss().autoencoder(image, reconstruction, nn.Parameter(output), 0)


def test_a_loss_without_adversarial_part_needs_no_discriminator():
    loss = VQGANLoss("none", adversarial=0, discriminator=PatchDiscriminator(width=4))
    assert loss.discriminator is None and loss.adversary_weight(10**9) == 0
    assert not loss.state_dict()


@pytest.mark.parametrize(
    "image, words",
    [
        (torch.rand(1, 3, 8, 8), "layers: 3 need pictures of at least 24x24, not 8x8"),
        (torch.rand(1, 3, 23, 64), "at least 24x24"),
        (torch.rand(1, 1, 64, 64), "in_channels: 3, but the pictures have 1"),
    ],
)
def test_a_discriminator_for_other_pictures_is_refused(image, words):
    with pytest.raises(UserError, match=words):
        PatchDiscriminator()(image)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_picture_of_a_discriminator_is_one_patch(layers):
    smallest = torch.rand(1, 3, 3 * 2**layers, 3 * 2**layers)
    assert PatchDiscriminator(width=4, layers=layers)(smallest).shape == (1, 1, 1, 1)


OLD = {"perceptual": "none", "width": 8, "layers": 2, "normalization": "act", "in_channels": 1}
NODE = {"target": "taming.first_stage.PatchDiscriminator", "params": {"width": 4, "layers": 3}}


@pytest.mark.parametrize(
    "params, expected",
    [
        (OLD, {"width": 8, "layers": 2, "normalization": "act", "in_channels": 1}),
        ({"layers": 1}, {"layers": 1}),
        ({"discriminator": NODE, "layers": 1}, {"width": 4, "layers": 1}),  # a command line's
        ({"discriminator": NODE}, {"width": 4, "layers": 3}),
    ],
)
def test_flat_keys_of_earlier_versions_become_the_discriminators(params, expected):
    plain = {"loss": {"target": "taming.first_stage.VQGANLoss", "params": params}}
    before = copy.deepcopy(plain)
    upgraded = config.upgrade(plain)["loss"]["params"]
    assert upgraded["discriminator"]["params"] == expected and plain == before
    assert not {"width", "layers", "normalization", "in_channels"} & upgraded.keys()


def test_a_loss_with_flat_keys_has_the_weights_names_as_ever():
    plain = {"target": "taming.first_stage.VQGANLoss", "params": OLD}
    loss = config.build(config.upgrade({"loss": plain})["loss"], place="loss")
    assert {"discriminator.main.0.weight", "discriminator.main.3.loc"} <= set(loss.state_dict())


QUANTIZER = {"target": "taming.first_stage.VectorQuantizer", "params": {"num_codes": 4, "dim": 3}}


@pytest.mark.parametrize("node", [QUANTIZER, {"target": "taming.first_stage.MaskLoss"}])
def test_what_is_no_discriminator_is_refused(node):
    params = {"perceptual": "none", "discriminator": node}
    with pytest.raises(UserError, match="discriminator: .* it should be a Discriminator, or null"):
        config.build({"target": "taming.first_stage.VQGANLoss", "params": params}, place="loss")


def test_a_seed_gives_the_discriminator_of_earlier_versions(monkeypatch):
    """The perceptual network draws its random numbers first, also where the discriminator is a
    node of its own.
    """

    def perceptual(*_):
        torch.rand(7)

    monkeypatch.setattr(losses, "perceptual_distance", perceptual)
    torch.manual_seed(3)
    node = {"target": "taming.first_stage.VQGANLoss", "params": {"discriminator": NODE}}
    weights = config.build(node, place="loss").discriminator.state_dict()
    torch.manual_seed(3)
    perceptual()
    expected = PatchDiscriminator(**NODE["params"]).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_unknown_words():
    with pytest.raises(UserError, match="did you mean 'hinge'"):
        VQGANLoss("none", form="hing")
    with pytest.raises(UserError, match="did you mean 'lpips'"):
        VQGANLoss("lpip")
    with pytest.raises(UserError, match="weights file 'nowhere.safetensors' does not exist"):
        VQGANLoss("nowhere.safetensors")


def test_lpips_without_its_weights_says_where_they_go(monkeypatch, tmp_path):
    from urllib.error import URLError

    import lpips

    def refuse(**_):
        raise URLError("no network")

    monkeypatch.setattr(lpips, "LPIPS", refuse)
    with pytest.raises(UserError, match="vgg16-397923af.pth.*stlpips"):
        VQGANLoss("lpips")


def test_a_decoder_that_shows_its_grid_is_told_so():
    """Codes of 4 x 4 pixels; a photograph has no grid, whatever its contrast."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 33, 33, generator=generator) - 0.5
    codes = (torch.zeros(4, 8, 8, dtype=torch.int64),)
    loss = VQGANLoss("none", adversarial=0, grid_weight=1.0)

    def term(output) -> torch.Tensor:
        return loss.reconstruction(image, Reconstruction(output, output, codes, 0))[1]["grid"]

    assert term(image) == 0 and term(0.3 * image) < 1e-12
    grid = (image + 0.6 * (torch.arange(33) % 4 == 0)).requires_grad_()
    visible = term(grid)
    visible.backward()
    slope = grid.grad / grid.grad.abs().max()
    assert visible > 0.01 and term((grid - 0.1 * slope).detach()) < 0.9 * visible
    without = VQGANLoss("none", adversarial=0)
    assert "grid" not in without.reconstruction(image, Reconstruction(grid, grid, codes, 0))[1]
    assert "grid" not in loss.reconstruction(image, Reconstruction(grid, grid, (), 0))[1]
