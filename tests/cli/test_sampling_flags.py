"""Flags of `Sampling` that are no numbers."""

import argparse

import pytest

from taming.cli.parser import Parser, add_sampling, sampling_of, strengths_of
from taming.errors import UserError


def parsed(*words: str):
    parser = Parser(prog="taming sample")
    add_sampling(parser)
    return sampling_of(parser.parse(list(words)))


def test_a_schedule_of_guidance():
    sampling = parsed("--guidance", "3", "--guidance-schedule", "cosine", "--guidance-power", "2")
    assert (sampling.guidance_schedule, sampling.guidance_power) == ("cosine", 2.0)
    with pytest.raises(UserError, match="guidance_schedule 'steep' should be one of constant"):
        parsed("--guidance-schedule", "steep")


def test_strengths_of_labels():
    sampling = parsed("--guidance-labels", "water:4,low trees:1.5")
    assert sampling.guidance_labels == {"water": 4.0, "low trees": 1.5} and sampling.guides
    for text in ("water", "water:much", "4"):
        with pytest.raises((UserError, argparse.ArgumentTypeError)):
            parsed("--guidance-labels", text)


def test_a_name_may_hold_a_colon():
    assert strengths_of("a:b:2") == {"a:b": 2.0}
