"""Several levels of codes: each has a prior, conditioned on those above."""

import itertools

import pytest
import torch

import taming
from taming.errors import UserError
from taming.first_stage import VQVAE2, VectorQuantizer
from taming.formats.compvis.checkpoint import save_published
from taming.formats.describe import describe
from taming.formats.load import read_checkpoint
from taming.second_stage import (
    GPT,
    ClassLabel,
    GatedPixelCNN,
    PixelSNAIL,
    SecondStage,
    Unconditional,
)
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain

CLASS, START, TOP = (
    {"vocabulary": 3, "length": 1},
    {"vocabulary": 1, "length": 1},
    {"vocabulary": 2, "grid": [1, 1]},
)


def tokenizer(top=2, bottom=2):
    return VQVAE2(
        8, 4, [VectorQuantizer(top, 4), VectorQuantizer(bottom, 4)], blocks=1, halvings=1
    ).eval()


def hierarchy(top=None, bottom=None, conditioner=None):
    model = SecondStage(
        tokenizer(),
        conditioner or ClassLabel(3),
        priors=[
            top or GPT(1, 2, 8, num_codes=2, grid=[1, 1], parts=[CLASS]),
            bottom or GatedPixelCNN(2, 8, 3, num_codes=2, grid=[2, 2], parts=[CLASS, TOP]),
        ],
    ).eval()
    with torch.no_grad():
        for parameter in model.priors.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.priors.double()
    return model


def every(cells):
    return torch.tensor(list(itertools.product((0, 1), repeat=cells)))


@pytest.mark.parametrize(
    "bottom",
    [
        lambda: GPT(1, 2, 8, num_codes=2, grid=[2, 2], parts=[CLASS, TOP]),
        lambda: PixelSNAIL(1, 2, 8, 2, 3, num_codes=2, grid=[2, 2], parts=[CLASS, TOP]),
        lambda: None,
    ],
)
def test_probabilities_of_all_tops_and_bottoms_sum_to_one(bottom):
    model = hierarchy(bottom=bottom())
    grids = every(5)
    codes = (grids[:, :1].view(-1, 1, 1), grids[:, 1:].view(-1, 2, 2))
    condition = model.conditioner({"class": torch.full((32,), 1)})
    with torch.no_grad():
        joint = model.log_prob(codes, condition)
        top = model.priors[0].log_prob(codes[0], condition)
        below = model.priors[1].log_prob(codes[1], model.with_coarser(condition, codes[:1]))
    assert abs(float(joint.exp().sum()) - 1) < 1e-6 and torch.allclose(joint, top + below)
    other = model.priors[1].log_prob(codes[1], model.with_coarser(condition, (1 - codes[0],)))
    assert not torch.allclose(below, other)  # the bottom sees the top


def test_sampling_goes_level_by_level():
    model = hierarchy()
    codes, classes = [], torch.tensor([0, 1, 2, 0])
    picture = model.sample(
        {"class": classes}, seed=1, on_row=lambda levels, row: codes.append((levels, row))
    )
    assert picture.shape == (4, 3, 4, 4) and [row for _, row in codes] == [1, 2]
    levels = codes[-1][0]
    assert [tuple(level.shape) for level in levels] == [(4, 1, 1), (4, 2, 2)] and torch.equal(
        model.decode(levels), picture
    )
    assert torch.allclose(
        model.sample({"class": classes[2:3]}, seed=1, first=2), picture[2:3], atol=1e-6
    )
    # Larger, through windows
    assert model.sample({"class": classes}, (8, 12)).shape == (4, 3, 8, 12)
    assert torch.equal(
        model.sample({"class": classes}, (7, 11), seed=2),
        model.sample({"class": classes}, (8, 12), seed=2)[..., :7, :11],
    )
    image = torch.rand(1, 3, 4, 4) * 2 - 1
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    assert torch.equal(
        model.sample({"class": classes[:1]}, known=(image, mask)),
        model.decode(model.first_stage.encode(image)),
    )


def test_guidance_and_dropout_leave_the_coarser_level_alone():
    model = hierarchy()
    codes = (torch.zeros(1, 1, 1).long(),)
    part, top = model.with_coarser(model.conditioner({"class": torch.tensor([1])}), codes)
    assert int(part.null().tokens[0, 0]) == 3 and torch.equal(top.null().tokens, top.tokens)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: SecondStage(
                tokenizer(), Unconditional(), GPT(1, 2, 8, num_codes=2, grid=[2, 2], parts=[START])
            ),
            "1 prior is given, but the first stage has 2 levels",
        ),
        (lambda: SecondStage(tokenizer(), Unconditional()), "either prior"),
        (
            lambda: SecondStage(tokenizer(2, 4), ClassLabel(3), priors=hierarchy().priors),
            r"priors\[1\]: num_codes is 2",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_hierarchy_is_trained_by_the_same_verbs(tmp_path):
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 8, "dim": 4},
    }
    likelihood = {"target": "taming.first_stage.GaussianLikelihood"}
    plain = first_stage_plain(max_steps=2, validate_every=2)
    plain["model"] = {
        "target": "taming.first_stage.VQVAE2",
        "params": {
            "width": 8,
            "residual_width": 4,
            "blocks": 1,
            "quantizers": [quantizer] * 2,
            "likelihood": likelihood,
        },
    }
    plain["loss"] = {"target": "taming.first_stage.LikelihoodLoss"}
    first = run.train(experiment_of(plain), tmp_path / "first")
    del plain["loss"]
    start, top = {"vocabulary": 1, "length": 1}, {"vocabulary": 8, "grid": [2, 2]}
    snail = {
        "num_codes": 8,
        "grid": [2, 2],
        "parts": [start],
        "blocks": 1,
        "layers": 1,
        "width": 8,
        "heads": 2,
    }
    cnn = {"num_codes": 8, "grid": [4, 4], "parts": [start, top], "layers": 2, "width": 8}
    plain["model"] = {
        "target": "taming.second_stage.SecondStage",
        "params": {
            "first_stage": {
                "target": "taming.first_stage.pretrained",
                "params": {"checkpoint": str(first)},
            },
            "conditioner": {"target": "taming.second_stage.Unconditional"},
            "priors": [
                {"target": "taming.second_stage.PixelSNAIL", "params": snail},
                {"target": "taming.second_stage.GatedPixelCNN", "params": cnn},
            ],
        },
    }
    plain["data"]["views"], plain["data"]["cache"] = 2, str(tmp_path / "cache")
    last = run.train(experiment_of(plain), tmp_path / "second")
    figures = read_checkpoint(last).figures
    assert abs(figures["nll"] - (figures["nll_0"] * 4 + figures["nll_1"] * 16) / 20) < 1e-6
    assert taming.load(last).sample({"count": 2}).shape == (2, 3, 16, 16)
    assert "quantizer.levels.1: 8 codes of 4 numbers" in describe(last)
    with pytest.raises(UserError, match="counterpart in the published code"):
        save_published(tmp_path / "published", read_checkpoint(last))
    wrong = {
        **plain,
        "model": {
            **plain["model"],
            "params": {
                **plain["model"]["params"],
                "priors": plain["model"]["params"]["priors"][::-1],
            },
        },
    }
    with pytest.raises(UserError, match=r"priors\[0\].params.grid"):
        run.train(experiment_of(wrong), tmp_path / "wrong")
