"""taming new writes what passes its own test and trains; own classes that lack something are one
line.
"""

import importlib
import sys

import pytest
import torch
from torch import nn

from taming import config
from taming.cli.main import main
from taming.config.seams import check_members
from taming.errors import UserError
from taming.first_stage.interface import Quantizer
from taming.training import run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that is not yet on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "kind, name", [("dataset", "MyPictures"), ("quantizer", "MyCodes"), ("condition", "HowBright")]
)
def test_what_is_written_passes_its_test_and_builds(kind, name, here, capsys):
    assert main(["new", kind, name]) == 0
    code, test, yaml = map(str, capsys.readouterr().out.split())
    experiment = config.load(yaml)
    if kind == "condition":
        with torch.device("meta"):
            model = config.build(experiment.model, experiment.allow)
        assert type(model.conditioner).__name__ == name
    else:
        module, _ = run.prepare(experiment)
        images = torch.randn(2, 3, 16, 16)
        assert module.model(images).image.shape == (2, 3, 16, 16)
    tested = importlib.import_module(test.removesuffix(".py"))
    (function,) = (value for key, value in vars(tested).items() if key.startswith("test_"))
    function()
    assert main(["new", kind, name]) == 2
    assert f"'{code}' exists" in capsys.readouterr().err


def test_names_that_are_none_are_refused(here, capsys):
    for name in ("my-pictures", "None", "X" * 101):
        assert main(["new", "dataset", name]) == 2
        assert "no name of a class" in capsys.readouterr().err
    assert main(["new", "prior", "Mine"]) == 2


def test_own_classes_that_lack_something_are_one_line(here):
    (here / "mine.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    pass\nclass Data:\n    pass\n"
    )
    vqvae = {"width": 8, "residual_width": 8, "quantizer": {"target": "mine.Net"}}
    model = {"target": "taming.first_stage.VQVAE", "params": vqvae}
    with pytest.raises(UserError, match="interface.Quantizer with num_codes.*embed.*taming new"):
        config.from_plain({"allow": ["mine"], "model": model})
    for place, lacking in (("loss", "autoencoder, adversary_weight"), ("data", "__getitem__")):
        plain = {"loss": {"target": "mine.Net"}, "data": {"train": {"target": "mine.Data"}}}
        with pytest.raises(UserError, match=f"lacks {lacking}"):
            config.from_plain({"allow": ["mine"], place: plain[place]})


class Half(Quantizer):
    def forward(self, latent):
        return latent


class Single(Half):
    num_codes, dim = 512, 4

    def embed(self, codes):
        return codes


def test_parts_of_a_seam_are_looked_for():
    with pytest.raises(UserError, match="quantizer: Half lacks num_codes, .*dim.*embed"):
        check_members(Half(), "quantizer")
    with pytest.raises(UserError, match="num_codes is 512, but a tuple"):
        check_members(Single(), "quantizer")
    check_members(nn.Linear(2, 2), "anything")
    hidden = Single()
    hidden._modules["codebook"] = nn.Embedding(4, 4)  # as self.codebook = ... does
    with pytest.raises(UserError, match="Single.codebook has the name of a method of Quantizer"):
        check_members(hidden, "quantizer")
