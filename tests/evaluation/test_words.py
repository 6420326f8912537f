"""Figures have names for people."""

import pytest

from taming.evaluation import report
from taming.evaluation.words import label


@pytest.mark.parametrize(
    "name, words",
    [
        ("psnr", "psnr: signal over error of reconstructions, dB ↑"),
        ("validation/nll", "validation/nll: surprise of the prior, nats per code ↓"),
        ("precision_real", "of held-out pictures in the samples' place"),
        ("layout_real_iou", "of held-out pictures in the samples' place"),
        ("layout_floor_accuracy", "with another picture's layout"),
        ("used_1", "used_1: share of the codes that occur ↑ (level 1)"),
        ("something_new", "something_new"),
    ],
)
def test_a_figure_in_words(name, words):
    assert label(name).startswith(name) and label(name).endswith(words)


def test_the_arrow_is_that_of_the_figure_itself():
    assert "↑" not in label("precision_real")


def test_a_legend_names_the_colours_of_a_layout():
    section = report.Section("Samples", legend=[("sky & sun", (1, 2, 3))])
    page = report.page("title", [section])
    assert "background: rgb(1, 2, 3)" in page and "sky &amp; sun" in page
