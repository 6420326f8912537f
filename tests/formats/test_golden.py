"""Parts of published models give, here, the values that they gave there (golden/,
../shared/golden).
"""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taming import config
from taming.errors import UserError
from taming.first_stage import (
    VQGAN,
    GumbelQuantizer,
    PatchDiscriminator,
    RemappedQuantizer,
    VectorQuantizer,
)
from taming.formats.compvis import CompVisGPT
from taming.formats.compvis.config import translate
from taming.formats.compvis.names import ORDERS
from taming.formats.compvis.weights import rename_weights
from taming.second_stage import GPT, ClassLabel, Coordinates, Part, Unconditional, orders, sample
from taming.training.second_stage import decay_groups
from tests.formats.golden_values import golden, relative


def prior_of(name, parts, **options):
    """The golden prior `name`, and its tensors."""
    tensors, sizes = golden(name)
    shape = {
        "layers": sizes["n_layer"],
        "heads": sizes["n_head"],
        "width": sizes["n_embd"],
        "positions": sizes["block_size"],
    }
    prior = CompVisGPT(
        num_codes=64,
        grid=[8, 8],
        parts=parts,
        shared_vocabulary=sizes["vocab_size"],
        **shape,
        **options,
    )
    node = {
        "params": {
            "prior": {
                "params": {"unmasked": 0, "grid": [8, 8], "order": options.get("order", "raster")}
            }
        }
    }
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    renamed = rename_weights(state, name, True, {"model": node})
    prior.load_state_dict({k.removeprefix("priors.0."): v for k, v in renamed.weights.items()})
    return prior.eval(), tensors


def permuted(tokens, prior):
    """A sequence in the order that the prior reads -> the raster."""
    order = torch.arange(64) if prior.permutation is None else prior.permutation
    raster = torch.empty_like(tokens)
    raster[:, order] = tokens
    return raster.view(-1, 8, 8)


CONDITIONED = {
    "class_transformer": (
        [{"vocabulary": 10, "length": 1}],
        {"order": "subsample"},
        lambda t: ClassLabel(10)({"class": t["cond"]}),
    ),
    "unconditional_transformer": (
        [{"vocabulary": 6, "length": 1}],
        {},
        lambda t: Unconditional(5)({"count": 2}),
    ),
    "segmentation_transformer": (
        [{"vocabulary": 32, "grid": [8, 8]}],
        {},
        lambda t: (Part(t["c_indices"], 32, (8, 8)),),
    ),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_prior_logits_loss_and_greedy_samples(name):
    parts, options, make = CONDITIONED[name]
    prior, tensors = prior_of(name, parts, **options)
    condition = make(tensors)
    assert torch.equal(condition[0].tokens, tensors["c_indices"])
    codes = permuted(tensors["z_indices"], prior)
    order = torch.arange(64) if prior.permutation is None else prior.permutation
    with torch.no_grad():
        logits = prior(codes, condition).flatten(1, 2)[:, order]
        loss = -prior.log_prob(codes, condition).mean() / 64
    assert relative(logits, tensors["logits"]) < 1e-5
    assert relative(loss, tensors["loss"][0]) < 1e-5
    assert torch.equal(
        sample(prior, condition, (8, 8), temperature=0).flatten(1)[:, order], tensors["greedy"]
    )
    first_half = permuted((torch.arange(64) < 32).expand(2, -1), prior)
    completed = sample(prior, condition, (8, 8), temperature=0, known=(codes, first_half)).flatten(
        1
    )[:, order]
    assert torch.equal(completed, tensors["greedy_from_half"])


def test_training_steps_of_the_one_tied_table():
    parts, options, make = CONDITIONED["class_transformer"]
    prior, tensors = prior_of("class_transformer", parts, **options)
    expected, _ = golden("prior_training")
    condition, codes = make(tensors), permuted(tensors["z_indices"], prior)
    optimizer = torch.optim.AdamW(
        [{**g, "weight_decay": g.get("weight_decay", 0.01)} for g in decay_groups(prior)],
        lr=1e-3,
        betas=(0.9, 0.95),
    )
    prior.train()
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(
            prior(codes, condition).flatten(0, 2), codes.flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(abs(a - b) / b for a, b in zip(losses, expected["losses"].tolist())) < 1e-5
    final = {
        f"transformer.{k.removeprefix('final.')}": v
        for k, v in expected.items()
        if k.startswith("final.")
    }
    node = {"model": {"params": {"prior": {"params": {"unmasked": 0, "order": "raster"}}}}}
    expected = rename_weights(final, "golden", True, node).weights
    for name, tensor in prior.state_dict().items():
        if name != "permutation":
            assert relative(tensor, expected[f"priors.0.{name}"]) < 1e-4, name


def test_discriminators():
    tensors, _ = golden("extras")
    for name, layers, normalization in (
        ("patchgan2_actnorm", 2, "act"),
        ("patchgan3_batchnorm", 3, "batch"),
    ):
        network = PatchDiscriminator(3, 16, layers, normalization)
        prefix = f"{name}.sd."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        with torch.no_grad():
            assert (
                relative(network.eval()(tensors[f"{name}.x"]), tensors[f"{name}.logits_eval"])
                < 1e-5
            )


def test_actnorm_whitens_its_first_batch_only():
    network = PatchDiscriminator(3, 8, 2, "act").train()
    outputs = []
    network.main[3].register_forward_hook(lambda m, i, out: outputs.append(out.detach()))
    network(torch.randn(4, 3, 32, 32))
    first = network.main[3].loc.detach().clone()
    assert (
        outputs[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5
        and (outputs[0].transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 1e-3
    )
    network(torch.randn(4, 3, 32, 32) + 5)
    assert torch.equal(network.main[3].loc, first)


def test_remapped_codebook(tmp_path):
    tensors, _ = golden("extras")
    np.save(tmp_path / "used.npy", tensors["remap.used"].numpy())
    inner = VectorQuantizer(64, 8, codebook_weight=0.25, commitment_weight=1.0)
    with torch.no_grad():
        inner.embedding.weight.copy_(tensors["remap.embedding"])
    quantizer = RemappedQuantizer(inner, str(tmp_path / "used.npy"), "extra").eval()
    quantized = quantizer(tensors["remap.z"])
    assert quantizer.num_codes == (21,)
    assert torch.equal(quantized.codes[0], tensors["remap.indices"])
    assert relative(quantized.loss, tensors["remap.loss_legacy"][0]) < 1e-5
    assert torch.equal(quantizer.embed(quantized.codes), tensors["remap.back"])
    nearest = RemappedQuantizer(inner, str(tmp_path / "used.npy")).eval()
    codes = nearest(tensors["remap.z"]).codes[0]
    listed = tensors["remap.indices"] < 20
    assert (
        torch.equal(codes[listed], tensors["remap.indices"][listed])
        and int(codes.max()) < 20
        and not listed.all()
    )


def test_tokens_that_see_each_other_unmasked():
    tensors, _ = golden("extras")
    prefix = "unmasked.sd."
    prior = CompVisGPT(
        2,
        4,
        32,
        num_codes=30,
        grid=[5, 6],
        parts=[{"vocabulary": 30, "length": 10}],
        shared_vocabulary=30,
        positions=48,
        unmasked=10,
    ).eval()
    node = {"model": {"params": {"prior": {"params": {"unmasked": 10, "order": "raster"}}}}}
    state = {
        f"transformer.{k.removeprefix(prefix)}": v
        for k, v in tensors.items()
        if k.startswith(prefix)
    }
    prior.load_state_dict(
        {
            k.removeprefix("priors.0."): v
            for k, v in rename_weights(state, "golden", True, node).weights.items()
        }
    )
    condition = (Part(tensors["unmasked.ids"][:, :10], 30),)
    codes = tensors["unmasked.ids"][:, 10:].view(2, 5, 6)
    with torch.no_grad():
        logits = prior(codes, condition).flatten(1, 2)
        assert relative(logits, tensors["unmasked.logits"][:, 9:39]) < 1e-5
        decoder = prior.decoder(condition, (5, 6))
        for i in range(30):
            assert relative(decoder.logits(), logits[:, i]) < 1e-5
            if i < 29:
                decoder.extend(codes.flatten(1)[:, i : i + 1])
    with pytest.raises(ValueError, match="codes after them"):
        CompVisGPT(
            2,
            4,
            32,
            30,
            num_codes=30,
            grid=[5, 6],
            parts=[{"vocabulary": 30, "length": 10}],
            unmasked=11,
        )
    node["model"]["params"]["prior"]["params"]["unmasked"] = 3
    with pytest.raises(UserError, match="10 tokens unmasked, but the YAML says n_unmasked 3"):
        rename_weights(state, "golden", True, node)


def test_coordinates():
    tensors, _ = golden("extras")
    part = Coordinates(1024, 16)({"coordinates": tensors["coord.x"]})[0]
    assert part.grid == (4, 3) and torch.equal(part.tokens, tensors["coord.indices"].flatten(1))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_orders(side):
    tensors, _ = golden("permuters")
    for name, ours in ORDERS.items():
        if f"{name}.{side}" in tensors:
            assert orders.order(ours, (side, side)) == tensors[f"{name}.{side}"].tolist(), ours
    for name in orders.ORDERS:
        assert sorted(orders.order(name, (side, side))) == list(range(side * side)), name


def test_any_order_is_causal_along_itself():
    prior = GPT(
        2,
        2,
        16,
        num_codes=7,
        grid=[4, 4],
        parts=[{"vocabulary": 1, "length": 1}],
        order="spiral_out",
    ).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
    condition, codes = Unconditional()({"count": 1}), torch.randint(0, 7, (1, 4, 4))
    before = prior(codes, condition).flatten(1, 2)
    for step, place in enumerate(prior.permutation.tolist()):
        changed = codes.clone()
        changed.view(-1)[place] = (changed.view(-1)[place] + 1) % 7
        moved = (prior(changed, condition).flatten(1, 2) - before).abs().amax(-1)[0] > 1e-6
        assert moved.nonzero().flatten().tolist() == sorted(prior.permutation[step + 1 :].tolist())


def test_gumbel(shared):
    tensors = load_file(shared / "golden" / "gumbel.safetensors")
    sizes = json.loads((shared / "golden" / "gumbel.json").read_text())
    tree = {
        "model": {
            "base_learning_rate": 1e-6,
            "target": "taming.models.vqgan.GumbelVQ",
            "params": {
                "n_embed": sizes["n_embed"],
                "embed_dim": sizes["embed_dim"],
                "kl_weight": sizes["kl_weight"],
                "temperature_scheduler_config": {"target": "x", "params": sizes["schedule"]},
                "ddconfig": sizes["ddconfig"],
                "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
            },
        }
    }
    model = config.build(translate(tree).config["model"]).eval()
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    model.load_state_dict(rename_weights(state, "gumbel", False, {}).weights)
    assert isinstance(model.quantizer, GumbelQuantizer)
    with torch.no_grad():
        latent = model.latent(tensors["x"])
        quantized = model.quantizer(latent)
        assert relative(model.quantizer.proj(latent), tensors["logits"]) < 1e-5
        assert relative(quantized.loss, tensors["kl"][0]) < 1e-5
        assert torch.equal(quantized.codes[0], tensors["argmax_indices"])
        assert relative(quantized.latent, tensors["quant_of_argmax"]) < 1e-5
        assert (
            relative(model.decode(model.encode(tensors["x"])), tensors["reconstruction_of_argmax"])
            < 1e-5
        )
    for step, expected in zip(sizes["temperature_steps"], tensors["temperatures"].tolist()):
        model.quantizer.set_step(step)
        assert math.isclose(model.quantizer.temperature, expected, rel_tol=1e-9)


def test_latent_diffusion_reads_latents_before_quantization():
    model = VQGAN(32, [1, 2], VectorQuantizer(16, 3), latent_channels=3).eval()
    image = 2 * torch.rand(1, 3, 16, 16) - 1
    with torch.no_grad():
        assert torch.equal(
            model.decode_latent(model.latent(image)), model.decode(model.encode(image))
        )
        assert model.latent(image).shape == (1, 3, 8, 8)
