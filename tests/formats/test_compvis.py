"""Checkpoints and YAML of the published code, as files: read, converted, exported, trained on."""

import copy
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
from taming.formats.compvis.config import is_published, read_yaml, translate
from taming.formats.compvis.export import to_published
from taming.formats.compvis.first_stage import refuse_continuous
from taming.formats.content import Content
from taming.formats.fitting import load_fitting
from taming.formats.load import read_checkpoint
from taming.formats.ours import save_safetensors
from taming.formats.unpickler import read_restricted
from tests.conftest import write_yaml
from tests.formats.golden_values import relative
from tests.formats.published import PUBLISHED, first_tree, second_tree
from tests.formats.samples import changed, leaves


@pytest.fixture
def layout(shared):
    return shared / "golden" / "published_layout"


def test_published_folder_samples_converts_exports_and_loads_again_bitwise(
    layout, shared, tmp_path, capsys
):
    tensors = load_file(shared / "golden" / "segmentation_transformer.safetensors")
    original = taming.load(layout)
    batch = {"segmentation": tensors["cond"].argmax(1)}
    image = original.sample(batch, temperature=0)
    assert torch.equal(
        original.first_stage.encode(tensors["x"])[0].flatten(1), tensors["z_indices"]
    )
    assert relative(image, tensors["greedy_image"].clamp(-1, 1)) < 1e-5
    assert main(["convert", str(layout), str(tmp_path / "m.safetensors")]) == 0
    assert "optimizer_states" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "m.safetensors"), str(tmp_path / "back")]) == 0
    for again in (tmp_path / "m.safetensors", tmp_path / "back"):
        assert torch.equal(taming.load(again).sample(batch, temperature=0), image)
    published = read_restricted(layout / "checkpoints" / "last.ckpt")["state_dict"]
    ours = torch.load(tmp_path / "back" / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert published.keys() == ours.keys()
    for name, tensor in published.items():
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
    assert "second stage of CompVis's code" in capsys.readouterr().out
    assert taming.load(tmp_path / "bare.ckpt", yaml).prior.grid == (8, 8)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda state, tree: state.pop("transformer.ln_f.bias"),
            "lacks 1 tensor, 'priors.0.ln_f.bias'",
        ),
        (
            lambda state, tree: state.pop("transformer.blocks.1.attn.key.bias"),
            "lacks 'priors.0.blocks.1.attn.key.bias'",
        ),
        (
            lambda state, tree: state.update(surprise=torch.ones(1)),
            "1 tensor, 'surprise', that a published model of this kind does not have",
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
def test_what_does_not_fit_is_named(layout, tmp_path, change, message):
    state = dict(read_restricted(layout / "checkpoints" / "last.ckpt")["state_dict"])
    tree = read_yaml(sorted((layout / "configs").glob("*.yaml")))
    change(state, tree["model"]["params"])
    torch.save({"state_dict": state}, tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=message):
        taming.load(tmp_path / "m.ckpt", write_yaml(tree, tmp_path / "m.yaml"))


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
    tree, raw = to_published(
        config.to_plain(experiment), dict(model.state_dict()), {}, 0
    )  # and back
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
    """The YAML of a first stage, data overridden by ours; what becomes of rate, epochs and GPUs is
    said.
    """
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
    datasets = [
        f"data.{part}={{target: taming.data.DrawnLandscapes, params: {{size: 16, count: 4}}}}"
        for part in ("train", "validation")
    ]
    assert main(["train", "-b", "theirs.yaml", "model.params.n_embed=8", *datasets]) == 2
    assert "'logs/gone.ckpt' does not exist" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                "-b",
                "theirs.yaml",
                "model.params.n_embed=8",
                "model.params.ckpt_path=null",
                *datasets,
            ]
        )
        == 0
    )
    notes = capsys.readouterr().err
    assert "learning rate 0.0004 = 2 (accumulation) x 1 (devices) x 2 (batch) x 0.0001" in notes
    assert "distributed_backend ddp" in notes and "max_epochs: 7 is ignored" in notes
    model = taming.load("runs/theirs")
    assert model.quantizer.num_codes == (8,) and model.quantizer.commitment_weight == 1.0
    assert main(["convert", "--config", "theirs.yaml", "ours.yaml"]) == 0
    assert config.load("ours.yaml").loss["params"]["discriminator"]["params"]["layers"] == 2
    assert main(["export", "runs/theirs", "back"]) == 0
    assert (
        "loss.discriminator.main.0.weight"
        in torch.load("back/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    )

    # Fine-tuning from what was exported: discriminator included
    again = ["train", "-b", "theirs.yaml", *datasets, "--from", "back", "-n"]
    assert main([*again, "tuned", "model.params.n_embed=8", "trainer.max_steps=1"]) == 0
    assert "no discriminator" not in capsys.readouterr().err
    state = torch.load("runs/tuned/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    before = torch.load("back/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = (
        (state["loss.discriminator.main.0.weight"] - before["loss.discriminator.main.0.weight"])
        .abs()
        .max()
    )
    assert moved <= 1e-6  # one batch before its start
    assert main([*again, "other", "model.params.n_embed=16"]) == 2
    assert (
        "'quantizer.embedding.weight' has shape (8, 4), but its configuration says (16, 4) (number"
        " of codes" in capsys.readouterr().err
    )
    assert main([*again, "other", "--fitting", "trainer.max_steps=1"]) == 0
    assert (
        "1 tensor did not fit and start anew or are not used: quantizer.embedding.weight"
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
    assert "no token for an empty condition" in capsys.readouterr().err


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
    unused = load_fitting(model, content.weights, layout)
    assert (
        torch.equal(model.first_stage.encoder.conv_in.weight, before)
        and "first_stage.encoder.conv_in.weight" in unused
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
        to_published(plain, {}, {}, 0)


@pytest.mark.slow
def test_loading_a_gigabyte_takes_seconds_and_no_second_copy(tmp_path):
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
    _, raw = to_published(
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
    assert peak < 1.3 * size and seconds < 30


ODD = (None, "x", -1, 0, 1.5, True, [], [[]], {}, {"target": "os.system"}, 10**30)


@pytest.mark.parametrize("name", ["sflckr", "coco_scene", "gumbel_f8"])
def test_odd_values_anywhere_in_their_yaml_are_one_line(name):
    tree = {
        "model": {"base_learning_rate": 4.5e-6, **PUBLISHED[name]},
        "data": {"params": {"batch_size": 2, "train": {"params": {"size": 256}}}},
        "lightning": {"trainer": {"max_steps": 5, "gpus": "0,"}},
    }
    refused = 0
    for path in leaves(tree):
        for value in ODD:
            try:
                config.from_plain(translate(changed(tree, path, value)).plain)
            except UserError as error:
                assert "\n" not in str(error), (path, value)
                refused += 1
    assert refused > 100


ODD_TENSORS = {
    "none": None,
    "a number": torch.tensor(1.0),
    "empty": torch.ones(0),
    "of whole numbers": torch.ones(2, 2, dtype=torch.int64),
    "of another rank": torch.ones(1, 2, 1, 2, 1),
    "sparse": torch.eye(2).to_sparse(),
    "not finite": torch.full((3, 3), torch.nan),
    "a list": [1],
}


@pytest.fixture(scope="module")
def published_prior():
    """A small second stage as the published code has it: its YAML, and its tensors."""
    first = first_tree(channels=32, multipliers=(1, 2), attention=(), codes=16, dim=4, latent=8)
    first["params"]["ddconfig"]["resolution"] = 4
    order = {"target": "taming.modules.transformer.permuter.ZCurve", "params": {"H": 2, "W": 2}}
    tree = second_tree(
        1, 2, 16, 16, 5, None, first, unconditional=True, sos_token=0, permuter_config=order
    )
    tree = {"model": {"base_learning_rate": 1e-4, **tree}}
    plain = config.to_plain(config.from_plain(translate(tree).plain))
    model = config.build(plain["model"])
    return to_published(plain, model.state_dict(), {}, 0)


@pytest.mark.parametrize("tensor", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_odd_tensors_anywhere_are_one_line(published_prior, tmp_path, tensor):
    tree, raw = published_prior
    yaml = write_yaml(tree, tmp_path / "m.yaml")
    names = [n for n in raw["state_dict"] if not n.endswith("mask") or "blocks.0" in n]
    for name in [*names[::25], *(n for n in names if "quantize." in n or "blocks.0.attn" in n)]:
        state = {**raw["state_dict"], name: tensor}
        if tensor is None:
            del state[name]
        torch.save({"state_dict": state}, tmp_path / "m.ckpt")
        try:
            taming.load(tmp_path / "m.ckpt", yaml)
        except UserError as error:
            assert "\n" not in str(error), name
        else:  # what does not matter may be missing or odd
            assert "backward_shuffle" in name or name.endswith("mask"), name


def test_orders_are_compared_with_the_yaml(published_prior, tmp_path):
    tree, raw = published_prior
    yaml = write_yaml(tree, tmp_path / "m.yaml")
    torch.save(raw, tmp_path / "m.ckpt")
    assert taming.load(tmp_path / "m.ckpt", yaml).prior.permutation.tolist() == [0, 1, 2, 3]
    raw = copy.deepcopy(raw)
    raw["state_dict"]["permuter.forward_shuffle_idx"] = torch.tensor([3, 1, 2, 0])
    torch.save(raw, tmp_path / "m.ckpt")
    with pytest.raises(UserError, match="its permuter's indices are not those of order z_curve"):
        taming.load(tmp_path / "m.ckpt", yaml)


@pytest.mark.parametrize("name", ["VQVAE", "VAE"])
def test_a_model_of_ours_is_not_refused_as_a_continuous_one_of_theirs(name):
    refuse_continuous(f"taming.first_stage.{name}")
    assert not is_published({"model": {"target": f"taming.first_stage.{name}"}})
    assert is_published({"model": {"target": "ldm.models.autoencoder.AutoencoderKL"}})
    with pytest.raises(UserError, match="continuous latents"):
        refuse_continuous("ldm.models.autoencoder.AutoencoderKL")
