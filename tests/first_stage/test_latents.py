"""A latent can be optimised under somebody's score: the example of docs/formats.md runs."""

import re
from pathlib import Path

import pytest
import torch

from tests.first_stage.test_dtypes import QUANTIZERS, model_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def test_the_documented_example():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    scores = names["scores"]
    assert scores[-1] > scores[0] + 0.05
    assert not any(parameter.requires_grad for parameter in names["model"].parameters())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_climbs(name):
    """A few steps along the gradient raise a score of colour."""
    torch.manual_seed(0)
    model = model_of(name).requires_grad_(False)
    latent = torch.randn(1, 4, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([latent], lr=0.1)
    scores = []
    for _ in range(25):
        picture = model.decode_latent(latent)
        score = (picture[:, 0] - picture[:, 1:].mean(dim=1)).mean()
        scores.append(score.item())
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
    assert max(scores[5:]) > scores[0]
