"""Our networks with the published weights give the published values (../shared/golden)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from taming.first_stage import (
    VQGAN,
    MaskLoss,
    MaskVQGAN,
    PatchDiscriminator,
    VectorQuantizer,
    VQGANLoss,
)


def golden(shared, name):
    return load_file(shared / "golden" / f"{name}.safetensors"), json.loads(
        (shared / "golden" / f"{name}.json").read_text()
    )


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def weights(tensors):
    return {
        k.removeprefix("sd.").replace("quantize.", "quantizer.", 1): v
        for k, v in tensors.items()
        if k.startswith("sd.") and not k.startswith(("sd.loss.", "sd.colorize"))
    }


def built(shared, name, network=VQGAN, **options):
    tensors, about = golden(shared, name)
    shape = about["ddconfig"]
    quantizer = VectorQuantizer(
        about["n_embed"], about["embed_dim"], codebook_weight=0.25, commitment_weight=1.0
    )
    model = network(
        channels=shape["ch"],
        multipliers=shape["ch_mult"],
        quantizer=quantizer,
        blocks=shape["num_res_blocks"],
        attention=[2],
        latent_channels=shape["z_channels"],
        **options,
    )
    model.load_state_dict(weights(tensors))
    return model, tensors


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_autoencoder(shared, shape):
    model, tensors = built(shared, "vqmodel")
    expected = {
        k.removeprefix(f"{shape}."): v for k, v in tensors.items() if k.startswith(f"{shape}.")
    }
    with torch.no_grad():
        reconstruction = model.eval()(expected["x"])
        latent = model.quant_conv(model.encoder(expected["x"]))
    assert relative(latent, expected["prequant"]) < 1e-5
    assert torch.equal(reconstruction.codes[0].flatten(), expected["indices"])
    assert relative(reconstruction.image, expected["reconstruction"]) < 1e-5
    assert relative(reconstruction.quantizer_loss, expected["codebook_loss_legacy"]) < 1e-5


def test_mask_tokenizer(shared):
    model, tensors = built(shared, "segmentation_vqmodel", MaskVQGAN, labels=12)
    with torch.no_grad():
        reconstruction = model.eval()(tensors["labels"].long())
        total, terms = MaskLoss("bce").autoencoder(
            tensors["labels"].long(), reconstruction, None, 0
        )
    assert torch.equal(reconstruction.codes[0].flatten(), tensors["indices"])
    assert relative(reconstruction.output, tensors["logits"]) < 1e-5
    assert (
        relative(terms["bce"], tensors["bce_loss"]) < 1e-5
        and relative(total, tensors["total_loss"]) < 1e-5
    )


@pytest.mark.parametrize(
    "name, form, weight, layers",
    [("hinge_after_start", "hinge", 0.8, 2), ("vanilla", "vanilla", 0.5, 3)],
)
def test_losses_adaptive_weight_and_gradients(shared, name, form, weight, layers):
    model, _ = built(shared, "vqmodel")
    tensors, _ = golden(shared, "losses")
    loss = VQGANLoss(
        "none", adversarial=weight, form=form, discriminator=PatchDiscriminator(3, 16, layers)
    )
    prefix = f"{form}.disc."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    loss.discriminator.load_state_dict({**loss.discriminator.state_dict(), **state})
    model.train(), loss.train()
    reconstruction = model(tensors["x"])
    total, terms = loss.autoencoder(tensors["x"], reconstruction, model.last_layer, 10)
    gradients = torch.autograd.grad(total, [model.last_layer, model.encoder.conv_in.weight])
    # Theirs includes the weight
    assert relative(weight * terms["adaptive_weight"], tensors[f"{name}.d_weight"]) < 1e-5
    assert relative(terms["adversarial"], tensors[f"{name}.g_loss"]) < 1e-5
    assert relative(total.detach(), tensors[f"{name}.generator_loss"]) < 1e-5
    assert relative(gradients[0], tensors[f"{name}.grad_last_layer"]) < 1e-5
    assert relative(gradients[1], tensors[f"{name}.grad_conv_in"]) < 1e-5
    assert (
        relative(
            loss.adversary(tensors["x"], reconstruction.output)[0].detach(),
            tensors[f"{name}.discriminator_loss"],
        )
        < 1e-5
    )


def test_before_the_discriminator_starts(shared):
    model, _ = built(shared, "vqmodel")
    tensors, _ = golden(shared, "losses")
    loss = VQGANLoss("none", adversarial=0.8, adversarial_start=10)
    total, terms = loss.autoencoder(tensors["x"], model(tensors["x"]), model.last_layer, 5)
    gradients = torch.autograd.grad(total, [model.last_layer, model.encoder.conv_in.weight])
    assert relative(total.detach(), tensors["hinge_before_start.generator_loss"]) < 1e-5
    assert relative(gradients[0], tensors["hinge_before_start.grad_last_layer"]) < 1e-5
    assert relative(gradients[1], tensors["hinge_before_start.grad_conv_in"]) < 1e-5
    # Nothing of it is even computed
    assert tensors["hinge_before_start.discriminator_loss"] == 0 and "adversarial" not in terms
