"""`taming keys` describes what the constructors say."""

import pytest

from taming import config
from taming.config.reference import WIDTH, described, overview, summary
from taming.errors import UserError


def test_the_overview_names_every_key_and_every_class():
    text = overview()
    for name in ("optimizer.learning_rate", "trainer.ema", "noise", *config.file_classes()):
        assert f"{name}: " in text
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize("name", ["VQGAN", "taming.first_stage.VQGAN"])
def test_a_class_with_type_range_default_and_meaning(name):
    text = described(name)
    assert text.startswith("taming.first_stage.VQGAN: ")
    assert "dropout: a number of at least 0 and below 1; default 0.0\n    probability" in text
    assert "channels: a whole number from 1 to 16384; has to be given\n" in text


@pytest.mark.parametrize(
    "name, words",
    [
        ("Quantizer", ["VectorQuantizer", "FSQ", "ResidualQuantizer"]),  # what may stand there
        ("ScalarQuantizer", ["taming.first_stage.FSQ:", "levels: "]),  # an earlier name
        ("taming.first_stage.pretrained", ["checkpoint: text; has to be given"]),
        ("View", ["scale: ", "flip: "]),  # what a parameter consists of
        ("optimizer", ["optimizer.betas: ", "optimizer.warmup: "]),
        ("trainer.ema", ["trainer.ema: a number of at least 0 and below 1, or null"]),
    ],
)
def test_what_else_has_a_name(name, words):
    text = described(name)
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    "name, guess",
    [("VQGANN", "'VQGAN'"), ("trainer.emma", "'trainer.ema'"), ("xyz", "taming keys lists all")],
)
def test_a_name_that_is_none(name, guess):
    with pytest.raises(UserError, match=f"no key or class '{name}'.*{guess}"):
        described(name)


def test_a_summary_is_one_sentence():
    class Idea:
        """As in the paper (Esser et al. 2021), with two words. More follows.

        Much more.
        """

    assert summary(Idea) == "As in the paper (Esser et al. 2021), with two words."
