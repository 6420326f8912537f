"""Checkpoints and YAML of the published code give, here, the values that they gave there
(golden, ../shared/golden).
"""

import io
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taming
from taming import config
from taming.cli.main import main
from taming.errors import UserError
from taming.first_stage import (
    VQGAN,
    GumbelQuantizer,
    PatchDiscriminator,
    RemappedQuantizer,
    VectorQuantizer,
)
from taming.formats.compvis.config import ORDERS, read_yaml, translate
from taming.formats.compvis.export import to_theirs
from taming.formats.compvis.weights import sort_weights
from taming.formats.load import read_checkpoint
from taming.formats.ours import Content, load_fitting, save_safetensors
from taming.formats.unpickler import _Unpickler, read_restricted
from taming.second_stage import GPT, ClassLabel, Coordinates, Part, Unconditional, sample
from taming.second_stage import orders as permuters
from taming.training.second_stage import decay_groups
from tests.conftest import write_yaml

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors"), json.loads(
        (GOLDEN / f"{name}.json").read_text()
    )


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def prior_of(name, parts, **how):
    """The golden prior `name`, and its tensors."""
    tensors, about = golden(name)
    shape = {
        "layers": about["n_layer"],
        "heads": about["n_head"],
        "width": about["n_embd"],
        "positions": about["block_size"],
    }
    prior = GPT(
        num_codes=64,
        grid=[8, 8],
        parts=parts,
        shared_vocabulary=about["vocab_size"],
        **shape,
        **how,
    )
    node = {
        "params": {
            "prior": {
                "params": {"unmasked": 0, "grid": [8, 8], "order": how.get("order", "raster")}
            }
        }
    }
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    found = sort_weights(state, name, True, {"model": node})
    prior.load_state_dict({k.removeprefix("priors.0."): v for k, v in found.weights.items()})
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
    parts, how, condition = CONDITIONED[name]
    prior, tensors = prior_of(name, parts, **how)
    told = condition(tensors)
    assert torch.equal(told[0].tokens, tensors["c_indices"])
    codes = permuted(tensors["z_indices"], prior)
    order = torch.arange(64) if prior.permutation is None else prior.permutation
    with torch.no_grad():
        logits = prior(codes, told).flatten(1, 2)[:, order]
        loss = -prior.log_prob(codes, told).mean() / 64
    assert relative(logits, tensors["logits"]) < 1e-5
    assert relative(loss, tensors["loss"][0]) < 1e-5
    assert torch.equal(
        sample(prior, told, (8, 8), temperature=0).flatten(1)[:, order], tensors["greedy"]
    )
    first_half = permuted((torch.arange(64) < 32).expand(2, -1), prior)
    kept = sample(prior, told, (8, 8), temperature=0, known=(codes, first_half)).flatten(1)[
        :, order
    ]
    assert torch.equal(kept, tensors["greedy_from_half"])


def test_training_steps_of_the_one_tied_table():
    parts, how, condition = CONDITIONED["class_transformer"]
    prior, tensors = prior_of("class_transformer", parts, **how)
    expected, _ = golden("prior_training")
    told, codes = condition(tensors), permuted(tensors["z_indices"], prior)
    optimizer = torch.optim.AdamW(
        [{**g, "weight_decay": g.get("weight_decay", 0.01)} for g in decay_groups(prior)],
        lr=1e-3,
        betas=(0.9, 0.95),
    )
    prior.train()
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(prior(codes, told).flatten(0, 2), codes.flatten())
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
    theirs = sort_weights(final, "golden", True, node).weights
    for name, tensor in prior.state_dict().items():
        if name != "permutation":
            assert relative(tensor, theirs[f"priors.0.{name}"]) < 1e-4, name


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
    seen = []
    network.main[3].register_forward_hook(lambda m, i, out: seen.append(out.detach()))
    network(torch.randn(4, 3, 32, 32))
    first = network.main[3].loc.detach().clone()
    assert (
        seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5
        and (seen[0].transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 1e-3
    )
    network(torch.randn(4, 3, 32, 32) + 5)
    assert torch.equal(network.main[3].loc, first)


def test_remapped_codebook(tmp_path):
    import numpy as np

    tensors, _ = golden("extras")
    np.save(tmp_path / "used.npy", tensors["remap.used"].numpy())
    inner = VectorQuantizer(64, 8, codebook_weight=0.25, commitment_weight=1.0)
    with torch.no_grad():
        inner.embedding.weight.copy_(tensors["remap.embedding"])
    quantizer = RemappedQuantizer(inner, str(tmp_path / "used.npy"), "extra").eval()
    found = quantizer(tensors["remap.z"])
    assert quantizer.num_codes == (21,)
    assert torch.equal(found.codes[0], tensors["remap.indices"])
    assert relative(found.loss, tensors["remap.loss_legacy"][0]) < 1e-5
    assert torch.equal(quantizer.embed(found.codes), tensors["remap.back"])
    nearest = RemappedQuantizer(inner, str(tmp_path / "used.npy")).eval()
    codes = nearest(tensors["remap.z"]).codes[0]
    known = tensors["remap.indices"] < 20
    assert (
        torch.equal(codes[known], tensors["remap.indices"][known])
        and int(codes.max()) < 20
        and not known.all()
    )


def test_tokens_that_see_each_other_unmasked():
    tensors, _ = golden("extras")
    prefix = "unmasked.sd."
    prior = GPT(
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
            for k, v in sort_weights(state, "golden", True, node).weights.items()
        }
    )
    told = (Part(tensors["unmasked.ids"][:, :10], 30),)
    codes = tensors["unmasked.ids"][:, 10:].view(2, 5, 6)
    with torch.no_grad():
        logits = prior(codes, told).flatten(1, 2)
        assert relative(logits, tensors["unmasked.logits"][:, 9:39]) < 1e-5
        decoder = prior.decoder(told, (5, 6))
        for i in range(30):
            assert relative(decoder.logits(), logits[:, i]) < 1e-5
            if i < 29:
                decoder.extend(codes.flatten(1)[:, i : i + 1])
    with pytest.raises(ValueError, match="codes after them"):
        GPT(
            2,
            4,
            32,
            num_codes=30,
            grid=[5, 6],
            parts=[{"vocabulary": 30, "length": 10}],
            unmasked=11,
        )
    node["model"]["params"]["prior"]["params"]["unmasked"] = 3
    with pytest.raises(UserError, match="10 tokens unmasked, but the YAML says n_unmasked 3"):
        sort_weights(state, "golden", True, node)


def test_coordinates():
    tensors, _ = golden("extras")
    part = Coordinates(1024, 16)({"coordinates": tensors["coord.x"]})[0]
    assert part.grid == (4, 3) and torch.equal(part.tokens, tensors["coord.indices"].flatten(1))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_orders(side):
    tensors, _ = golden("permuters")
    for theirs, ours in ORDERS.items():
        if f"{theirs}.{side}" in tensors:
            assert permuters.order(ours, (side, side)) == tensors[f"{theirs}.{side}"].tolist(), ours
    for name in permuters.ORDERS:
        assert sorted(permuters.order(name, (side, side))) == list(range(side * side)), name


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
    told, codes = Unconditional()({"count": 1}), torch.randint(0, 7, (1, 4, 4))
    before = prior(codes, told).flatten(1, 2)
    for step, place in enumerate(prior.permutation.tolist()):
        changed = codes.clone()
        changed.view(-1)[place] = (changed.view(-1)[place] + 1) % 7
        moved = (prior(changed, told).flatten(1, 2) - before).abs().amax(-1)[0] > 1e-6
        assert moved.nonzero().flatten().tolist() == sorted(prior.permutation[step + 1 :].tolist())


def test_gumbel(shared):
    tensors = load_file(shared / "golden" / "gumbel.safetensors")
    about = json.loads((shared / "golden" / "gumbel.json").read_text())
    tree = {
        "model": {
            "base_learning_rate": 1e-6,
            "target": "taming.models.vqgan.GumbelVQ",
            "params": {
                "n_embed": about["n_embed"],
                "embed_dim": about["embed_dim"],
                "kl_weight": about["kl_weight"],
                "temperature_scheduler_config": {"target": "x", "params": about["schedule"]},
                "ddconfig": about["ddconfig"],
                "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
            },
        }
    }
    model = config.build(translate(tree).config["model"]).eval()
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    model.load_state_dict(sort_weights(state, "gumbel", False, {}).weights)
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
    for step, expected in zip(about["temperature_steps"], tensors["temperatures"].tolist()):
        model.quantizer.set_step(step)
        assert math.isclose(model.quantizer.temperature, expected, rel_tol=1e-9)


# Files


@pytest.fixture
def layout(shared):
    return shared / "golden" / "published_layout"


def test_published_folder_samples_converts_exports_and_loads_again_bitwise(
    layout, shared, tmp_path, capsys
):
    tensors = load_file(shared / "golden" / "segmentation_transformer.safetensors")
    original = taming.load(layout)
    batch = {"segmentation": tensors["cond"].argmax(1)}
    drawn = original.sample(batch, temperature=0)
    assert torch.equal(
        original.first_stage.encode(tensors["x"])[0].flatten(1), tensors["z_indices"]
    )
    assert relative(drawn, tensors["greedy_image"].clamp(-1, 1)) < 1e-5
    assert main(["convert", str(layout), str(tmp_path / "m.safetensors")]) == 0
    assert "left aside optimizer_states" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "m.safetensors"), str(tmp_path / "back")]) == 0
    for again in (tmp_path / "m.safetensors", tmp_path / "back"):
        assert torch.equal(taming.load(again).sample(batch, temperature=0), drawn)
    theirs = read_restricted(layout / "checkpoints" / "last.ckpt")["state_dict"]
    ours = torch.load(tmp_path / "back" / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor.float(), ours[name].float()) or "colorize" in name, name


def test_plain_ckpt_needs_its_yaml(layout, tmp_path, capsys):
    raw = read_restricted(layout / "checkpoints" / "last.ckpt")
    torch.save(raw["state_dict"], tmp_path / "bare.ckpt")  # a bare state dict
    assert main(["inspect", str(tmp_path / "bare.ckpt")]) == 2
    assert "--config" in capsys.readouterr().err
    assert main(["export", str(layout), str(tmp_path / "out")]) == 0
    assert main(["export", str(layout), str(tmp_path / "out")]) == 2  # would lose what is there
    assert "is there already" in capsys.readouterr().err
    yaml = next((layout / "configs").glob("*.yaml"))
    assert main(["inspect", str(tmp_path / "bare.ckpt"), "--config", str(yaml)]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert taming.load(tmp_path / "bare.ckpt", yaml).prior.grid == (8, 8)


@pytest.mark.parametrize(
    "change, told",
    [
        (
            lambda state, tree: state.pop("transformer.ln_f.bias"),
            "lacks 1 tensors, the first 'priors.0.ln_f.bias'",
        ),
        (
            lambda state, tree: state.pop("transformer.blocks.1.attn.key.bias"),
            "lacks 'priors.0.blocks.1.attn.key.bias'",
        ),
        (
            lambda state, tree: state.update(surprise=torch.ones(1)),
            "1 tensors that a published model of this kind does not have, the first 'surprise'",
        ),
        (
            lambda state, tree: tree["first_stage_config"]["params"].update(n_embed=63),
            "has shape .64, 16., but its configuration says .63, 16",
        ),
        (lambda state, tree: tree["transformer_config"]["params"].pop("n_head"), "lacks n_head"),
        (
            lambda state, tree: tree.update(
                permuter_config={
                    "target": "taming.modules.transformer.permuter.ZCurve",
                    "params": {"H": 8, "W": 8},
                }
            ),
            "has no permuter, but the YAML says order z_curve",
        ),
        (
            lambda state, tree: tree["first_stage_config"].update(
                target="taming.models.vqgan.VQModle"
            ),
            "did you mean 'taming.models.vqgan.VQModel'",
        ),
        (
            lambda state, tree: tree["transformer_config"].update(target="os.system"),
            "'os.system' is not supported",
        ),
    ],
)
def test_what_does_not_fit_is_named(layout, tmp_path, change, told):
    state = dict(read_restricted(layout / "checkpoints" / "last.ckpt")["state_dict"])
    tree = read_yaml(sorted((layout / "configs").glob("*.yaml")))
    change(state, tree["model"]["params"])
    torch.save({"state_dict": state}, tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=told):
        taming.load(tmp_path / "m.ckpt", write_yaml(tree, tmp_path / "m.yaml"))


class _Reduce:
    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


def _disguises(command):
    yield {"state_dict": {}, "x": _Reduce(os.system, command)}
    yield {
        "state_dict": {
            "encoder.conv_in.weight": _Reduce(eval, f"__import__('os').system({command!r})")
        }
    }
    yield {
        "state_dict": {},
        "optimizer_states": [
            {
                "state": {
                    0: [
                        _Reduce(
                            subprocess.call, command, -1, None, None, None, None, None, True, True
                        )
                    ]
                }
            }
        ],
    }
    yield {
        "callbacks": {
            _Reduce(getattr, _Reduce(__import__, "os"), "system"): _Reduce(
                exec, f"import os; os.system({command!r})"
            )
        }
    }


def test_planted_code_runs_nothing_and_is_named(tmp_path):
    marker = tmp_path / "ran"
    for i, planted in enumerate(_disguises(f"touch {marker}")):
        for modern in (True, False):
            path = tmp_path / f"{i}{modern}.ckpt"
            torch.save(planted, path, _use_new_zipfile_serialization=modern)
            with pytest.raises(
                UserError,
                match=(
                    r"refused: it asks to run"
                    r" '(posix|os|builtins|__builtin__|subprocess|commands)\.\w+'"
                ),
            ):
                read_checkpoint(path)
    # A bare pickle
    built = (
        b"\x80\x02cposix\nsystem\nq\x00(X"
        + len(b"touch x").to_bytes(4, "little")
        + b"touch xq\x01tq\x02Rq\x03."
    )
    (tmp_path / "bare.ckpt").write_bytes(built)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "bare.ckpt")
    # OBJ, then BUILD
    object_and_build = (
        b"\x80\x02(cposix\nsystem\nX" + len(b"true").to_bytes(4, "little") + b"trueo}b."
    )
    (tmp_path / "obj.ckpt").write_bytes(object_and_build)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "obj.ckpt")
    assert not marker.exists()


def test_disguised_programs_and_broken_archives_are_refused(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.script(Doubled()).save(tmp_path / "program.ckpt")
    with open(tmp_path / "program.ckpt", "ab") as file:
        # So that Python's zipfile sees no archive, while torch does
        file.write(b"PK\x05\x06" + bytes(6))
    with pytest.raises(UserError, match="TorchScript"):
        read_restricted(tmp_path / "program.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match="can't be read"):
        read_checkpoint(tmp_path / "broken.ckpt")
    # BUILD with a slot state
    change = b"\x80\x02ctorch._utils\n_rebuild_tensor\nN}(X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xu\x86b."
    with pytest.raises(UserError, match="it asks to change '_rebuild_tensor'"):
        _Unpickler(io.BytesIO(change)).load()
    assert torch._utils._rebuild_tensor.__name__ == "_rebuild_tensor"


def test_a_numpy_scalar_is_harmless():
    import numpy as np

    stream = pickle.dumps({"rate": np.float64(0.5)}, protocol=2)
    assert "rate" in _Unpickler(io.BytesIO(stream)).load()


def test_classes_of_an_old_lightning_are_inert(tmp_path):
    """Named as keys, made with a state: neither needs the package, nor imports it."""
    stream = b"\x80\x02}(cpytorch_lightning.no_such_module\nModelCheckpoint\n}cpathlib\nNoSuchPath\n)\x81}b}u."
    found = _Unpickler(io.BytesIO(stream)).load()
    assert len(found) == 2 and "pytorch_lightning.no_such_module" not in sys.modules
    assert pickle.loads(pickle.dumps(1)) == 1  # the ordinary unpickler is untouched


# Configurations


def first_tree(
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    attention=(16,),
    codes=1024,
    dim=256,
    latent=256,
    kind="VQModel",
    inputs=3,
    **params,
):
    net = {
        "double_z": False,
        "z_channels": latent,
        "resolution": 256,
        "in_channels": inputs,
        "out_ch": inputs,
        "ch": channels,
    }
    net |= {
        "ch_mult": list(multipliers),
        "num_res_blocks": 2,
        "attn_resolutions": list(attention),
        "dropout": 0.0,
    }
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_start": 10, "disc_weight": 0.8},
    }
    target = f"{'ldm.models.autoencoder' if kind == 'VQModelInterface' else 'taming.models.vqgan'}.{kind}"
    return {
        "target": target,
        "params": {
            "embed_dim": dim,
            "n_embed": codes,
            "ddconfig": net,
            "lossconfig": loss,
            **params,
        },
    }


def second_tree(layers, heads, width, vocabulary, block, cond=None, first=None, **params):
    gpt = {
        "vocab_size": vocabulary,
        "block_size": block,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
    }
    node = {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        "first_stage_config": first or first_tree(),
    }
    if cond is not None:
        node["cond_stage_config"] = cond
    return {
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {**node, **params},
    }


def coord_stage():
    return {
        "target": "taming.modules.misc.coord.CoordStage",
        "params": {"n_embed": 1024, "down_factor": 16},
    }


def dummy_stage(key):
    return {
        "target": "taming.models.dummy_cond_stage.DummyCondStage",
        "params": {"conditional_key": key},
    }


SMALL_K = {"codes": 256}
PUBLISHED = {
    "imagenet_f16_1024": first_tree(),
    "imagenet_f16_16384": first_tree(codes=16384),
    "gumbel_f8": first_tree(
        multipliers=(1, 1, 2, 4), attention=(32,), codes=8192, kind="GumbelVQ", kl_weight=1e-8
    ),
    "depth": first_tree(inputs=1, image_key="depth"),
    "coco_cond_stage": first_tree(
        inputs=183, kind="VQSegmentationModel", n_labels=183, image_key="segmentation"
    ),
    "ldm_vq_f4": first_tree(
        multipliers=(1, 2, 4), attention=(), codes=8192, dim=3, latent=3, kind="VQModelInterface"
    ),
    "ldm_vq_f8": first_tree(
        multipliers=(1, 2, 2, 4),
        attention=(32,),
        codes=16384,
        dim=4,
        latent=4,
        kind="VQModelInterface",
    ),
    "ldm_vq_f8_n256": first_tree(
        multipliers=(1, 2, 2, 4),
        attention=(32,),
        codes=256,
        dim=4,
        latent=4,
        kind="VQModelInterface",
    ),
    "ldm_vq_f16": first_tree(
        multipliers=(1, 1, 2, 2, 4),
        attention=(16,),
        codes=16384,
        dim=8,
        latent=8,
        kind="VQModelInterface",
    ),
    "sflckr": second_tree(
        24,
        16,
        1024,
        1024,
        512,
        first_tree(inputs=182, image_key="segmentation"),
        cond_stage_key="segmentation",
    ),
    "drin": second_tree(
        24, 16, 1024, 1024, 512, first_tree(inputs=1, image_key="depth"), cond_stage_key="depth"
    ),
    "faceshq": second_tree(24, 16, 1024, 1024, 512, coord_stage(), cond_stage_key="coord"),
    "ffhq": second_tree(
        24, 16, 1664, 1024, 256, "__is_unconditional__", sos_token=0, unconditional=True
    ),
    "cin": second_tree(
        48,
        24,
        1536,
        16384,
        257,
        {"target": "taming.modules.util.Labelator", "params": {"n_classes": 1000}},
        first_tree(codes=16384),
        cond_stage_key="class_label",
    ),
    "coco_scene": second_tree(
        40,
        16,
        1408,
        8192,
        348,
        dummy_stage("objects_bbox"),
        first_tree(codes=8192),
        cond_stage_key="objects_bbox",
    ),
    "same_stage": second_tree(2, 2, 64, 1024, 512, "__is_first_stage__", cond_stage_key="lr"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures_build_from_their_yaml(name):
    translated = translate({"model": {"base_learning_rate": 4.5e-6, **PUBLISHED[name]}})
    experiment = config.from_plain(translated.plain)
    with torch.device("meta"):
        model = config.build(experiment.model)
    first = getattr(model, "first_stage", model)
    counts = {
        part: (len(module.state_dict()), sum(p.numel() for p in module.parameters()))
        for part, module in first.named_children()
    }
    if first.stride == 16 and first.in_channels == 3 and first.quantizer.dim == 256:
        assert counts["encoder"] == (144, 29_298_176) and counts["decoder"] == (194, 42_449_795)
    if name == "gumbel_f8":
        assert counts["encoder"][0] == 126 and counts["decoder"][0] == 168
        assert model.quantizer.proj.weight.shape == (8192, 256, 1, 1)
    if name == "cin":
        blocks = 48 * (12 * 1536**2 + 13 * 1536)
        assert (
            sum(p.numel() for p in model.prior.parameters())
            == blocks + 2 * 16384 * 1536 + 257 * 1536 + 2 * 1536
        )
    if name == "coco_scene":
        assert model.conditioner.objects == 30 and [part.length for part in model.prior.parts] == [
            92
        ]
    tree, raw = to_theirs(config.to_plain(experiment), dict(model.state_dict()), {}, 0)  # and back
    again = translate(tree, {k: tuple(v.shape) for k, v in raw["state_dict"].items()}).config
    assert again["model"] == translated.config["model"]


def test_conditions_of_objects():
    conditioner = config.build(
        translate({"model": PUBLISHED["coco_scene"]}).config["model"]["params"]["conditioner"]
    )
    boxes = torch.tensor([[[3, 0.0, 0.0, 0.5, 1.0], [-1, 0, 0, 0, 0], [7, 0.25, 0.5, 1.0, 1.0]]])
    tokens = conditioner({"boxes": boxes})[0].tokens[0].tolist()
    side = 90  # of the largest square in 8192
    # Halves round to even: 44.5 -> 44, 22.25 -> 22
    assert tokens[:6] == [3, 0, 89 * side + 44, 7, 44 * side + 22, 89 * side + 89]
    assert set(tokens[6:90]) == {8191} and tokens[90:] == [0, 89 * side + 89]
    with pytest.raises(UserError, match="at most 30"):
        conditioner({"boxes": torch.zeros(1, 31, 5)})


def test_their_yaml_trains(layout, tmp_path, monkeypatch, capsys):
    """The YAML of a first stage, data overridden by ours; rate, epochs and GPUs are translated aloud."""
    monkeypatch.chdir(tmp_path)
    tree = first_tree(channels=32, multipliers=(1, 2), attention=(), codes=16, dim=4, latent=8)
    tree["params"]["ddconfig"]["resolution"] = 16
    tree["params"]["lossconfig"]["params"] |= {
        "perceptual_weight": 0.0,
        "disc_num_layers": 2,
        "disc_ndf": 8,
        "disc_start": 1,
    }
    tree["params"]["ckpt_path"] = "logs/gone.ckpt"
    data = {
        "target": "main.DataModuleFromConfig",
        "params": {
            "batch_size": 2,
            "train": {"target": "taming.data.custom.CustomTrain", "params": {"size": 16}},
        },
    }
    trainer = {
        "max_steps": 2,
        "accumulate_grad_batches": 2,
        "distributed_backend": "ddp",
        "max_epochs": 7,
    }
    write_yaml(
        {
            "model": {"base_learning_rate": 1e-4, **tree},
            "data": data,
            "lightning": {"trainer": trainer},
        },
        Path("theirs.yaml"),
    )
    drawn = [
        f"data.{part}={{target: taming.data.DrawnLandscapes, params: {{size: 16, count: 4}}}}"
        for part in ("train", "validation")
    ]
    assert main(["train", "-b", "theirs.yaml", "model.params.n_embed=8", *drawn]) == 2
    assert "'logs/gone.ckpt' does not exist" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                "-b",
                "theirs.yaml",
                "model.params.n_embed=8",
                "model.params.ckpt_path=null",
                *drawn,
            ]
        )
        == 0
    )
    told = capsys.readouterr().err
    assert "learning rate 0.0004 = 2 (accumulation) x 1 (devices) x 2 (batch) x 0.0001" in told
    assert "distributed_backend ddp" in told and "max_epochs: 7 is left aside" in told
    model = taming.load("runs/theirs")
    assert model.quantizer.num_codes == (8,) and model.quantizer.commitment_weight == 1.0
    assert main(["convert", "--config", "theirs.yaml", "ours.yaml"]) == 0
    assert config.load("ours.yaml").loss["params"]["layers"] == 2
    assert main(["export", "runs/theirs", "back"]) == 0
    assert (
        "loss.discriminator.main.0.weight"
        in torch.load("back/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    )

    # Fine-tuning from what was exported: discriminator included
    assert (
        main(
            [
                "train",
                "-b",
                "theirs.yaml",
                "-n",
                "tuned",
                "--from",
                "back",
                "model.params.n_embed=8",
                "trainer.max_steps=1",
                *drawn,
            ]
        )
        == 0
    )
    assert "no discriminator" not in capsys.readouterr().err
    state = torch.load("runs/tuned/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    before = torch.load("back/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = (
        (state["loss.discriminator.main.0.weight"] - before["loss.discriminator.main.0.weight"])
        .abs()
        .max()
    )
    assert moved <= 1e-6  # one batch before its start
    assert (
        main(
            [
                "train",
                "-b",
                "theirs.yaml",
                "-n",
                "other",
                "--from",
                "back",
                "model.params.n_embed=16",
                *drawn,
            ]
        )
        == 2
    )
    assert (
        "'quantizer.embedding.weight' has shape (8, 4), but its configuration says (16, 4) (number"
        " of codes" in capsys.readouterr().err
    )
    assert (
        main(
            [
                "train",
                "-b",
                "theirs.yaml",
                "-n",
                "other",
                "--from",
                "back",
                "--fitting",
                "trainer.max_steps=1",
                *drawn,
            ]
        )
        == 0
    )
    assert (
        "1 tensors did not fit and start anew or are left: quantizer.embedding.weight"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["ddconfig"].update(attn_resolutions=16),
        lambda p: p["ddconfig"].update(ch_mult=4),
        lambda p: p["ddconfig"].update(resolution="256"),
        lambda p: p.update(ddconfig=None),
        lambda p: p.update(lossconfig="x"),
        lambda p: p["ddconfig"].pop("ch"),
    ],
)
def test_malformed_yaml_is_one_line(change, tmp_path, capsys):
    tree = first_tree()
    change(tree["params"])
    write_yaml({"model": {"base_learning_rate": 1e-6, **tree}}, tmp_path / "m.yaml")
    assert main(["convert", "--config", str(tmp_path / "m.yaml"), str(tmp_path / "o.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_prior_names_what_its_codes_come_from(tmp_path, monkeypatch, capsys):
    """Their second-stage YAML names checkpoints; without them a prior would be trained on codes of
    an untrained model.
    """
    monkeypatch.chdir(tmp_path)
    first = first_tree(channels=32, multipliers=(1, 2), attention=(), codes=16, dim=4, latent=8)
    first["params"]["ddconfig"]["resolution"] = 16
    tree = second_tree(
        1, 2, 16, 16, 64, "__is_unconditional__", first, unconditional=True, sos_token=0
    )
    data = [
        f"data.{part}={{target: taming.data.DrawnLandscapes, params: {{size: 16, count: 4}}}}"
        for part in ("train", "validation")
    ]
    arguments = ["train", "-b", "prior.yaml", "trainer.max_steps=1", "data.batch_size=2", *data]
    write_yaml({"model": {"base_learning_rate": 1e-4, **tree}}, Path("prior.yaml"))
    assert main(arguments) == 2
    assert "names no ckpt_path" in capsys.readouterr().err
    first["params"]["ckpt_path"] = "first.safetensors"
    write_yaml({"model": {"base_learning_rate": 1e-4, **tree}}, Path("prior.yaml"))
    assert main(arguments) == 2
    assert "'first.safetensors' does not exist" in capsys.readouterr().err
    plain = config.to_plain(
        config.from_plain({"model": translate({"model": first}).config["model"]})
    )
    model = config.build(plain["model"])
    save_safetensors("first.safetensors", Content("first", plain, model.state_dict(), 0, {}))
    assert main(arguments) == 0
    assert (
        "learning rate 0.0002 = 1 (accumulation) x 1 (devices) x 2 (batch)"
        in capsys.readouterr().err
    )
    trained = taming.load("runs/prior")
    assert torch.equal(trained.first_stage.encoder.conv_in.weight, model.encoder.conv_in.weight)
    assert main([*arguments, "-n", "silent", "condition_dropout=0.1"]) == 2
    assert "no token that says nothing" in capsys.readouterr().err


def test_fitting_keeps_tokenizers_whole(layout, tmp_path):
    """Another codebook in the first stage: its encoder must not come from the file while its codes
    do not.
    """
    content = read_checkpoint(layout)
    plain = dict(content.config)
    params = plain["model"]["params"]
    params["first_stage"]["params"]["quantizer"]["params"]["num_codes"] = params["prior"]["params"][
        "num_codes"
    ] = 48
    model = config.build(plain["model"])
    before = model.first_stage.encoder.conv_in.weight.clone()
    left = load_fitting(model, content.weights, layout)
    assert (
        torch.equal(model.first_stage.encoder.conv_in.weight, before)
        and "first_stage.encoder.conv_in.weight" in left
    )
    assert torch.equal(model.prior.head.weight, content.weights["priors.0.head.weight"])
    params["prior"]["params"]["order"] = "z_curve"
    other = config.build(plain["model"])
    with pytest.raises(UserError, match="another order"):
        load_fitting(other, {"priors.0.permutation": torch.arange(64)}, "x")
    with pytest.raises(UserError, match="nothing in 'x' fits"):
        load_fitting(model, {"decoder.x": torch.ones(1)}, "x")


def test_what_has_no_counterpart_is_not_exported(tmp_path):
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 8, "dim": 4, "normalize": True},
    }
    node = {
        "target": "taming.first_stage.VQGAN",
        "params": {"channels": 32, "multipliers": [1, 2], "quantizer": quantizer},
    }
    plain = config.to_plain(config.from_plain({"model": node}))
    with pytest.raises(UserError, match="normalize"):
        to_theirs(plain, {}, {}, 0)


def test_latent_diffusion_reads_latents_before_quantization():
    model = VQGAN(32, [1, 2], VectorQuantizer(16, 3), latent_channels=3).eval()
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(
            model.decode_latent(model.latent(image)), model.decode(model.encode(image))
        )
        assert model.latent(image).shape == (1, 3, 8, 8)


@pytest.mark.slow
def test_loading_a_gigabyte_takes_seconds_and_one_extra_copy(tmp_path):
    tree = {
        "model": {
            "base_learning_rate": 1e-6,
            **second_tree(
                20,
                16,
                1024,
                1024,
                257,
                "__is_unconditional__",
                first_tree(channels=32),
                unconditional=True,
            ),
        }
    }
    write_yaml(tree, tmp_path / "model.yaml")
    with torch.device("meta"):
        model = config.build(translate(tree).config["model"])
    plain = config.to_plain(config.from_plain(translate(tree).plain))
    _, raw = to_theirs(
        plain,
        {
            k: torch.zeros(v.shape) if v.is_floating_point() else v
            for k, v in model.state_dict().items()
        },
        {},
        0,
    )
    torch.save(raw, tmp_path / "model.ckpt")
    size = (tmp_path / "model.ckpt").stat().st_size
    assert size > 1e9
    del raw, model
    code = (  # VmHWM, not ru_maxrss, which a process inherits from the one that started it
        "import sys, time, taming, taming.second_stage\npeak = lambda: next(int(line.split()[1]) *"
        " 1024 for line in open('/proc/self/status') if line.startswith('VmHWM'))\nbefore, start ="
        " peak(), time.perf_counter()\nmodel = taming.load(sys.argv[1])\nprint(time.perf_counter()"
        " - start, peak() - before)"
    )
    seconds, peak = map(
        float,
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.split(),
    )
    print(f"{size / 1e9:.2f} GB in {seconds:.1f} s, peak {peak / size:.2f} x the file")
    assert peak < 2.2 * size and seconds < 30
