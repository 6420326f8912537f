"""Configurations and the shipped model of the first version still load, and mean what they did."""

from pathlib import Path

import pytest
import torch

from taming import config
from taming.config.older import UPGRADES, upgrade
from taming.formats.load import load

OLD = Path(__file__).parent / "old"  # where configs/ is as it was
PATHS = sorted(OLD.rglob("*.yaml"))


def shapes(experiment: config.Experiment) -> dict:
    with torch.device("meta"):
        model = config.build(experiment.model)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def landscapes():
    return load("intel_landscapes")  # what `landscapes` was in the first version


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_an_old_file_means_what_the_shipped_one_means(path, monkeypatch):
    new = config.load(path.stem)
    new_shapes = shapes(new)
    monkeypatch.chdir(OLD)
    old = config.load(path)
    assert shapes(old) == new_shapes
    old.model = new.model = {}
    assert old == new


def test_the_shipped_model_fits_its_old_configuration(landscapes, monkeypatch):
    monkeypatch.chdir(OLD)
    experiment = config.load(OLD / "configs" / "second_stage" / "intel_gpt_64.yaml")
    weights = landscapes.state_dict()
    assert shapes(experiment) == {name: tuple(tensor.shape) for name, tensor in weights.items()}


def test_the_shipped_model_draws_on(landscapes):
    images = landscapes.sample({"segmentation": torch.zeros(1, 64, 64, dtype=torch.int64)}, top_k=1)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()


def test_a_command_line_of_earlier_versions_wins_over_the_new_form():
    words = ["data.train.params.size=32", "loss.params.width=16"]
    experiment = config.load("intel_vqgan_64", words)
    assert experiment.data.train["params"]["view"] == {"size": 32}
    assert experiment.loss["params"]["discriminator"]["params"] == {"width": 16, "layers": 2}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_upgrading_twice_is_upgrading_once_and_writes_into_nothing(path):
    plain = config.plain_yaml([path])
    before = config.plain_yaml([path])
    once = upgrade(plain)
    assert plain == before
    assert upgrade(once) == once


@pytest.mark.parametrize("change", UPGRADES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"model": None, "data": None, "trainer": None, "loss": None},
        {"model": 3, "data": [], "trainer": "x", "loss": 1.5},
        {"model": {"target": 7, "params": "x"}, "data": {"train": {"target": []}}},
        {"model": {"target": "taming.second_stage.GPT", "params": None}},
        {"loss": {"target": "taming.first_stage.VQGANLoss", "params": {"discriminator": 3}}},
        {
            "loss": {
                "target": "taming.first_stage.VQGANLoss",
                "params": {"discriminator": "x", "width": 8},
            }
        },
        {
            "loss": {
                "target": "taming.first_stage.VQGANLoss",
                "params": {"discriminator": {"params": 3}, "width": 8},
            }
        },
        {"data": {"train": {"target": "taming.data.ImageFolder", "params": {"view": []}}}},
        {"data": {"train": {"target": "taming.data.", "params": {"size": 3}}}},
        {"data": {"train": {"target": "ImageFolder", "params": {"size": 3, "view": None}}}},
    ],
)
def test_malformed_trees_pass_through(change, plain):
    """What is wrong with them is said afterwards, where all is checked."""
    assert isinstance(change(plain), dict)
