"""Files of weights as they lie about, and whose configuration is whose."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import taming
from taming.cli.main import main
from taming.errors import UserError
from taming.formats.describe import describe
from taming.formats.load import checkpoint_hash, config_beside, read_checkpoint
from taming.formats.source import Source
from tests.conftest import write_yaml
from tests.formats.foreign import state_of
from tests.formats.published import first_tree

TREE = first_tree(channels=32, multipliers=(1, 2), attention=(128,), codes=16, dim=4, latent=8)
TREE["params"]["ddconfig"]["num_res_blocks"] = 1


def published_state() -> dict[str, torch.Tensor]:
    """Of TREE, with seeded weights."""
    from taming import config
    from taming.formats.compvis.config import translate

    with torch.device("meta"):
        model = config.build(translate({"model": TREE}).config["model"])
    names = {name.replace("quantizer.", "quantize."): t for name, t in model.state_dict().items()}
    return state_of({name: list(tensor.shape) for name, tensor in names.items()})


@pytest.fixture(scope="module")
def state():
    return published_state()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_yaml({"model": TREE}, tmp_path / "model.yaml")
    return tmp_path


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def noise(state):
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


WRAPPED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "compiled inside": lambda state: {
        name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in state.items()
    },
    "both": lambda state: prefixed("module._orig_mod.")(state),
    "model. with a loss": lambda state: {
        **prefixed("model.")(state),
        "loss.discriminator.x": torch.ones(1),
    },
    "nested": lambda state: {"model": {"state_dict": state}, "args": {"lr": 1.0}},
    "ema first": lambda state: {"model": noise(state), "ema": state},
    "an unknown wrapper": lambda state: {
        "optimizer": {"state": noise(state)},
        "netG": state,
        "epoch": 1,
    },
    "a dictionary for each module": lambda state: {
        part: {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{part}.")
        }
        for part in ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
    },
    "numbers beside": lambda state: {**state, "step": 7},
    "half": lambda state: {name: tensor.half().float() for name, tensor in state.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_same_model_in_every_wrapping(name, here, state):
    torch.save(WRAPPED[name](state), "m.pth.tar")
    content = read_checkpoint("m.pth.tar")
    expected = state["encoder.conv_in.weight"]
    expected = expected.half().float() if name == "half" else expected
    assert torch.equal(content.weights["encoder.conv_in.weight"], expected)
    if name != "model. with a loss":
        assert taming.load("m.pth.tar").num_codes == (16,)
    assert ("averaged" in describe("m.pth.tar")) == (name == "ema first")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_becomes_the_models(dtype, here, state):
    torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, "m.pt")
    assert taming.load("m.pt").last_layer.dtype == torch.float32


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m", "m.ckpt"])
def test_safetensors_by_content_not_by_ending(name, here, state):
    save_file(state, name)
    Path("model.yaml").rename("config.yaml")
    assert taming.load(name).num_codes == (16,)


def test_several_files_with_an_index(here, state):
    names = sorted(state)
    places = {name: f"model-0000{1 + (i % 2)}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: state[name] for name in names if places[name] == file}, file)
    index = Path("model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(taming.load(".").decoder.conv_in.weight, state["decoder.conv_in.weight"])
    before = checkpoint_hash(".")
    save_file({names[1]: state[names[1]]}, "model-00002.safetensors")
    assert checkpoint_hash(".") != before  # all files count
    with pytest.raises(UserError, match="lists .* that its files do not have"):
        taming.load(".")
    Path("model-00001.safetensors").unlink()
    with pytest.raises(UserError, match="'model-00001.safetensors', which is missing"):
        taming.load(".")
    for places, message in (
        ({"a": "../other.safetensors"}, "no file of its own folder"),
        ({"a": "/etc/passwd"}, "no file of its own folder"),
        ([], "names no files"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(UserError, match=message):
            taming.load(".")
    index.write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        taming.load(".")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "x.pt"]
)
def test_a_folder_with_one_file(name, here, state):
    if name.endswith("pt"):
        torch.save(state, name)
    else:
        save_file(state, name)
    assert taming.load(here).num_codes == (16,)


def test_a_folder_with_two_files(here, state):
    for name in ("a.pt", "b.pt"):
        torch.save(state, name)
    with pytest.raises(UserError, match="among them 'a.pt' and 'b.pt'"):
        taming.load(here)


PAGES = {
    "a web page": (b"<!DOCTYPE html><html>", "is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS"),
}


@pytest.mark.parametrize("page", PAGES)
def test_what_was_downloaded_instead(page, here):
    content, message = PAGES[page]
    Path("m.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        taming.load("m.ckpt")


def test_twice_under_two_prefixes():
    state = {"module.a": torch.ones(1), "module._orig_mod.a": torch.zeros(1)}
    with pytest.raises(UserError, match="'a' twice"):
        Source(Path("m.pt"), state).weights  # noqa: B018


# Whose configuration


def test_the_yaml_of_the_same_name_comes_first(here, state, capsys):
    other = json.loads(json.dumps(TREE))
    other["params"]["ddconfig"]["dropout"] = 0.5
    write_yaml({"model": other}, here / "m.yaml")
    torch.save(state, "m.ckpt")
    content = read_checkpoint("m.ckpt")
    assert content.config["model"]["params"]["dropout"] == 0.5
    assert content.configs == ("m.yaml",) and "configuration: m.yaml" in describe("m.ckpt")
    taming.load("m.ckpt")
    assert "'m.ckpt': its configuration is 'm.yaml'" in capsys.readouterr().err
    assert config_beside("m.ckpt") == Path("m.yaml")


def test_two_that_may_be_meant_are_refused(here, state, capsys):
    torch.save(state, "m.ckpt")
    write_yaml({"model": TREE}, here / "config.yaml")
    assert main(["inspect", "m.ckpt"]) == 2
    error = capsys.readouterr().err
    assert "'model.yaml' and 'config.yaml'" in error and "--config" in error
    assert main(["inspect", "m.ckpt", "--config", "config.yaml"]) == 0


def test_a_stamp_hashes_the_configuration(here, state):
    torch.save(state, "m.ckpt")
    before = checkpoint_hash("m.ckpt")
    assert before == checkpoint_hash("m.ckpt", "model.yaml")
    with open("model.yaml", "a") as file:
        file.write("\n# changed\n")
    assert checkpoint_hash("m.ckpt") != before


def changed(**net):
    tree = json.loads(json.dumps(TREE))
    tree["params"]["ddconfig"] |= net
    return {"model": tree}


YAMLS = {
    "attention elsewhere": (changed(attn_resolutions=[256]), "attention at scales .1..* attn_reso"),
    "no attention": (changed(attn_resolutions=[]), "attn_resolutions"),
    "linear attention": (changed(attn_type="linear"), "'linear' has other weights"),
    "KL": (
        {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {}}},
        "continuous latents: there are no codes",
    ),
    "KL inside": (
        {
            "model": {
                "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
                "params": {
                    "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL"}
                },
            }
        },
        "no tensors under 'first_stage_model.'",
    ),
}


@pytest.mark.parametrize("case", YAMLS)
def test_a_wrong_yaml_says_what_to_change(case, here, state):
    tree, message = YAMLS[case]
    write_yaml(tree, here / "model.yaml")
    torch.save(state, "m.ckpt")
    with pytest.raises(UserError, match=message) as refusal:
        taming.load("m.ckpt")
    assert "\n" not in str(refusal.value)


def test_xformers_computes_the_same_attention(here, state):
    write_yaml(changed(attn_type="vanilla-xformers"), here / "model.yaml")
    torch.save(state, "m.ckpt")
    assert taming.load("m.ckpt").num_codes == (16,)


def test_the_first_stage_inside_a_diffusion_model(here, state):
    whole = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    whole |= {"model.diffusion_model.x": torch.ones(1), "cond_stage_model.y": torch.ones(1)}
    torch.save({"state_dict": whole, "global_step": 5}, "ldm.ckpt")
    params = {"first_stage_config": TREE, "unet_config": {"target": "x"}}
    node = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}
    write_yaml({"model": node}, here / "ldm.yaml")
    model = taming.load("ldm.ckpt")
    assert torch.equal(model.encoder.conv_in.weight, state["encoder.conv_in.weight"])
    assert "unused cond_stage_model: of the diffusion model" in describe("ldm.ckpt")
