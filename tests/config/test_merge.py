"""Files and words merged: a part switched for another, null, sizes, the word off."""

import pytest
import torch

from taming import config
from taming.errors import UserError
from taming.second_stage.interface import PartShape
from tests.conftest import first_stage_plain

FSQ = {"target": "taming.first_stage.FSQ", "params": {"levels": [4, 4]}}


def test_a_second_file_switches_a_part(capsys):
    other = {"model": {"params": {"quantizer": FSQ}}}
    experiment = config.load([first_stage_plain(), other])
    assert experiment.model["params"]["quantizer"] == FSQ
    assert capsys.readouterr().err.strip() == (
        "model.params.quantizer: FSQ does not take over num_codes, dim, normalize, restart of"
        " VectorQuantizer"
    )


def test_the_command_line_switches_a_part_and_keeps_what_both_know(capsys):
    quantizer = "model.params.quantizer"
    words = [f"{quantizer}.target=taming.first_stage.EMAQuantizer", f"{quantizer}.params.decay=0.9"]
    params = config.load([first_stage_plain()], words).model["params"]["quantizer"]["params"]
    assert params == {"num_codes": 32, "dim": 4, "decay": 0.9}
    assert "EMAQuantizer does not take over normalize, restart of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, place",
    [
        (["loss.target=taming.first_stage.LikelihoodLoss"], "loss"),
        (["data.train.target=taming.data.ImageFolder", "data.train.params.root=x"], "data.train"),
        (["model.target=taming.first_stage.MaskVQGAN", "model.params.labels=5"], None),
    ],
)
def test_every_part_can_be_switched(words, place, capsys):
    config.load([first_stage_plain()], words)
    output = capsys.readouterr().err
    assert output.startswith(f"{place}: ") if place else output == ""


def test_the_same_class_drops_nothing(capsys):
    """A mistyped parameter is not taken for one of another class; an alias is the same class."""
    words = ["model.params.quantizer.target=taming.first_stage.VectorQuantizer"]
    with pytest.raises(UserError, match="quantizer.params.dims: unknown key; did you mean 'dim'"):
        config.load([first_stage_plain()], [*words, "model.params.quantizer.params.dims=3"])
    plain = config.plain_yaml(
        [
            {"model": {**FSQ, "target": "taming.first_stage.ScalarQuantizer"}},
            {"model": {"target": "taming.first_stage.FSQ"}},
        ]
    )
    assert plain["model"] == FSQ
    assert capsys.readouterr().err == ""


def test_a_parameter_stated_for_the_new_class_is_not_dropped(capsys):
    quantizer = "model.params.quantizer"
    words = [f"{quantizer}.target=taming.first_stage.FSQ", f"{quantizer}.params.dim=4"]
    with pytest.raises(UserError, match="quantizer.params.dim: unknown key"):
        config.load([first_stage_plain()], words)
    assert capsys.readouterr().err == "", "a refusal is one line"


def test_flat_keys_of_earlier_versions_survive_a_switch(capsys):
    """`size` of a picture folder is part of its view today, so both classes know it."""
    folder = {"target": "taming.data.ImageFolder", "params": {"root": "x", "size": 32}}
    plain = first_stage_plain()
    plain["data"]["train"] = folder
    words = ["data.train.target=taming.data.SegmentedImages"]
    params = config.load([plain], words).data.train["params"]
    assert params == {"root": "x", "view": {"size": 32}} and capsys.readouterr().err == ""


def test_what_is_stated_for_the_new_class_wins_over_what_is_taken_over(capsys):
    words = ["data.train.target=taming.data.ImageFolder", "data.train.params.root=x"]
    experiment = config.load([first_stage_plain()], [*words, "data.train.params.view=24"])
    assert experiment.data.train["params"] == {"root": "x", "view": 24, "seed": 0}
    assert "does not take over size, count of DrawnLandscapes" in capsys.readouterr().err


def test_null_removes_what_is_optional():
    words = ["data.validation=null", "trainer.gradient_clip_val=null", "loss=null", "logger=null"]
    experiment = config.load([first_stage_plain()], words)
    assert experiment.data.validation == {} and experiment.loss is None
    assert experiment.trainer.gradient_clip_val is None and experiment.logger.wandb == "off"
    with pytest.raises(
        UserError, match="trainer.max_steps: None should be a whole number of at least 1"
    ):
        config.load([first_stage_plain()], ["trainer.max_steps=null"])


@pytest.mark.parametrize("text", ["96x128", "96X128"])
def test_a_size_in_yaml(text, tmp_path):
    (tmp_path / "b.yaml").write_text(
        f"variables: {{size: {text}}}\ndata: {{train: {{params: {{size: '${{variables.size}}'}}}}}}"
    )
    experiment = config.load(
        [first_stage_plain(), tmp_path / "b.yaml"], [f"data.validation.params.size={text}"]
    )
    for node in (experiment.data.train, experiment.data.validation):
        assert config.build(node, place="data")[0]["image"].shape == (3, 96, 128)


@pytest.mark.parametrize("size", ["96x", "96x128x3", "ax16", "64 x 64"])
def test_what_is_no_size(size):
    with pytest.raises(UserError, match="data.train"):
        experiment = config.load([first_stage_plain()], [f"data.train.params.size={size}"])
        config.build(experiment.data.train, place="data.train")


@pytest.mark.parametrize("text", ["off", "false", "'off'", "no"])
def test_off_is_a_word(text, tmp_path):
    assert config.load([{}], [f"logger.wandb={text}"]).logger.wandb == "off"
    (tmp_path / "a.yaml").write_text(f"logger: {{wandb: {text}}}\n")
    assert config.load(tmp_path / "a.yaml").logger.wandb == "off"


def test_on_is_none():
    with pytest.raises(UserError, match="wandb: True should be one of off, offline, online"):
        config.load([{}], ["logger.wandb=on"])


def test_numbers_as_the_environment_has_them(monkeypatch):
    monkeypatch.setenv("BATCH", "12")
    experiment = config.load([{"data": {"batch_size": "${oc.env:BATCH}"}, "noise": 0}])
    assert experiment.data.batch_size == 12 and isinstance(experiment.noise, float)


def test_an_unconditional_prior_is_one_key_away(capsys):
    words = ["model.params.conditioner.target=taming.second_stage.Unconditional"]
    experiment = config.load("drawn_gpt_64", words)
    with torch.device("meta"):
        model = config.build(experiment.model)
    assert model.prior.parts == (PartShape(1),)
    assert "Unconditional does not take over first_stage of EncodedImage" in capsys.readouterr().err
