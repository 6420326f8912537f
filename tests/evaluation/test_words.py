"""Figures have names for people."""

import json
from pathlib import Path

import pytest
import torch

from taming.evaluation import colour, report
from taming.evaluation.words import label

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name, words",
    [
        ("psnr", "psnr: signal over error of reconstructions, dB ↑"),
        ("validation/nll", "validation/nll: surprise of the prior, nats per code ↓"),
        ("precision_real", "of held-out pictures in the samples' place"),
        ("layout_real_iou", "of held-out pictures in the samples' place"),
        ("layout_floor_accuracy", "with another picture's layout"),
        ("layout_iou_fresh water", "sample, of fresh water alone ↑"),
        ("layout_real_iou_sky", "in the samples' place, of sky alone"),
        (
            "psnr_perturbed",
            "of reconstructions from codes of which a tenth is replaced by near ones",
        ),
        ("used_1", "used_1: share of the codes that occur ↑ (level 1)"),
        ("something_new", "something_new"),
    ],
)
def test_a_figure_in_words(name, words):
    assert label(name).startswith(name) and label(name).endswith(words)


def test_every_figure_of_a_picture_has_words():
    pictures = 2 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    rows = {key: value.numpy() for key, value in colour.measured(pictures, pictures).items()}
    names = colour.figures(rows, seed=0)
    assert len(names) == 12 and all(": " in label(name) for name in names)


def test_every_figure_that_is_stored_has_words():
    stored = json.loads((ROOT / "docs" / "figures.json").read_text())["models"]
    assert {name for figures in stored.values() for name in figures if ": " not in label(name)} == (
        set()
    )


def test_the_arrow_is_that_of_the_figure_itself():
    assert "↑" not in label("precision_real")


def test_a_legend_names_the_colours_of_a_layout():
    section = report.Section("Samples", legend=[("sky & sun", (1, 2, 3))])
    page = report.page("title", [section])
    assert "background: rgb(1, 2, 3)" in page and "sky &amp; sun" in page
