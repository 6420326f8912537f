"""Configurations: what is refused, with which words, and that every shipped one builds."""

from pathlib import Path

import pytest
import torch

from taming import config
from taming.errors import UserError
from tests.conftest import first_stage_plain, write_yaml

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_builds_on_the_meta_device(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    experiment = config.load(path)
    with torch.device("meta"):
        model = config.build(experiment.model, experiment.allow)
    assert sum(p.numel() for p in model.parameters()) > 0
    text = path.read_text()
    assert text.startswith("# ") and "taming train -b" in text, (
        "every config opens with what it reproduces, the command, and what to expect"
    )
    assert max(len(line) for line in text.splitlines()) <= 100


def changed(dotted: str, value) -> dict:
    plain = first_stage_plain()
    node = plain
    *path, last = dotted.split(".")
    for key in path:
        node = node[key]
    node[last] = value
    return plain


@pytest.mark.parametrize(
    "dotted, value, words",
    [
        ("trainer.max_step", 3, ["trainer.max_step", "did you mean 'max_steps'"]),
        ("modle", {}, ["modle", "did you mean 'model'"]),
        ("trainer.max_steps", "many", ["trainer.max_steps", "many"]),
        ("data.batch_size", 1.5, ["data.batch_size", "1.5"]),
        ("model.params.chanels", 3, ["model.params.chanels", "did you mean 'channels'"]),
        ("model.params.channels", "wide", ["model.params.channels", "'wide'", "whole number"]),
        (
            "model.params.quantizer.params.num_codes",
            [1],
            ["quantizer.params.num_codes", "whole number"],
        ),
        ("model.target", "taming.first_stage.VQGEN", ["model.target", "did you mean 'VQGAN'"]),
        (
            "model.target",
            "taming.third_stage.VQGAN",
            ["model.target", "a class of taming.first_stage"],
        ),
        ("model.target", "os.system", ["model.target", "outside", "allow: [os]"]),
        ("model.target", "taming.first_stage.vqgan.nn", ["model.target", "has no 'nn'"]),
        ("data.train.target", "somewhere", ["data.train.target", "dotted name"]),
        ("model.parms", {}, ["model.parms", "did you mean 'params'"]),
    ],
)
def test_mistakes_name_their_place_and_the_cure(dotted, value, words):
    with pytest.raises(UserError) as error:
        config.from_plain(changed(dotted, value), "my.yaml")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_parameter_is_named():
    plain = first_stage_plain()
    del plain["model"]["params"]["channels"]
    with pytest.raises(UserError, match="model.params.channels: missing"):
        config.from_plain(plain)


def test_files_merge_and_overrides_win(tmp_path):
    base = write_yaml(first_stage_plain(), tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(
        "trainer: {max_steps: 77}\nvariables: {x: 5}\ndata: {batch_size: '${variables.x}'}\n"
    )
    experiment = config.load([base, tmp_path / "b.yaml"], ["trainer.log_every=9"])
    assert (
        experiment.trainer.max_steps,
        experiment.trainer.log_every,
        experiment.data.batch_size,
    ) == (77, 9, 5)


def test_broken_files(tmp_path):
    (tmp_path / "c.yaml").write_text("a: [1\n")
    (tmp_path / "d.yaml").write_text("data: {batch_size: '${nowhere}'}\n")
    for path, word in (
        (tmp_path / "none.yaml", "does not exist"),
        (tmp_path / "c.yaml", "not valid YAML"),
        (tmp_path / "d.yaml", "nowhere"),
    ):
        with pytest.raises(UserError, match=word):
            config.load(path)


def test_own_package_is_admitted_by_name():
    plain = changed("data.train", {"target": "collections.Counter"})
    with pytest.raises(UserError, match=r"allow: \[collections\]"):
        config.from_plain(plain)
    config.from_plain({**plain, "allow": ["collections"]})


def test_plain_round_trip():
    experiment = config.from_plain(first_stage_plain())
    assert config.from_plain(config.to_plain(experiment)) == experiment
