"""Other people's tokenizers give, here, the values that they give in their own code: golden/ holds
those, made by benchmarks/agree_formats.py; their weights follow from their names (foreign.py).
"""

import json
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

import taming
from taming.errors import UserError
from taming.formats import diffusers, rar
from taming.formats.describe import describe
from taming.formats.load import checkpoint_files, checkpoint_hash, read_checkpoint
from taming.second_stage import Part
from tests.formats.foreign import image_of, state_of
from tests.formats.golden_values import GOLDEN, relative
from tests.formats.samples import changed

IBQ_YAML = """
model:
  class_path: src.IBQ.models.ibqgan.IBQ
  init_args:
    ddconfig: {double_z: false, z_channels: 16, resolution: 32, in_channels: 3, out_ch: 3, ch: 32,
      ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [16], dropout: 0.0}
    lossconfig: {target: x.VQLPIPSWithDiscriminator, params: {entropy_loss_weight: 0.05}}
    n_embed: 64
    embed_dim: 16
    use_entropy_loss: true
"""
CARD = {
    "_class_name": "VQModel",
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2 + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 2,
    "latent_channels": 16,
    "num_vq_embeddings": 64,
    "vq_embed_dim": 8,
    "lookup_from_codebook": True,
}


def save_diffusers(folder: Path, state: dict) -> Path:
    save_file(state, folder / diffusers.FILE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CARD))
    return folder


def save_llamagen(folder: Path, state: dict) -> Path:
    """The averages count, where there are some; `module.` is DistributedDataParallel's."""
    noise = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {"ema": wrapped, "model": noise, "optimizer": {"lr": 1}, "steps": 5}, folder / "a.pt"
    )
    return folder / "a.pt"


def save_ibq(folder: Path, state: dict) -> Path:
    averages = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in state.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    noise = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    torch.save({"state_dict": noise | averages | counters}, folder / "ibq.ckpt")
    (folder / "ibq.yaml").write_text(IBQ_YAML)
    return folder / "ibq.ckpt"


def save_bare(name: str) -> Callable[[Path, dict], Path]:
    def save(folder: Path, state: dict) -> Path:
        torch.save(state, folder / name)
        return folder / name

    return save


def save_dalle(folder: Path, state: dict) -> Path:
    """Pickled networks of a package that is not here when they are read."""
    package = types.ModuleType("dall_e.encoder")
    package.Network = type("Network", (nn.Module,), {"__module__": "dall_e.encoder"})
    sys.modules |= {"dall_e": types.ModuleType("dall_e"), "dall_e.encoder": package}
    try:
        for side in ("encoder", "decoder"):
            network = package.Network()
            for name, tensor in state.items():
                if name.startswith(f"{side}."):
                    _set_parameter(network, name.removeprefix(f"{side}.").split("."), tensor)
            torch.save(network, folder / f"{side}.pkl")
    finally:
        del sys.modules["dall_e"], sys.modules["dall_e.encoder"]
    return folder


def _set_parameter(module: nn.Module, path: list[str], tensor: torch.Tensor) -> None:
    for part in path[:-1]:
        if part not in module._modules:
            module.add_module(part, nn.Sequential())
        module = module._modules[part]
    module.register_parameter(path[-1], nn.Parameter(tensor))


SAVE = {
    "diffusers": save_diffusers,
    "llamagen": save_llamagen,
    "var": save_bare("vae_ch160v4096z32.pth"),
    "seed-voken": save_ibq,
    "maskgit": save_bare("maskgit.bin"),
    "dall-e": save_dalle,
}
LABELS = {"seed-voken": "SEED-Voken", "llamagen": "LlamaGen", "var": "VAR", "maskgit": "MaskGIT"}
LABELS |= {"dall-e": "DALL-E", "diffusers": "diffusers"}


def golden_of(name: str) -> tuple[dict, dict, list]:
    """Their weights, their values, and the sizes of the images."""
    description = json.loads((GOLDEN / f"foreign_{name}.json").read_text())
    state = state_of(description["shapes"])
    return state, load_file(GOLDEN / f"foreign_{name}.safetensors"), description["sizes"]


@pytest.mark.parametrize("name", SAVE)
def test_their_values(name, tmp_path):
    state, values, sizes = golden_of(name)
    path = SAVE[name](tmp_path, state)
    assert f" of {LABELS[name]}, " in describe(path)
    model = taming.load(path)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for height, width in sizes:
        x, size = image_of(LABELS[name], height, width)[:1], f"{height}x{width}"
        with torch.no_grad():
            latent, codes = model.latent(x), model.encode(x)
            if name == "dall-e":  # theirs are logits
                latent = model.quantizer.proj(latent)
            picture = model.decode(codes)
        assert relative(latent, values[f"{size}.latent"]) < 1e-5
        for level, grid in enumerate(codes):
            assert torch.equal(grid, values[f"{size}.codes.{level}"])
        assert relative(picture, values[f"{size}.picture"]) < 3e-5


def save_prior(folder: Path, name: str = "c2i_B_256.pt") -> tuple[Path, dict]:
    """LlamaGen's prior beside its tokenizer."""
    state, values, _ = golden_of("llamagen_prior")
    torch.save({"model": {f"module.{key}": tensor for key, tensor in state.items()}}, folder / name)
    torch.save({"model": golden_of("llamagen")[0]}, folder / "vq_ds16_c2i.pt")
    return folder / name, values


def test_the_logits_of_llamagens_prior(tmp_path):
    path, values = save_prior(tmp_path)
    assert "second stage of LlamaGen" in describe(path)
    model = taming.load(path)
    condition = (Part(values["classes"][:, None], 10),)
    with torch.no_grad():
        logits = model.prior(values["codes"], condition)
    assert relative(logits.flatten(1, 2), values["logits"]) < 1e-5
    with torch.no_grad():  # what is cached is what is computed anew
        decoder = model.prior.decoder(condition, (16, 16))
        for i in range(3):
            assert torch.allclose(decoder.logits(), logits[:, 0, i], atol=1e-4)
            decoder.extend(values["codes"][:, 0, i : i + 1])


def save_rar(folder: Path, state: dict | None = None) -> tuple[Path, dict]:
    """RAR's prior beside its tokenizer."""
    golden_state, values, _ = golden_of("rar")
    torch.save(golden_state if state is None else state, folder / "rar_b.bin")
    torch.save(golden_of("maskgit")[0], folder / "maskgit-vqgan-imagenet-f16-256.bin")
    return folder / "rar_b.bin", values


def test_the_logits_of_rars_prior(tmp_path):
    path, values = save_rar(tmp_path)
    assert "second stage of RAR" in describe(path)
    model = taming.load(path)
    condition = (Part(values["classes"][:, None], 10),)
    with torch.no_grad():
        logits = model.prior(values["codes"], condition)
        assert relative(logits.flatten(1, 2), values["logits"]) < 1e-5
        null = model.prior(values["codes"], (condition[0].null(),))
        assert relative(null, logits) > 0.01
    small = values["codes"][:, :3, :4]
    with torch.no_grad():  # what is cached is what is computed anew, on a corner of the grid too
        expected = model.prior(small, condition).flatten(1, 2)
        decoder = model.prior.decoder(condition, (3, 4))
        for i in range(12):
            assert torch.allclose(decoder.logits(), expected[:, i], atol=1e-4)
            decoder.extend(small.flatten(1)[:, i : i + 1])
        changed = small.clone()
        changed[0, 1, 1] = (changed[0, 1, 1] + 1) % 64
        moved = (model.prior(changed, condition).flatten(1, 2) - expected).abs().amax(-1)[0]
    assert not moved[:6].any() and moved[6:].all(), "causal"
    assert model.sample({"class": torch.tensor([3])}, size=(32, 32)).shape == (1, 3, 32, 32)


def test_rars_prior_needs_its_tokenizer(tmp_path):
    path, _ = save_rar(tmp_path)
    assert [file.name for file in checkpoint_files(path)][1:] == [rar.TOKENIZERS[0]]
    (tmp_path / rar.TOKENIZERS[0]).unlink()
    with pytest.raises(UserError, match="put 'maskgit-vqgan-imagenet-f16-256.bin' into the same"):
        taming.load(path)
    torch.save(golden_of("llamagen")[0], tmp_path / rar.TOKENIZERS[0])
    with pytest.raises(UserError, match="is not a tokenizer of MaskGIT"):
        taming.load(path)


def test_a_prior_needs_its_tokenizer_and_its_size(tmp_path):
    path, _ = save_prior(tmp_path)
    path.rename(tmp_path / "prior.pt")
    with pytest.raises(UserError, match="no tensor tells the size"):
        taming.load(tmp_path / "prior.pt")
    (tmp_path / "prior.pt").rename(path)
    (tmp_path / "vq_ds16_c2i.pt").unlink()
    with pytest.raises(UserError, match="put 'vq_ds16_c2i.pt' into the same folder"):
        taming.load(path)


# Damage


CHANGES = {
    "missing": lambda state, name: state.pop(name),
    "spare": lambda state, name: state.update({f"{name}_more": torch.ones(1)}),
    "misshapen": lambda state, name: state.update({name: torch.ones(2, 3, 5, 7)}),
    "not finite": lambda state, name: state.update({name: state[name] * torch.nan}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SAVE)
def test_what_does_not_fit_is_one_line(name, change, tmp_path):
    state, _, _ = golden_of(name)
    victim = next(key for key in state if "conv_out.weight" in key or "output.conv.w" in key)
    CHANGES[change](state, victim)
    with pytest.raises(UserError) as refusal:
        taming.load(SAVE[name](tmp_path, state))
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["rar", "llamagen_prior"])
def test_what_does_not_fit_a_prior_is_one_line(name, change, tmp_path):
    state, _, _ = golden_of(name)
    save = save_rar if name == "rar" else save_prior
    path, _ = save(tmp_path)
    for victim in (list(state)[0], list(state)[-1], next(key for key in state if "norm" in key)):
        damaged = dict(state)
        CHANGES[change](damaged, victim)
        torch.save(damaged, path)
        with pytest.raises(UserError) as refusal:
            taming.load(path)
        assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)
    for victim in [key for key in state if "q_norm" in key][:1]:
        torch.save({**state, victim: torch.zeros(0)}, path)
        with pytest.raises(UserError):
            taming.load(path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError) as refusal:
        taming.load(path)
    assert "\n" not in str(refusal.value)


SCALARS = {
    "var": "encoder.mid.attn_1.qkv.weight",
    "llamagen": "quantize.embedding.weight",
    "maskgit": "encoder.conv_in.weight",
    "seed-voken": "quant_conv.weight",
    "dall-e": "decoder.blocks.input.b",
}


@pytest.mark.parametrize("name", SCALARS)
def test_a_number_or_a_row_in_place_of_a_tensor_is_one_line(name, tmp_path):
    """Of those that tell the architecture."""
    state = golden_of(name)[0]
    assert SCALARS[name] in state
    for odd in (torch.tensor(1.0), torch.ones(7)):
        with pytest.raises(UserError) as refusal:
            taming.load(SAVE[name](tmp_path, {**state, SCALARS[name]: odd}))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SAVE)
def test_a_truncated_file_is_one_line(name, tmp_path):
    state, _, _ = golden_of(name)
    path = SAVE[name](tmp_path, state)
    file = checkpoint_files(path)[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError) as refusal:
        taming.load(path)
    assert "\n" not in str(refusal.value)


CARDS = {
    "AutoencoderKL": ({"_class_name": "AutoencoderKL"}, "continuous: there are no codes"),
    "UNet2DModel": ({"_class_name": "UNet2DModel"}, "give its first stage"),
    "MoVQ": ({"norm_type": "spatial"}, "MoVQ"),
    "groups": ({"norm_num_groups": 8}, "norm_num_groups 8"),
    "act_fn": ({"act_fn": "relu"}, "act_fn 'relu'"),
    "no number": ({"latent_channels": "many"}, "latent_channels .* 'many'"),
    "a huge one": ({"num_vq_embeddings": 10**30}, "num_vq_embeddings"),
    "no list": ({"block_out_channels": 7}, "block_out_channels"),
    "a foreign block": ({"down_block_types": ["os.system"] * 3}, "os.system"),
    "one side": ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "different scales"),
    "another width": ({"vq_embed_dim": 4}, "shape"),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_wrong_config_json_is_one_line(case, tmp_path):
    changes, message = CARDS[case]
    folder = save_diffusers(tmp_path, golden_of("diffusers")[0])
    (folder / "config.json").write_text(json.dumps(CARD | changes))
    with pytest.raises(UserError, match=message) as refusal:
        taming.load(folder)
    assert "\n" not in str(refusal.value)


NOTHING_FITS = (None, 7, "x", [1], {"a": [1]})
IBQ_PLACES = [
    ("init_args",),
    *(("init_args", key) for key in ("ddconfig", "lossconfig", "n_embed", "embed_dim")),
    ("init_args", "lossconfig", "params"),
    ("init_args", "lossconfig", "params", "entropy_loss_weight"),
    ("init_args", "ddconfig", "ch_mult"),
]


@pytest.mark.parametrize("place", IBQ_PLACES, ids=".".join)
def test_a_wrong_yaml_of_ibq_is_one_line(place, tmp_path):
    """Whatever stands there: it is refused, or means nothing."""
    path = save_ibq(tmp_path, golden_of("seed-voken")[0])
    tree = OmegaConf.to_container(OmegaConf.create(IBQ_YAML))
    refused = 0
    for value in NOTHING_FITS:
        (tmp_path / "ibq.yaml").write_text(json.dumps(changed(tree, ("model", *place), value)))
        try:
            taming.load(path)
        except UserError as refusal:
            refused += 1
            assert "\n" not in str(refusal)
    assert refused >= 3


def test_what_ibq_is_not_read_of_is_named(tmp_path):
    path = save_ibq(tmp_path, golden_of("seed-voken")[0])
    (tmp_path / "ibq.yaml").write_text(f"{IBQ_YAML}    l2_normalize: true\n")
    with pytest.raises(UserError, match="l2_normalize and cosine_similarity are not supported"):
        taming.load(path)


def test_without_config_json(tmp_path):
    folder = save_diffusers(tmp_path, golden_of("diffusers")[0])
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json lies beside it"):
        taming.load(folder)


TRANSFORMERS = {"VAR": {"word_embed.weight": torch.ones(2, 2), "pos_1LC": torch.ones(1, 2, 2)}}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_their_transformers_are_named(name, tmp_path):
    torch.save(TRANSFORMERS[name], tmp_path / "m.pt")
    with pytest.raises(UserError, match=f"{name}'s Transformer, .* its tokenizer"):
        taming.load(tmp_path / "m.pt")


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_kl_autoencoder_is_named(prefix, tmp_path):
    state = {
        f"{prefix}quant_conv.weight": torch.ones(8, 8, 1, 1),
        f"{prefix}post_quant_conv.weight": torch.ones(4, 4, 1, 1),
    }
    torch.save({"state_dict": state}, tmp_path / "kl.ckpt")
    with pytest.raises(UserError, match="KL autoencoder, .* there are no codes"):
        taming.load(tmp_path / "kl.ckpt")


def test_half_of_a_dvae(tmp_path):
    folder = save_dalle(tmp_path, golden_of("dall-e")[0])
    assert taming.load(folder / "decoder.pkl").num_codes == (512,)
    (folder / "encoder.pkl").unlink()
    with pytest.raises(UserError, match=r"encoder.pkl' is missing"):
        taming.load(folder / "decoder.pkl")


class Sneaky:
    def __reduce__(self):
        return (open, ("touched", "w"))


def test_a_pickled_network_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dalle(tmp_path, golden_of("dall-e")[0])
    evil = {"note": "dall_e.", "x": Sneaky()}
    for protocol in (2, 4):
        (tmp_path / "encoder.pkl").write_bytes(pickle.dumps(evil, protocol))
        with pytest.raises(UserError):
            taming.load(tmp_path)
    torch.save(evil, tmp_path / "encoder.pkl")
    with pytest.raises(UserError, match="asks to run"):
        taming.load(tmp_path)
    assert not (tmp_path / "touched").exists()


# Back


@pytest.mark.parametrize("name", ["diffusers", "llamagen", "maskgit"])
def test_to_diffusers(name, tmp_path):
    """What came from there goes back bit for bit; codebooks of unit rows choose the same codes;
    what has no counterpart is refused.
    """
    state, _, _ = golden_of(name)
    (tmp_path / "theirs").mkdir()
    source, out = SAVE[name](tmp_path / "theirs", state), tmp_path / "out"
    if name == "maskgit":
        with pytest.raises(UserError, match="MaskGITVQGAN has no counterpart"):
            diffusers.write(out, read_checkpoint(source))
        assert not out.exists()
        return
    diffusers.write(out, read_checkpoint(source))
    with pytest.raises(UserError, match="is there already"):
        diffusers.write(out, read_checkpoint(source))
    if name == "diffusers":
        again = load_file(out / diffusers.FILE)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], state[key]) for key in state)
        card = json.loads((out / "config.json").read_text())
        assert {key: card[key] for key in CARD} == CARD
    x, a, b = image_of("x", 32, 48), taming.load(source), taming.load(out)
    assert torch.equal(a.encode(x)[0], b.encode(x)[0])
    assert relative(b.reconstruct(x), a.reconstruct(x)) < 1e-6


def test_the_folder_of_a_pipeline_means_its_first_stage(tmp_path):
    (tmp_path / "vqvae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    save_diffusers(tmp_path / "vqvae", golden_of("diffusers")[0])
    assert taming.load(tmp_path).num_codes == (64,)


def test_a_stamp_knows_the_configuration(tmp_path):
    """The hash of a checkpoint of others covers what it was read with."""
    folder = save_diffusers(tmp_path, golden_of("diffusers")[0])
    before = checkpoint_hash(folder)
    (folder / "config.json").write_text(json.dumps(CARD | {"layers_per_block": 3}))
    assert checkpoint_hash(folder) != before
